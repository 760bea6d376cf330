"""The PostgreSQL tables of announced files: notifications, ledger, aggregates. All their SQL is here.

Each method is one transaction, and those that write the ledger come one after the other. Two runs at once are kept
apart by `working`, and where that fails, because the lock went with a lost connection, by what `finish` looks at again.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from lakehouse.adapters.catalog import Applied
from lakehouse.adapters.objects import Objects
from lakehouse.adapters.postgres import Connection, connect, drop_schema
from lakehouse.errors import NotMadeError, TerminalError, TransientError, printable
from lakehouse.file_contract import RULE_VERSION, FileReason, FileVersion, Notification, Refusal
from lakehouse.file_ledger import (
    ALONE_AFTER,
    GIVE_UP_AFTER,
    STATUSES,
    AnnouncementPlan,
    Coordinates,
    Day,
    Drained,
    LedgerRow,
    Status,
    WorkPlan,
    plan_announcements,
)
from lakehouse.settings import Settings

SCHEMA: Final = "reporting"


class _Column(NamedTuple):
    name: LiteralString
    type: LiteralString
    doc: LiteralString


_LEDGER: Final = (
    _Column("file_id", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "Number of the row."),
    _Column("bucket", "text NOT NULL", "Bucket of the object."),
    _Column("key", "text NOT NULL", "Key of the object."),
    _Column("version", "text NOT NULL", "version_id, or the ETag without one; unique with bucket and key."),
    _Column("version_id", "text", "S3's id of the version; null where the bucket keeps none."),
    _Column("etag", "text", "ETag that was announced; null when only the version id was."),
    _Column("size_bytes", "bigint NOT NULL", "Size that was announced."),
    _Column("sha256", "text NOT NULL", "SHA-256 that was announced, hexadecimal."),
    _Column("format", "text NOT NULL", "csv, jsonl or parquet."),
    _Column("dataset", "text NOT NULL", "Which contract its lines keep."),
    _Column("event_date", "date NOT NULL", "UTC date of its lines."),
    _Column(
        "status",
        "text NOT NULL CHECK (status IN ('pending', 'done', 'failed', 'replaced'))",
        "done: its lines count; failed: set aside; replaced: a newer version counts.",
    ),
    _Column("reason", "text", "Why it was set aside; null otherwise."),
    _Column("message", "text", "The same for people, or why a pending one has no verdict; null otherwise."),
    _Column("line_count", "bigint", "Lines of the file; null until it was read."),
    _Column("attempts", "int NOT NULL DEFAULT 0", "Runs that took it on and ended without a verdict."),
    _Column("run_id", "text", "The run that took it on last; null before."),
    _Column("modified_at", "timestamptz", "When the object store got this version; null until it was looked at."),
    _Column("topic_id", "text NOT NULL", "Kafka's id of the topic of the message that announced it."),
    _Column("topic_partition", "int NOT NULL", "Topic partition of that message."),
    _Column("kafka_offset", "bigint NOT NULL", "Offset of that message."),
    _Column(
        "announced_at",
        "timestamptz NOT NULL",
        "Kafka's time of the first message that announced it; of the newest one where only the ETag names it.",
    ),
    _Column("first_seen_at", "timestamptz NOT NULL DEFAULT now()", "When the row was made."),
    _Column("ended_at", "timestamptz", "When it got its status; null while it is pending."),
)
_NOTIFICATIONS: Final = (
    _Column("topic", "text NOT NULL", "Topic the message came from."),
    _Column("topic_id", "text NOT NULL", "Kafka's id of the topic; another one after it was made anew."),
    _Column("topic_partition", "int NOT NULL", "Topic partition the message came from."),
    _Column("kafka_offset", "bigint NOT NULL", "Offset of the message."),
    _Column("kafka_timestamp", "timestamptz NOT NULL", "Kafka's time of the message."),
    _Column("raw", "bytea", "The message's bytes as they came; null for a tombstone."),
    _Column(
        "outcome",
        "text NOT NULL CHECK (outcome IN ('announced', 'repeated', 'refused'))",
        "announced: it made a file pending; repeated: it said what was known; refused: set aside.",
    ),
    _Column("file_id", "bigint REFERENCES {schema}.file_ledger", "The file it speaks of; null when it was refused."),
    _Column("reason", "text", "Why it was refused; null otherwise."),
    _Column("message", "text", "The same for people; null otherwise."),
    _Column("field", "text", "The field at fault; null when it is the message as a whole."),
    _Column("rule_version", "int NOT NULL", "Version of the contract that judged it."),
    _Column("drained_at", "timestamptz NOT NULL DEFAULT now()", "When it was written here."),
)
_LOSSES: Final = (
    _Column("topic", "text NOT NULL", "Topic."),
    _Column("topic_id", "text NOT NULL", "Kafka's id of the topic."),
    _Column("topic_partition", "int NOT NULL", "Topic partition."),
    _Column("start_offset", "bigint NOT NULL", "First offset that was gone before it was read."),
    _Column("end_offset", "bigint NOT NULL", "The offset after the last one."),
    _Column("noticed_at", "timestamptz NOT NULL DEFAULT now()", "When a run noticed."),
    _Column("accepted_at", "timestamptz", "When a person accepted it last; null while nobody has."),
    _Column(
        "accepted_end_offset",
        "bigint",
        "Offsets before this one are accepted, as far as the range went then; null while nobody has.",
    ),
)
_AGGREGATES: Final = (
    _Column("dataset", "text NOT NULL", "Kind of the files."),
    _Column("event_date", "date NOT NULL", "UTC date of the lines."),
    _Column("sku", "text NOT NULL", "The product's stock keeping unit."),
    _Column("product_name", "text NOT NULL", "The product's name; the last by the alphabet where lines disagree."),
    _Column("line_count", "bigint NOT NULL", "Lines; 0 when a correction took the product out of the day."),
    _Column("user_count", "bigint NOT NULL", "Distinct users; not to be added up over rows."),
    _Column("quantity_sum", "bigint NOT NULL", "Pieces."),
    _Column("amount_sum", "numeric(38, 2) NOT NULL", "Money of all lines."),
    _Column("amount_min", "numeric(12, 2)", "Money of the smallest line; null without lines."),
    _Column("amount_max", "numeric(12, 2)", "Money of the largest line; null without lines."),
    _Column("amount_mean", "numeric(16, 6)", "Mean money of a line; null without lines."),
    _Column("amount_median", "numeric(16, 6)", "Median money of a line, exact; null without lines."),
    _Column("aggregated_at", "timestamptz NOT NULL", "When a run last changed the row."),
)
_TABLES: Final[tuple[tuple[LiteralString, tuple[_Column, ...], LiteralString, LiteralString], ...]] = (
    (
        "file_ledger",
        _LEDGER,
        "Announced files; one row for each version of a file.",
        "UNIQUE (bucket, key, version)",
    ),
    (
        "file_notifications",
        _NOTIFICATIONS,
        "Messages of the topic of announced files; one row for each message.",
        "PRIMARY KEY (topic_id, topic_partition, kafka_offset), CHECK ((file_id IS NULL) = (outcome = 'refused'))",
    ),
    (
        "file_losses",
        _LOSSES,
        "Messages that Kafka dropped before they were read; one row for each range.",
        "PRIMARY KEY (topic_id, topic_partition, start_offset)",
    ),
    (
        "file_aggregates",
        _AGGREGATES,
        "What the lines of the files that count say; one row for each dataset, date and product.",
        "PRIMARY KEY (dataset, event_date, sku)",
    ),
)
_INDEXES: Final[tuple[LiteralString, ...]] = (
    # Of one object one version counts, whatever a program believes.
    "CREATE UNIQUE INDEX IF NOT EXISTS file_ledger_counts ON {schema}.file_ledger (bucket, key) WHERE status = 'done'",
    "CREATE INDEX IF NOT EXISTS file_ledger_days ON {schema}.file_ledger (dataset, event_date) WHERE status = 'done'",
    "CREATE INDEX IF NOT EXISTS file_ledger_status ON {schema}.file_ledger (status, file_id)",
    "CREATE INDEX IF NOT EXISTS file_notifications_refused ON {schema}.file_notifications (outcome)",
    "CREATE INDEX IF NOT EXISTS file_aggregates_arrival ON {schema}.file_aggregates (aggregated_at)",
)


class Aggregate(NamedTuple):
    """A row of the aggregates, as Spark computed it."""

    day: Day
    sku: str
    product_name: str
    line_count: int
    user_count: int
    quantity_sum: int
    amount_sum: Decimal
    amount_min: Decimal
    amount_max: Decimal
    amount_mean: Decimal
    amount_median: Decimal


class Verdict(NamedTuple):
    """Why a file is set aside."""

    row: LedgerRow
    reason: FileReason
    message: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of messages: how many were new, and of them how many announced, repeated or were refused."""

    notifications: int = 0
    announced: int = 0
    repeated: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A row of `lakehouse files list`: a file, or a message that was refused.

    Attributes:
        file_id: number of the file in the ledger; None for a message.
        place: bucket and key of a file; topic, partition and offset of a message.
    """

    file_id: int | None
    place: str
    version: str | None
    status: str
    dataset: str | None
    event_date: date | None
    line_count: int | None
    reason: str | None
    message: str | None
    attempts: int
    announced_at: datetime
    ended_at: datetime | None


class Tally(NamedTuple):
    """What has come so far.

    Attributes:
        lines: of files that count or did until a newer version replaced them.
        refused: files and messages that are set aside, by reason.
        waiting_since: when the first file was announced that no run has read; None when there is none.
    """

    lines: int
    refused: dict[str, int]
    waiting_since: datetime | None


class DaySummary(NamedTuple):
    """What the aggregates of a day say together."""

    dataset: str
    event_date: date
    products: int
    lines: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that does not add up."""

    kind: str
    where: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class FileLoss:
    """Messages that Kafka dropped before they were read.

    Attributes:
        start_offset: the first lost offset.
        end_offset: the one after the last.
        notifications: lost offsets.
        noticed_at: when a run noticed.
    """

    topic: str
    topic_partition: int
    start_offset: int
    end_offset: int
    notifications: int
    noticed_at: datetime


