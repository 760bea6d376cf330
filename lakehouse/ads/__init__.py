"""Ad data: from the ad API to a backup in the object store, to PostgreSQL, and when it is old to the archive.

`load` brings impressions in, `archive` moves the old ones out, `audit` proves that each is in one place, once.
"""
