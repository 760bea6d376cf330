"""Write the document from the results: nothing in it was typed by hand but the words and `bench/notes.md`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.ads import report as ads_report
from bench.contenders.registry import ALL, OURS
from bench.figures import Bar, bars, measured, number, table
from bench.ground import DISTINCT
from bench.results import Results, load, per_million, ratios
from bench.warehouse import report as warehouse_report

NOTES: Final = Path(__file__).with_name("notes.md")


BARS: Final = (
    Bar("cpu_vs_stock_spark", "CPU per event, ours ÷ stock streaming sink (no quarantine)", 1 / 2, 1 / 3),
    Bar("cpu_vs_stock_two_sinks", "CPU per event, ours ÷ stock `foreachBatch` with two sinks", 0.4, 1 / 4),
    Bar("cpu_vs_python_script", "CPU per event, ours ÷ a plain Python script", 1.3, 1.0),
    Bar("drain_speedup_vs_stock_spark", "wall time of a drain, stock streaming sink ÷ ours", 2, 3, upwards=True),
    Bar("freshness_p50_seconds", "event sent → visible in Trino, half of the events", None, 2),
    Bar("freshness_p95_seconds", "event sent → visible in Trino, 95 % of the events", 10, 5),
    Bar("cpu_bad5_vs_clean", "CPU per event, with 5 % bad events ÷ with none", 1.25, 1.05),
    Bar("kill_to_next_commit_seconds", "`kill -9` of a supervised ingester → next commit", 60, 15),
    Bar("table_bytes_vs_json", "bytes of the live table ÷ bytes of the JSON", 1 / 6, 1 / 10),
)


def page(directory: Path) -> str:
    """The whole document, from the results in a directory."""
    return render(*(load(directory / f"{name}.json") for name in ("ingest", "warehouse", "ads")))


def render(results: Results, warehouse: Results | None = None, ads: Results | None = None) -> str:
    """The whole document, from the results of ingest, of the warehouse and of the ad data."""
    sections = (_how, _bars, _contenders, _bad_rows, _floors, _drain, _backlog, _freshness, _kill)
    notes = NOTES.read_text().strip() if NOTES.exists() else ""
    parts = [_HEAD, *(part for section in sections if (part := section(results))), notes]
    parts += [*warehouse_report.parts(warehouse or {}), *ads_report.parts(ads or {})]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


_HEAD: Final = """\
# Benchmarks

This page is made by `make bench` from `bench/results/ingest.json`, by `make bench-dbt` from `bench/results/warehouse.json`, and by `make bench-ads` from `bench/results/ads.json`.
To change its words, change `bench/report.py`, `bench/warehouse/report.py`, `bench/ads/report.py` or the `notes.md` beside each, then run `.venv/bin/python -m bench --document`.

All figures are from this project's own runs on one machine, so they hold beside each other, not beside figures of other machines."""


def _how(results: Results) -> str:
    return f"""\
## Run it

```sh
make start PROFILE=core   # without Airflow, which would work beside the bench
make bench                # everything; about an hour on two idle cores
.venv/bin/python -m bench --help
.venv/bin/python -m bench --quick   # small sizes, to see that all works; writes into .lakehouse/bench
.venv/bin/python -m bench --only stock_spark --pairs 7   # one contender; the other sections stay
.venv/bin/python -m bench --only backlog --backlog-gib 10   # 10 GiB of JSON in one drain
```

- The topic is loaded once, with seeded messages of `lakehouse.generator`: {DISTINCT:,} distinct ones, sent again and again, their dates the last two whole days.
- Each run gets fresh tables: the same columns, partitioned by the event's date, zstd Parquet, in the same catalog and object store.
- A contender takes turns with ours; a ratio is of two runs side by side, and the figure is the median of those ratios.
- CPU seconds are of all processes of the contender, from start to end, the start of Python and the JVM included, and of Kafka, MinIO, the catalog and PostgreSQL meanwhile.
- After each run every offset of the topic is looked for in the tables; what was lost or doubled is in the table below.
- The bench sets an environment of its own up and removes it at the end, also after Ctrl-C."""


