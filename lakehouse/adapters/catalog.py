"""The Iceberg catalog and its tables, the only importer of pyiceberg.

`append` is where exactly-once comes from: data files and the Kafka position they bring the table to are one commit,
and it succeeds only from the position the caller started at.
"""

import itertools
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson
import pyarrow as pa
import requests
import tenacity
from pyarrow import fs, parquet
from pyiceberg.catalog.rest import Endpoints, IdentifierKind, RestCatalog, TableResponse
from pyiceberg.catalog.rest.auth import AuthManager
from pyiceberg.catalog.rest.response import _handle_non_200_response  # pyright: ignore[reportPrivateUsage]
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    OAuthError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    TableAlreadyExistsError,
    UnauthorizedError,
    ViewAlreadyExistsError,
)
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    In,
    LessThan,
    NotNull,
)
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import ArrowScan, pyarrow_to_schema, schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.sorting import NullOrder, SortField, SortOrder
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Identifier
from pyiceberg.types import IcebergType, NestedField
from pyiceberg.view import View
from pyiceberg.view.metadata import ViewVersion
from requests.adapters import HTTPAdapter

from lakehouse.adapters import s3
from lakehouse.errors import (
    CommitStateUnknownError,
    FenceError,
    LakehouseError,
    NotMadeError,
    ServerUnavailableError,
    SettingsError,
    TerminalError,
    TransientError,
)
from lakehouse.ledger import RULES, RUN_ID
from lakehouse.plans import Offsets
from lakehouse.settings import Settings
from lakehouse.tables import TableSpec
from lakehouse.transforms import split_by_date

_COMMIT_ATTEMPTS = 8
_FIRST_WAIT_SECONDS = 0.2
"""Doubles with each attempt: about 25 seconds in all, longer than a supervised catalog takes to come back."""
_DROP_SECONDS = 60
_ANSWER_SECONDS = (10, 60)
"""How long to wait for a connection to the catalog, and then for its next byte."""
_RECONNECT_SECONDS = 600
"""How long a client is used: its token expires, and it would take the refusal for wrong credentials."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did to one table: `created`, `changed` or `unchanged`, and the changes in words."""

    table: str
    outcome: str
    changes: tuple[str, ...] = ()


class Rows(NamedTuple):
    """What `Lake.read` found.

    Attributes:
        most: how many rows there are at most, by what the chosen files hold.
        batches: to be read once.
    """

    most: int
    batches: Iterator[pa.RecordBatch]


Operator = Literal["in", ">=", "<", "is present"]
Condition = tuple[str, Operator, Any]
"""Column, operator and value; of `is present` the value does not matter."""


