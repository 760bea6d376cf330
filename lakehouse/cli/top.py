"""`lakehouse top`: how the platform is, in a terminal, looked at again and again."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lakehouse.cli.exporter import PATIENCE_SECONDS, Timeout, look, unfound
from lakehouse.cli.output import answers, drained_on_signal
from lakehouse.errors import TransientError
from lakehouse.exporter.collectors import watching
from lakehouse.exporter.looks import Report
from lakehouse.exporter.metrics import (
    ARCHIVE_AGE_SECONDS,
    BACKUP_AGE_SECONDS,
    BUCKET_BYTES,
    BUCKET_OBJECTS,
    DAG_LAST_RUN_DURATION,
    DAG_LAST_RUN_FAILED,
    DAG_LAST_SUCCESS,
    DAG_LATE_RUNS,
    DAG_PAUSED,
    DISK_FREE_BYTES,
    DISK_SIZE_BYTES,
    FRESHNESS_SECONDS,
    FRESHNESS_TARGET_SECONDS,
    KAFKA_LAG_RECORDS,
    KAFKA_LAG_SECONDS,
    LEDGER_AUDIT_AGE_SECONDS,
    LEDGER_GAPS,
    POSITION_AGE_SECONDS,
    ROWS_LATE,
    ROWS_PUBLISHED,
    ROWS_QUARANTINED,
    ROWS_REPLAYED,
    SERVER_LATENCY_SECONDS,
    SERVER_UP,
    TABLE_BYTES,
    TABLE_FILES,
    TABLE_OVERDUE_FILES,
    TABLE_SMALL_FILES,
    TABLE_SNAPSHOTS,
    Metric,
)
from lakehouse.exporter.service import end_at_once
from lakehouse.maintenance_plan import told_size
from lakehouse.settings import get_settings

Values = Mapping[str, Mapping[tuple[str, ...], float]]
"""Values by the metric's name and the labels."""

_GOOD, _BAD, _QUIET = "green", "bold red", "dim"
_NAME_WIDTH: Final = 30


def top(
    seconds: Annotated[float, typer.Option(min=0.1, help="Time between two pictures, in seconds.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end, as where nobody watches.")] = False,
    timeout_seconds: Timeout = PATIENCE_SECONDS,
) -> None:
    """Show servers, lag, ledgers, DAGs, copies and tables until Ctrl-C: the facts that the exporter tells.

    It looks by itself, so no exporter has to run; a fact that is dear to find appears when it is found.
    What could not be found stands at the top, and what is wrong before what is well; `--timeout` is for `--once`,
    which exits 75 when something could not be found.

    Examples:

    `lakehouse top`

    `lakehouse top --once --timeout 600`
    """
    if once or not answers.is_terminal:
        reports = look(timeout_seconds)
        answers.print(picture(reports, datetime.now(UTC)))
        if unfound(reports):
            end_at_once(TransientError.exit_code)
        return
    stop = Event()
    live = Live(console=answers, screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), drained_on_signal(stop, note=""), watching(get_settings()) as watches, live:
        while not stop.is_set():
            live.update(picture(watches.reports(), datetime.now(UTC)), refresh=True)
            stop.wait(seconds)
    end_at_once(0)


def picture(reports: Iterable[Report], now: datetime) -> RenderableType:
    """What the collectors know at a moment, as tables; a screen cuts off the end, so what is missing comes first."""
    reports = list(reports)
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for report in reports:
        for fact in report.all_facts():
            values.setdefault(fact.metric.name, {})[fact.labels] = fact.value
    title = Text(f"lakehouse, {now:%Y-%m-%d %H:%M:%S} UTC", "bold")
    errors = {report.collector for report in reports if report.error}
    blind = [
        Text(f"{collector}: {reason}", _BAD if collector in errors else _QUIET, no_wrap=True, overflow="ellipsis")
        for collector, reason in sorted(unfound(reports).items(), key=lambda one: one[0] not in errors)
    ]
    tables = [
        _servers(values),
        _streams(values),
        _ledgers(values),
        _dags(values, now),
        _rows(values),
        _copies(values),
        _stores(values),
        _files(values),
    ]
    return Group(title, *blind, *(table for table in tables if table.row_count))


def _servers(values: Values) -> Table:
    table = _table("server", "answers", "in")
    latency = _of(values, SERVER_LATENCY_SECONDS)
    for labels, is_up in sorted(_of(values, SERVER_UP).items(), key=lambda one: (one[1], one[0])):
        took = latency.get(labels)
        table.add_row(*labels, _flag(is_up, "yes", "NO"), "" if took is None else f"{took * 1000:.0f} ms")
    return table


def _streams(values: Values) -> Table:
    table = _table("topic", "lag", "oldest waits")
    seconds = _of(values, KAFKA_LAG_SECONDS)
    topics: dict[str, list[tuple[str, ...]]] = {}
    for labels in sorted(_of(values, KAFKA_LAG_RECORDS)):
        topics.setdefault(labels[0], []).append(labels)
    for topic, partitions in topics.items():
        lag = sum(_of(values, KAFKA_LAG_RECORDS)[labels] for labels in partitions)
        oldest = max(seconds.get(labels, 0.0) for labels in partitions)
        table.add_row(topic, f"{lag:,.0f}", _lasting(oldest) if lag else "")
    return table


