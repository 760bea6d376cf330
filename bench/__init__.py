"""The bench: what ingest costs, beside what else could do it, on the same servers, topic and table layout.

`make bench` runs it; `docs/benchmarks.md` is what it writes.
"""