@dataclass(frozen=True, slots=True)
class AcceptedLoss(FileLoss):
    """The same, after a person accepted it."""

    accepted_at: datetime


def apply(settings: Settings) -> list[Applied]:
    """Create the schema, and the tables and columns that are missing; a second call changes nothing.

    Raises:
        ServerUnavailableError: PostgreSQL did not answer.
    """
    store = FileStore(settings)
    with store.writing() as connection:  # two at once would both find nothing, and then fail on each other's table
        return list(store.create(connection))


def drop(settings: Settings) -> None:
    """Drop the tables of a prefixed environment and its files in the bucket, as `postgres.drop_schema`."""
    drop_schema(settings, SCHEMA)
    Objects(settings.s3).delete_all(settings.s3.file_drop_bucket, settings.prefix)


class FileStore:
    """The tables of one environment.

    Every method raises:
        ServerUnavailableError: PostgreSQL did not answer.
        TerminalError: the tables are missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{settings.prefix}{SCHEMA}"
        self.schema = sql.Identifier(self._name)
        self.lock_key = int.from_bytes(hashlib.sha256(self._name.encode()).digest()[:8], signed=True)

    def create(self, connection: Connection) -> Iterator[Applied]:
        """Create what is missing, columns of an older table too; yields what became of each table."""
        self._execute(connection, "CREATE SCHEMA IF NOT EXISTS {schema}")
        for name, columns, doc, constraint in _TABLES:
            table = sql.Identifier(self._name, name)
            there = {
                row[0]
                for row in connection.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0"
                    " AND NOT attisdropped",
                    [table.as_string(connection)],
                )
            }
            missing = [column for column in columns if column.name not in there]
            made = [sql.SQL("{} ").format(sql.Identifier(c.name)) + self._sql(c.type) for c in missing]
            if not there:
                parts = sql.SQL(", ").join([*made, sql.SQL(constraint)])
                connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, parts))
                connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(doc)))
            else:
                for one in made:
                    connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(table, one))
            for column in missing:
                of = sql.Identifier(self._name, name, column.name)
                connection.execute(sql.SQL("COMMENT ON COLUMN {} IS {}").format(of, sql.Literal(column.doc)))
            changes = tuple(f"added column {column.name}" for column in missing) if there else ()
            outcome = "changed" if changes else "unchanged" if there else "created"
            yield Applied(f"{self._name}.{name}", outcome, changes)
        for index in _INDEXES:
            self._execute(connection, index)

    @contextmanager
    def working(self) -> Generator[None]:
        """Be the only run of this environment until the end of the block, or of the connection.

        Raises:
            TransientError: another run is at work.
        """
        with self._connected(autocommit=True) as connection:
            if connection.execute("SELECT pg_try_advisory_lock(%s)", [self.lock_key]).fetchone() != (True,):
                raise TransientError("another `lakehouse files run` is at work: wait for it, then run this again")
            yield

    # Messages

    def record(self, topic: str, drained: Sequence[Drained]) -> Recorded:
        """Write messages, each once, and what they announce; a message that is there already changes nothing."""
        with self.writing() as connection:
            there = {
                _coordinates(row)
                for row in self._rows(
                    connection,
                    "SELECT topic_id, topic_partition, kafka_offset FROM {schema}.file_notifications"
                    " JOIN unnest(%(topic_id)s::text[], %(partition)s::int[], %(kafka_offset)s::bigint[])"
                    " AS asked (topic_id, topic_partition, kafka_offset)"
                    " USING (topic_id, topic_partition, kafka_offset)",
                    topic_id=[one.coordinates.topic_id for one in drained],
                    partition=[one.coordinates.topic_partition for one in drained],
                    kafka_offset=[one.coordinates.kafka_offset for one in drained],
                )
            }
            plan, ids = self._announce(connection, [one for one in drained if one.coordinates not in there])
            with connection.cursor() as cursor:
                cursor.executemany(
                    self._sql(
                        "INSERT INTO {schema}.file_notifications (topic, topic_id, topic_partition, kafka_offset,"
                        " kafka_timestamp, raw, outcome, file_id, reason, message, field, rule_version)"
                        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                    ),
                    [
                        (topic, *one.coordinates, one.kafka_timestamp, one.raw, *_verdict(outcome, one, refusal, ids))
                        for one, outcome, refusal in plan.outcomes
                    ],
                )
        return _counted(plan)

    def refused(self) -> list[tuple[Coordinates, datetime, bytes | None]]:
        """Messages that are refused, in the order in which they came."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT topic_id, topic_partition, kafka_offset, kafka_timestamp, raw FROM {schema}.file_notifications"
                " WHERE outcome = 'refused' ORDER BY kafka_timestamp, topic_partition, kafka_offset",
            )
        return [(_coordinates(row), row["kafka_timestamp"], row["raw"]) for row in rows]

    def judge_again(self, drained: Sequence[Drained]) -> Recorded:
        """Write what the contract of today makes of messages that were refused."""
        with self.writing() as connection:
            plan, ids = self._announce(connection, drained)
            with connection.cursor() as cursor:
                cursor.executemany(
                    self._sql(
                        "UPDATE {schema}.file_notifications"
                        " SET outcome = %s, file_id = %s, reason = %s, message = %s, field = %s, rule_version = %s"
                        " WHERE outcome = 'refused' AND (topic_id, topic_partition, kafka_offset) = (%s, %s, %s)"
                    ),
                    [
                        (*_verdict(outcome, one, refusal, ids), *one.coordinates)
                        for one, outcome, refusal in plan.outcomes
                    ],
                )
        return _counted(plan)

    def lose(self, topic: str, ranges: Sequence[tuple[Coordinates, int]]) -> None:
        """Remember what Kafka dropped before it was read: where each range starts, and the offset after its end."""
        with self.writing() as connection, connection.cursor() as cursor:
            cursor.executemany(
                self._sql(
                    "INSERT INTO {schema}.file_losses AS old"
                    " (topic, topic_id, topic_partition, start_offset, end_offset) VALUES (%s, %s, %s, %s, %s)"
                    " ON CONFLICT (topic_id, topic_partition, start_offset)"
                    " DO UPDATE SET end_offset = greatest(old.end_offset, excluded.end_offset)"
                ),
                [(topic, *start, end_offset) for start, end_offset in ranges],
            )

    def _announce(
        self, connection: Connection, drained: Sequence[Drained]
    ) -> tuple[AnnouncementPlan, Mapping[FileVersion, int]]:
        """Judge messages beside the ledger, and write what they announce; returns the ids of the files they name."""
        named = {one.verdict.file for one in drained if isinstance(one.verdict, Notification)}
        known = [
            _ledger_row(row)
            for row in self._rows(
                connection,
                "SELECT ledger.* FROM {schema}.file_ledger AS ledger"
                " JOIN unnest(%(bucket)s::text[], %(key)s::text[], %(version)s::text[]) AS asked (bucket, key, version)"
                " USING (bucket, key, version) ORDER BY file_id",
                bucket=[file.bucket for file in named],
                key=[file.key for file in named],
                version=[file.version for file in named],
            )
        ]
        plan = plan_announcements(known, drained)
        ids = {row.notification.file: row.file_id for row in known}
        for file, one in plan.announced.items():
            assert isinstance(one.verdict, Notification)
            (row,) = self._rows(connection, _ANNOUNCE, **_announcement(one.verdict), **_announced(one))
            ids[file] = row["file_id"]
        return plan, ids

    # Files

    def claim(self, run_id: str, most: int) -> list[LedgerRow]:
        """Take on pending files that this run has not had yet, those with the fewest attempts first.

        Those that ended runs before come last, one at a time; one that ends this run too comes after them in the next.
        Files that wait because a day was incomplete come with the next file of that day.
        """
        with self.writing() as connection:
            chosen = self._rows(
                connection,
                "SELECT file_id, dataset, event_date, attempts >= %(alone)s AS is_alone FROM {schema}.file_ledger"
                " WHERE status = 'pending' AND run_id IS DISTINCT FROM %(run_id)s"
                " ORDER BY is_alone, attempts, file_id LIMIT %(most)s",
                alone=ALONE_AFTER,
                run_id=run_id,
                most=most,
            )
            together = [row for row in chosen if not row["is_alone"]] or chosen[:1]
            taken = self._rows(
                connection,
                "UPDATE {schema}.file_ledger SET status = 'pending', reason = NULL, message = NULL, ended_at = NULL,"
                " run_id = %(run_id)s, attempts = attempts + 1"
                " WHERE file_id = ANY(%(chosen)s) OR (status = 'failed' AND reason = %(reason)s"
                " AND run_id IS DISTINCT FROM %(run_id)s AND (dataset, event_date) IN"
                " (SELECT * FROM unnest(%(dataset)s::text[], %(event_date)s::date[]))) RETURNING *",
                run_id=run_id,
                chosen=[row["file_id"] for row in together],
                reason=FileReason.DAY_INCOMPLETE.value,
                dataset=[row["dataset"] for row in together],
                event_date=[row["event_date"] for row in together],
            )
        return sorted(map(_ledger_row, taken), key=lambda row: row.file_id)

    def release(self, rows: Iterable[LedgerRow]) -> None:
        """Leave files to a later run, as if this one had not had them: what failed was no fault of theirs."""
        with self.writing() as connection:
            self._execute(
                connection,
                "UPDATE {schema}.file_ledger SET attempts = attempts - 1 WHERE file_id = ANY(%(ids)s)"
                " AND status = 'pending' AND attempts > 0",
                ids=[row.file_id for row in rows],
            )

    def postpone(self, run_id: str, waiting: Iterable[tuple[LedgerRow, str]]) -> None:
        """Leave files to a later run, and say why this one came to no verdict; its attempt counts."""
        with self.writing() as connection, connection.cursor() as cursor:
            cursor.executemany(
                self._sql(
                    "UPDATE {schema}.file_ledger SET message = %s"
                    " WHERE file_id = %s AND status = 'pending' AND run_id = %s"
                ),
                [(printable(message), row.file_id, run_id) for row, message in waiting],
            )

    def give_up(self) -> int:
        """Set aside the files that have ended too many runs; returns how many."""
        with self.writing() as connection:
            return self._execute(
                connection,
                "UPDATE {schema}.file_ledger SET status = 'failed', reason = %(reason)s, ended_at = now(),"
                " message = attempts || ' runs ended without a verdict' || coalesce('; the last one: ' || message, '')"
                " WHERE status = 'pending' AND attempts >= %(give_up)s",
                reason=FileReason.GAVE_UP.value,
                give_up=GIVE_UP_AFTER,
            ).rowcount

    def counted_beside(self, rows: Sequence[LedgerRow]) -> list[LedgerRow]:
        """The files that count for the days that these rows, or older versions of their objects, belong to."""
        with self._connected() as connection:
            return self._counted_beside(connection, rows)

    def _counted_beside(self, connection: Connection, rows: Sequence[LedgerRow]) -> list[LedgerRow]:
        found = self._rows(
            connection,
            "WITH older AS (SELECT dataset, event_date FROM {schema}.file_ledger"
            " JOIN unnest(%(bucket)s::text[], %(key)s::text[]) AS asked (bucket, key) USING (bucket, key)"
            " WHERE status = 'done'"
            " UNION SELECT * FROM unnest(%(dataset)s::text[], %(event_date)s::date[]))"
            " SELECT * FROM {schema}.file_ledger WHERE status = 'done'"
            " AND (dataset, event_date) IN (SELECT * FROM older) ORDER BY file_id",
            bucket=[row.notification.bucket for row in rows],
            key=[row.notification.key for row in rows],
            dataset=[row.notification.dataset for row in rows],
            event_date=[row.notification.event_date for row in rows],
        )
        return [_ledger_row(row) for row in found]

    def set_aside(self, run_id: str, verdicts: Sequence[Verdict]) -> None:
        """Write why files are set aside; one that was announced anew meanwhile stays pending."""
        with self.writing() as connection, connection.cursor() as cursor:
            self._set_aside(cursor, run_id, verdicts)

    def _set_aside(self, cursor: psycopg.Cursor[Any], run_id: str, verdicts: Sequence[Verdict]) -> None:
        cursor.executemany(
            self._sql(
                "UPDATE {schema}.file_ledger SET status = 'failed', reason = %s, message = %s, attempts = 0,"
                " ended_at = now() WHERE file_id = %s AND status = 'pending' AND run_id = %s"
                " AND (topic_id, topic_partition, kafka_offset) = (%s, %s, %s)"
            ),
            [
                (verdict.reason.value, printable(verdict.message), verdict.row.file_id, run_id, *verdict.row.announced)
                for verdict in verdicts
            ],
        )

    def finish(
        self,
        run_id: str,
        claimed: Sequence[LedgerRow],
        good: Sequence[LedgerRow],
        counted: Sequence[LedgerRow],
        plan: WorkPlan,
        aggregates: Iterable[Aggregate],
    ) -> None:
        """Make days what their files say, and the files what the plan says, in one transaction.

        Args:
            run_id: the run that claimed the files.
            claimed: what it claimed.
            good: of that, the files that were read and found good.
            counted: what counted beside the claimed files when the plan was made of it, as `counted_beside` told.
            plan: what to make of the files.
            aggregates: every row of every day of the plan.

        Raises:
            TransientError: what the plan was made of is no longer so, because another run was at work; nothing was
                written.
        """
        with self.writing() as connection, connection.cursor() as cursor:
            pending = self._rows(
                connection,
                "SELECT * FROM {schema}.file_ledger WHERE file_id = ANY(%(ids)s) AND status = 'pending'"
                " AND run_id = %(run_id)s",
                ids=[row.file_id for row in good],
                run_id=run_id,
            )
            still = {row.file_id: row.announced for row in map(_ledger_row, pending)}
            now = {row.file_id for row in self._counted_beside(connection, claimed)}
            if still != {row.file_id: row.announced for row in good} or now != {row.file_id for row in counted}:
                raise TransientError("another run changed the same days meanwhile; nothing was written, run this again")
            self._replace_days(cursor, plan.days, aggregates)
            read = {row.file_id: row for row in good}
            cursor.executemany(
                self._sql(
                    "UPDATE {schema}.file_ledger SET status = %s, modified_at = coalesce(%s, modified_at),"
                    " line_count = coalesce(%s, line_count), attempts = 0, ended_at = now() WHERE file_id = %s"
                ),
                [
                    (status, read[row.file_id].modified_at, read[row.file_id].line_count, row.file_id)
                    if row.file_id in read
                    else (status, None, None, row.file_id)
                    # The replaced ones first: of one object only one version may count at any moment.
                    for status, rows in (("replaced", plan.replaced), ("done", plan.done))
                    for row in rows
                ],
            )
            waiting = [
                Verdict(row, FileReason.DAY_INCOMPLETE, f"{gone.notification.key} is gone or changed in the bucket")
                for row, gone in plan.incomplete
            ]
            self._set_aside(cursor, run_id, waiting)

    def _replace_days(
        self, cursor: psycopg.Cursor[Any], days: Collection[Day], aggregates: Iterable[Aggregate]
    ) -> None:
        cursor.execute(
            self._sql(
                "CREATE TEMPORARY TABLE computed (LIKE {schema}.file_aggregates) ON COMMIT DROP;"
                "ALTER TABLE computed DROP COLUMN aggregated_at"
            )
        )
        with cursor.copy("COPY computed FROM STDIN") as copy:
            for aggregate in aggregates:
                copy.write_row((*aggregate.day, *aggregate[1:]))
        cursor.execute(self._sql(_UPSERT))
        # A product that a correction took out of a day stays as a row of nothing, so that who reads what changed
        # since some time learns of it.
        cursor.execute(
            self._sql(
                "UPDATE {schema}.file_aggregates AS old SET line_count = 0, user_count = 0, quantity_sum = 0,"
                " amount_sum = 0, amount_min = NULL, amount_max = NULL, amount_mean = NULL, amount_median = NULL,"
                " aggregated_at = now()"
                " WHERE line_count > 0 AND (dataset, event_date) IN"
                " (SELECT * FROM unnest(%(dataset)s::text[], %(event_date)s::date[])) AND NOT EXISTS"
                " (SELECT 1 FROM computed WHERE (computed.dataset, computed.event_date, computed.sku)"
                " = (old.dataset, old.event_date, old.sku))"
            ),
            {"dataset": [day.dataset for day in days], "event_date": [day.event_date for day in days]},
        )

    # What people ask

    def retry(self, reasons: Collection[str], file_ids: Collection[int]) -> int:
        """Make files pending that were set aside, for these reasons or with these ids if any are given."""
        with self.writing() as connection:
            return self._execute(
                connection,
                "UPDATE {schema}.file_ledger SET status = 'pending', reason = NULL, message = NULL, attempts = 0,"
                " run_id = NULL, ended_at = NULL WHERE status = 'failed'"
                " AND (%(any_reason)s OR reason = ANY(%(reasons)s)) AND (%(any_file)s OR file_id = ANY(%(ids)s))",
                any_reason=not reasons,
                reasons=list(reasons),
                any_file=not file_ids,
                ids=list(file_ids),
            ).rowcount

    def files(self, status: Status | None, dataset: str | None, event_date: date | None, most: int) -> list[ListedFile]:
        """List files, the newest first; among the failed ones the messages that were refused."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT * FROM (SELECT file_id, 's3://' || bucket || '/' || key AS place, version, status, dataset,"
                " event_date, line_count, reason, message, attempts, announced_at, ended_at FROM {schema}.file_ledger"
                " UNION ALL"
                " SELECT NULL, topic || '/' || topic_partition || '/' || kafka_offset, NULL, 'failed', NULL, NULL,"
                " NULL, reason, coalesce(field || ': ', '') || message, 0, kafka_timestamp, drained_at"
                " FROM {schema}.file_notifications WHERE outcome = 'refused') AS listed"
                " WHERE (%(status)s::text IS NULL OR status = %(status)s)"
                " AND (%(dataset)s::text IS NULL OR dataset = %(dataset)s)"
                " AND (%(event_date)s::date IS NULL OR event_date = %(event_date)s)"
                " ORDER BY announced_at DESC, place, version LIMIT %(most)s",
                status=status,
                dataset=dataset,
                event_date=event_date,
                most=most,
            )
        return [ListedFile(**row) for row in rows]

    def days(self) -> list[DaySummary]:
        """Every day that has lines."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT dataset, event_date, count(*) AS products, sum(line_count)::bigint AS lines,"
                " sum(amount_sum) AS amount FROM {schema}.file_aggregates WHERE line_count > 0"
                " GROUP BY dataset, event_date ORDER BY dataset, event_date",
            )
        return [DaySummary(**row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many files have each status, and how many messages are refused."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT status, count(*) AS n FROM {schema}.file_ledger GROUP BY status"
                " UNION ALL SELECT 'refused', count(*) FROM {schema}.file_notifications WHERE outcome = 'refused'",
            )
        return dict.fromkeys((*STATUSES, "refused"), 0) | {row["status"]: row["n"] for row in rows}

    def tally(self) -> "Tally":
        """Say what has come so far, and since when a file has been waiting."""
        with self._connected() as connection:
            (files,) = self._rows(
                connection,
                "SELECT coalesce(sum(line_count) FILTER (WHERE status IN ('done', 'replaced')), 0)::bigint AS lines,"
                " min(announced_at) FILTER (WHERE status = 'pending') AS waiting_since FROM {schema}.file_ledger",
            )
            refused = self._rows(
                connection,
                "SELECT reason, count(*) AS n FROM (SELECT reason FROM {schema}.file_ledger WHERE status = 'failed'"
                " UNION ALL SELECT reason FROM {schema}.file_notifications WHERE outcome = 'refused') AS set_aside"
                " GROUP BY reason",
            )
        return Tally(files["lines"], {row["reason"]: row["n"] for row in refused}, files["waiting_since"])

    def passed(self, topic_id: str) -> dict[int, int]:
        """The offset after the last one that is here, as a message or as a loss, of each partition that has any."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT topic_partition, max(end_offset) AS end_offset FROM"
                " (SELECT topic_id, topic_partition, kafka_offset + 1 AS end_offset FROM {schema}.file_notifications"
                " UNION ALL SELECT topic_id, topic_partition, end_offset FROM {schema}.file_losses) AS known"
                " WHERE topic_id = %(topic_id)s GROUP BY topic_partition",
                topic_id=topic_id,
            )
        return {row["topic_partition"]: row["end_offset"] for row in rows}

    def unrecorded(self, topic_id: str, start_offset: int, end_offset: int, topic_partition: int) -> list[int]:
        """The offsets of a range that no row has and no loss explains, in their order."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT kafka_offset FROM generate_series(%(start)s::bigint, %(end)s::bigint - 1) AS s (kafka_offset)"
                " WHERE NOT EXISTS (SELECT 1 FROM {schema}.file_notifications AS n WHERE n.topic_id = %(topic_id)s"
                " AND n.topic_partition = %(partition)s AND n.kafka_offset = s.kafka_offset)"
                " AND NOT EXISTS (SELECT 1 FROM {schema}.file_losses AS l WHERE l.topic_id = %(topic_id)s"
                " AND l.topic_partition = %(partition)s AND s.kafka_offset >= l.start_offset"
                " AND s.kafka_offset < l.end_offset) ORDER BY kafka_offset",
                start=start_offset,
                end=end_offset,
                topic_id=topic_id,
                partition=topic_partition,
            )
        return [row["kafka_offset"] for row in rows]

    def accept_losses(self, *, dry_run: bool = False) -> list[FileLoss]:
        """Accept what is known to be lost, so that it is a gap no more; a second call finds nothing.

        Its rows stay, because they say which offsets no message has. What a range grows by later is a gap again.
        """
        with self.writing() as connection:
            losses = self._losses(connection)
            if not dry_run:
                self._execute(
                    connection,
                    "UPDATE {schema}.file_losses SET accepted_at = now(), accepted_end_offset = end_offset"
                    " WHERE end_offset > coalesce(accepted_end_offset, start_offset)",
                )
        return losses

    def accepted_losses(self) -> list[AcceptedLoss]:
        """What is lost and was accepted."""
        with self._connected() as connection:
            rows = self._rows(
                connection,
                "SELECT topic, topic_partition, start_offset, accepted_end_offset AS end_offset,"
                " accepted_end_offset - start_offset AS notifications, noticed_at, accepted_at"
                " FROM {schema}.file_losses WHERE accepted_at IS NOT NULL"
                " ORDER BY topic_id, topic_partition, start_offset",
            )
        return [AcceptedLoss(**row) for row in rows]

    def gaps(self) -> list[Gap]:
        """Where aggregates and ledger disagree, and what Kafka dropped that nobody accepted."""
        with self._connected() as connection:
            days = self._rows(
                connection,
                "WITH lines AS (SELECT dataset, event_date, sum(line_count) AS n FROM {schema}.file_ledger"
                " WHERE status = 'done' GROUP BY dataset, event_date),"
                " sums AS (SELECT dataset, event_date, sum(line_count) AS n FROM {schema}.file_aggregates"
                " GROUP BY dataset, event_date)"
                " SELECT dataset, event_date, coalesce(lines.n, 0) AS in_files, coalesce(sums.n, 0) AS in_aggregates"
                " FROM lines FULL JOIN sums USING (dataset, event_date)"
                " WHERE coalesce(lines.n, 0) <> coalesce(sums.n, 0) ORDER BY dataset, event_date",
            )
            losses = self._losses(connection)
        return [
            Gap(
                "aggregates",
                f"{row['dataset']} {row['event_date']}",
                abs(row["in_files"] - row["in_aggregates"]),
                f"{row['in_files']:,} lines in the files that count, {row['in_aggregates']:,} in the aggregates",
            )
            for row in days
        ] + [
            Gap(
                "lost messages",
                f"{loss.topic}/{loss.topic_partition} from offset {loss.start_offset}",
                loss.notifications,
                "Kafka had dropped them before they were read: have their files announced again, then"
                " `lakehouse files accept-loss`",
            )
            for loss in losses
        ]

    def _losses(self, connection: Connection) -> list[FileLoss]:
        """What is lost and not accepted."""
        rows = self._rows(
            connection,
            "SELECT topic, topic_partition, since AS start_offset, end_offset, end_offset - since AS notifications,"
            " noticed_at FROM {schema}.file_losses, coalesce(accepted_end_offset, start_offset) AS since"
            " WHERE end_offset > since ORDER BY topic_id, topic_partition, since",
        )
        return [FileLoss(**row) for row in rows]

    @contextmanager
    def _connected(self, *, autocommit: bool = False) -> Generator[Connection]:
        with connect(self._settings, autocommit=autocommit) as connection:
            try:
                yield connection
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
                raise NotMadeError(f"PostgreSQL has no {self._name}: `lakehouse tables apply` makes it") from error
            except psycopg.errors.UndefinedColumn as error:
                raise TerminalError(
                    f"a table of {self._name} in PostgreSQL lacks a column of this version: `lakehouse tables apply`"
                    " adds it"
                ) from error

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """Be the only one that writes the ledger until the transaction ends; what it reads then holds."""
        with self._connected() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [self.lock_key ^ 1])
            yield connection

    def _sql(self, query: LiteralString) -> sql.Composed:
        return sql.SQL(query).format(schema=self.schema)

    def _execute(self, connection: Connection, query: LiteralString, **values: Any) -> psycopg.Cursor[Any]:
        return connection.execute(self._sql(query), values)

    def _rows(self, connection: Connection, query: LiteralString, **values: Any) -> list[dict[str, Any]]:
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(self._sql(query), values).fetchall()


