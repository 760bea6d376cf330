"""Look into quarantine and replay it: `lakehouse quarantine list|show|replay`."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from lakehouse import quarantine
from lakehouse.cli.output import MOMENTS, Format, Output, answers, in_utc, print_json, print_table, row_progress
from lakehouse.quarantine import Refused, Selection
from lakehouse.settings import get_settings

SHOWN_BYTES = 2000

app = typer.Typer(help="Look at refused messages, and bring back what today's rules accept.", no_args_is_help=True)

Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason, by its code; may be given several times.")
]
Since = Annotated[
    datetime | None,
    typer.Option(formats=MOMENTS, metavar="TIME", help="Only what was refused at this time or later, UTC."),
]
Until = Annotated[
    datetime | None, typer.Option(formats=MOMENTS, metavar="TIME", help="Only what was refused before this time, UTC.")
]
Topics = Annotated[
    list[str] | None,
    typer.Option("--topic", help="Only this topic, as `show` names it; may be given several times."),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", help="Only this CSV file, by its location; may be given several times."),
]


@app.command("list")
def list_groups(
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    topic: Topics = None,
    file: Files = None,
    output: Output = Format.TEXT,
) -> None:
    """Count what is in quarantine by reason and field: how much is open, how much was replayed, and since when.

    Example: `lakehouse quarantine list --since 2026-01-31`
    """
    groups = quarantine.groups(get_settings(), _selection(reason, since, until, topic, file))
    if output is Format.JSON:
        print_json({"groups": [_plain(asdict(group)) for group in groups]})
    elif not groups:
        answers.print("nothing is in quarantine")
    else:
        print_table(
            ["reason", "field", "rows", "open", "replayed", "first seen", "last seen", "for example"],
            [
                (
                    group.reason,
                    _visible(group.field or ""),
                    group.rows,
                    group.open_rows,
                    group.replayed_rows,
                    _moment(group.first_seen),
                    _moment(group.last_seen),
                    _visible(group.sample_message),
                )
                for group in groups
            ],
        )


@app.command("show")
def show(
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    topic: Topics = None,
    file: Files = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this topic partition.")] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="Only this offset.")] = None,
    line: Annotated[int | None, typer.Option(min=1, help="Only this line of a file.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many messages at most, the newest first.")] = 20,
    full: Annotated[
        bool, typer.Option("--full", help=f"Show whole messages instead of their first {SHOWN_BYTES:,} bytes.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Show refused messages as they came, with what is wrong, where they came from and their headers.

    Bytes that are not UTF-8 are shown as base64; `--output json` says so beside each value.

    Example: `lakehouse quarantine show --reason not_json --limit 3`
    """
    selection = _selection(reason, since, until, topic, file, partition, offset, line)
    rows = quarantine.rows(get_settings(), selection, limit=limit, raw_bytes=None if full else SHOWN_BYTES)
    if output is Format.JSON:
        print_json({"messages": [_document(row) for row in rows]})
    elif not rows:
        answers.print("nothing is in quarantine")
    else:
        for row in rows:
            _show(row)


