"""What a table knows about the topics it has read: the properties that are committed together with its rows.

A *source* is a topic as the table knows it. Its name stands in the column `kafka_topic` and in these properties:

    lakehouse.position.<source>     next offset to read, per topic partition
    lakehouse.accounts.<source>     what the position alone can't tell an audit, per topic partition
    lakehouse.topic-id.<source>     which topic of that name was read; one made anew has another id
    lakehouse.run.<source>          the last run that moved it
    lakehouse.rule-version          the newest rules that judged messages for this table
    lakehouse.replays               how often quarantine was replayed into it
    lakehouse.replayed.<source>     how many of its rows replays brought, per topic partition

What left a table for its archive comes in numbered parts, see `lakehouse.archive`:

    lakehouse.archive.last-part     in the archive: the newest part that was ever registered
    lakehouse.archive.through       in the live table: rows of parts up to this number have left it
    lakehouse.archive.restored      in the live table: of those, the parts whose rows were brought back
    lakehouse.archive.held          in the live table: restored dates, and until when no archiving takes them

What came from CSV files comes in numbered commits, see `lakehouse.csv_drop`:

    lakehouse.csv.commits           in the live table: the newest commit that brought files
    lakehouse.csv.last              in the live table: the files of that commit
    lakehouse.csv.run               in the live table: the run that made it
    lakehouse.csv.replayed          in the live table: how many of the files' records replays brought, and are there
    lakehouse.csv.reached           in quarantine: the newest commit that brought records, and the run that moved it
    lakehouse.withdrawn             in the live table: event dates that a correction took events from, and when
    lakehouse.withdrawn.ingested    in either: dates on which had been ingested what left the table, and when
    lakehouse.csv.recorded          in `ops.csv_files`: the newest commit whose files stand there

A source is called like its topic. When a topic was deleted and made anew and that was accepted, offsets start again,
so the new one becomes a source of its own: `user-actions#2`; Kafka allows no `#` in a topic's name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta

from lakehouse.plans import Account, Offsets

POSITION = "lakehouse.position."
ACCOUNTS = "lakehouse.accounts."
TOPIC_ID = "lakehouse.topic-id."
RUN = "lakehouse.run."
RULES = "lakehouse.rule-version"
REPLAYS = "lakehouse.replays"
REPLAYED = "lakehouse.replayed."
LAST_PART = "lakehouse.archive.last-part"
THROUGH = "lakehouse.archive.through"
RESTORED = "lakehouse.archive.restored"
HELD = "lakehouse.archive.held"
CSV_COMMITS = "lakehouse.csv.commits"
CSV_LAST = "lakehouse.csv.last"
CSV_RUN = "lakehouse.csv.run"
CSV_REPLAYED = "lakehouse.csv.replayed"
CSV_REACHED = "lakehouse.csv.reached"
CSV_RECORDED = "lakehouse.csv.recorded"
WITHDRAWN = "lakehouse.withdrawn"
WITHDRAWN_INGESTED = "lakehouse.withdrawn.ingested"
WITHDRAWN_DAYS = 30
"""How long a correction is told of: builds hear of it long before."""

RUN_ID = "lakehouse.run-id"
TOPIC = "lakehouse.topic"
START_OFFSETS = "lakehouse.start-offsets"
END_OFFSETS = "lakehouse.end-offsets"

Properties = Mapping[str, str]


def position(properties: Properties, source: str) -> dict[int, int]:
    """The next offset to read of each topic partition; empty before the first run."""
    return _offsets(properties.get(POSITION + source, "{}"))


def accounts(properties: Properties, source: str) -> dict[int, Account]:
    """What the table keeps for the audit of each topic partition; empty before the first run."""
    text = properties.get(ACCOUNTS + source, "{}")
    return {int(partition): Account(**account) for partition, account in json.loads(text).items()}


def replayed(properties: Properties, source: str) -> dict[int, int]:
    """How many rows of each topic partition replays have brought."""
    return _offsets(properties.get(REPLAYED + source, "{}"))


def csv_commits(properties: Properties) -> int:
    """The newest commit that brought files into a live table; 0 before the first."""
    return int(properties.get(CSV_COMMITS, "0"))


def csv_replayed(properties: Properties) -> int:
    """How many records of files a live table has that replays brought."""
    return int(properties.get(CSV_REPLAYED, "0"))


def csv_reached(properties: Properties) -> int:
    """The newest commit that brought records of files into a quarantine; 0 before the first."""
    return int(properties.get(CSV_REACHED, "0").partition(" ")[0])


def csv_recorded(properties: Properties) -> int:
    """The newest commit whose files stand in the table of files; 0 before the first."""
    return int(properties.get(CSV_RECORDED, "0"))


def withdrawn(properties: Properties, key: str) -> dict[date, datetime]:
    """The dates that corrections took rows from, each with the start of the last run that did."""
    days = json.loads(properties.get(key, "{}"))
    return {date.fromisoformat(day): datetime.fromisoformat(at) for day, at in days.items()}


def withdrawn_text(known: Mapping[date, datetime], days: Iterable[date], at: datetime) -> str:
    """Such dates as they stand in a property, with these that a run of this time adds, and without old ones."""
    found = {day: told for day, told in known.items() if told > at - timedelta(days=WITHDRAWN_DAYS)}
    found |= dict.fromkeys(days, at)
    return json.dumps({day.isoformat(): told.isoformat() for day, told in sorted(found.items())})


def last_part(properties: Properties) -> int:
    """The newest part that an archive ever registered; 0 before the first."""
    return int(properties.get(LAST_PART, "0"))


def through(properties: Properties) -> int:
    """Up to which part the rows have left a live table; 0 before the first."""
    return int(properties.get(THROUGH, "0"))


def restored(properties: Properties) -> frozenset[int]:
    """The parts whose rows were brought back into a live table, as far as the archive may still have them."""
    return frozenset(json.loads(properties.get(RESTORED, "[]")))


def held(properties: Properties) -> dict[date, date]:
    """The dates that were brought back into a live table, each with the first day on which they may leave it again."""
    days = json.loads(properties.get(HELD, "{}"))
    return {date.fromisoformat(day): date.fromisoformat(until) for day, until in days.items()}


def has_left(properties: Properties, part: int) -> bool:
    """Whether the rows of a part of the archive are in the archive alone: then and only then they count there."""
    return part <= through(properties) and part not in restored(properties)


_PART_OF_ROW = "coalesce(try_cast(regexp_extract(\"$path\", '/part-([0-9]+)-', 1) AS bigint), 0)"


def counting(properties: Properties) -> str:
    """Trino's SQL for a condition that holds for the rows of an archive that count there.

    Args:
        properties: of the live table as it is read; the archive must have been loaded after it.
    """
    excluded = ", ".join(map(str, sorted(restored(properties)))) or "-1"
    return f"({_PART_OF_ROW} <= {through(properties)} AND {_PART_OF_ROW} NOT IN ({excluded}))"


def counting_now(properties_table: str) -> str:
    """The same condition by what the live table says while the query runs, which must name that table first.

    Args:
        properties_table: full name of the live table's metadata table `$properties`.
    """

    def value(key: str, kind: str, otherwise: str) -> str:
        return f"(SELECT coalesce(max({kind}), {otherwise}) FROM {properties_table} WHERE key = '{key}')"  # noqa: S608

    last = value(THROUGH, "CAST(value AS bigint)", "0")
    excluded = value(RESTORED, "CAST(json_parse(value) AS array(bigint))", "ARRAY[]")
    return f"({_PART_OF_ROW} <= {last} AND NOT contains({excluded}, {_PART_OF_ROW}))"


def restored_text(parts: Iterable[int]) -> str:
    """Part numbers as they stand in a property."""
    return json.dumps(sorted(parts))


def held_text(dates: Mapping[date, date]) -> str:
    """Held dates as they stand in a property."""
    return json.dumps({day.isoformat(): until.isoformat() for day, until in sorted(dates.items())})


def topic_id(properties: Properties, source: str) -> str | None:
    """Kafka's id of the topic that was read; None before the first run."""
    return properties.get(TOPIC_ID + source)