_ANNOUNCE: Final = (
    "INSERT INTO {schema}.file_ledger AS old (bucket, key, version, version_id, etag, size_bytes, sha256, format,"
    " dataset, event_date, status, topic_id, topic_partition, kafka_offset, announced_at)"
    " VALUES (%(bucket)s, %(key)s, %(version)s, %(version_id)s, %(etag)s, %(size_bytes)s, %(sha256)s, %(format)s,"
    " %(dataset)s, %(event_date)s, 'pending', %(topic_id)s, %(topic_partition)s, %(kafka_offset)s, %(announced_at)s)"
    " ON CONFLICT (bucket, key, version) DO UPDATE SET version_id = excluded.version_id, etag = excluded.etag,"
    " size_bytes = excluded.size_bytes, sha256 = excluded.sha256, format = excluded.format,"
    " dataset = excluded.dataset, event_date = excluded.event_date, status = 'pending', reason = NULL, message = NULL,"
    " line_count = NULL, attempts = 0, run_id = NULL, modified_at = NULL, topic_id = excluded.topic_id,"
    " topic_partition = excluded.topic_partition, kafka_offset = excluded.kafka_offset,"
    # A version's place among the others is no other one because it is announced again.
    " announced_at = CASE WHEN excluded.version_id IS NULL THEN excluded.announced_at ELSE old.announced_at END,"
    " ended_at = NULL"
    " RETURNING file_id"
)
_UPSERT: Final = (
    "INSERT INTO {schema}.file_aggregates AS old SELECT *, now() FROM computed"
    " ON CONFLICT (dataset, event_date, sku) DO UPDATE SET product_name = excluded.product_name,"
    " line_count = excluded.line_count, user_count = excluded.user_count, quantity_sum = excluded.quantity_sum,"
    " amount_sum = excluded.amount_sum, amount_min = excluded.amount_min, amount_max = excluded.amount_max,"
    " amount_mean = excluded.amount_mean, amount_median = excluded.amount_median,"
    " aggregated_at = excluded.aggregated_at"
    " WHERE (old.product_name, old.line_count, old.user_count, old.quantity_sum, old.amount_sum, old.amount_min,"
    " old.amount_max, old.amount_mean, old.amount_median) IS DISTINCT FROM (excluded.product_name, excluded.line_count,"
    " excluded.user_count, excluded.quantity_sum, excluded.amount_sum, excluded.amount_min, excluded.amount_max,"
    " excluded.amount_mean, excluded.amount_median)"
)


