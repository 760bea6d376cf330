"""Who runs in the bench: the ingest of this project and what a good engineer might have taken instead."""
