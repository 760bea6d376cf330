"""The bench of the warehouse: what a day's build costs beside a short and a long history, and what the layout saves.

`make bench-dbt` runs it; its part of `docs/benchmarks.md` is what it writes.
"""
