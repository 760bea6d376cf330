"""The reference pages of `docs/`, made from the code: `python -m lakehouse.cli.reference` rewrites them.

A test holds the pages to this, so a command, setting or column can't change without its documentation.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand, TyperGroup

from lakehouse import events
from lakehouse.cli.main import app
from lakehouse.exporter.metrics import METRICS
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.tables import ALL, MICROS, Column, TableSpec

DOCS: Final = PROJECT_ROOT / "docs"
CASES: Final = PROJECT_ROOT / "tests" / "unit" / "golden" / "contract-cases.jsonl"
"""What must come of each case of the contract, typed by hand; `tests/unit/test_contract_cases.py` says how."""

_COMMANDS: Final = """\
# Commands

This page is made by `make reference`; change the code, then run it.

Answers go to standard output, progress and errors to standard error.
With `--output json` a command prints one JSON document on one line.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | somebody has to act, and the message says how |
| 2 | wrong usage |
| 3 | the answer to a commit got lost: run the same command again, it finds out from the table |
| 75 | a passing fault: a retry may succeed |
| 130 | interrupted |"""
_SETTINGS: Final = """\
# Settings

This page is made by `make reference`; change the code, then run it.

Each setting is one variable of the environment.
On one machine `credentials.env` in `LAKEHOUSE_HOME` is read as well; the environment wins over it.
Secrets marked *generated* are made by the first `lakehouse stack up` and stand in that file."""
_TABLES: Final = """\
# Tables

This page is made by `make reference`; change the code, then run it.

These are the tables that ingest writes; `make docs` describes the models that dbt builds from them.
Types are Iceberg's; times are microseconds in UTC.
A *personal* column names or points at a person: its bounds are kept out of the table's metadata."""
_METRICS: Final = """\
# Metrics

This page is made by `make reference`; change the code, then run it.

`lakehouse exporter serve` tells these at `/metrics`, as OpenMetrics or as Prometheus' text; `lakehouse exporter once`
prints them, and `lakehouse top` shows them in a terminal.
The exporter only reads, so the accounts that its settings name need no right to write; of Airflow, the role Viewer is
enough.

Collectors look by themselves, in the background, and a scrape gets what they saw last, so one that fails or hangs
costs its own facts alone.
How often each looks stands in the [settings](settings.md#exporter).
Facts are dropped when no look has found any for three pauses between looks and the time that a look may take, and
after a minute at the earliest; what is not there to look at, such as a table that nobody has made yet, has no row and
is no error.
Ages are brought to the moment of the scrape.

Labels are bounded: tables, topics with their partitions, DAGs, servers, buckets and reasons.
`table` is `namespace.name` and `topic` a name, both without the environment's prefix; what people read of a mart is
`marts.<name>`, and the table behind it `build.<name>`.
A counter never goes down while the exporter runs.
It starts from what the tables know, not from 0; where records were taken out of quarantine since, it starts lower
after a restart, which Prometheus sees as a reset."""
_CONTRACT: Final = """\
# Contract of user-action events

This page is made by `make reference`; change the code, then run it.

Rule version {version}.

One Kafka message holds one JSON object:

```json
{{"timestamp": "2023-10-23T12:34:56Z", "event_name": "view",
 "user_identifiers": {{"platform": "web", "id": "user_12345"}},
 "product_information": {{"name": "Wireless Mouse", "SKU": "SKU-1001"}}}}
```

## Fields

All are required.
Names are exact, upper and lower case included.

| field | column | type | meaning |
| --- | --- | --- | --- |
{fields}

{rules}

A required field at fault sets the message aside; an unknown one never does.

- A string must hold something other than whitespace, and no control character (U+0000 to U+001F).
  Whitespace is what Unicode calls so, U+001C to U+001F included.
  It is stored as it came: nothing is trimmed, and case is kept.
- Event names and platforms are open sets: a new one flows through.
- Any other field, at any level, is kept in the column `unknown_fields` as JSON text, nested as it came and with its
  numbers as they were written, for example `{{"product_information":{{"color":"red"}}}}`.
  It never sets a message aside, whatever it holds, as long as the message is strict JSON.
  It can become a column of its own: [promotion](architecture.md#an-unknown-field-becomes-a-column-by-its-spec).

## Timestamps

- RFC 3339 with `Z` or an offset such as `+02:00`; `t` and `z` may be lower case, as RFC 3339 allows.
  A space instead of `T` is refused.
- `event_datetime` is the moment in UTC with microseconds, and `event_date` its UTC date.
  Digits beyond the sixth are cut off, not rounded, so that no event moves into the next day.
- A leap second (`:60`) is refused, because the column types have no such moment.
- The moment must lie between {before} days before and {after} day after Kafka's own timestamp of the message.
  The clock of the machine that decodes plays no part, so a replay gives the same verdict.

## Messages

RFC 8259 without leniency: UTF-8 without a byte order mark, one object, nothing after it but whitespace, no field named
twice at any depth, no NaN or Infinity or number beyond a double, no lone surrogate, at most {depth} levels deep,
at most {bytes} bytes.

## Reasons for quarantine

A message that breaks a rule becomes a row in quarantine, with the first problem as its reason.
Looked at are the bytes, then the grammar, then what the objects hold, in the order of the message;
then the required fields in the order of the table above; last the form of the timestamp and its range.
The depth is looked at before the grammar; a string must first hold something, then be short enough, then be without
control characters.

| reason | meaning |
| --- | --- |
{reasons}

## Cases

Each case below is a line of `tests/unit/golden/contract-cases.jsonl`, typed by hand, and a test holds every way of
decoding to it.
*Sample* is the message at the top of this page, in one line; `a` → `b` is the sample with one text replaced by another.
An invisible character is shown by its number, ⟨U+00A0⟩, and a byte outside UTF-8 by its value, ⟨FF⟩.
A published event has the sample's columns but for those named.

{cases}
"""
_SITUATIONS: Final = {
    "missing": "absent",
    "null": "null",
    "empty": "empty",
    "only whitespace": "only whitespace",
    "wrong type": "other JSON type",
    "wrong case": "other case of the name",
    "too long": "too long",
    "control character": "control character",
    "out of range": "out of range",
}
"""What can be wrong with a field, as the cases call it and as the page does."""
_CASE_GROUPS: Final = {
    "fields": "Fields",
    "timestamps": "Timestamps",
    "bytes": "Bytes, size and UTF-8",
    "grammar": "Grammar of JSON",
    "one object": "One object, each name once",
    "bounds": "Depth, numbers and surrogates",
    "unknown fields": "Unknown fields",
    "order of reasons": "Several problems at once",
}
_TYPES: Final = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    MICROS: "timestamptz",
}