def _ledgers(values: Values) -> Table:
    table = _table("ledger", "gaps", "audited")
    gaps = _of(values, LEDGER_GAPS)
    for labels in sorted(gaps, key=lambda labels: (not gaps[labels], labels)):
        audited = _of(values, LEDGER_AUDIT_AGE_SECONDS).get(labels, 0.0)
        table.add_row(*labels, _flag(not gaps[labels], "0", f"{gaps[labels]:,.0f}"), f"{_lasting(audited)} ago")
    return table


def _dags(values: Values, now: datetime) -> Table:
    table = _table("DAG", "is", "last success", "took")
    late, failed = _of(values, DAG_LATE_RUNS), _of(values, DAG_LAST_RUN_FAILED)
    paused = _of(values, DAG_PAUSED)
    wrong = {
        labels: [word for word, is_so in (("LATE", late.get(labels)), ("FAILED", failed.get(labels))) if is_so]
        for labels in paused
    }
    for labels in sorted(paused, key=lambda labels: (not wrong[labels], labels)):
        success, took = _of(values, DAG_LAST_SUCCESS).get(labels), _of(values, DAG_LAST_RUN_DURATION).get(labels)
        words = [*wrong[labels], *(["paused"] if paused[labels] else [])]
        table.add_row(
            *labels,
            Text(", ".join(words) or "on", _BAD if wrong[labels] else _QUIET if words else _GOOD),
            "never" if success is None else f"{_lasting(now.timestamp() - success)} ago",
            "" if took is None else _lasting(took),
        )
    return table


def _copies(values: Values) -> Table:
    table = _table("copy", "last got something")
    for metric in (ARCHIVE_AGE_SECONDS, BACKUP_AGE_SECONDS):
        for labels, seconds in sorted(_of(values, metric).items()):
            table.add_row(" ".join((*metric.labels, *labels)), f"{_lasting(seconds)} ago")
    return table


def _stores(values: Values) -> Table:
    table = _table("volume, bucket", "size", "free", "objects")
    sizes, free = _of(values, DISK_SIZE_BYTES), _of(values, DISK_FREE_BYTES)
    for labels, size in sorted(sizes.items()):
        left = free.get(labels, 0.0)
        table.add_row(*labels, _size(size), f"{_size(left)}, {left / size:.0%}" if size else "", "")
    for labels, size in sorted(_of(values, BUCKET_BYTES).items()):
        table.add_row(*labels, _size(size), "", _count(_of(values, BUCKET_OBJECTS).get(labels)))
    return table


def _rows(values: Values) -> Table:
    table = _table("table", "freshness", "rows", "refused", "late", "replayed", "moved")
    refused: dict[tuple[str, ...], float] = {}
    for (name, _), count in _of(values, ROWS_QUARANTINED).items():
        refused[name,] = refused.get((name,), 0.0) + count
    freshness, targets, moved = (
        _of(values, metric) for metric in (FRESHNESS_SECONDS, FRESHNESS_TARGET_SECONDS, POSITION_AGE_SECONDS)
    )
    overdue = {labels for labels, seconds in freshness.items() if seconds > targets.get(labels, seconds)}
    rows, late, replayed = (_of(values, metric) for metric in (ROWS_PUBLISHED, ROWS_LATE, ROWS_REPLAYED))
    known = {*freshness, *rows, *refused, *late, *replayed, *moved}
    for labels in sorted(known, key=lambda labels: (labels not in overdue, labels)):
        fresh = freshness.get(labels)
        table.add_row(
            *labels,
            "" if fresh is None else Text(_lasting(fresh) if fresh else "fresh", _BAD if labels in overdue else _GOOD),
            *(_count(of.get(labels)) for of in (rows, refused, late, replayed)),
            f"{_lasting(moved[labels])} ago" if labels in moved else "",
        )
    return table


def _files(values: Values) -> Table:
    table = _table("files of", "files", "debt", "overdue", "snapshots", "size")
    files, sizes, overdue = (_of(values, metric) for metric in (TABLE_FILES, TABLE_BYTES, TABLE_OVERDUE_FILES))
    debt, snapshots = _of(values, TABLE_SMALL_FILES), _of(values, TABLE_SNAPSHOTS)
    for labels in sorted({*files, *debt, *overdue}, key=lambda labels: (-overdue.get(labels, 0.0), labels)):
        table.add_row(
            *labels,
            *(_count(of.get(labels)) for of in (files, debt, overdue, snapshots)),
            _size(sizes[labels]) if labels in sizes else "",
        )
    return table


def _of(values: Values, metric: Metric) -> Mapping[tuple[str, ...], float]:
    return values.get(metric.name, {})


def _table(first: str, *others: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0), header_style="bold cyan")
    table.add_column(first, min_width=_NAME_WIDTH, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _flag(is_good: object, good: str, bad: str) -> Text:
    return Text(good, _GOOD) if is_good else Text(bad, _BAD)


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _size(size_bytes: float) -> str:
    return told_size(int(size_bytes))


def _lasting(seconds: float) -> str:
    """A time for people, in its largest fitting unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
