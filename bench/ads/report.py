"""Write the ad data's part of the document from its results."""

from typing import Any, Final

from bench.ads.measure import rate, ratio
from bench.figures import Bar, bars, measured, table
from bench.results import Results

BARS: Final = (
    Bar("ads_load_vs_copy", "rows a second, insert of a backup ÷ COPY into the same table", None, 0.5, upwards=True),
    Bar("ads_archive_vs_copy", "rows a second, archiving ÷ COPY out and DELETE", None, 0.5, upwards=True),
)
_STEPS: Final = (
    ("backup stored: gzip, upload, manifest read back", ("store",)),
    ("backup inserted: read back, contract, COPY, insert by key, counts", ("insert",)),
    ("PostgreSQL's COPY into the same table, key included", ("copy_in",)),
    ("archived: COPY out, Parquet, read back, compared, registered, deleted by key", ("archive",)),
    ("PostgreSQL's COPY out, to nowhere", ("copy_out",)),
    ("PostgreSQL's COPY out and DELETE of all rows", ("copy_out", "delete")),
    ("PostgreSQL's COPY out, COPY into such a table, and DELETE", ("copy_out", "copy_in", "delete")),
)

_HEAD: Final = """\
## Ad data

```sh
make bench-ads            # everything; some minutes
.venv/bin/python -m bench.ads --help
.venv/bin/python -m bench.ads --quick   # small sizes, to see that all works; writes into .lakehouse/bench
```

- Each round has fresh tables in an environment of its own; ours and PostgreSQL's take turns, and the next round begins with the other one. The first round warms up and is left out; a figure is the median of the others.
- PostgreSQL's COPY gets the same rows as CSV from memory, into a table with the same columns and the same key, and does nothing else: no contract, no object store, no comparison.
- `ads_load_vs_copy` is the insert of a backup that is stored already, because COPY has nothing to store; what storing it takes besides is told below.
- After the rounds `lakehouse ads audit` must find every record in the archive."""


def ratios(results: Results) -> dict[str, float | None]:
    """The figures that the bars are set on; None for what was not measured yet."""
    found: dict[str, float | None] = dict.fromkeys(bar.key for bar in BARS)
    if section := results.get("speed"):
        found["ads_load_vs_copy"] = round(ratio(section, ("insert",), ("copy_in",)), 4)
        found["ads_archive_vs_copy"] = round(ratio(section, ("archive",), ("copy_out", "delete")), 4)
    return found


def parts(results: Results) -> list[str]:
    """The sections about the ad data."""
    return [_HEAD, bars(BARS, ratios(results)), *(part for part in (_speed(results), _memory(results)) if part)]


def _speed(results: Results) -> str:
    section: dict[str, Any] | None = results.get("speed")
    if not section:
        return ""
    rows = [(what, f"{rate(section, *steps):,.0f}") for what, steps in _STEPS]
    whole = ratio(section, ("store", "insert"), ("copy_in",))
    insert_cpu = ratio(section, ("insert",), ("copy_in",), "cpu_seconds")
    archive_cpu = ratio(section, ("archive",), ("copy_out", "delete"), "cpu_seconds")
    alone = ratio(section, ("archive",), ("copy_out",))
    moved = ratio(section, ("archive",), ("copy_out", "copy_in", "delete"))
    return f"""\
{section["rows"]:,} impressions of {section["dates"]} dates, {section["csv_bytes"] / 1e6:,.0f} MB as CSV, {len(section["rounds"])} rounds; {measured(section)}.

{table(("step", "rows/s"), rows)}

A whole load, storing the backup included, ÷ COPY: {whole:.3f}.
By CPU seconds of the whole machine, servers included, insert ÷ COPY is {insert_cpu:.3f} and archiving ÷ COPY out and DELETE {archive_cpu:.3f}.
Archiving ÷ COPY out alone, which leaves the rows where they are: {alone:.3f}.
Archiving ÷ a move by COPY, out of one table and into another, and DELETE: {moved:.3f}; an archiving brings its rows back too, to compare them."""


def _memory(results: Results) -> str:
    section: dict[str, Any] | None = results.get("memory")
    if not section:
        return ""
    rows = [
        (f"{int(size):,}", f"{found['restore_bytes'] / 1e6:,.0f} MB", f"{found['archive_bytes'] / 1e6:,.0f} MB")
        for size, found in section["sizes"].items()
    ]
    return f"""\
The most memory that the command's process held, for one date; {measured(section)}.

{table(("impressions", "`ads restore`", "`ads archive`"), rows)}"""
