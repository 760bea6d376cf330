"""The servers of the local stack: what they are, where they come from, how they run."""