def commands_page() -> str:
    """Write `docs/cli.md`: each command with its arguments and options, as `--help` tells them."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    context = typer.Context(command, info_name="lakehouse")
    lines = [_COMMANDS]
    lines.extend(_command(command, "lakehouse", context))
    return _joined(lines)


def settings_page() -> str:
    """Write `docs/settings.md`: each setting as a variable of the environment, with its default and meaning."""
    lines = [_SETTINGS]
    plain, groups = dict[str, FieldInfo](), dict[str, type[BaseModel]]()
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            groups[name] = field.annotation
        else:
            plain[name] = field
    lines += ["## General", _settings("LAKEHOUSE_", plain)]
    for name, group in groups.items():
        lines += [f"## {name.capitalize()}", (group.__doc__ or "").strip()]
        lines.append(_settings(f"LAKEHOUSE_{name.upper()}__", group.model_fields))
    return _joined(lines)


def contract_page() -> str:
    """Write `docs/event-contract.md`: what a message must hold, and each reason to set one aside."""
    fields = "\n".join(
        f"| `{rule.path}` | `{rule.column}` | string, 1 to {rule.max_characters:,} characters | {rule.doc} |"
        for rule in events.FIELDS
    )
    reasons = "\n".join(f"| `{reason}` | {reason.doc} |" for reason in events.Reason)
    cases: list[dict[str, Any]] = [json.loads(line) for line in CASES.read_text(encoding="utf-8").split("\n") if line]
    return _CONTRACT.format(
        version=events.RULE_VERSION,
        fields=fields,
        rules=_field_rules(cases),
        cases=_case_tables(cases),
        reasons=reasons,
        bytes=f"{events.MAX_MESSAGE_BYTES:,}",
        depth=events.MAX_DEPTH,
        before=f"{events.MAX_DAYS_BEFORE_KAFKA:,}",
        after=events.MAX_DAYS_AFTER_KAFKA,
    )


def tables_page() -> str:
    """Write `docs/tables.md`: each table with its columns, partition, order and properties."""
    lines = [_TABLES]
    for spec in ALL:
        lines += [f"## `{spec.identifier}`", spec.doc, _traits(spec)]
        lines.append(
            _table(
                ["column", "type", "null", "personal", "meaning"],
                [
                    [f"`{c.name}`", type_name(c.type), "" if c.required else "yes", "yes" if c.pii else "", _meaning(c)]
                    for c in spec.columns
                ],
            )
        )
        properties = sorted(spec.table_properties.items() - {("comment", spec.doc), ("owner", spec.owner)})
        lines.append(_table(["property", "value"], [[f"`{key}`", f"`{value}`"] for key, value in properties]))
    return _joined(lines)


def metrics_page() -> str:
    """Write `docs/metrics.md`: each metric with its labels, what it means and where its value comes from."""
    rows = [
        [
            f"`{metric.name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
            metric.source,
        ]
        for metric in METRICS
    ]
    return _joined([_METRICS, _table(["metric", "kind", "labels", "meaning", "from"], rows)])


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": commands_page,
    "settings.md": settings_page,
    "event-contract.md": contract_page,
    "tables.md": tables_page,
    "metrics.md": metrics_page,
}
"""The generated pages by their file's name in `docs/`."""


def write(directory: Path = DOCS) -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (directory / name).write_text(page())