class Lake:
    """The catalog of `settings`, with the environment's prefix applied to every namespace.

    Raises:
        ServerUnavailableError: the catalog does not answer.
        SettingsError: it does not know our credentials.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.prefix
        self._uri = settings.catalog.uri
        self._client: _Catalog | None = None
        self._connected_at = 0.0
        _ = self._catalog

    @property
    def _catalog(self) -> "_Catalog":
        if self._client is None or time.monotonic() > self._connected_at + _RECONNECT_SECONDS:
            settings = self._settings
            secret = settings.catalog.client_secret.get_secret_value()
            with self._errors():
                self._client = _Catalog(
                    settings.catalog.name,
                    **{
                        "uri": settings.catalog.uri,
                        "credential": f"{settings.catalog.client_id}:{secret}",
                        "oauth2-server-uri": f"{settings.catalog.uri}/v1/oauth/tokens",
                        "scope": "catalog",
                        "s3.endpoint": settings.s3.endpoint,
                        "s3.region": settings.s3.region,
                        "s3.access-key-id": settings.s3.access_key,
                        "s3.secret-access-key": settings.s3.secret_key.get_secret_value(),
                        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
                    },
                )
            self._connected_at = time.monotonic()
        return self._client

    def identifier(self, spec: TableSpec) -> str:
        """The table's full name, prefix included."""
        return f"{self._prefix}{spec.namespace}.{spec.name}"

    def load(self, spec: TableSpec) -> Table:
        """Load a table as it is now.

        Raises:
            TerminalError: it does not exist yet.
        """
        with self._errors():
            try:
                return self._catalog.load_table(self.identifier(spec))
            except (NoSuchTableError, NoSuchNamespaceError) as error:
                raise NotMadeError(
                    f"table {self.identifier(spec)} does not exist: create it with `lakehouse tables apply`"
                ) from error

    def load_to_write(self, spec: TableSpec, rule_version: int) -> Table:
        """Load a table and see that no other version of the rules writes to it from now on.

        Two versions may judge a message differently, and then two tables could get it. Within one version they can't:
        the same message gets the same verdict. So the first run with newer rules says so in each table, and the commit
        of a run with older rules meets its fence.

        Raises:
            TerminalError: it does not exist yet, or newer rules than these were here.
        """
        table = self.load(spec)
        known = table.properties.get(RULES)
        if known == str(rule_version):
            return table
        if known is not None and int(known) > rule_version:
            raise TerminalError(
                f"{self.identifier(spec)} was written by rules of version {known} and this program has "
                f"{rule_version}: upgrade it; to go back to older rules, publish them as a newer version"
            )
        with suppress(FenceError):  # another run of our version was quicker
            changed = {RULES: str(rule_version)}
            self.append(spec, [], expected={RULES: known}, properties=changed, run_id=uuid.uuid4().hex, summary={})
        return self.load_to_write(spec, rule_version)

    def apply(self, spec: TableSpec) -> Applied:
        """Create the table, or bring it to the spec: new and optional columns, docs, order, properties; idempotent.

        Raises:
            TerminalError: the change would lose or reinterpret data (a column's type or the partitioning differs).
            TransientError: somebody else changed the table at the same time, or the answer was lost; apply again.
        """
        name = self.identifier(spec)
        with self._errors():
            try:
                table = self._catalog.load_table(name)
            except (NoSuchTableError, NoSuchNamespaceError):
                return self._create(spec, name)
            return _evolve(table, spec, name)

    def drop_environment(self) -> None:
        """Drop every table, view and namespace of a prefixed environment, data included.

        Raises:
            TerminalError: the settings have no prefix, so that would be everything.
        """
        if not self._prefix:
            raise TerminalError("only an environment with a prefix can be dropped whole")
        with self._errors():
            for namespace in self._catalog.list_namespaces():
                if namespace[0].startswith(self._prefix):
                    self._drop_namespace(namespace)
        store = s3.filesystem(self._settings.s3)
        with suppress(FileNotFoundError):
            for found in store.get_file_info(fs.FileSelector(self._settings.s3.user_events_bucket)):
                if found.base_name.startswith(self._prefix):
                    store.delete_dir(found.path)
        for folder in ("events", "manifests"):
            with suppress(FileNotFoundError):
                store.delete_dir(f"{self._settings.s3.archive_bucket}/{self._prefix}{folder}")

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type((NamespaceNotEmptyError, NoSuchTableError, NoSuchViewError)),
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_delay(_DROP_SECONDS),
        reraise=True,
    )
    def _drop_namespace(self, namespace: Identifier) -> None:
        # Who still writes there, such as a build under way, may add or take a table between the list and the end.
        for view in self._catalog.list_views(namespace):
            self._catalog.drop_view(view)
        for table in self._catalog.list_tables(namespace):
            self._catalog.purge_table(table)
        self._catalog.drop_namespace(namespace)

    def write_view(
        self, namespace: str, name: str, schema: Schema, text: str, properties: Mapping[str, str]
    ) -> Literal["created", "changed", "unchanged"]:
        """Create a view, or replace what it says in one step.

        Args:
            namespace: without the environment's prefix.
            name: of the view.
            schema: its columns.
            text: its SQL in Trino's dialect.
            properties: its own, such as `comment`.

        Raises:
            TransientError: something of that name came to be at the same time.
        """
        place = f"{self._prefix}{namespace}"
        # A version that equals an earlier one would not be taken, so each says when it was made.
        version = ViewVersion.model_validate(
            {
                "schema-id": schema.schema_id,
                "summary": {"lakehouse.version": uuid.uuid4().hex},
                "representations": [{"type": "sql", "sql": text, "dialect": "trino"}],
                "default-catalog": self._settings.catalog.name,
                "default-namespace": (place,),
            }
        )
        with self._errors():
            there = self._load_view(f"{place}.{name}")
            if there is not None:
                said = there.sql_for("trino")
                same_columns = there.schema().as_struct() == schema.as_struct()
                if said and said.sql == text and same_columns and properties.items() <= there.properties.items():
                    return "unchanged"
                self._catalog.replace_view(there, schema, version, properties)
                return "changed"
            with suppress(NamespaceAlreadyExistsError):
                self._catalog.create_namespace(place)
            try:
                self._catalog.create_view(f"{place}.{name}", schema, version, properties=dict(properties))
            except ViewAlreadyExistsError as error:
                raise TransientError(f"{place}.{name} exists by now ({error}): run again") from error
        return "created"

    def _load_view(self, identifier: str) -> View | None:
        with suppress(NoSuchViewError, NoSuchNamespaceError):
            return self._catalog.load_view(identifier)
        return None

    def write_schema(self, table: Table, spec: TableSpec) -> pa.Schema:
        """The Arrow schema of new data files: the table's columns with their field ids.

        A promoted column may be lacking: `unknown_fields` holds its values, so nobody has to wait for it.

        Raises:
            TerminalError: the table lacks another column of the spec.
        """
        present = {field.name for field in table.schema().fields}
        if lacking := [c.name for c in spec.columns if c.name not in present and c.unknown_field is None]:
            raise TerminalError(
                f"table {self.identifier(spec)} lacks {', '.join(lacking)}: "
                "bring it up to date with `lakehouse tables apply`"
            )
        return schema_to_pyarrow(table.schema(), include_field_ids=True)

    def write_rows(self, table: Table, spec: TableSpec, rows: list[dict[str, Any]], run_id: str) -> list[str]:
        """Write rows as sorted data files, one a date, for `append`; commits nothing.

        Args:
            table: as `load` returned it.
            spec: the table; partitioned by one date.
            rows: values by column; what a row lacks is null.
            run_id: goes into the names of the files.

        Returns:
            The paths of the files.
        """
        (partition,) = spec.partition_by
        order = [(column, "ascending") for column in (partition, *spec.sort_by)]
        held = pa.Table.from_pylist(rows, schema=self.write_schema(table, spec)).sort_by(order)
        store, paths = s3.filesystem(self._settings.s3), list[str]()
        for day, piece in split_by_date(held, partition):
            paths.append(f"{table.location()}/data/{partition}={day.isoformat()}/{run_id}-{uuid.uuid4().hex}.parquet")
            with self._errors(), store.open_output_stream(s3.key_of(paths[-1])) as stream:
                parquet.write_table(piece, stream, compression="zstd", store_schema=False)
        return paths

    def quarantined_offsets(self, spec: TableSpec, topic: str, since: Offsets) -> dict[int, set[int]]:
        """Offsets at or past `since` that a quarantine table holds of a topic, per topic partition."""
        lowest = min(since.values(), default=0)
        with self._errors():
            rows = (
                self.load(spec)
                .scan(
                    And(EqualTo("kafka_topic", topic), GreaterThanOrEqual("kafka_offset", lowest)),  # pyright: ignore[reportCallIssue]
                    selected_fields=("kafka_partition", "kafka_offset"),
                )
                .to_arrow()
            )
        found: dict[int, set[int]] = {}
        partitions, offsets = rows["kafka_partition"].to_pylist(), rows["kafka_offset"].to_pylist()
        for partition, offset in zip(partitions, offsets, strict=True):
            if offset >= since.get(partition, 0):
                found.setdefault(partition, set()).add(offset)
        return found

    def read(self, table: Table, columns: Sequence[str], where: Sequence[Condition]) -> "Rows":
        """Read rows of a table as it was when it was loaded, one data file in memory at a time.

        Args:
            table: as `load` returned it.
            columns: names, in order.
            where: conditions, all of which hold for each row; they also choose partitions and files.
        """
        chosen: BooleanExpression = AlwaysTrue()
        for condition in where:
            chosen = And(chosen, _expression(*condition))  # pyright: ignore[reportCallIssue]
        with self._errors():
            scan = table.scan(chosen, selected_fields=tuple(columns))
            tasks = list(scan.plan_files())
        arrow = ArrowScan(table.metadata, table.io, scan.projection(), chosen)

        def batches() -> Iterator[pa.RecordBatch]:
            # One file a call: the client reads all files of a call ahead, whether anybody takes their rows or not.
            for task in tasks:
                with self._errors():
                    yield from (batch.select(columns) for batch in arrow.to_record_batches([task]))

        return Rows(sum(task.file.record_count for task in tasks), batches())

    def append(
        self,
        spec: TableSpec,
        files: Sequence[str],
        *,
        expected: Mapping[str, str | None],
        properties: Mapping[str, str],
        run_id: str,
        summary: Mapping[str, str],
    ) -> int:
        """Commit data files and table properties, such as a position, in one step; returns the snapshot's id.

        Each attempt loads the table anew, so that the fence holds on retries too:
        a run that already landed is found by its run id, and a property that is not as `expected` stops us.

        Args:
            spec: the table.
            files: paths of whole Parquet files with the table's field ids; may be none.
            expected: properties as this run found them when it began; None for one that was not there.
            properties: what they become, and others that go with them.
            run_id: unique to this run and table; makes a commit whose answer was lost recognisable.
            summary: more entries for the snapshot's summary.

        Raises:
            FenceError: a property is not as expected.
            CommitStateUnknownError: the catalog's answers were lost and it can't be asked what happened.
            ServerUnavailableError: the catalog refused or did not answer, and surely nothing was committed.
        """
        told = {RUN_ID: run_id} | dict(summary)
        return self._commit(
            spec,
            lambda table: _commit_once(table, files, properties, told),
            expected=expected,
            properties=properties,
            run_id=run_id,
        )

    def _commit(
        self,
        spec: TableSpec,
        once: Callable[[Table], int],
        *,
        expected: Mapping[str, str | None],
        properties: Mapping[str, str],
        run_id: str,
    ) -> int:
        """Make one commit by as many attempts as it takes, as `append` tells; `once` makes one of them.

        Args:
            spec: the table.
            once: commits to the table as it is given and returns the snapshot's id; its summary has the run id.
            expected: as `append` has them.
            properties: what `once` sets.
            run_id: as `append` has it.
        """
        sent = False
        problem: Exception | None = None
        for attempt in range(_COMMIT_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            try:
                table = self.load(spec)
            except ServerUnavailableError as error:
                problem = error
                continue
            if (snapshot_id := _landed(table, run_id, properties)) is not None:
                return snapshot_id
            _refuse_moved_fence(table, self.identifier(spec), expected)
            try:
                return once(table)
            except CommitFailedException as error:  # somebody else committed first; nothing of ours landed
                problem = error
            except _OUTCOME_UNKNOWN as error:
                problem, sent = error, True  # it may have landed; the next attempt looks before it sends again
            except RESTError as error:
                raise self._translated(error) from error
            except OSError as error:  # the object store, which is done with before the commit is sent
                problem = error
        name = self.identifier(spec)
        if sent:
            raise CommitStateUnknownError(
                f"commit {run_id} to {name} was sent and the catalog never said whether it landed ({problem}): "
                "when the catalog is back, run the same command again; it finds out from the table"
            ) from problem
        raise ServerUnavailableError(
            f"could not commit to {name} in {_COMMIT_ATTEMPTS} attempts ({problem}): nothing landed, run again"
        ) from problem

    def _create(self, spec: TableSpec, name: str) -> Applied:
        with suppress(NamespaceAlreadyExistsError):
            self._catalog.create_namespace(f"{self._prefix}{spec.namespace}")
        schema = _iceberg_schema(spec)
        ids = {field.name: field.field_id for field in schema.fields}
        try:
            self._catalog.create_table(
                name,
                schema=schema,
                location=self._location(spec),
                partition_spec=PartitionSpec(
                    *(
                        PartitionField(ids[column], 1000 + index, IdentityTransform(), column)
                        for index, column in enumerate(spec.partition_by)
                    )
                ),
                sort_order=SortOrder(*(SortField(ids[c], transform=IdentityTransform()) for c in spec.sort_by)),
                properties=spec.table_properties,
            )
        except TableAlreadyExistsError:  # another `tables apply` was quicker
            return _evolve(self._catalog.load_table(name), spec, name)
        return Applied(name, "created")

    def _location(self, spec: TableSpec) -> str | None:
        """Where a new table goes; None leaves it to the catalog, which puts it into the warehouse."""
        if spec.bucket == "warehouse":
            return None
        if spec.bucket == "ads":  # its files have names that no other table made again would give
            return f"s3://{self._settings.s3.ads_bucket}/{self._prefix}archive"
        # A table made again must not find the files of the dropped one.
        unique = f"{spec.name}-{uuid.uuid4().hex}"
        return f"s3://{self._settings.s3.archive_bucket}/{self._prefix}{spec.namespace}/{unique}"

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Translate what the catalog's client raises; the one edge where it happens, beside the commit in `append`."""
        try:
            yield
        except (RESTError, OSError, CommitFailedException) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> LakehouseError:
        match error:
            case UnauthorizedError() | OAuthError():
                return SettingsError(
                    f"the catalog at {self._uri} refuses our credentials: "
                    "see catalog.client_id and catalog.client_secret"
                )
            case requests.RequestException() | ServerError() | ServiceUnavailableError():
                return ServerUnavailableError(
                    f"the catalog at {self._uri} did not answer ({error}): see `lakehouse stack status`"
                )
            case CommitFailedException() | CommitStateUnknownException():
                return TransientError(f"the change to the table did not surely land ({error}): run again")
            case OSError():
                return ServerUnavailableError(f"the object store failed ({error}): see `lakehouse stack status`")
            case _:
                return TerminalError(f"the catalog at {self._uri} refused: {error}")


_OUTCOME_UNKNOWN = (CommitStateUnknownException, ServerError, ServiceUnavailableError, requests.RequestException)
"""What a commit may end with although it landed."""


class _Catalog(RestCatalog):
    """The client, which by itself would wait for an answer for ever, and delete what the server deletes."""

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        del io, base, metadata

    def reload_table(self, identifier: str, known: Table) -> Table:
        """Load a table anew if it has changed since; reading what a long history says is what makes a load dear.

        Source: `loadTable` of Iceberg's REST specification.
        """
        place = self._split_identifier_for_path(identifier)
        response = self._session.get(self.url(Endpoints.load_table, **place))
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            _handle_non_200_response(error, {404: NoSuchTableError})
        if orjson.loads(response.content)["metadata-location"] == known.metadata_location:
            return known
        answer = TableResponse.model_validate_json(response.content)
        return self._response_to_table(self.identifier_to_tuple(identifier), answer)

    def replace_view(self, view: View, schema: Schema, version: ViewVersion, properties: Mapping[str, str]) -> None:
        """Give a view another definition in one step, which the client lacks: it can only create one.

        Args:
            view: as it was loaded; the step fails when it was made anew since.
            schema: its columns from now on.
            version: its SQL; the summary must differ from that of every earlier version.
            properties: what to set beside what is set.

        Source: `commitView` of Iceberg's REST specification.
        """
        # The server takes no schema a second time, and -1 for the one that was just added.
        known = [one.schema_id for one in view.schemas().values() if one.as_struct() == schema.as_struct()]
        added = [] if known else [{"action": "add-schema", "schema": schema.model_dump(mode="json")}]
        number = 1 + max(one.version_id for one in view.versions)
        numbered = version.model_copy(update={"version_id": number, "schema_id": known[0] if known else -1})
        change = {
            "requirements": [{"type": "assert-view-uuid", "uuid": str(view.uuid())}],
            "updates": [
                *added,
                {"action": "add-view-version", "view-version": numbered.model_dump(mode="json")},
                {"action": "set-current-view-version", "view-version-id": -1},
                {"action": "set-properties", "updates": dict(properties)},
            ],
        }
        place = self._split_identifier_for_path(view.name(), IdentifierKind.VIEW)
        response = self._session.post(self.url(Endpoints.load_view, **place), json=change)
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            _handle_non_200_response(error, {409: CommitFailedException})

    def _create_legacy_oauth2_auth_manager(self, session: requests.Session) -> AuthManager:
        # Here, because it is given each new session and makes the first request with it.
        for scheme in ("http://", "https://"):
            session.mount(scheme, _BoundedWait())
        return super()._create_legacy_oauth2_auth_manager(session)


class _BoundedWait(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, *args: Any, timeout: Any = None, **options: Any) -> Any:
        return super().send(request, *args, timeout=timeout or _ANSWER_SECONDS, **options)


def _expression(column: str, operator: Operator, value: Any) -> BooleanExpression:
    match operator:
        case "in":
            return In(column, set(value))  # pyright: ignore[reportCallIssue]
        case ">=":
            return GreaterThanOrEqual(column, value)  # pyright: ignore[reportCallIssue]
        case "<":
            return LessThan(column, value)  # pyright: ignore[reportCallIssue]
        case "is present":
            return NotNull(column)  # pyright: ignore[reportCallIssue]


def moment(milliseconds: int) -> datetime:
    """The time, UTC, that Iceberg's metadata tells in milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def summaries(table: Table) -> list[Mapping[str, str]]:
    """The summaries of the snapshots that are not expired, oldest first."""
    snapshots = sorted(table.metadata.snapshots, key=lambda s: s.sequence_number or 0)
    return [snapshot.summary.additional_properties for snapshot in snapshots if snapshot.summary]


def _refuse_moved_fence(table: Table, name: str, expected: Mapping[str, str | None]) -> None:
    for key, value in expected.items():
        if (found := table.properties.get(key)) != value:
            raise FenceError(
                f"{name} has {key} {found or 'unset'} and this run started from {value or 'unset'}: "
                "another run was quicker; let it finish, then run again (nothing was written twice)"
            )


def _landed(table: Table, run_id: str, properties: Mapping[str, str]) -> int | None:
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot.summary and snapshot.summary.additional_properties.get(RUN_ID) == run_id:
            return snapshot.snapshot_id
    # The snapshot may be expired by now; where the run's id is among its properties, they tell as well.
    if run_id in properties.values() and properties.items() <= table.properties.items():
        return table.metadata.current_snapshot_id
    return None


def _commit_once(table: Table, files: Sequence[str], properties: Mapping[str, str], summary: Mapping[str, str]) -> int:
    # The client would retry a conflict by itself and so commit past the fence: one attempt, ours are in `append`.
    table.metadata.properties["commit.retry.num-retries"] = "0"
    transaction = table.transaction()
    transaction.set_properties(dict(properties))
    if files:
        # The names hold a fresh UUID, and looking for them in the whole table costs more with each file in it.
        transaction.add_files(list(files), snapshot_properties=dict(summary), check_duplicate_files=False)
    else:
        # An empty snapshot, because only a commit with a snapshot asserts that nobody else committed meanwhile.
        with transaction.update_snapshot(snapshot_properties=dict(summary)).fast_append():
            pass
    committed = transaction.commit_transaction()
    snapshot_id = committed.metadata.current_snapshot_id
    assert snapshot_id is not None
    return snapshot_id


def _iceberg_schema(spec: TableSpec) -> Schema:
    """The spec's columns numbered from 1, nested fields after them, as Iceberg numbers them itself."""
    nested = itertools.count(len(spec.columns) + 1)

    def numbered(field: pa.Field, number: int) -> pa.Field:
        kind = field.type
        if pa.types.is_list(kind):
            kind = pa.list_(numbered(kind.value_field, next(nested)))
        elif pa.types.is_struct(kind):
            kind = pa.struct([numbered(kind.field(index), next(nested)) for index in range(kind.num_fields)])
        return field.with_type(kind).with_metadata({"PARQUET:field_id": str(number)} | (field.metadata or {}))

    fields = [
        numbered(pa.field(c.name, c.type, nullable=not c.required, metadata={"doc": c.doc}), index)
        for index, c in enumerate(spec.columns, start=1)
    ]
    return pyarrow_to_schema(pa.schema(fields))


def _arrow_type(kind: IcebergType) -> pa.DataType:
    """The type without field ids, which differ between a spec and a table that evolved."""
    return schema_to_pyarrow(kind, include_field_ids=False)


def _evolve_column(update: UpdateSchema, field: NestedField, found: NestedField | None) -> Iterator[str]:
    """Bring one column to the spec; yields what was changed."""
    column = field.name
    if found is None:
        update.add_column(column, field.field_type, doc=field.doc)  # old rows have no value for it
        yield f"added column {column}"
        return
    if found.required and not field.required:  # never the other way round: old rows could break it
        update.make_column_optional(column)
        yield f"made column {column} optional"
    if found.doc != field.doc:
        update.update_column(column, doc=field.doc)
        yield f"changed the description of {column}"


def _evolve(table: Table, spec: TableSpec, name: str) -> Applied:
    wanted = {field.name: field for field in _iceberg_schema(spec).fields}
    present = {field.name: field for field in table.schema().fields}
    changes: list[str] = []
    partitioned_by = tuple(table.schema().find_column_name(f.source_id) for f in table.spec().fields)
    if partitioned_by != spec.partition_by:
        raise TerminalError(
            f"{name} is partitioned by {', '.join(map(str, partitioned_by))} and the spec says "
            f"{', '.join(spec.partition_by)}: make a new table; the files of this one lie by its partitions"
        )
    for column, field in wanted.items():
        found = present.get(column)
        if found and _arrow_type(found.field_type) != _arrow_type(field.field_type):
            raise TerminalError(
                f"{name}.{column} is {found.field_type} and the spec says {field.field_type}: "
                "give the new meaning a new column; a type is never changed in place"
            )
    with table.transaction() as transaction:
        with transaction.update_schema() as update:
            for field in wanted.values():
                changes.extend(_evolve_column(update, field, present.get(field.name)))
        ordered_by = tuple(table.schema().find_column_name(f.source_id) for f in table.sort_order().fields)
        if spec.sort_by and ordered_by != spec.sort_by:
            with transaction.update_sort_order() as order:
                for column in spec.sort_by:
                    order.asc(column, IdentityTransform(), NullOrder.NULLS_FIRST)
            changes.append(f"rows are sorted by {', '.join(spec.sort_by)} from now on")
        properties = {key: value for key, value in spec.table_properties.items() if key != "format-version"}
        if differing := {key: value for key, value in properties.items() if table.properties.get(key) != value}:
            transaction.set_properties(differing)
            changes.extend(f"set {key}" for key in differing)
    return Applied(name, "changed" if changes else "unchanged", tuple(changes))
