"""The bench of the ad data: loading and archiving beside PostgreSQL's own COPY."""