def type_name(kind: pa.DataType) -> str:
    """The Iceberg name of a column's type."""
    if isinstance(kind, pa.ListType):
        return f"list<{type_name(kind.value_type)}>"
    if isinstance(kind, pa.StructType):
        return f"struct<{', '.join(f'{field.name}: {type_name(field.type)}' for field in kind)}>"
    return _TYPES[kind]


def _command(command: TyperCommand | TyperGroup, path: str, context: typer.Context) -> Iterator[str]:
    yield f"## `{path}`"
    yield (command.help or "").strip()
    rows = [row for parameter in command.params if (row := parameter.get_help_record(context))]
    if rows:
        yield _table(["argument", "meaning"], [[f"`{name}`", meaning] for name, meaning in rows])
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            assert isinstance(child, TyperCommand | TyperGroup)
            yield from _command(child, f"{path} {name}", context)


def _settings(prefix: str, fields: Mapping[str, FieldInfo]) -> str:
    rows = [[f"`{prefix}{name.upper()}`", _default(field), field.description or ""] for name, field in fields.items()]
    return _table(["variable", "default", "meaning"], rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""  # it depends on the machine, and the meaning says how
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
        return f"`{value}`" if value else "*generated*"
    if isinstance(value, Path):
        return f"`{value.relative_to(PROJECT_ROOT)}`"
    return "" if value in (None, "") else f"`{value}`"


def _meaning(column: Column) -> str:
    return column.doc if column.unknown_field is None else f"{column.doc} Promoted from `{column.unknown_field}`."


def _traits(spec: TableSpec) -> str:
    retention = "kept for ever" if spec.retention_days is None else f"kept for {spec.retention_days} days"
    partition, order = (", ".join(f"`{name}`" for name in names) for names in (spec.partition_by, spec.sort_by))
    policy = ", ".join(f"`{name}` {value}" for name, value in asdict(spec.policy).items() if value is not None)
    return (
        f"Partitioned by {partition}; rows of a file sorted by {order}; {retention}; owned by {spec.owner}.\n\n"
        f"[Policy](operations.md#table-maintenance): {policy}."
    )


def _field_rules(cases: Sequence[Mapping[str, Any]]) -> str:
    """What becomes of a message by what is wrong with each field; `-` where that can't be."""
    found: dict[str, dict[str, set[str]]] = {}
    for case in cases:
        if case.get("situation") in _SITUATIONS:
            at_fault = "" if case["field"] == case["field_of_contract"] else f" of `{case['field']}`"
            outcome = f"`{case['quarantined']}`{at_fault}"
            found.setdefault(case["field_of_contract"], {}).setdefault(case["situation"], set()).add(outcome)
    rows = [
        [f"`{field}`", *(", ".join(sorted(outcomes.get(situation, {"-"}))) for situation in _SITUATIONS)]
        for field, outcomes in found.items()
    ]
    return _table(["field", *_SITUATIONS.values()], rows)


def _case_tables(cases: Sequence[Mapping[str, Any]]) -> str:
    blocks: list[str] = []
    for group, title in _CASE_GROUPS.items():
        rows = [
            [case["case"], _message(case), _outcome(case)] for case in cases if case["id"].partition("/")[0] == group
        ]
        blocks += [f"### {title}", _table(["case", "message", "outcome"], rows)]
    return "\n\n".join(blocks)


def _message(case: Mapping[str, Any]) -> str:
    told = "none" if case["message"] is None else _part(case["message"])
    kafka = case.get("kafka_timestamp")
    return f"{told}, at {kafka} by Kafka's clock" if kafka else told


def _outcome(case: Mapping[str, Any]) -> str:
    if "quarantined" in case:
        field = case["field"]
        return f"`{case['quarantined']}`" + ("" if field is None else f", field {_part(field)}")
    columns = [f"`{column}` {_part(value)}" for column, value in case["published"].items()]
    return f"published, {', '.join(columns)}" if columns else "published"


def _part(part: Any) -> str:
    """A piece of a message, for people."""
    match part:
        case str():
            return _code(part)
        case list():
            return " ".join(map(_part, part))
        case {"base64": text}:
            return _code(base64.b64decode(text).decode("utf-8", "surrogateescape"))
        case {"repeat": text, "times": times}:
            return f"{_code(text)} {times:,} times"
        case {"sample_with": changes}:
            return "; ".join(f"{_code(old)} → {_part(new)}" for old, new in changes.items()) or "sample"
        case _:
            raise ValueError(part)


def _code(text: str) -> str:
    """The text in backticks, with what can't be seen named."""
    if not text:
        return "nothing"
    shown = "".join(c if c.isprintable() else _named(ord(c)) for c in text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    padding = " " if "`" in shown or shown != shown.strip() else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def _named(code_point: int) -> str:
    # Python holds a byte that is no UTF-8 as a lone surrogate.
    return f"⟨{code_point - 0xDC00:02X}⟩" if 0xDC80 <= code_point <= 0xDCFF else f"⟨U+{code_point:04X}⟩"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in cells)


def _joined(blocks: Sequence[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


if __name__ == "__main__":
    write()