def _bars(results: Results) -> str:
    return "## Bars\n\n" + bars(BARS, ratios(results))


def _contenders(results: Results) -> str:
    sections: dict[str, Any] = results.get("contenders", {})
    if not sections:
        return ""
    of_all = [pair["ours"] for section in sections.values() for pair in section["pairs"]]
    ours = [run for place, run in enumerate(of_all) if run not in of_all[:place]]  # two rivals share one of ours
    groups = [(OURS, ours)] + [
        (name, [pair["other"] for pair in sections[name]["pairs"]]) for name in ALL if name in sections
    ]
    rows = [
        (
            f"`{name}`",
            number(statistics.median(map(per_million, runs))),
            f"{min(map(per_million, runs)):.2f} to {max(map(per_million, runs)):.2f}",
            f"{statistics.median(run['events'] / run['wall_seconds'] for run in runs):,.0f}",
            number(statistics.median(run["elsewhere_cpu_seconds"] for run in runs)),
            f"{statistics.median(run['file_bytes'] for run in runs) / 1e6:,.0f}",
            _count_of_wrong(runs),
            str(len(runs)),
        )
        for name, runs in groups
    ]
    columns = (
        "contender",
        "CPU-s per million",
        "from … to",
        "events/s",
        "CPU-s elsewhere",
        "MB",
        "lost or doubled",
        "runs",
    )
    promises = [(f"`{c.name}`", c.does, c.checks, c.bad_rows, c.once) for c in ALL.values() if c.name in dict(groups)]
    ratios_of = [
        (
            f"`{name}`",
            number(statistics.median(per_million(p["ours"]) / per_million(p["other"]) for p in section["pairs"])),
            number(statistics.median(p["other"]["wall_seconds"] / p["ours"]["wall_seconds"] for p in section["pairs"])),
            f"{section['events']:,}",
            *_when(section),
        )
        for name, section in sections.items()
    ]
    return "\n\n".join(
        [
            "## Contenders",
            table(columns, rows),
            "“CPU-s elsewhere” is what the rest of the machine worked during a run: the smaller, the truer the figures beside it.",
            "What each does for that:",
            table(("contender", "what it is", "reads how strictly", "a bad message", "exactly once by"), promises),
            "Ours beside each:",
            table(
                ("contender", "CPU, ours ÷ it", "wall, it ÷ ours", "events a run", "measured", "commit", "Airflow"),
                ratios_of,
            ),
        ]
    )


def _bad_rows(results: Results) -> str:
    if not (section := results.get("bad_rows")):
        return ""
    clean, bad = ([per_million(pair[side]) for pair in section["pairs"]] for side in ("ours", "other"))
    return f"""\
## Bad messages

Of {section["events"]:,} messages {section["bad_ratio"]:.0%} break the contract, each reason in turn; {
        measured(section)
    }.

{
        table(
            ("", "bytes of JSON", "CPU-s per million"),
            [
                ("none bad", f"{section['json_bytes']:,}", number(statistics.median(clean))),
                (f"{section['bad_ratio']:.0%} bad", f"{section['bad_json_bytes']:,}", number(statistics.median(bad))),
            ],
        )
    }

The bad ones hold messages of over a mebibyte too, which is why they have more bytes."""


def _floors(results: Results) -> str:
    if not (section := results.get("floors")):
        return ""
    what = {
        "consume": "only read, librdkafka in Python",
        "spark_consume": "only read, Spark's Kafka source, its start included",
        "spark_start": "only start and stop Spark, CPU seconds a run",
    }
    rows = [
        (
            what[name],
            number(
                statistics.median(run["cpu_seconds"] for run in runs)
                / (1 if name == "spark_start" else section["events"] / 1e6)
            ),
        )
        for name, runs in section["runs"].items()
    ]
    for key, text in (
        ("decode", "only decode, `lakehouse.transforms.decode_batch`"),
        ("write", "only sort and write Parquet to MinIO"),
    ):
        rows.append((text, number(statistics.median(run[key] / run["events"] * 1e6 for run in section["in_memory"]))))
    return f"""\
## Floors

What parts of the work cost alone; {measured(section)}.

{table(("part", "CPU-s per million"), rows)}"""


