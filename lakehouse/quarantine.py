"""Quarantine: look at what was refused, and bring back what today's rules accept, each message once.

Quarantine only ever grows. A row of it is *open* until the events table, or its archive, has a row with the same
coordinates and a `replayed_at`; a replay adds those rows, and nothing else does.

A replay reads the events table as of one snapshot, finds the open rows, judges their bytes again and commits the
accepted ones in one step, from the count of replays that the table had: of two at once one commits and the other
stops. A kill before the commit leaves files that no table names; after it, the rows are no longer open.
Ingest may go on meanwhile: it never takes an offset below its position again, and a replay takes no other.
Records of CSV files are replayed as messages are, when they are of the version of the file that counts.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse import ledger
from lakehouse.adapters import s3, trino
from lakehouse.adapters.catalog import Condition, Lake, Rows
from lakehouse.adapters.csv_lake import CsvLake
from lakehouse.csv_task import read_again
from lakehouse.errors import LakehouseError, TerminalError
from lakehouse.events import RULE_VERSION
from lakehouse.ingest_task import IngestTask, Target, Writer, replayed_rows
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, TableSpec
from lakehouse.transforms import Decoded, FileVersion, decode_batch, decode_records

ROWS_AT_ONCE = 20_000
BYTES_AT_ONCE = 16 * 1024 * 1024
"""How much is decoded together, in messages and, by their average, in bytes: decoding takes a multiple of it."""

Offsets = npt.NDArray[np.int64]
_FILE_COLUMNS = ("raw", "reason", "file", "file_version", "file_line", "file_modified_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows of quarantine; what is left empty does not matter.

    Attributes:
        reasons: any of these reason codes.
        since: refused by an ingest run that started at this time or later, with its zone.
        until: refused by an ingest run that started before this time, with its zone.
        topics: as the column `kafka_topic` has them.
        files: locations of CSV files; when there are topics or files, only what came from one of them is chosen.
        line: at which the record of a file begins.
    """

    reasons: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    topics: tuple[str, ...] = ()
    topic_partition: int | None = None
    offset: int | None = None
    files: tuple[str, ...] = ()
    line: int | None = None


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Group:
    """The quarantined messages of one reason and field.

    Attributes:
        rows: all of them, replayed ones too.
        open_rows: those that no replay has brought back.
        first_seen: start of the ingest run that refused the first one.
        last_seen: start of the ingest run that refused the last one.
        sample_message: what was wrong with one of the last ones.
    """

    reason: str
    field: str | None
    rows: int
    open_rows: int
    replayed_rows: int
    first_seen: datetime
    last_seen: datetime
    sample_message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """One quarantined message, or record of a CSV file; what the other has is None.

    Attributes:
        topic: as the tables know it.
        file: location of the file.
        file_line: at which the record begins.
        raw: its bytes; None for a tombstone, and cut short when `raw_size_bytes` is more.
        replayed_at: start of the replay that brought it back; None while it is open.
    """

    topic: str | None
    topic_partition: int | None
    offset: int | None
    kafka_timestamp: datetime | None
    file: str | None
    file_version: str | None
    file_line: int | None
    file_modified_at: datetime | None
    reason: str
    field: str | None
    message: str
    rule_version: int
    first_seen: datetime
    replayed_at: datetime | None
    raw: bytes | None
    raw_size_bytes: int | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did, or would do; printed by `lakehouse quarantine replay --output json`.

    Attributes:
        refused_rows: rows that today's rules refuse as well.
        refused_by_reason: the same by today's reason.
        replayed_before_rows: chosen rows that an earlier replay has brought back.
        waiting_rows: rows of an ingest run that has not ended; the next ingest settles them.
        commits: 1 when rows came back, else 0.
    """

    replayed_rows: int
    refused_rows: int
    refused_by_reason: dict[str, int] = field(default_factory=dict[str, int])
    replayed_before_rows: int = 0
    waiting_rows: int = 0
    commits: int = 0
    dry_run: bool = False
    seconds: float = 0.0


def groups(settings: Settings, selection: Selection = EVERYTHING) -> list[Group]:
    """Count the chosen rows by reason and field, the largest group first.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist, or are not up to date.
    """
    source, parameters = _selected(settings, selection)
    rows = trino.query(
        settings.trino_as("ingest"),
        "SELECT reason, field, count(*), count_if(replayed_at IS NULL), count(replayed_at), min(ingested_at), "
        f"max(ingested_at), max_by(message, ingested_at) FROM ({source}) GROUP BY reason, field ORDER BY 3 DESC, 1, 2",
        parameters,
    )
    return [Group(*row) for row in rows]


def rows(
    settings: Settings, selection: Selection = EVERYTHING, *, limit: int, raw_bytes: int | None = None
) -> list[Refused]:
    """Read the chosen rows, the newest first.

    Args:
        settings: of the environment.
        selection: which rows.
        limit: most rows.
        raw_bytes: bytes of each message at most; None for all.

    Raises:
        TransientError: a server did not answer.
        TerminalError: the tables do not exist, or are not up to date.
    """
    source, parameters = _selected(settings, selection)
    raw = "raw" if raw_bytes is None else f"substr(raw, 1, {raw_bytes:d})"
    found = trino.query(
        settings.trino_as("ingest"),
        "SELECT kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, file, file_version, file_line, "
        "file_modified_at, reason, field, message, rule_version, "
        f"ingested_at, replayed_at, {raw}, length(raw), kafka_key, kafka_headers FROM ({source}) "
        "ORDER BY ingested_at DESC, kafka_timestamp DESC, kafka_topic, kafka_partition, kafka_offset DESC, "
        f"file, file_line LIMIT {limit:d}",
        parameters,
    )
    return [Refused(*row, headers=tuple((key, value) for key, value in headers or ())) for *row, headers in found]


def replay(
    settings: Settings,
    selection: Selection = EVERYTHING,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Judge the chosen open rows again, by the bytes and Kafka's time that they came with, and publish the accepted.

    All of them come back in one commit or none does; a second call finds none of them open.

    Args:
        settings: of the environment.
        selection: which rows.
        dry_run: only judge and count; nothing is written.
        progress: called with (rows read, rows to read at most).

    Raises:
        FenceError: another replay was quicker; run again.
        CommitStateUnknownError: run again; the table tells whether the commit landed.
        TransientError: a server did not answer; nothing was committed.
        TerminalError: newer rules than ours judged this table, or quarantine holds an offset twice.
    """
    started = time.monotonic()
    lake = CsvLake(settings)
    work = _Replay(settings, lake, selection, progress or _unseen)
    work.run(dry_run=dry_run)
    if work.files:
        lake.append(
            USER_ACTIONS,
            work.files,
            # Of files too: a correction may have withdrawn what would come back, and the two commit in their order.
            expected=ledger.found(work.properties, ledger.RULES, ledger.REPLAYS, ledger.CSV_COMMITS),
            properties=work.changed,
            run_id=work.run_id,
            summary={
                ledger.REPLAYS: work.changed[ledger.REPLAYS],
                "lakehouse.replayed-rows": str(sum(work.accepted.values())),
            },
        )
    return ReplayResult(
        replayed_rows=sum(work.accepted.values()),
        refused_rows=sum(work.refused.values()),
        refused_by_reason=dict(sorted(work.refused.items())),
        replayed_before_rows=work.replayed_before,
        waiting_rows=work.waiting,
        commits=int(bool(work.files)),
        dry_run=dry_run,
        seconds=round(time.monotonic() - started, 3),
    )


