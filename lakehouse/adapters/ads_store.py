"""The ad data in PostgreSQL: the live impressions, what was loaded and refused, and the batches of the archive.

Rows go in and out as CSV by `COPY`, which streams: however many there are, a few megabytes are in memory. `COPY` out
is PostgreSQL's cursor without the round trips.
"""

import io
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa
from psycopg import Copy, Error, sql
from psycopg.errors import InvalidSchemaName, LockNotAvailable, UndefinedTable
from pyarrow import csv

from lakehouse.adapters.catalog import Applied
from lakehouse.adapters.postgres import Connection, connect
from lakehouse.errors import NotMadeError, TerminalError, TransientError
from lakehouse.settings import Settings
from lakehouse.tables import IMPRESSIONS_ARCHIVE

NAMESPACE: Final = "ads"
SCHEMA: Final = IMPRESSIONS_ARCHIVE.arrow_schema
KEY: Final = ("shown_date", "impression_id")

BatchState = Literal["writing", "written", "registered", "archived", "abandoned"]
OPEN_STATES: Final = ("writing", "written", "registered")
"""States of a batch that a run left behind, and the next one ends."""

_BLOCK_BYTES: Final = 4 << 20
_LOCAL: Final = pa.timestamp("us")
_LOCK_SECONDS: Final = 60
_MERGES: Final = 5
"""Far more than the dates that an archiving deletes while one part of a backup is brought in."""

