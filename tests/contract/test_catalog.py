"""The catalog adapter on the real catalog and object store: applying specs, and commits that hold the position."""

import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import SecretStr
from pyiceberg.exceptions import NoSuchNamespaceError
from pyiceberg.table import Table

from lakehouse.adapters import catalog, s3
from lakehouse.adapters.catalog import Lake
from lakehouse.errors import (
    CommitStateUnknownError,
    FenceError,
    ServerUnavailableError,
    SettingsError,
    TerminalError,
    TransientError,
)
from lakehouse.ledger import POSITION, RULES, offsets_text, position
from lakehouse.settings import Settings
from lakehouse.tables import ALL, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, Column, TableSpec

pytestmark = pytest.mark.integration

TOPIC = "numbers"
DAY = date(2023, 10, 23)
SPEC = TableSpec(
    namespace="events",
    name="numbers",
    doc="Numbers.",
    owner="tests",
    columns=(
        Column("day", pa.date32(), "Day of the number."),
        Column("n", pa.int64(), "The number."),
        Column("secret", pa.string(), "Whose number.", required=False, pii=True),
    ),
    partition_by=("day",),
    sort_by=("n",),
)


@pytest.fixture
def lake(environment: Settings) -> Lake:
    lake = Lake(environment)
    lake.apply(SPEC)
    return lake


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_FIRST_WAIT_SECONDS", 0.01)


def write(settings: Settings, lake: Lake, *numbers: int) -> list[str]:
    """Write the numbers as one data file, as a task of an ingest does; nothing is committed."""
    table = lake.load(SPEC)
    schema = lake.write_schema(table, SPEC)
    columns: dict[str, list[Any]] = {
        "day": [DAY] * len(numbers),
        "n": list(numbers),
        "secret": ["user_1"] * len(numbers),
    }
    rows = pa.table([pa.array(columns.get(f.name, [None] * len(numbers)), f.type) for f in schema], schema=schema)
    path = f"{table.location()}/data/day={DAY}/{uuid.uuid4().hex}.parquet"
    with s3.filesystem(settings.s3).open_output_stream(s3.key_of(path)) as stream:
        parquet.write_table(rows, stream)
    return [path]


def append(
    lake: Lake, files: list[str], before: dict[int, int], after: dict[int, int], run_id: str | None = None
) -> int:
    return lake.append(
        SPEC,
        files,
        expected={POSITION + TOPIC: offsets_text(before) if before else None},
        properties={POSITION + TOPIC: offsets_text(after)},
        run_id=run_id or uuid.uuid4().hex,
        summary={"lakehouse.topic": TOPIC},
    )


def numbers_in(lake: Lake) -> list[int]:
    return sorted(lake.load(SPEC).scan().to_arrow()["n"].to_pylist())


def snapshots_of(table: Table) -> list[int]:
    return [snapshot.snapshot_id for snapshot in table.metadata.snapshots]