class _Replay:
    """What one replay starts from, and what it has found so far.

    Attributes:
        properties: of the events table as this replay found it.
        accepted: rows to publish, by source and topic partition. The source of a record is `_source_of` its file, and
            its topic partition 0.
        refused: rows that stay, by reason.
        files: data files with the accepted rows.
    """

    def __init__(
        self, settings: Settings, lake: CsvLake, selection: Selection, progress: Callable[[int, int], None]
    ) -> None:
        self._settings, self._lake, self._selection, self._progress = settings, lake, selection, progress
        self._events = lake.load(USER_ACTIONS)
        self._archive = lake.load(USER_ACTIONS_ARCHIVE)  # after the events, which say what of it counts
        self._schema = lake.write_schema(self._events, USER_ACTIONS)
        # Loaded after the events: whatever lies below their position is in here by now.
        self._quarantine = lake.load(USER_ACTIONS_QUARANTINE)
        for table, spec in ((self._archive, USER_ACTIONS_ARCHIVE), (self._quarantine, USER_ACTIONS_QUARANTINE)):
            lake.write_schema(table, spec)  # says what to do when a column is missing
        self._loaded = {_source_of(one.file, one.file_version): one for one in lake.newest(self._events).values()}
        self.properties = self._events.properties
        self.run_id = uuid.uuid4().hex
        self.rows_per_file = settings.ingest.rows_per_file
        self._at = datetime.now(UTC)
        self._before = self._replayed_offsets()
        self._taken: dict[tuple[str, int], list[Offsets]] = {}
        self.accepted: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[str] = Counter()
        self.files: list[str] = []
        self.replayed_before = self.waiting = 0

    @property
    def changed(self) -> dict[str, str]:
        """The properties that go with the rows: the count of replays, our rules, and how many rows replays brought."""
        changed = {
            ledger.REPLAYS: str(int(self.properties.get(ledger.REPLAYS, "0")) + 1),
            ledger.RULES: str(RULE_VERSION),
        }
        of_files = {source for source, _ in (*self._before, *self.accepted)} & self._loaded.keys()
        changed[ledger.CSV_REPLAYED] = str(
            sum(len(offsets) for (source, _), offsets in self._before.items() if source in of_files)
            + sum(rows for (source, _), rows in self.accepted.items() if source in of_files)
        )
        for source in {source for source, _ in self.accepted} - of_files:
            counts = Counter({p: len(offsets) for (s, p), offsets in self._before.items() if s == source})
            counts.update({p: count for (s, p), count in self.accepted.items() if s == source})
            changed[ledger.REPLAYED + source] = ledger.offsets_text(counts)
        return changed

    def run(self, *, dry_run: bool) -> None:
        """Read, judge and, unless it is a dry run, write; commits nothing."""
        known = self.properties.get(ledger.RULES)
        if known is not None and int(known) > RULE_VERSION:
            raise TerminalError(
                f"{self._lake.identifier(USER_ACTIONS)} was written by rules of version {known} and this program has "
                f"{RULE_VERSION}: upgrade it, then replay"
            )
        columns = ("raw", "kafka_partition", "kafka_offset", "kafka_timestamp")
        selection = self._selection
        scans = {
            source: self._lake.read(self._quarantine, columns, _conditions(selection, source))
            for source in ledger.sources(self.properties)
            if source in selection.topics or not (selection.topics or selection.files)
        }
        of_files: list[Rows] = []
        if selection.files or not selection.topics:
            of_files.append(self._lake.read(self._quarantine, _FILE_COLUMNS, _conditions(selection, None)))
        most, read = sum(scan.most for scan in (*scans.values(), *of_files)), 0

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            nonlocal read
            for batch in batches:
                rows_at_once = max(1, min(ROWS_AT_ONCE, batch.num_rows * BYTES_AT_ONCE // max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, rows_at_once):
                    piece = batch.slice(start, rows_at_once)
                    yield piece
                    read += piece.num_rows
                    self._progress(read, most)

        for source, scan in scans.items():
            judge = self._judge if dry_run else self._judge_and_write
            position = ledger.position(self.properties, source)
            judge(source, self._open(source, position, counted(scan.batches)))
        for scan in of_files:
            self._replay_records(counted(scan.batches), dry_run=dry_run)
        self._refuse_what_does_not_add_up()
        self._progress(most, most)

    def _replayed_offsets(self) -> dict[tuple[str, int], Offsets]:
        """The coordinates of every row that a replay brought, archived ones too, offsets sorted and each once."""
        found: dict[tuple[str, int], list[Offsets]] = {}
        columns = ("kafka_topic", "kafka_partition", "kafka_offset", "file", "file_version", "file_line")
        replayed: Condition = ("replayed_at", "is present", None)
        # A part that is being moved is in both tables, which does no harm here: each offset is taken once.
        tables = (self._events, self._archive)
        for batch in chain.from_iterable(self._lake.read(table, columns, [replayed]).batches for table in tables):
            sources = _sources(batch).dictionary_encode()
            indices = sources.indices.to_numpy()
            partitions = batch["kafka_partition"].fill_null(0).to_numpy()
            offsets = pc.call_function("coalesce", [batch["kafka_offset"], batch["file_line"]]).to_numpy()
            for index, source in enumerate(sources.dictionary.to_pylist()):
                for partition in np.unique(partitions[indices == index]).tolist():
                    chosen = (indices == index) & (partitions == partition)
                    found.setdefault((source, partition), []).append(offsets[chosen])
        return {coordinates: np.unique(np.concatenate(pieces)) for coordinates, pieces in found.items()}

    def _open(
        self, source: str, position: Mapping[int, int], batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        """Leave out what was replayed before and what lies past the position; rows as `kafka.read_ranges` has them."""
        for batch in batches:
            partitions, offsets = _numbers(batch, "kafka_partition"), _numbers(batch, "kafka_offset")
            keep = np.zeros(batch.num_rows, np.bool_)
            for partition in np.unique(partitions).tolist():
                of_partition = partitions == partition
                settled = of_partition & (offsets < position.get(partition, 0))
                done = settled & _among(offsets, self._before.get((source, partition)))
                self.waiting += int(np.count_nonzero(of_partition & ~settled))
                self.replayed_before += int(np.count_nonzero(done))
                keep |= settled & ~done
                self._taken.setdefault((source, partition), []).append(offsets[settled & ~done])
            rows = batch.filter(pa.array(keep))
            if rows.num_rows:
                yield pa.record_batch(
                    {
                        "value": rows["raw"].cast(pa.binary()),
                        "partition": rows["kafka_partition"],
                        "offset": rows["kafka_offset"],
                        "timestamp": rows["kafka_timestamp"],
                    }
                )

    def _replay_records(self, batches: Iterator[pa.RecordBatch], *, dry_run: bool) -> None:
        target = Target(self._events.location(), self._schema)
        writer = Writer(self, USER_ACTIONS, target, s3.filesystem(self._settings.s3), self)
        for batch in batches:
            for source, decoded in self._judge_records(batch):
                self.refused.update(decoded.quarantine["reason"].to_pylist())
                self.accepted[source, 0] += decoded.events.num_rows
                if not dry_run:
                    writer.add(replayed_rows(decoded.events, self._at))
        writer.flush()

    def _judge_records(self, batch: pa.RecordBatch) -> Iterator[tuple[str, Decoded]]:
        """Judge the open records of files among these, each file by itself."""
        sources = np.array(_sources(batch).to_pylist(), object)
        lines = _numbers(batch, "file_line")
        for source in sorted(set(sources.tolist())):
            of_file = sources == source
            loaded = self._loaded.get(source)
            if loaded is None:  # of a run that has not ended, or of a version that was replaced
                self.waiting += int(np.count_nonzero(of_file))
                continue
            done = of_file & _among(lines, self._before.get((source, 0)))
            self.replayed_before += int(np.count_nonzero(done))
            keep = of_file & ~done
            self._taken.setdefault((source, 0), []).append(lines[keep])
            rows = batch.filter(pa.array(keep))
            if rows.num_rows:
                version = FileVersion(loaded.file, loaded.file_version, rows["file_modified_at"][0].as_py())
                yield source, decode_records(read_again(rows, loaded.header), version, self._at)

    def file(self, _: TableSpec, path: str, __: int) -> None:
        """Hear of a file that the writer of records wrote."""
        self.files.append(path)

    def count(self, _: TableSpec, __: pa.Table) -> None:
        """Hear of rows that were given to that writer, which are counted already."""

    def _judge(self, source: str, batches: Iterator[pa.RecordBatch]) -> None:
        for batch in batches:
            decoded = decode_batch(batch, source, self._at)
            for partition, count in Counter(decoded.events["kafka_partition"].to_pylist()).items():
                self.accepted[source, partition] += count
            self.refused.update(decoded.quarantine["reason"].to_pylist())

    def _judge_and_write(self, source: str, batches: Iterator[pa.RecordBatch]) -> None:
        task = IngestTask(
            run_id=self.run_id,
            source=source,
            ingested_at=self._at,
            s3=self._settings.s3,
            events=Target(self._events.location(), self._schema),
            quarantine=Target("", pa.schema([])),
            quarantined={},
            rows_per_file=self._settings.ingest.rows_per_file,
            is_replay=True,
        )
        for report in task(batches):
            for row in report.to_pylist():
                if row["file"]:
                    self.files.append(row["file"])
                elif row["reason"]:
                    self.refused[row["reason"]] += row["rows"]
                else:
                    self.accepted[source, row["topic_partition"]] += row["rows"]

    def _refuse_what_does_not_add_up(self) -> None:
        taken = 0
        for (source, partition), pieces in self._taken.items():
            offsets, counts = np.unique(np.concatenate(pieces), return_counts=True)
            taken += int(counts.sum())
            if repeated := offsets[counts > 1].tolist():
                raise TerminalError(
                    f"quarantine holds {len(repeated)} offsets of {source}/{partition} more than once, such as "
                    f"{repeated[0]}: nothing was replayed; `lakehouse audit` names them, and a person has to remove "
                    "what is too much"
                )
        if taken != (judged := sum(self.accepted.values()) + sum(self.refused.values())):
            raise LakehouseError(
                f"{taken} rows of quarantine were read and {judged} judged: nothing was replayed; please report this"
            )


def _conditions(selection: Selection, source: str | None) -> list[Condition]:
    """Which rows to read of a source; of None, those of files."""
    found: list[Condition] = [("kafka_topic", "in", [source]) if source else ("file", "is present", None)]
    if selection.files and not source:
        found.append(("file", "in", selection.files))
    if selection.line is not None:
        found.append(("file_line", "in", [selection.line]))
    if selection.reasons:
        found.append(("reason", "in", selection.reasons))
    if selection.since:
        found.append(("ingested_at", ">=", selection.since.isoformat(timespec="microseconds")))
        found.append(("ingested_date", ">=", _day(selection.since).isoformat()))
    if selection.until:
        found.append(("ingested_at", "<", selection.until.isoformat(timespec="microseconds")))
    if selection.topic_partition is not None:
        found.append(("kafka_partition", "in", [selection.topic_partition]))
    if selection.offset is not None:
        found.append(("kafka_offset", "in", [selection.offset]))
    return found


def _selected(settings: Settings, selection: Selection) -> tuple[str, Sequence[Any]]:
    """SQL of the chosen rows of quarantine with their `replayed_at`, and the values of its `?`."""
    lake = Lake(settings)
    lake.write_schema(lake.load(USER_ACTIONS), USER_ACTIONS)  # says what to do when a column is missing
    wanted: Mapping[str, Sequence[Any]] = {
        f"reason IN ({', '.join('?' * len(selection.reasons))})": selection.reasons,
        f"(kafka_topic IN ({', '.join('?' * len(selection.topics)) or 'NULL'}) "
        f"OR file IN ({', '.join('?' * len(selection.files)) or 'NULL'}))": [*selection.topics, *selection.files],
        "ingested_at >= ? AND ingested_date >= ?": _since(selection.since),
        "ingested_at < ?": [selection.until] if selection.until else [],
        "kafka_partition = ?": [] if selection.topic_partition is None else [selection.topic_partition],
        "kafka_offset = ?": [] if selection.offset is None else [selection.offset],
        "file_line = ?": [] if selection.line is None else [selection.line],
    }
    coordinates = "kafka_topic, kafka_partition, kafka_offset, file, file_version, file_line"
    source, part, place = (  # of a message, else of a record
        "coalesce(kafka_topic, concat(file_version, ' ', file))",
        "coalesce(kafka_partition, 0)",
        "coalesce(kafka_offset, file_line)",
    )
    where = " AND ".join(["true", *(condition for condition, values in wanted.items() if values)])
    sql = (
        f"SELECT refused.*, replayed_at FROM {_table(settings, USER_ACTIONS_QUARANTINE)} AS refused LEFT JOIN "
        f"(SELECT {source} AS source_, {part} AS part_, {place} AS place_, "
        "min(replayed_at) AS replayed_at FROM ("
        f"SELECT {coordinates}, replayed_at FROM {_table(settings, USER_ACTIONS)} UNION ALL "
        f"SELECT {coordinates}, replayed_at FROM {_table(settings, USER_ACTIONS_ARCHIVE)}) "
        f"WHERE replayed_at IS NOT NULL GROUP BY {source}, {part}, {place}) "
        f"ON {source} = source_ AND {part} = part_ AND {place} = place_ "
        f"WHERE {where}"
    )
    return sql, [value for values in wanted.values() for value in values]


def _table(settings: Settings, spec: TableSpec) -> str:
    return f'"{settings.catalog.name}"."{settings.prefix}{spec.namespace}"."{spec.name}"'


def _since(moment: datetime | None) -> Sequence[Any]:
    return [moment, _day(moment)] if moment else []


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _source_of(file: str, version: str) -> str:
    """What a version of a file is called beside the topics; none of those has a space in its name."""
    return f"{version} {file}"


def _sources(batch: pa.RecordBatch) -> pa.Array:
    """What each row came from: its topic, or the version of its file."""
    columns = [batch[name].cast(pa.string()) for name in ("file_version", "file")]
    of_file = pc.call_function("binary_join_element_wise", [*columns, pa.scalar(" ")])
    if "kafka_topic" not in batch.schema.names:
        return of_file
    return pc.call_function("coalesce", [batch["kafka_topic"].cast(pa.string()), of_file])


def _numbers(batch: pa.RecordBatch, column: str) -> Offsets:
    return batch[column].to_numpy().astype(np.int64, copy=False)


def _among(offsets: Offsets, known: Offsets | None) -> npt.NDArray[np.bool_]:
    """Which of the offsets are among the known ones, which are sorted."""
    if known is None or not len(known):
        return np.zeros(len(offsets), np.bool_)
    places = np.minimum(np.searchsorted(known, offsets), len(known) - 1)
    return known[places] == offsets


def _unseen(_done: int, _most: int) -> None:
    """Stand in where nobody watches."""