def _announcement(said: Notification) -> dict[str, Any]:
    return asdict(said) | {"version": said.version}


def _announced(one: Drained) -> dict[str, Any]:
    return one.coordinates._asdict() | {"announced_at": one.kafka_timestamp}


def _verdict(
    outcome: str, one: Drained, refusal: Refusal | None, ids: Mapping[FileVersion, int]
) -> tuple[str, int | None, str | None, str | None, str | None, int]:
    """What a message's row says of it: outcome, file_id, reason, message, field, rule_version."""
    if refusal:
        field = None if refusal.field is None else printable(refusal.field)
        return outcome, None, str(refusal.reason), printable(refusal.message), field, RULE_VERSION
    assert isinstance(one.verdict, Notification)
    return outcome, ids[one.verdict.file], None, None, None, RULE_VERSION


def _counted(plan: AnnouncementPlan) -> Recorded:
    found = Counter(outcome for _, outcome, _ in plan.outcomes)
    return Recorded(len(plan.outcomes), found["announced"], found["repeated"], found["refused"])


def _coordinates(row: Mapping[str, Any]) -> Coordinates:
    return Coordinates(row["topic_id"], row["topic_partition"], row["kafka_offset"])


def _ledger_row(row: Mapping[str, Any]) -> LedgerRow:
    return LedgerRow(
        file_id=row["file_id"],
        notification=Notification(**{field.name: row[field.name] for field in fields(Notification)}),
        status=row["status"],
        announced=_coordinates(row),
        announced_at=row["announced_at"],
        modified_at=row["modified_at"],
        line_count=row["line_count"],
        reason=row["reason"],
        message=row["message"],
        attempts=row["attempts"],
        ended_at=row["ended_at"],
    )