class Proxy(ThreadingHTTPServer):
    """Stands before the real catalog; `on_commit` decides what becomes of each commit and of its answer."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = urlsplit(upstream).netloc
        self.on_commit: Callable[[Callable[[], tuple[int, bytes]]], tuple[int, bytes] | None] = lambda forward: (
            forward()
        )
        self.commits = 0


class _Forward(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    hop_by_hop: ClassVar = {"connection", "host", "content-length", "transfer-encoding"}

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def forward() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {*self.hop_by_hop, "accept-encoding"}}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, content

        is_commit = self.command == "POST" and "/tables/" in self.path
        self.server.commits += is_commit
        answer = self.server.on_commit(forward) if is_commit else forward()
        self.close_connection = True
        if answer is None:
            return
        status, content = answer
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - the names the base class calls

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxied(settings: Settings) -> Iterator[tuple[Proxy, Lake]]:
    server = Proxy(settings.catalog.uri)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    uri = f"http://127.0.0.1:{server.server_port}"
    try:
        yield server, Lake(with_catalog(settings, uri=uri))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def with_catalog(settings: Settings, **update: Any) -> Settings:
    return settings.model_copy(update={"catalog": settings.catalog.model_copy(update=update)})


def an_error(status: int) -> tuple[int, bytes]:
    error = {"message": "no luck", "type": "Trouble", "code": status}
    return status, json.dumps({"error": error}).encode()


# Applying specs


def test_applying_creates_and_a_second_time_changes_nothing(environment: Settings) -> None:
    lake = Lake(environment)
    assert [(a.table, a.outcome) for a in map(lake.apply, ALL)] == [
        (f"{environment.prefix}events.user_actions", "created"),
        (f"{environment.prefix}quarantine.user_actions", "created"),
        (f"{environment.prefix}ops.query_history", "created"),
        (f"{environment.prefix}ops.maintenance_runs", "created"),
        (f"{environment.prefix}ops.csv_files", "created"),
        (f"{environment.prefix}events.user_actions_archive", "created"),
        (f"{environment.prefix}ads.impressions_archive", "created"),
    ]
    again = [lake.apply(spec) for spec in ALL]
    assert [(a.outcome, a.changes) for a in again] == [("unchanged", ())] * len(ALL)


def test_a_table_is_made_as_its_spec_says(environment: Settings) -> None:
    lake = Lake(environment)
    lake.apply(USER_ACTIONS_QUARANTINE)
    table = lake.load(USER_ACTIONS_QUARANTINE)
    columns = [(f.field_id, f.name, str(f.field_type), f.required) for f in table.schema().fields]
    assert columns == [
        (1, "reason", "string", True),
        (2, "message", "string", True),
        (3, "field", "string", False),
        (4, "raw", "binary", False),
        (5, "kafka_topic", "string", False),
        (6, "kafka_partition", "int", False),
        (7, "kafka_offset", "long", False),
        (8, "kafka_timestamp", "timestamptz", False),
        (9, "kafka_key", "binary", False),
        (10, "kafka_headers", "list<struct<20: key: optional string, 21: value: optional binary>>", False),
        (11, "rule_version", "int", True),
        (12, "ingested_at", "timestamptz", True),
        (13, "ingested_date", "date", True),
        (14, "source", "string", False),
        (15, "file", "string", False),
        (16, "file_version", "string", False),
        (17, "file_line", "long", False),
        (18, "file_modified_at", "timestamptz", False),
    ]
    assert [(f.source_id, f.name, str(f.transform)) for f in table.spec().fields] == [(13, "ingested_date", "identity")]
    assert [(f.source_id, str(f.direction), str(f.null_order)) for f in table.sort_order().fields] == [
        (1, "ASC", "NULLS FIRST")
    ]
    assert (
        table.schema().find_field("reason").doc
        == "Reason code, see docs/event-contract.md; of files also docs/csv-drop.md."
    )
    assert table.properties["comment"] == USER_ACTIONS_QUARANTINE.doc
    assert table.properties["write.metadata.metrics.column.raw"] == "none"
    assert table.format_version == 2


def test_the_archive_lies_in_a_bucket_of_its_own_and_goes_with_its_environment(environment: Settings) -> None:
    lake = Lake(environment)
    lake.apply(USER_ACTIONS_ARCHIVE)
    place = f"s3://archive/{environment.prefix}events/user_actions_archive-"
    first = lake.load(USER_ACTIONS_ARCHIVE).location()
    assert first.startswith(place)
    stray = f"archive/{environment.prefix}manifests/stray.json"
    store = s3.filesystem(environment.s3)
    with store.open_output_stream(stray) as stream:
        stream.write(b"{}")
    lake.drop_environment()
    assert {found.type.name for found in store.get_file_info([stray, s3.key_of(first)])} == {"NotFound"}
    lake.apply(USER_ACTIONS_ARCHIVE)
    again = lake.load(USER_ACTIONS_ARCHIVE).location()
    assert again.startswith(place)
    assert again != first


def test_a_new_column_doc_and_property_reach_a_table_with_rows(environment: Settings, lake: Lake) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    first, *others = SPEC.columns
    tags = pa.list_(pa.struct([("name", pa.string())]))
    later = replace(
        SPEC,
        doc="Numbers, explained.",
        columns=(
            replace(first, doc="UTC day of the number."),
            *others,
            Column("weight", pa.float64(), "Weight, kilograms."),
            Column("tags", tags, "Tags.", required=False),
        ),
    )
    applied = lake.apply(later)
    assert (applied.outcome, applied.changes) == (
        "changed",
        ("changed the description of day", "added column weight", "added column tags", "set comment"),
    )
    assert lake.apply(later).outcome == "unchanged"
    table = lake.load(SPEC)
    assert [(f.name, f.required) for f in table.schema().fields][-2:] == [("weight", False), ("tags", False)]
    assert table.schema().find_field("day").doc == "UTC day of the number."
    append(lake, write(environment, lake, 2), {0: 1}, {0: 2})
    rows = lake.load(SPEC).scan(selected_fields=("n", "weight")).to_arrow().sort_by("n")
    assert rows.to_pylist() == [{"n": 1, "weight": None}, {"n": 2, "weight": None}]


def test_a_required_column_may_become_optional_and_rows_of_both_kinds_are_read(
    environment: Settings, lake: Lake
) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    day, number, *others = SPEC.columns
    later = replace(SPEC, columns=(day, replace(number, required=False), *others))
    assert lake.apply(later).changes == ("made column n optional",)
    assert lake.apply(later).outcome == "unchanged"
    append(lake, write(environment, lake, 2), {0: 1}, {0: 2})
    assert numbers_in(lake) == [1, 2]
    assert lake.apply(SPEC).outcome == "unchanged"  # never back: there may be rows without it


def test_another_order_of_rows_holds_from_then_on(environment: Settings, lake: Lake) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    for order in (("secret", "n"), ("n",)):
        applied = lake.apply(replace(SPEC, sort_by=order))
        assert applied.changes == (f"rows are sorted by {', '.join(order)} from now on",)
        assert lake.apply(replace(SPEC, sort_by=order)).outcome == "unchanged"
        table = lake.load(SPEC)
        assert tuple(table.schema().find_column_name(field.source_id) for field in table.sort_order().fields) == order
        assert {str(field.null_order) for field in table.sort_order().fields} <= {"NULLS FIRST"}
    assert numbers_in(lake) == [1]


@pytest.mark.parametrize("kind", [pa.int32(), pa.string(), pa.list_(pa.int64())], ids=str)
def test_a_type_is_never_changed_in_place(lake: Lake, kind: pa.DataType) -> None:
    changed = replace(SPEC, columns=(SPEC.columns[0], replace(SPEC.columns[1], type=kind), SPEC.columns[2]))
    with pytest.raises(TerminalError, match=r"numbers\.n is long and the spec says"):
        lake.apply(changed)


def test_a_type_within_a_nested_column_is_never_changed_in_place(lake: Lake) -> None:
    nested = replace(SPEC, columns=(*SPEC.columns, Column("tags", pa.list_(pa.string()), "Tags.", required=False)))
    lake.apply(nested)
    other = replace(SPEC, columns=(*SPEC.columns, Column("tags", pa.list_(pa.int64()), "Tags.", required=False)))
    with pytest.raises(TerminalError, match=r"numbers\.tags is list<string>"):
        lake.apply(other)


def test_another_partitioning_is_refused(lake: Lake) -> None:
    with pytest.raises(TerminalError, match="is partitioned by day and the spec says n"):
        lake.apply(replace(SPEC, partition_by=("n",)))


def test_those_who_apply_at_once_agree(environment: Settings) -> None:
    lakes = [Lake(environment) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(applied.outcome for applied in pool.map(lambda lake: lake.apply(SPEC), lakes))
    assert outcomes == ["created", "unchanged", "unchanged", "unchanged"]


def test_a_table_that_was_never_made_is_named_with_the_remedy(environment: Settings) -> None:
    with pytest.raises(TerminalError, match=r"events\.numbers does not exist: create it with `lakehouse tables apply`"):
        Lake(environment).load(SPEC)


def test_a_table_behind_its_spec_is_not_written_to(lake: Lake) -> None:
    later = replace(SPEC, columns=(*SPEC.columns, Column("weight", pa.float64(), "Weight.", required=False)))
    with pytest.raises(TerminalError, match=r"lacks weight.*tables apply"):
        lake.write_schema(lake.load(SPEC), later)


def test_a_table_without_a_promoted_column_is_written_to_all_the_same(lake: Lake) -> None:
    color = Column("color", pa.string(), "Color.", required=False, unknown_field="color")
    later = replace(SPEC, columns=(*SPEC.columns, color))
    assert lake.write_schema(lake.load(SPEC), later).names == ["day", "n", "secret"]
    assert lake.apply(later).changes == ("added column color",)
    assert lake.write_schema(lake.load(SPEC), later).names == ["day", "n", "secret", "color"]


def test_only_an_environment_with_a_prefix_can_be_dropped_whole(environment: Settings) -> None:
    with pytest.raises(TerminalError, match="prefix"):
        Lake(environment.model_copy(update={"prefix": ""})).drop_environment()


def test_an_environment_in_which_somebody_still_makes_tables_can_be_dropped(environment: Settings, lake: Lake) -> None:
    begun = threading.Event()

    def make_tables() -> None:
        for number in range(20):
            with suppress(NoSuchNamespaceError):  # dropped between its making and the table's
                Lake(environment).apply(replace(SPEC, name=f"numbers_{number}"))
            begun.set()

    with ThreadPoolExecutor() as pool:
        making = pool.submit(make_tables)
        assert begun.wait(60)
        lake.drop_environment()
        making.result()


# Commits


def test_files_and_position_are_one_snapshot(environment: Settings, lake: Lake) -> None:
    assert position(lake.load(SPEC).properties, TOPIC) == {}
    snapshot_id = append(lake, write(environment, lake, 3, 1, 2), {}, {0: 3, 1: 0}, run_id="run-1")
    table = lake.load(SPEC)
    assert snapshots_of(table) == [snapshot_id]
    assert position(table.properties, TOPIC) == {0: 3, 1: 0}
    assert table.properties["lakehouse.position.numbers"] == '{"0": 3, "1": 0}'
    assert position(table.properties, "another topic") == {}
    snapshot = table.current_snapshot()
    assert snapshot
    assert snapshot.summary
    summary = snapshot.summary.additional_properties
    assert (summary["lakehouse.run-id"], summary["lakehouse.topic"], summary["added-records"]) == ("run-1", TOPIC, "3")
    assert numbers_in(lake) == [1, 2, 3]


def test_no_bounds_of_a_persons_column_get_into_the_metadata(environment: Settings, lake: Lake) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    (file,) = lake.load(SPEC).inspect.files().to_pylist()
    ids = {field.name: field.field_id for field in lake.load(SPEC).schema().fields}
    assert ids["n"] in dict(file["lower_bounds"])
    assert ids["secret"] not in dict(file["lower_bounds"])
    assert ids["secret"] not in dict(file["upper_bounds"])


def test_a_stale_position_is_fenced_off(environment: Settings, lake: Lake) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    late = write(environment, lake, 2)
    for before in ({}, {0: 0}, {0: 2}, {0: 1, 1: 0}):
        with pytest.raises(FenceError, match=r'position.numbers \{"0": 1\} and this run started from'):
            append(lake, late, before, {0: 2})
    assert numbers_in(lake) == [1]


def test_the_same_run_appended_again_lands_once(environment: Settings, lake: Lake) -> None:
    files = write(environment, lake, 1, 2)
    first = append(lake, files, {}, {0: 2}, run_id="run-1")
    append(lake, write(environment, lake, 3), {0: 2}, {0: 3}, run_id="run-2")
    assert append(lake, files, {}, {0: 2}, run_id="run-1") == first
    assert numbers_in(lake) == [1, 2, 3]


def test_a_position_moves_without_rows_in_a_snapshot_of_its_own(environment: Settings, lake: Lake) -> None:
    first = append(lake, write(environment, lake, 1), {}, {0: 1})
    second = append(lake, [], {0: 1}, {0: 9})
    table = lake.load(SPEC)
    assert snapshots_of(table) == [first, second]
    assert position(table.properties, TOPIC) == {0: 9}
    assert numbers_in(lake) == [1]


@pytest.mark.usefixtures("_short_waits")
def test_a_commit_in_between_that_leaves_the_position_only_delays_ours(
    environment: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(lake, write(environment, lake, 1), {}, {0: 1})
    other = Lake(environment)
    _before_first_commit(monkeypatch, lambda: other.load(SPEC).append(_one_row(other, 5)))
    append(lake, write(environment, lake, 2), {0: 1}, {0: 2})
    assert numbers_in(lake) == [1, 2, 5]
    assert position(lake.load(SPEC).properties, TOPIC) == {0: 2}


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("with_files", [True, False])
def test_a_commit_in_between_that_moves_the_position_fences_ours_off(
    environment: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch, *, with_files: bool
) -> None:
    other = Lake(environment)
    theirs = write(environment, lake, 7)
    mine = write(environment, lake, 8) if with_files else []
    _before_first_commit(monkeypatch, lambda: append(other, theirs, {}, {0: 7}))
    with pytest.raises(FenceError):
        append(lake, mine, {}, {0: 8})
    assert numbers_in(lake) == [7]
    assert position(lake.load(SPEC).properties, TOPIC) == {0: 7}


def test_of_those_who_commit_from_one_position_at_once_one_wins(environment: Settings, lake: Lake) -> None:
    files = [write(environment, lake, n) for n in range(4)]

    def commit(n: int) -> int | FenceError:
        try:
            return append(Lake(environment), files[n], {}, {0: n + 1})
        except FenceError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(commit, range(4)))
    (winner,) = [n for n, answer in enumerate(answers) if isinstance(answer, int)]
    assert numbers_in(lake) == [winner]
    assert position(lake.load(SPEC).properties, TOPIC) == {0: winner + 1}


def test_quarantined_offsets_are_those_of_the_topic_from_the_position_on(environment: Settings) -> None:
    lake = Lake(environment)
    spec = replace(
        SPEC,
        columns=(
            *SPEC.columns,
            Column("kafka_topic", pa.string(), "Topic."),
            Column("kafka_partition", pa.int32(), "Partition."),
            Column("kafka_offset", pa.int64(), "Offset."),
        ),
    )
    lake.apply(spec)
    table = lake.load(spec)
    schema = lake.write_schema(table, spec)
    coordinates = [(TOPIC, 0, 4), (TOPIC, 0, 5), (TOPIC, 1, 0), ("other's", 0, 9)]
    rows = [
        {"day": DAY, "n": 0, "secret": None, "kafka_topic": t, "kafka_partition": p, "kafka_offset": o}
        for t, p, o in coordinates
    ]
    table.append(pa.Table.from_pylist(rows, schema=schema))
    assert lake.quarantined_offsets(spec, TOPIC, {0: 5, 1: 0}) == {0: {5}, 1: {0}}
    assert lake.quarantined_offsets(spec, TOPIC, {0: 6, 1: 1}) == {}
    assert lake.quarantined_offsets(spec, "other's", {0: 0}) == {0: {9}}


# Faults


def test_a_catalog_that_does_not_answer_is_named_at_once(environment: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=rf"127\.0\.0\.1:{port} did not answer.*lakehouse stack status"):
        Lake(with_catalog(environment, uri=f"http://127.0.0.1:{port}"))
    assert time.monotonic() - started < 5


def test_a_catalog_that_hangs_is_given_up(environment: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_ANSWER_SECONDS", (1, 1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerUnavailableError, match="did not answer"):
            Lake(with_catalog(environment, uri=uri))


def test_wrong_credentials_are_a_matter_of_settings(environment: Settings) -> None:
    with pytest.raises(SettingsError, match=r"refuses our credentials: see catalog\.client_id") as caught:
        Lake(with_catalog(environment, client_secret=SecretStr("wrong-secret")))
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("lost", ["connection cut", "500", "503"])
def test_a_commit_whose_answer_was_lost_is_found_and_not_repeated(environment: Settings, lake: Lake, lost: str) -> None:
    with proxied(environment) as (proxy, through):

        def lose_the_answer(forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes] | None:
            assert forward()[0] == 200
            return None if lost == "connection cut" else an_error(int(lost))

        proxy.on_commit = lose_the_answer
        snapshot_id = append(through, write(environment, lake, 1, 2), {}, {0: 2})
        assert proxy.commits == 1
    assert snapshots_of(lake.load(SPEC)) == [snapshot_id]
    assert numbers_in(lake) == [1, 2]


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("lost", ["connection cut", "500", "503"])
def test_a_commit_that_was_lost_on_its_way_is_sent_again(environment: Settings, lake: Lake, lost: str) -> None:
    with proxied(environment) as (proxy, through):

        def lose_the_first(forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes] | None:
            if proxy.commits > 1:
                return forward()
            return None if lost == "connection cut" else an_error(int(lost))

        proxy.on_commit = lose_the_first
        append(through, write(environment, lake, 1, 2), {}, {0: 2})
        assert proxy.commits == 2
    assert numbers_in(lake) == [1, 2]


@pytest.mark.usefixtures("_short_waits")
def test_an_outcome_that_nobody_can_tell_is_an_error_of_its_own(environment: Settings, lake: Lake) -> None:
    files = write(environment, lake, 1)
    with proxied(environment) as (proxy, through):

        def land_and_go_down(forward: Callable[[], tuple[int, bytes]]) -> None:
            forward()
            proxy.upstream = "127.0.0.1:1"

        proxy.on_commit = land_and_go_down
        with pytest.raises(CommitStateUnknownError, match="run the same command again"):
            append(through, files, {}, {0: 1}, run_id="run-1")
    append(lake, files, {}, {0: 1}, run_id="run-1")
    assert numbers_in(lake) == [1]


@pytest.mark.usefixtures("_short_waits")
def test_a_catalog_that_is_down_before_the_commit_surely_took_nothing(environment: Settings, lake: Lake) -> None:
    files = write(environment, lake, 1)
    with proxied(environment) as (proxy, through):
        proxy.upstream = "127.0.0.1:1"
        with pytest.raises(ServerUnavailableError, match="nothing landed"):
            append(through, files, {}, {0: 1})
        assert proxy.commits == 0


@pytest.mark.usefixtures("_short_waits")
def test_a_commit_that_is_refused_is_not_sent_again(environment: Settings, lake: Lake) -> None:
    files = write(environment, lake, 1)
    with proxied(environment) as (proxy, through):
        proxy.on_commit = lambda _: an_error(403)
        with pytest.raises(TerminalError, match="refused"):
            append(through, files, {}, {0: 1})
        assert proxy.commits == 1


@pytest.mark.usefixtures("_short_waits")
def test_a_change_of_a_table_whose_answer_was_lost_can_be_applied_again(environment: Settings, lake: Lake) -> None:
    later = replace(SPEC, doc="Numbers, explained.")
    with proxied(environment) as (proxy, through):
        proxy.on_commit = lambda forward: an_error(forward()[0] + 300)
        with pytest.raises(TransientError, match="run again"):
            through.apply(later)
    assert lake.apply(later).outcome == "unchanged"


@pytest.mark.usefixtures("_short_waits")
def test_an_object_store_that_is_down_surely_took_nothing(environment: Settings, lake: Lake) -> None:
    gone = [path.replace(".parquet", "-gone.parquet") for path in write(environment, lake, 1)]
    with pytest.raises(ServerUnavailableError, match="nothing landed"):
        append(lake, gone, {}, {0: 1})
    assert position(lake.load(SPEC).properties, TOPIC) == {}


def _one_row(lake: Lake, number: int) -> pa.Table:
    row = {"day": DAY, "n": number, "secret": None}
    return pa.Table.from_pylist([row], schema=lake.write_schema(lake.load(SPEC), SPEC))


def _before_first_commit(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Run `act` between the load of the table and the first commit, where another writer may come in."""
    commit = catalog._commit_once

    def late(*arguments: Any) -> int:
        monkeypatch.setattr(catalog, "_commit_once", commit)
        act()
        return commit(*arguments)

    monkeypatch.setattr(catalog, "_commit_once", late)


# Rules


def test_the_first_run_with_newer_rules_fences_those_with_older_ones_off(environment: Settings, lake: Lake) -> None:
    assert lake.load_to_write(SPEC, 1).properties[RULES] == "1"
    snapshots = snapshots_of(lake.load(SPEC))
    assert snapshots_of(lake.load_to_write(SPEC, 1)) == snapshots
    assert Lake(environment).load_to_write(SPEC, 2).properties[RULES] == "2"
    with pytest.raises(FenceError, match=r"lakehouse\.rule-version 2 and this run started from 1"):
        lake.append(
            SPEC,
            write(environment, lake, 1),
            expected={RULES: "1"},
            properties={},
            run_id=uuid.uuid4().hex,
            summary={},
        )
    with pytest.raises(TerminalError, match=r"rules of version 2 and this program has 1: upgrade"):
        lake.load_to_write(SPEC, 1)
    assert numbers_in(lake) == []