def _drain(results: Results) -> str:
    if not (section := results.get("drain")):
        return ""
    peak = section["drain_peak_memory_bytes"] / 2**30
    return f"""\
## A drain: memory and bytes

{section["events"]:,} messages, {section["json_bytes"] / 2**30:.2f} GiB of JSON, were drained in {section["wall_seconds"]:,.0f} s; {measured(section)}.

- All processes together held {peak:.2f} GiB at most (`drain_peak_memory_bytes`, shared pages counted once, looked at twice a second).
- The table has {section["files"]:,} files with {section["table_bytes"]:,} bytes, {section["table_bytes"] / section["json_bytes"]:.4f} of the JSON's.
- Compacted by Trino it has {section["compacted_files"]:,} with {section["compacted_table_bytes"]:,}, {section["compacted_table_bytes"] / section["json_bytes"]:.4f} of the JSON's.
- Lost or doubled: {_count_of_wrong([section])}."""


def _backlog(results: Results) -> str:
    if not (section := results.get("backlog")):
        return ""
    peak = section["drain_peak_memory_bytes"] / 2**30
    return f"""\
## A large backlog

A backlog of {section["json_bytes"] / 2**30:.1f} GiB, {section["events"]:,} messages, was drained in {section["wall_seconds"]:,.0f} s; {measured(section)}.
All processes together held {peak:.2f} GiB at most. Lost or doubled: {_count_of_wrong([section])}."""


def _freshness(results: Results) -> str:
    if not (section := results.get("freshness")):
        return ""
    names = ("p50", "p95", "p99", "worst")
    values = " | ".join(number(section[f"{name}_seconds"]) for name in names)
    return f"""\
## Freshness

{section["events"]:,} events at {section["events_per_second"]:,.0f} a second into `lakehouse ingest follow`; {measured(section)}.
From the moment the producer sends an event, before it reaches Kafka, to the end of the first Trino query on the table's rows that shows it.

| p50, s | p95, s | p99, s | worst, s |
| --- | --- | --- | --- |
| {values} |

- Trino answered {section["polls"]:,} times meanwhile, and failed {section["failed_polls"]:,} times.
- Compaction (`EXECUTE optimize` on the whole table, {section["compaction_pause_seconds"]:.0f} s after the last) ran {section["compactions"]:,} times, {statistics.median(section["compaction_seconds"] or [0]):.1f} s each, and lost against a commit {len(section["failed_compactions"]):,} times.
- The first commit after the start of Spark is not in it: events flow after it.
- Lost or doubled: {_count_of_wrong([section])}."""


def _kill(results: Results) -> str:
    if not (section := results.get("kill")):
        return ""
    times = ", ".join(f"{seconds:.1f}" for seconds in section["seconds"])
    return f"""\
## After a kill

`lakehouse ingest follow` under a supervisor that starts it again at once, {section["events_per_second"]:,.0f} events a second; {measured(section)}.

- From `kill -9` of its process group to the next commit: {times} s.
- Lost or doubled: {_count_of_wrong([section])}."""


def _count_of_wrong(runs: Sequence[dict[str, Any]]) -> str:
    lost, doubled = (sum(run[key] for run in runs) for key in ("lost", "doubled"))
    return f"**{lost:,} lost, {doubled:,} doubled**" if lost or doubled else "none"


def _when(section: dict[str, Any]) -> tuple[str, str, str]:
    return section["measured_at"], f"`{section['commit']}`", "ran" if section["airflow_running"] else "off"
