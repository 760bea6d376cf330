"""Write the warehouse's part of the document from its results."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Bar, bars, measured, number, table
from bench.results import Results
from bench.warehouse import daily, layout

NOTES: Final = Path(__file__).with_name("notes.md")
BARS: Final = (
    Bar(
        "dbt_day_seconds_365_vs_7",
        "seconds of one day's build, beside the long history ÷ beside the short one",
        1.2,
        1.05,
    ),
    Bar(
        "dbt_day_bytes_365_vs_7",
        "bytes that one day's build reads, beside the long history ÷ beside the short one",
        1.2,
        1.05,
    ),
    Bar(
        "user_history_bytes_sorted_vs_unsorted",
        "bytes to read one user's history, sorted table ÷ unsorted one",
        1 / 10,
        1 / 30,
    ),
)
MOST_TESTS: Final = 8


def ratios(results: Results) -> dict[str, float | None]:
    """The figures that the bars are set on; None for what was not measured yet."""
    found: dict[str, float | None] = dict.fromkeys(bar.key for bar in BARS)
    if "daily" in results:
        found["dbt_day_seconds_365_vs_7"] = daily.ratio(results["daily"], "seconds")
        found["dbt_day_bytes_365_vs_7"] = daily.ratio(results["daily"], "input_bytes")
    if "user_history" in results:
        found["user_history_bytes_sorted_vs_unsorted"] = layout.ratio(results["user_history"])
    return {key: value if value is None else round(value, 4) for key, value in found.items()}


def parts(results: Results) -> list[str]:
    """The sections about the warehouse."""
    sections = (_daily, _user_history, _analyze)
    notes = NOTES.read_text().strip() if NOTES.exists() else ""
    return [_HEAD, bars(BARS, ratios(results)), *(part for section in sections if (part := section(results))), notes]


_HEAD: Final = """\
## The warehouse

```sh
make bench-dbt            # everything; about an hour on two idle cores
.venv/bin/python -m bench.warehouse --help
.venv/bin/python -m bench.warehouse --quick   # small sizes, to see that all works; writes into .lakehouse/bench
.venv/bin/python -m bench.warehouse --only user_history --user-days 10   # one measure; the others stay
```

- The histories are made in arrays by `bench/history.py`, seeded: the same day has the same events in each, and the short history is the end of the long one; users and products are the same all along.
- They are written as ingest writes, one sorted file a date, which is what compaction leaves of days that are over; the day that is measured comes in the files of four ingest runs, late events included.
- Each history is an environment of its own; both are built once from nothing, then each gets the same new day and is built again, in turn, and the next round begins with the other one. The first round warms Trino up and is left out.
- Seconds are of the whole command `lakehouse transform run`, tests and publishing included; bytes are what Trino's tasks read from the object store (`physical_input_bytes` of `system.runtime.tasks`), summed over all queries of the build; “MB sent” is what MinIO counts meanwhile, Trino's metadata and pyiceberg's included.
- A ratio is of two builds of one round, and the figure is the median of those ratios."""


def _daily(results: Results) -> str:
    if not (section := results.get("daily")):
        return ""
    rows = []
    for length, history in section["histories"].items():
        builds = history["builds"]
        rows.append(
            (
                f"{length} days",
                f"{history['events']['rows']:,}",
                f"{history['events']['files']:,}",
                f"{history['events']['file_bytes'] / 1e6:,.1f}",
                f"{history['full']['seconds']:,.0f}",
                f"{_median(builds, 'seconds'):.1f}",
                f"{min(b['seconds'] for b in builds):.1f} to {max(b['seconds'] for b in builds):.1f}",
                f"{_median(builds, 'input_bytes') / 1e6:,.2f}",
                f"{_median(builds, 'sent_bytes') / 1e6:,.2f}",
                f"{_median(builds, 'queries'):,.0f}",
            )
        )
    columns = (
        "history",
        "events",
        "files",
        "MB",
        "first build, s",
        "a day's build, s",
        "from … to",
        "MB read",
        "MB sent",
        "queries",
    )
    return f"""\
### One day's build

{section["events_per_day"]:,} events a day of {section["users"]:,} users, {section["rounds"]} rounds; {measured(section)}.

{table(columns, rows)}

What each model took and read in a day's build, medians; the tests that read most stand alone, the others together:

{table(("", "s, short", "s, long", "kB read, short", "kB read, long", "bytes, long ÷ short"), _nodes(section))}"""


def _nodes(section: dict[str, Any]) -> list[tuple[str, ...]]:
    short, long = (daily.medians(section["histories"][str(length)]["builds"]) for length in section["days"])
    names = sorted({*short, *long}, key=lambda name: -long.get(name, _NOTHING)["input_bytes"])
    models = [name for name in names if name.startswith("model.")]
    tests = [name for name in names if name and not name.startswith("model.")]
    groups = [(f"`{_name_of(name)}`", [name]) for name in sorted(models, key=_name_of)]
    groups += [(f"test `{_name_of(name)}`", [name]) for name in tests[:MOST_TESTS]]
    groups += [(f"{len(tests[MOST_TESTS:])} other tests", tests[MOST_TESTS:])]
    groups += [("dbt's questions about tables, and publishing", [""])]
    rows = []
    for text, members in groups:
        figures = [
            sum(side.get(name, _NOTHING)[figure] for name in members)
            for figure in ("seconds", "input_bytes")
            for side in (short, long)
        ]
        grown = number(figures[3] / figures[2]) if figures[2] else ""
        seconds = [f"{value:.2f}" if value else "" for value in figures[:2]]
        rows.append((text, *seconds, *(f"{value / 1e3:,.1f}" for value in figures[2:]), grown))
    return rows


_NOTHING: Final = {"seconds": 0.0, "input_bytes": 0, "cpu_seconds": 0.0, "queries": 0}


def _name_of(unique_id: str) -> str:
    """The name in a unique id such as `model.lakehouse.fct_events_daily` or `test.lakehouse.unique_….1a2b3c`."""
    return unique_id.split(".")[2]


def _user_history(results: Results) -> str:
    if not (section := results.get("user_history")):
        return ""
    tables = [
        (
            f"`{name}`",
            ", ".join(f"`{column}`" for column in of["sort_by"]) or "as they arrived",
            f"{of['written']['files']:,} → {of['compacted']['files']:,}",
            f"{of['written']['file_bytes'] / of['written']['rows']:.2f} → {of['compacted']['file_bytes'] / of['compacted']['rows']:.2f}",
            f"{of['compaction_seconds']:,.0f}",
            f"{sum(user['input_bytes'] for user in of['users']) / 1e6:,.1f}",
            f"{of['sent_bytes'] / 1e6:,.1f}",
            f"{sum(user['cpu_seconds'] for user in of['users']):.2f}",
        )
        for name, of in section["tables"].items()
    ]
    columns = ("table", "rows of a file by", "files", "bytes an event", "compaction, s", "MB read", "MB sent", "CPU, s")
    sides = [of["users"] for of in section["tables"].values()]
    users = [
        (f"{rank:,}", f"{answers[0]['rows']:,}", *(f"{answer['input_bytes'] / 1e6:,.2f}" for answer in answers))
        for rank, *answers in zip(section["ranks"], *sides, strict=True)
    ]
    names = [f"MB read, `{name}`" for name in section["tables"]]
    return f"""\
### One user's history

{section["days"]} dates of {section["events_per_day"]:,} events, the same rows in each table, written as ingest writes and compacted by Trino, date by date; {measured(section)}.
Of {len(section["ranks"])} users all columns of all events were read (`SELECT * … WHERE user_id = …`): “MB read” is what Trino counts, “MB sent” what MinIO counts.

{table(columns, tables)}

User by user, from the busiest (0) to a rare one:

{table(("user's rank", "events", *names), users)}"""


def _analyze(results: Results) -> str:
    if not (section := results.get("analyze")):
        return ""
    rows = [
        (name, "yes" if of["plan_changed"] else "no", f"{of['seconds_before']:.2f}", f"{of['seconds_after']:.2f}")
        for name, of in section["queries"].items()
    ]
    return f"""\
### `ANALYZE`

`ANALYZE` of the long history's events took {section["analyze_seconds"]:.0f} s; {measured(section)}.

{table(("query", "other plan", "s before", "s after"), rows)}"""


def _median(builds: Sequence[dict[str, Any]], figure: str) -> float:
    return statistics.median(build[figure] for build in builds)