@app.command("replay")
def replay(
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    topic: Topics = None,
    file: Files = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge and count, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Judge refused messages again by today's rules, and publish those that they accept, each once.

    It is for a rule that was mended: upgrade, then replay. The bytes and Kafka's time of a message stay what they
    were, so a message that today's rules refuse stays refused, however often it is replayed. When it was the producer
    that was mended, replay can't help with what it sent before: let it send those events again, as new messages.

    All of them come back in one commit, or none does; an ingest may run meanwhile. Run it again at any time: what was
    replayed is not replayed twice. Quarantine keeps its rows, and the daily numbers follow with the next build.

    Examples:

    `lakehouse quarantine replay --reason implausible_timestamp --dry-run`

    `lakehouse quarantine replay --since 2026-01-31`
    """
    with row_progress("replay") as progress:
        result = quarantine.replay(
            get_settings(), _selection(reason, since, until, topic, file), dry_run=dry_run, progress=progress
        )
    if output is Format.JSON:
        print_json(asdict(result))
        return
    did = "would be replayed" if dry_run else "replayed"
    answers.print(
        f"{result.replayed_rows:,} messages {did}, {result.refused_rows:,} are still refused, "
        f"{result.replayed_before_rows:,} were replayed before"
    )
    if result.waiting_rows:
        answers.print(f"{result.waiting_rows:,} belong to an ingest that has not ended; the next one settles them")
    if result.refused_by_reason:
        print_table(["still refused", "rows"], list(result.refused_by_reason.items()))


def _selection(
    reason: list[str] | None,
    since: datetime | None,
    until: datetime | None,
    topic: list[str] | None,
    file: list[str] | None,
    partition: int | None = None,
    offset: int | None = None,
    line: int | None = None,
) -> Selection:
    return Selection(
        reasons=tuple(reason or ()),
        since=in_utc(since),
        until=in_utc(until),
        topics=tuple(topic or ()),
        topic_partition=partition,
        offset=offset,
        files=tuple(file or ()),
        line=line,
    )


def _document(row: Refused) -> dict[str, Any]:
    """A refused message for programs: bytes as `{encoding, value}`, times in ISO 8601."""
    is_cut = row.raw is not None and len(row.raw) < (row.raw_size_bytes or 0)
    readable: Mapping[str, Any] = {
        "raw": _bytes(row.raw, is_cut=is_cut),
        "raw_is_cut": is_cut,
        "key": _bytes(row.key),
        "headers": [{"key": key, "value": _bytes(value)} for key, value in row.headers],
    }
    return _plain(asdict(row) | dict(readable))


def _bytes(value: bytes | None, *, is_cut: bool = False) -> dict[str, str] | None:
    if value is None:
        return None
    for dropped in range(4 if is_cut else 1):  # the cut may be within a character
        try:
            return {"encoding": "utf-8", "value": value[: len(value) - dropped].decode()}
        except UnicodeDecodeError:
            continue
    return {"encoding": "base64", "value": base64.b64encode(value).decode()}


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _moment(value) if isinstance(value, datetime) else value for key, value in document.items()}


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _show(row: Refused) -> None:
    of_file = row.file is not None
    where = f"{row.file} line {row.file_line}" if of_file else f"{row.topic}/{row.topic_partition} offset {row.offset}"
    state = "open" if row.replayed_at is None else f"replayed {_moment(row.replayed_at)}"
    answers.print(where, style="bold", end=" ", markup=False)
    answers.print(f"{row.reason}, {state}", markup=False)
    facts = [
        ("what is wrong", f"{row.field}: {row.message}" if row.field else row.message),
        ("time of the file", _moment(row.file_modified_at))
        if row.file_modified_at
        else ("time in Kafka", _moment(row.kafka_timestamp) if row.kafka_timestamp else "none"),
        ("refused", f"{_moment(row.first_seen)} by rules of version {row.rule_version}"),
        *([] if of_file else [("key", _readable(row.key))]),
        *((f"header {key}", _readable(value)) for key, value in row.headers),
        ("record" if of_file else "message", _shown_raw(row)),
    ]
    for name, value in facts:
        answers.print(f"  {_visible(name)}: {_visible(value)}", markup=False)


def _shown_raw(row: Refused) -> str:
    shown, size = len(row.raw or b""), row.raw_size_bytes or 0
    more = f" … ({shown:,} of {size:,} bytes; --full shows all)" if shown < size else ""
    return _readable(row.raw, is_cut=bool(more)) + more


def _readable(value: bytes | None, *, is_cut: bool = False) -> str:
    encoded = _bytes(value, is_cut=is_cut)
    if encoded is None:
        return "none"
    return encoded["value"] if encoded["encoding"] == "utf-8" else f"base64 {encoded['value']}"


def _visible(text: str) -> str:
    """Keep what a message holds from steering a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