_DDL: Final = """
CREATE TABLE IF NOT EXISTS {schema}.impressions (
    shown_date date NOT NULL,
    impression_id text NOT NULL,
    campaign text NOT NULL,
    ad text NOT NULL,
    sku text NOT NULL,
    user_id text NOT NULL,
    shown_at timestamptz NOT NULL,
    clicked_at timestamptz,
    cost_micros bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    arrived_at timestamptz NOT NULL,
    PRIMARY KEY (shown_date, impression_id)
);
CREATE TABLE IF NOT EXISTS {schema}.loads (
    run_id text PRIMARY KEY,
    account text NOT NULL,
    interval_start timestamptz NOT NULL,
    interval_end timestamptz NOT NULL,
    asked_for boolean NOT NULL,
    stored_at timestamptz NOT NULL,
    inserted_at timestamptz NOT NULL,
    rule_version integer NOT NULL,
    records bigint NOT NULL,
    rejected_records bigint NOT NULL,
    inserted_rows bigint NOT NULL,
    updated_rows bigint NOT NULL,
    superseded_records bigint NOT NULL,
    CHECK (records = rejected_records + inserted_rows + updated_rows + superseded_records)
);
CREATE TABLE IF NOT EXISTS {schema}.rejected (
    run_id text NOT NULL REFERENCES {schema}.loads ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    part integer NOT NULL,
    line integer NOT NULL,
    reason text NOT NULL,
    field text,
    message text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (run_id, part, line)
);
CREATE TABLE IF NOT EXISTS {schema}.archive_batches (
    batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL,
    shown_date date NOT NULL,
    state text NOT NULL,
    is_merge boolean NOT NULL,
    rows bigint,
    content_sha256 text,
    paths text[] NOT NULL DEFAULT '{{}}',
    removed_rows bigint,
    begun_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX IF NOT EXISTS archive_batches_open ON {schema}.archive_batches (state) WHERE state <> 'archived';
"""
_TABLES: Final = ("impressions", "loads", "rejected", "archive_batches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run brought into the table; a row of `ads.loads`.

    Attributes:
        asked_for: somebody said where its interval begins, so the next load does not go on from its end.
        records: in the backup; the four that follow add up to it.
        superseded_records: older than what the table or the archive had, the same again, or older than another record
            of the run.
    """

    run_id: str
    account: str
    interval_start: datetime
    interval_end: datetime
    asked_for: bool
    stored_at: datetime
    inserted_at: datetime
    rule_version: int
    records: int
    rejected_records: int
    inserted_rows: int
    updated_rows: int
    superseded_records: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of accepted records."""

    inserted_rows: int
    updated_rows: int
    superseded_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is archived of a date in one go; a row of `ads.archive_batches`.

    Attributes:
        is_merge: the date was in the archive before, and this takes the place of what was there.
        rows: in its files; None until they are written, as the next.
        content_sha256: of its files, one after the other; see `lakehouse.ads.archive_files.ContentDigest`.
        paths: of its files, in the order in which they were written; empty until they are.
        removed_rows: of the live table.
    """

    batch_id: int
    run_id: str
    shown_date: date
    state: BatchState
    is_merge: bool
    rows: int | None
    content_sha256: str | None
    paths: list[str]
    removed_rows: int | None
    begun_at: datetime
    ended_at: datetime | None


class Tally(NamedTuple):
    """What has come so far.

    Attributes:
        brought_rows: versions of impressions that loads brought, those that newer ones replaced among them.
        rejected: refused records by reason.
        stored_at: when the newest backup was stored that is loaded; None before the first.
        archived_at: when the newest batch was archived; None before the first.
    """

    brought_rows: int
    rejected: dict[str, int]
    stored_at: datetime | None
    archived_at: datetime | None


class AdsStore:
    """The schema of an environment.

    Raises:
        ServerUnavailableError: PostgreSQL did not answer or ended the session.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._schema = sql.Identifier(f"{settings.prefix}{NAMESPACE}")

    def apply(self) -> list[Applied]:
        """Create the tables that are not there; idempotent."""
        name = f"{self._settings.prefix}{NAMESPACE}"
        with connect(self._settings) as connection:
            # Two at once would both find it missing.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{name} apply"])
            found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [name]).fetchall()
            there = {row[0] for row in found}
            if not there.issuperset(_TABLES):
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(self._schema))
                connection.execute(sql.SQL(_DDL).format(schema=self._schema))
        return [Applied(f"{name}.{table}", "unchanged" if table in there else "created") for table in _TABLES]

    @contextmanager
    def session(self) -> Generator["Session"]:
        """Open a connection that commits where it is told to."""
        name = f"{self._settings.prefix}{NAMESPACE}"
        try:
            with connect(self._settings) as connection:
                connection.execute("SET TIME ZONE 'UTC'")
                # What a part of a backup needs stays in memory as a temporary table.
                connection.execute("SET temp_buffers = '32MB'")
                # Writers wait while a date is compared row by row: with little memory its join takes many passes.
                connection.execute("SET work_mem = '64MB'")
                # A plan that was made for a small table would be kept while a long load makes it large.
                connection.prepare_threshold = None
                connection.commit()
                try:
                    yield Session(connection, self._schema, name)
                    connection.commit()
                finally:
                    # The server lets go of turns only when it has dropped the temporary tables of a closed connection,
                    # and whoever comes right after this would find somebody at work. A broken one says so elsewhere.
                    with suppress(Error):
                        connection.rollback()
                        connection.execute("SELECT pg_advisory_unlock_all()")
                        connection.commit()
        except (UndefinedTable, InvalidSchemaName) as error:
            raise NotMadeError(f"the tables of {name} in PostgreSQL are not there: `lakehouse tables apply`") from error