def sources(properties: Properties, topic: str | None = None) -> list[str]:
    """The sources that the table has read, of one topic or of all, oldest generation first."""
    found = [key.removeprefix(POSITION) for key in properties if key.startswith(POSITION)]
    return sorted((s for s in found if topic in (None, topic_of(s))), key=lambda s: (topic_of(s), _generation(s)))


def topic_of(source: str) -> str:
    """The topic that a source is, or was."""
    return source.partition("#")[0]


def next_generation(source: str) -> str:
    """The name under which a topic goes on that was made anew after `source`."""
    return f"{topic_of(source)}#{_generation(source) + 1}"


def entries(
    source: str, moved_to: Offsets, kafka_id: str, of_partitions: Mapping[int, Account], run_id: str
) -> dict[str, str]:
    """The properties of a source at a position that a run brought it to."""
    rows = {str(partition): asdict(account) for partition, account in sorted(of_partitions.items())}
    return {
        POSITION + source: offsets_text(moved_to),
        TOPIC_ID + source: kafka_id,
        ACCOUNTS + source: json.dumps(rows),
        RUN + source: run_id,
    }


def found(properties: Properties, *keys: str) -> dict[str, str | None]:
    """These properties as a run finds them, for the fence of its commit; None for one that is not there."""
    return {key: properties.get(key) for key in keys}


def move(source: str, start: Offsets, end: Offsets) -> dict[str, str]:
    """The summary of a snapshot that moved a source, from which `advances` reads it."""
    return {TOPIC: source, START_OFFSETS: offsets_text(start), END_OFFSETS: offsets_text(end)}


def advances(summaries: Iterable[Properties], source: str) -> list[tuple[Offsets, Offsets]]:
    """How the position of a source moved, (before, after) by each of these snapshots."""
    ours = (summary for summary in summaries if summary.get(TOPIC) == source)
    return [(_offsets(summary[START_OFFSETS]), _offsets(summary[END_OFFSETS])) for summary in ours]


def offsets_text(offsets: Offsets) -> str:
    """Offsets as they stand in properties and summaries: a JSON object, topic partitions in order."""
    return json.dumps({str(partition): offset for partition, offset in sorted(offsets.items())})


def _offsets(text: str) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in json.loads(text).items()}


def _generation(source: str) -> int:
    return int(source.partition("#")[2] or 1)
