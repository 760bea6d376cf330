"""What parts of the work cost alone: nobody who does all of it can be cheaper."""