class Session:
    """A connection to the schema; locks and temporary tables end with it."""

    def __init__(self, connection: Connection, schema: sql.Identifier, name: str) -> None:
        self._connection = connection
        self._schema = schema
        self._name = name

    def commit(self) -> None:
        """Make what was done since the last commit hold."""
        self._connection.commit()

    def rollback(self) -> None:
        """Undo what was done since the last commit."""
        self._connection.rollback()

    def take_turn(self, what: Literal["load", "archive"]) -> bool:
        """Be the only one in the environment who does this, until the session ends; False when another one is.

        A session that has the turn gets it again.
        """
        key = f"{self._name} {what}"
        taken = self._one("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key])[0]
        self._connection.commit()
        return bool(taken)

    def loads(self) -> list[Load]:
        """List what was loaded, by run."""
        columns = list(Load.__dataclass_fields__)
        found = self._rows("SELECT {columns} FROM {schema}.loads ORDER BY run_id", columns=_names(columns))
        return [Load(**dict(zip(columns, row, strict=True))) for row in found]

    def rejected(self, limit: int) -> list[tuple[Any, ...]]:
        """List refused records, the newest run first: run, part, line, reason, field, message, record."""
        return self._rows(
            "SELECT run_id, part, line, reason, field, message, record FROM {schema}.rejected "
            "ORDER BY run_id DESC, part, line LIMIT %s",
            [limit],
        )

    def rejected_of_loads(self) -> dict[str, int]:
        """Count the refused records of each run that has any."""
        return dict(self._rows("SELECT run_id, count(*) FROM {schema}.rejected GROUP BY run_id"))

    def tally(self) -> Tally:
        """Say what has come so far, and when it last did."""
        brought, stored_at = self._one(
            "SELECT coalesce(sum(inserted_rows + updated_rows), 0)::bigint, max(stored_at) FROM {schema}.loads"
        )
        (archived_at,) = self._one("SELECT max(ended_at) FROM {schema}.archive_batches WHERE state = 'archived'")
        rejected = dict(self._rows("SELECT reason, count(*) FROM {schema}.rejected GROUP BY reason"))
        return Tally(brought, rejected, stored_at, archived_at)

    # What a load does; all of it between two commits.

    def begin_load(self, run_id: str) -> None:
        """Make room for the records of a run, and forget what was refused of it before."""
        self._run("CREATE TEMP TABLE staged (LIKE {schema}.impressions) ON COMMIT DROP")
        self._run("CREATE TEMP TABLE refused (LIKE {schema}.rejected) ON COMMIT DROP")
        self._run(
            "CREATE TEMP TABLE known (shown_date date, impression_id text, updated_at timestamptz) ON COMMIT DROP"
        )
        self._run("DELETE FROM {schema}.rejected WHERE run_id = %s", [run_id])

    def stage(self, rows: pa.Table) -> None:
        """Send accepted records, in the order in which they came, in place of those that were sent before."""
        self._run("TRUNCATE staged")
        self._copy_in("staged", [rows])

    def reject(self, rows: pa.Table, run_id: str) -> None:
        """Send refused ones."""
        named = rows.add_column(0, "run_id", pa.array([run_id] * rows.num_rows, pa.string()))
        self._copy_in("refused", [named])

    def know_archived(self, archived: Iterable[pa.Table]) -> None:
        """Send key and `updated_at` of what the archive has of some dates, for `drop_archived`."""
        self._copy_in("known", archived)
        self._run("CREATE INDEX IF NOT EXISTS known_key ON known (shown_date, impression_id)")

    def drop_archived(self) -> int:
        """Let go of staged records that the archive has in the same version or a newer one; returns how many."""
        # Asked of each record by itself: a join would read all of `known` for every part.
        return self._run(
            "DELETE FROM staged WHERE updated_at <= (SELECT max(known.updated_at) FROM known "
            "WHERE known.shown_date = staged.shown_date AND known.impression_id = staged.impression_id)"
        )

    def merge_staged(self, *, repair: bool = False) -> Merged:
        """Bring the staged records into the table, where the newest version of each impression stays.

        Args:
            repair: also set right what a row holds whose version is the record's; of such records the last one holds.

        Raises:
            TerminalError: not every record is in the table in its version or a newer one.
        """
        staged = self._count("SELECT count(*) FROM staged")
        if not staged:
            return Merged(0, 0, 0)
        measures = [name for name in SCHEMA.names if name not in KEY]
        changed = [name for name in measures if name not in ("updated_at", "arrived_at")]
        newer = sql.SQL("chosen.updated_at > live.updated_at")
        if repair:
            newer = sql.SQL(
                "(chosen.updated_at > live.updated_at OR chosen.updated_at = live.updated_at AND {})"
            ).format(_differ("chosen", "live", changed))
        sets = sql.SQL(", ").join(sql.SQL("{0} = chosen.{0}").format(sql.Identifier(name)) for name in measures)
        inserted = updated = there = 0
        # An archiving may delete rows that the INSERT left alone before the UPDATE looks for them; then once more.
        for _ in range(_MERGES):
            # Nothing is updated here, so that a record that comes twice does no harm, and most are new.
            inserted += self._run(
                "INSERT INTO {schema}.impressions SELECT {columns} FROM staged ON CONFLICT DO NOTHING",
                columns=_names(SCHEMA.names),
            )
            if inserted == staged:
                return Merged(inserted, 0, 0)
            self._run("ANALYZE staged (shown_date, impression_id)")
            updated += self._run(
                "UPDATE {schema}.impressions AS live SET {sets} FROM ("
                "SELECT DISTINCT ON (shown_date, impression_id) * FROM staged "
                "ORDER BY shown_date, impression_id, updated_at DESC, ctid) AS chosen "
                "WHERE live.shown_date = chosen.shown_date AND live.impression_id = chosen.impression_id AND {newer}",
                sets=sets,
                newer=newer,
            )
            there = self._count(
                "SELECT count(*) FROM staged JOIN {schema}.impressions AS live USING (shown_date, impression_id) "
                "WHERE live.updated_at >= staged.updated_at"
            )
            if there == staged:
                return Merged(inserted, updated, staged - inserted - updated)
        raise TerminalError(
            f"{staged} records were to be inserted and {there} of them are in {self._name}.impressions: "
            "nothing was changed; look for who else writes to that table"
        )

    def end_load(self, load: Load) -> None:
        """Record what was loaded, in place of an earlier record of the same run."""
        columns = list(Load.__dataclass_fields__)
        self._run(
            "INSERT INTO {schema}.loads ({columns}) VALUES ({values}) ON CONFLICT (run_id) DO UPDATE SET {sets}",
            [getattr(load, name) for name in columns],
            columns=_names(columns),
            values=sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            sets=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns),
        )
        self._run("INSERT INTO {schema}.rejected SELECT * FROM refused")

    # What an archiving does.

    def live_rows(self, before: date = date.max) -> dict[date, int]:
        """Count the live rows of each date before this one, the oldest first."""
        query = "SELECT shown_date, count(*) FROM {schema}.impressions WHERE shown_date < %s GROUP BY 1 ORDER BY 1"
        return dict(self._rows(query, [before]))

    def batches(self, states: Sequence[BatchState] | None = None) -> list[Batch]:
        """List the batches, in the order in which they were begun.

        Args:
            states: only those in one of these.
        """
        columns = list(Batch.__dataclass_fields__)
        found = self._rows(
            "SELECT {columns} FROM {schema}.archive_batches "
            "WHERE %s::text[] IS NULL OR state = ANY (%s::text[]) ORDER BY batch_id",
            [None, None] if states is None else [list(states)] * 2,
            columns=_names(columns),
        )
        return [Batch(**dict(zip(columns, row, strict=True))) for row in found]

    def begin_batch(self, run_id: str, day: date, *, is_merge: bool, now: datetime) -> int:
        """Say that a batch is being written; returns its number."""
        number = self._one(
            "INSERT INTO {schema}.archive_batches (run_id, shown_date, state, is_merge, begun_at) "
            "VALUES (%s, %s, 'writing', %s, %s) RETURNING batch_id",
            [run_id, day, is_merge, now],
        )[0]
        self._connection.commit()
        return int(number)

    def bring_back(self, archived: Iterable[pa.Table]) -> None:
        """Bring the archive's rows of a date into the session, for `rows_of` to merge with."""
        self._begin_copy("archived")
        self._copy_in("archived", archived)

    def rows_of(self, day: date, *, merged_at: datetime | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the live rows of a date, by id.

        Args:
            day: the date.
            merged_at: stream them together with what `bring_back` brought, the newest version of each; those that come
                from the live table arrive at this time.
        """
        times = {field.name for field in SCHEMA if pa.types.is_timestamp(field.type)}
        told = sql.SQL(", ").join(
            sql.SQL("{} AT TIME ZONE 'UTC'" if name in times else "{}").format(sql.Identifier(name))
            for name in SCHEMA.names
        )
        if merged_at is None:
            query = self._sql(
                "SELECT {told} FROM {schema}.impressions WHERE shown_date = {day} ORDER BY impression_id",
                told=told,
                day=day,
            )
        else:
            arrived = [name for name in SCHEMA.names if name != "arrived_at"]
            query = self._sql(
                "SELECT DISTINCT ON (impression_id) {told} FROM ("
                "SELECT {columns}, 1 AS place FROM archived UNION ALL "
                "SELECT {others}, {now} AS arrived_at, 0 AS place FROM {schema}.impressions WHERE shown_date = {day}"
                ") AS both_places ORDER BY impression_id, updated_at DESC, place",
                told=told,
                day=day,
                now=merged_at,
                others=_names(arrived),
            )
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for block in _blocks(copy):
                rows = csv.read_csv(
                    io.BytesIO(block),
                    csv.ReadOptions(column_names=SCHEMA.names, block_size=2 * _BLOCK_BYTES, use_threads=False),
                    csv.ParseOptions(newlines_in_values=True),
                    csv.ConvertOptions(
                        column_types={f.name: _LOCAL if f.name in times else f.type for f in SCHEMA},
                        null_values=[""],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                    ),
                )
                yield from _with_zones(rows).to_batches()

    def take_back(self, archived: Iterable[pa.Table]) -> None:
        """Bring what was read back of a batch's files into the session, to compare with and to delete by."""
        self._begin_copy("leaving")
        self._copy_in("leaving", archived)
        self._run("ANALYZE leaving (impression_id)")

    def hold_writers(self) -> None:
        """Keep everybody from changing the live table until the next commit; those who do are waited for.

        Raises:
            TransientError: they took too long.
        """
        self._run("SET LOCAL lock_timeout = {seconds}", seconds=sql.Literal(f"{_LOCK_SECONDS}s"))
        try:
            self._run("LOCK TABLE {schema}.impressions IN SHARE MODE")
        except LockNotAvailable as error:
            raise TransientError(
                f"{self._name}.impressions was being written for {_LOCK_SECONDS} s: nothing was archived of the "
                "date in hand; run again"
            ) from error

    def is_unchanged(self, day: date, since: date) -> bool:
        """Whether the live rows of a date are exactly those that `take_back` brought, and `since` has none before it.

        Without the second, what came meanwhile for a date between would count as archived and be nowhere.
        """
        same = self._count(
            "SELECT count(*) FROM {schema}.impressions AS live JOIN leaving USING (impression_id) "
            "WHERE live.shown_date = {day} AND NOT {differ}",
            day=sql.Literal(day),
            differ=_differ("live", "leaving", [name for name in SCHEMA.names if name not in KEY]),
        )
        live = self._count(
            "SELECT count(*) FROM {schema}.impressions WHERE shown_date BETWEEN {since} AND {day}",
            since=sql.Literal(since),
            day=sql.Literal(day),
        )
        return same == live == self._count("SELECT count(*) FROM leaving")

    def remove_archived(self, day: date) -> int:
        """Delete, by key, the live rows of a date that `take_back` brought as they are or in a newer version.

        A row that was changed meanwhile stays. Returns how many went.
        """
        compared = [name for name in SCHEMA.names if name not in (*KEY, "arrived_at")]
        return self._run(
            "DELETE FROM {schema}.impressions AS live USING leaving "
            "WHERE live.shown_date = {day} AND live.impression_id = leaving.impression_id "
            "AND (live.updated_at < leaving.updated_at OR NOT {differ})",
            day=sql.Literal(day),
            differ=_differ("live", "leaving", compared),
        )

    def set_batch(self, number: int, state: BatchState, expected: BatchState, **values: Any) -> None:
        """Bring a batch into another state.

        Args:
            number: of the batch.
            state: that it gets.
            expected: that it must have.
            values: further columns.

        Raises:
            TransientError: it has another one, so another run is at work.
        """
        sets = {"state": state} | values
        changed = self._run(
            "UPDATE {schema}.archive_batches SET {sets} WHERE batch_id = %s AND state = %s",
            [*sets.values(), number, expected],
            sets=sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in sets),
        )
        if changed != 1:
            raise TransientError(f"batch {number} is no longer {expected}: another archiving is at work; run again")

    # What an audit asks.

    def create_temporary(self, name: str, columns: str) -> None:
        """Make a table for this session."""
        self._run("CREATE TEMP TABLE {name} ({columns})", name=sql.Identifier(name), columns=sql.SQL(columns))  # pyright: ignore[reportArgumentType]

    def fill(self, name: str, tables: Iterable[pa.Table]) -> None:
        """Send rows to a table of this session."""
        self._copy_in(name, tables)

    def ask(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask something; `{schema}` in the query stands for the schema."""
        return self._rows(query, parameters)

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Do something, with the schema as in `ask`."""
        self._run(statement, parameters)

    def snapshot(self) -> None:
        """See the tables as they are now until the next commit."""
        self._connection.commit()
        self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def _begin_copy(self, table: str) -> None:
        """Make an empty copy of the live table for this session; commits, as only that frees the room of the last."""
        self._run("CREATE TEMP TABLE IF NOT EXISTS {table} (LIKE {schema}.impressions)", table=sql.Identifier(table))
        self._run("TRUNCATE {table}", table=sql.Identifier(table))
        self._connection.commit()

    def _copy_in(self, table: str, rows: Iterable[pa.Table]) -> None:
        pieces = iter(rows)
        first = next(pieces, None)
        if first is None:
            return
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)")
        named = statement.format(sql.Identifier(table), _names(first.column_names))
        with self._connection.cursor() as cursor, cursor.copy(named) as copy:
            for piece in itertools.chain([first], pieces):
                sink = io.BytesIO()
                csv.write_csv(_without_zones(piece), sink, csv.WriteOptions(include_header=False))
                copy.write(sink.getvalue())

    def _sql(self, statement: str, **parts: Any) -> sql.Composed:
        composed = {
            name: part if isinstance(part, sql.Composable) else sql.Literal(part) for name, part in parts.items()
        }
        columns = _names(SCHEMA.names)
        return sql.SQL(statement).format(**{"schema": self._schema, "columns": columns} | composed)  # pyright: ignore[reportArgumentType]

    def _run(self, statement: str, parameters: Sequence[Any] = (), **parts: Any) -> int:
        return self._connection.execute(self._sql(statement, **parts), parameters or None).rowcount

    def _rows(self, statement: str, parameters: Sequence[Any] = (), **parts: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(self._sql(statement, **parts), parameters or None).fetchall()

    def _one(self, statement: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        (row,) = self._rows(statement, parameters)
        return row

    def _count(self, statement: str, **parts: Any) -> int:
        return int(self._rows(statement, **parts)[0][0])


def _differ(one: str, other: str, columns: Sequence[str]) -> sql.Composed:
    rows = [sql.SQL(", ").join(sql.Identifier(table, column) for column in columns) for table in (one, other)]
    return sql.SQL("(({}) IS DISTINCT FROM ({}))").format(*rows)


def _blocks(copy: Copy) -> Iterator[bytes]:
    """What `COPY` sends in pieces of some megabytes, each of whole rows: the server sends a row at a time."""
    held: list[bytes | bytearray | memoryview] = []
    size = 0
    while row := copy.read():
        held.append(row)
        size += len(row)
        if size >= _BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _without_zones(rows: pa.Table) -> pa.Table:
    """Times as UTC without saying so, which the session takes them for: Arrow writes a zone ten times slower."""
    columns = [c.cast(_LOCAL) if pa.types.is_timestamp(c.type) else c for c in rows.columns]
    return pa.table(columns, names=rows.column_names)


def _with_zones(rows: pa.Table) -> pa.Table:
    return pa.table([c.cast(f.type) for c, f in zip(rows.columns, SCHEMA, strict=True)], schema=SCHEMA)


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
