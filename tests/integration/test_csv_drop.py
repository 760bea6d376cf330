"""CSV files on real servers: each record of each version is in one table, once, whatever happens meanwhile."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lakehouse import archive, csv_drop, ingest, ledger, quarantine, transform
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.csv_lake import CsvLake
from lakehouse.audit import audit
from lakehouse.audit_files import FilesLedger
from lakehouse.cli.main import app
from lakehouse.csv_drop import CsvResult, FilesLeftError, Waiting
from lakehouse.errors import TerminalError, TransientError
from lakehouse.quarantine import Selection
from lakehouse.settings import PROJECT_ROOT, Settings, get_settings
from lakehouse.tables import CSV_FILES, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec
from tests.faults.proxy import FaultProxy, in_front_of
from tests.integration.replaying import OLDER_RULES, environment_of
from tests.shops import good, open_shop

pytestmark = pytest.mark.integration

EXAMPLE = PROJECT_ROOT / "data" / "example.csv"
JOB = PROJECT_ROOT / "spark" / "jobs" / "event_transformation.py"
DAY = date(2026, 11, 2)
HEADER = "timestamp,event_name,platform,user_id,product_name,sku"


def row(user: str, day: int = 24, event_name: str = "view", product: str = "Wireless Mouse") -> str:
    return f"2023-11-{day}T12:00:00Z,{event_name},web,{user},{product},SKU-1001"


def rows(*lines: str) -> str:
    return "\n".join((HEADER, *lines)) + "\n"


@pytest.fixture
def shop(environment: Settings) -> Settings:
    return open_shop(environment, 1)


@pytest.fixture
def put(shop: Settings, tmp_path: Path) -> Callable[..., str]:
    """Drop a file with this content; returns its location."""

    def put(name: str, content: str | bytes, day: date = DAY) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return csv_drop.drop(shop, path, day).file

    return put


def run(settings: Settings) -> CsvResult:
    return csv_drop.run(settings, DAY, days_back=0)


def run_job(settings: Settings, **environment: str) -> dict[str, Any]:
    """Run the entry point of the image until it ends with success; returns its result."""
    done = job(settings, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def job(settings: Settings, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the entry point of the image, which is told by its environment where Spark finds what it needs."""
    of_spark = settings.spark.model_dump(include={"jars_directory", "java_home", "aot_cache"}, exclude_none=True)
    return subprocess.run(
        [sys.executable, JOB, "--date", str(DAY), "--days-back", "0"],
        env=environment_of(settings)
        | {f"LAKEHOUSE_SPARK__{name.upper()}": str(value) for name, value in of_spark.items()}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def held(settings: Settings, spec: TableSpec, *columns: str) -> list[tuple[Any, ...]]:
    found = Lake(settings).load(spec).scan(selected_fields=columns).to_arrow().to_pylist()
    return sorted((tuple(one[name] for name in columns) for one in found), key=str)


def users(settings: Settings) -> list[str]:
    return [user for (user,) in held(settings, USER_ACTIONS, "user_id")]


def refused(settings: Settings) -> list[tuple[Any, ...]]:
    return held(settings, USER_ACTIONS_QUARANTINE, "file_line", "reason")


def told_dates(settings: Settings) -> dict[date, datetime]:
    """The dates that the builds are told to have lost refused records, each with the time of that."""
    return ledger.withdrawn(Lake(settings).load(USER_ACTIONS_QUARANTINE).properties, ledger.WITHDRAWN_INGESTED)


def snapshots(settings: Settings, spec: TableSpec = USER_ACTIONS) -> list[str]:
    found = sorted(Lake(settings).load(spec).metadata.snapshots, key=lambda s: s.sequence_number or 0)
    return [str(one.summary.operation.value) for one in found if one.summary]


def send(settings: Settings, *numbers: int) -> None:
    kafka.send(settings, settings.user_actions_topic, [good(number) for number in numbers])
    ingest.run(settings)


def compact(settings: Settings) -> None:
    table = f"{settings.catalog.name}.{settings.prefix}events.user_actions"
    trino.query(settings.trino_as("admin"), f"ALTER TABLE {table} EXECUTE optimize")


def assert_adds_up(settings: Settings, *counts: int) -> None:
    report = audit(settings)
    assert report.gaps == ()
    assert report.files == FilesLedger(*counts)


class KilledError(BaseException):
    """Stands for the end of a process: nothing catches it."""


def killed(*_: object) -> None:
    raise KilledError


def before_publishing(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """Have something happen, once each, when refused records are committed and the events are about to be."""
    original = csv_drop._Run._publish
    waiting = list(happens)

    def publish(self: Any, *arguments: Any) -> Any:
        if waiting:
            waiting.pop()()
        return original(self, *arguments)

    monkeypatch.setattr(csv_drop._Run, "_publish", publish)


def test_the_example_becomes_events_and_refused_lines_once_beside_what_came_from_kafka(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(shop, 1, 2)
    location = csv_drop.drop(shop, EXAMPLE, DAY).file
    assert location == f"s3://user-events/{shop.prefix}year=2026/month=11/day=02/example.csv"
    first = run(shop)
    assert (first.published_rows, first.quarantined_rows, first.commits) == (9, 3, 1)
    assert first.quarantined_by_reason == {"empty_field": 1, "invalid_timestamp": 1, "wrong_columns": 1}
    (brought,) = first.files
    assert (brought.file, brought.status, brought.records, brought.replaced_version) == (location, "loaded", 12, None)

    events = held(shop, USER_ACTIONS, "source", "file", "file_version", "file_line", "kafka_topic")
    of_file = [("csv", location, brought.file_version, line, None) for line in range(2, 11)]
    assert events == sorted([*of_file, *[(None, None, None, None, shop.user_actions_topic)] * 2], key=str)
    assert refused(shop) == [(11, "invalid_timestamp"), (12, "empty_field"), (13, "wrong_columns")]
    found = quarantine.rows(shop, Selection(files=(location,), line=13), limit=5)
    assert [(one.file, one.file_line, one.raw, one.topic) for one in found] == [
        (location, 13, b"2023-11-24T12:00:02Z,view,web,user_40006,Wireless Mouse", None)
    ]
    assert_adds_up(shop, 1, 12, 9, 3, 0)

    before = snapshots(shop)
    again = run(shop)
    assert (again.files, again.unchanged_files, again.commits) == ((), 1, 0)
    assert snapshots(shop) == before
    send(shop, 3)
    assert_adds_up(shop, 1, 12, 9, 3, 0)

    monkeypatch.setenv("LAKEHOUSE_PREFIX", shop.prefix)
    get_settings.cache_clear()
    listed = CliRunner().invoke(app, ["csv", "list", "--date", str(DAY), "--output", "json"])
    (state,) = json.loads(listed.stdout)["files"]
    assert (state["file"], state["state"], state["loaded"]["records"]) == (location, "loaded", 12)


def test_a_corrected_file_replaces_exactly_what_its_earlier_version_brought_in_one_commit(
    shop: Settings, put: Callable[..., str]
) -> None:
    send(shop, 1, 2)
    put("other.csv", rows(row("other")))
    put("shop.csv", rows(row("a"), row("b", day=25), "broken"))
    assert run(shop).published_rows == 3
    held_before = snapshots(shop)
    put("shop.csv", rows(row("a"), row("c"), row("")))
    result = run(shop)
    assert (result.published_rows, result.quarantined_rows, result.withdrawn_rows) == (2, 1, 2)
    assert snapshots(shop) == [*held_before, "overwrite"]
    assert users(shop) == ["a", "c", "other", "user_1", "user_2"]
    assert refused(shop) == [(4, "empty_field")]
    assert_adds_up(shop, 2, 4, 3, 1, 0)

    compact(shop)  # now rows of both files and of Kafka lie in one data file
    assert len(held(shop, USER_ACTIONS, "user_id")) == 5
    put("shop.csv", HEADER)  # and this version has nothing at all
    result = run(shop)
    assert (result.published_rows, result.quarantined_rows, result.withdrawn_rows) == (0, 0, 2)
    assert users(shop) == ["other", "user_1", "user_2"]
    assert refused(shop) == []
    assert_adds_up(shop, 2, 1, 1, 0, 0)

    put("shop.csv", rows(row("a"), row("c"), row("")))  # what it had before: a version of its own all the same
    assert run(shop).published_rows == 2
    assert users(shop) == ["a", "c", "other", "user_1", "user_2"]
    assert_adds_up(shop, 2, 4, 3, 1, 0)
    versions = held(shop, CSV_FILES, "commit_number", "replaced_version", "withdrawn_rows")
    assert [(number, before and before[:7], gone) for number, before, gone in versions] == [
        (1, None, 0),
        (1, None, 0),
        (2, "000001-", 2),
        (3, "000002-", 2),
        (4, "000003-", 0),
    ]


def test_a_file_that_no_header_opens_is_set_aside_whole_and_keeps_no_other_back(
    shop: Settings, put: Callable[..., str]
) -> None:
    put("empty.csv", "")
    put("semicolons.csv", rows(row("a"), row("b")).replace(",", ";"))
    put("utf16.csv", rows(row("a")).encode("utf-16"))
    put("good.csv", b"\xef\xbb\xbf" + rows(row("a"), row("b"), 'x,"y').replace("\n", "\r\n").encode())
    result = run(shop)
    assert {one.file.rpartition("/")[2]: (one.status, one.records) for one in result.files} == {
        "empty.csv": ("refused", 1),
        "semicolons.csv": ("refused", 1),
        "utf16.csv": ("refused", 1),
        "good.csv": ("loaded", 3),
    }
    assert sorted(result.quarantined_by_reason) == ["bad_quoting", "empty_file", "not_utf8", "wrong_header"]
    assert users(shop) == ["a", "b"]
    assert_adds_up(shop, 4, 6, 2, 4, 0)
    put("semicolons.csv", rows(row("c")))
    assert run(shop).published_rows == 1
    assert_adds_up(shop, 4, 6, 3, 3, 0)


def test_a_file_that_changes_while_it_is_read_is_taken_as_it_is_at_last(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("still.csv", rows(row("still")))
    put("grows.csv", rows(row("a")))
    original, runs = csv_drop.spark.run_tasks, list[int]()

    def run_tasks(*arguments: Any) -> Any:
        runs.append(len(arguments[1].files))
        if len(runs) == 1:
            put("grows.csv", rows(row("a"), row("b")))
        return original(*arguments)

    monkeypatch.setattr(csv_drop.spark, "run_tasks", run_tasks)
    result = run(shop)
    assert runs == [2, 1]
    assert (result.published_rows, result.commits, result.unchanged_files) == (3, 2, 0)
    assert users(shop) == ["a", "b", "still"]
    assert_adds_up(shop, 2, 3, 3, 0, 0)


def test_an_ingest_and_a_compaction_may_commit_between_reading_and_publishing(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(shop, 1)
    put("shop.csv", rows(row("a"), row("b")))
    run(shop)
    put("shop.csv", rows(row("c"), "broken"))
    before_publishing(monkeypatch, lambda: compact(shop), lambda: send(shop, 2, 3))
    original = csv_drop._Withdrawal.told
    compactions = [1]

    def told(self: Any, one: Any) -> Any:
        if compactions:
            compactions.pop()
            compact(shop)  # after the data files were looked into
        return original(self, one)

    monkeypatch.setattr(csv_drop._Withdrawal, "told", told)
    assert run(shop).withdrawn_rows == 2
    assert users(shop) == ["c", "user_1", "user_2", "user_3"]
    assert_adds_up(shop, 1, 2, 1, 1, 0)
    send(shop, 4)
    assert_adds_up(shop, 1, 2, 1, 1, 0)


def test_of_two_runs_at_once_one_publishes_and_the_other_finds_nothing_left_to_do(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("shop.csv", rows(row("a"), "broken"))
    first: list[CsvResult] = []

    def other_run() -> None:
        put("shop.csv", rows(row("b"), row("")))
        first.append(run(shop))

    before_publishing(monkeypatch, other_run)
    assert run(shop).commits == 0
    assert first[0].published_rows == 1
    assert users(shop) == ["b"]
    assert refused(shop) == [(3, "empty_field")]  # and nothing of the slower run
    assert_adds_up(shop, 1, 2, 1, 1, 0)


def test_what_a_slower_run_left_in_quarantine_goes_when_another_one_publishes(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("shop.csv", rows(row("a"), "broken"))

    def slower_run() -> None:
        put("shop.csv", rows(row("b"), row(""), row("")))
        before_publishing(monkeypatch, killed)
        with pytest.raises(KilledError):
            run(shop)
        assert refused(shop) == [(3, "empty_field"), (3, "wrong_columns"), (4, "empty_field")]
        found = held(shop, USER_ACTIONS_QUARANTINE, "reason", "ingested_date")
        brought.update(day for reason, day in found if reason == "empty_field")

    brought = set[date]()
    before_publishing(monkeypatch, slower_run)
    assert run(shop).commits == 1
    assert users(shop) == ["a"]
    assert refused(shop) == [(3, "wrong_columns")]
    assert told_dates(shop).keys() == brought
    assert_adds_up(shop, 1, 2, 1, 1, 0)
    assert run(shop).published_rows == 1
    assert users(shop) == ["b"]
    assert_adds_up(shop, 1, 3, 1, 2, 0)


@pytest.mark.faults
def test_two_runs_at_once_that_are_tried_again_bring_each_file_once(shop: Settings, put: Callable[..., str]) -> None:
    numbers = range(6)
    for number in numbers:
        put(f"{number}.csv", rows(row(f"u{number}"), "broken"))

    def as_airflow_does(_: int) -> dict[str, Any]:
        while (done := job(shop, LAKEHOUSE_CSV__FILES_PER_COMMIT="1")).returncode == TransientError.exit_code:
            pass
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(as_airflow_does, range(2)))
    assert users(shop) == [f"u{number}" for number in numbers]
    assert_adds_up(shop, 6, 12, 6, 6, 0)
    assert held(shop, CSV_FILES, "commit_number") == [(number + 1,) for number in numbers]
    assert run(shop).commits == 0


@pytest.mark.faults
def test_what_an_older_rule_refused_is_replayed_once_and_leaves_with_its_file(
    shop: Settings, put: Callable[..., str]
) -> None:
    name = "long name " * 25
    location = put("shop.csv", rows(row("a"), row("b", product=name), row("")))
    result = run_job(shop, PYTHONPATH=os.pathsep.join(filter(None, [str(OLDER_RULES), os.environ.get("PYTHONPATH")])))
    assert (result["published_rows"], result["quarantined_by_reason"]) == (1, {"empty_field": 1, "too_large": 1})
    assert refused(shop) == [(3, "too_large"), (4, "empty_field")]
    planned = quarantine.replay(shop, dry_run=True)
    assert (planned.replayed_rows, planned.refused_rows) == (1, 1)
    done = quarantine.replay(shop, Selection(files=(location,)))
    assert (done.replayed_rows, done.refused_rows, done.refused_by_reason) == (1, 1, {"empty_field": 1})
    assert users(shop) == ["a", "b"]
    assert_adds_up(shop, 1, 3, 2, 2, 1)
    again = quarantine.replay(shop)
    assert (again.replayed_rows, again.replayed_before_rows, again.commits) == (0, 1, 0)
    groups = {group.reason: (group.open_rows, group.replayed_rows) for group in quarantine.groups(shop)}
    assert groups == {"too_large": (0, 1), "empty_field": (1, 0)}
    put("shop.csv", rows(row("c")))
    assert run(shop).withdrawn_rows == 2
    assert users(shop) == ["c"]
    assert_adds_up(shop, 1, 1, 1, 0, 0)


def test_a_file_whose_events_are_archived_is_left_until_they_are_brought_back(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "READERS_SECONDS", 0.0)
    put("old.csv", rows(row("a", day=24), row("b", day=25)))
    run(shop)
    archive.run(shop, before=date(2023, 11, 25))
    assert_adds_up(shop, 1, 2, 2, 0, 0)
    put("old.csv", rows(row("c", day=24)))
    put("new.csv", rows(row("d")))
    with pytest.raises(TerminalError, match="lakehouse archive restore --date 2023-11-24`, then run again"):
        run(shop)
    assert users(shop) == ["b", "d"]
    archive.restore(shop, date(2023, 11, 24))
    assert run(shop).withdrawn_rows == 2
    assert users(shop) == ["c", "d"]
    assert_adds_up(shop, 2, 2, 2, 0, 0)


def through(settings: Settings, store: FaultProxy) -> Settings:
    return settings.model_copy(update={"s3": settings.s3.model_copy(update={"endpoint": store.url})})


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (
            403,
            TerminalError,
            r"poison\.csv can't be read \(.* does not let the pipeline read .*every other file is done",
        ),
        (500, TransientError, r"poison\.csv can't be read \(.* failed on .*every other file is done"),
    ],
)
def test_a_file_that_the_store_does_not_give_keeps_no_other_back(
    shop: Settings, put: Callable[..., str], status: int, error: type[Exception], told: str
) -> None:
    late = DAY - timedelta(days=8)
    put("late.csv", rows(row("l")), late)
    put("poison.csv", rows(row("p"), ""))
    put("good.csv", rows(row("a"), "broken"))
    with in_front_of(shop.s3.endpoint) as store:
        refusal = store.on("answer", "GET", r"/poison\.csv", status=status)
        with pytest.raises(error, match=told) as left:
            run(through(shop, store))
        assert isinstance(left.value, FilesLeftError)
        assert (left.value.result.published_rows, left.value.result.quarantined_rows) == (1, 1)
        assert [(one.drop_date, one.files) for one in left.value.result.waiting] == [(late, 1)]
        assert users(shop) == ["a"]
        assert refused(shop) == [(3, "wrong_columns")]
        assert_adds_up(shop, 1, 2, 1, 1, 0)
        put("later.csv", rows(row("b")))
        with pytest.raises(error, match=told):
            run(through(shop, store))
        assert users(shop) == ["a", "b"]
        refusal.times = 0  # and now it gives the file
        assert run(through(shop, store)).published_rows == 1
    assert users(shop) == ["a", "b", "p"]
    assert_adds_up(shop, 3, 4, 3, 1, 0)


def test_a_store_that_is_away_for_every_file_ends_the_run_with_nothing_brought(
    shop: Settings, put: Callable[..., str]
) -> None:
    put("a.csv", rows(row("a")))
    put("b.csv", rows(row("b")))
    with in_front_of(shop.s3.endpoint) as store:
        store.on("answer", "GET", r"\.csv", status=503)  # the list of the files has no such path
        store.on("answer", "HEAD", "/user-events/", status=503)
        with pytest.raises(TransientError, match="nothing was committed"):
            run(through(shop, store))
    assert_adds_up(shop, 0, 0, 0, 0, 0)
    assert run(shop).published_rows == 2
    assert_adds_up(shop, 2, 2, 2, 0, 0)


def test_what_waits_for_dates_that_a_run_does_not_look_at_is_told_with_what_brings_it(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = DAY - timedelta(days=8)
    put("shop.csv", rows(row("a")))
    put("late.csv", rows(row("l")), late)
    put("later.csv", rows(row("m")), late)
    waiting = (Waiting(late, 2, f"lakehouse csv run --date {late} --days-back 0"),)
    assert csv_drop.run(shop, DAY).waiting == waiting
    read, scans = CsvLake.read, list[tuple[Sequence[str], Sequence[Any]]]()

    def noted(self: Any, table: Any, columns: Sequence[str], where: Sequence[Any]) -> Any:
        scans.append((columns, where))
        return read(self, table, columns, where)

    with monkeypatch.context() as patch:
        patch.setattr(CsvLake, "read", noted)
        assert csv_drop.run(shop, DAY).waiting == waiting  # also when there is nothing to bring
    (of_all_dates,) = [set(columns) for columns, where in scans if not where]
    assert of_all_dates == {"commit_number", "file", "etag", "size_bytes", "status", "rule_version"}

    monkeypatch.setenv("LAKEHOUSE_PREFIX", shop.prefix)
    get_settings.cache_clear()
    shown = CliRunner().invoke(app, ["csv", "run", "--date", str(DAY)])
    assert waiting[0].command in shown.stdout
    asked = CliRunner().invoke(app, ["csv", "run", "--date", str(DAY), "--output", "json"])
    assert json.loads(asked.stdout)["waiting"] == [{"drop_date": str(late), "files": 2, "command": waiting[0].command}]
    done = CliRunner().invoke(app, [*waiting[0].command.split()[1:], "--output", "json"])
    assert json.loads(done.stdout)["published_rows"] == 2
    put("late.csv", rows(row("n")), late)  # corrected too late
    assert [(one.drop_date, one.files) for one in csv_drop.run(shop, DAY).waiting] == [(late, 1)]
    assert users(shop) == ["a", "l", "m"]


def test_lines_between_two_stray_quotes_are_events(shop: Settings, put: Callable[..., str]) -> None:
    opens, closes = row("u1", product='"Sofa'), row("u4", product='TV 24"')
    put("shop.csv", rows(opens, row("u2"), row("u3"), closes, row("u5")))
    assert run(shop).quarantined_by_reason == {"bad_quoting": 2}
    assert users(shop) == ["u2", "u3", "u5"]
    assert refused(shop) == [(2, "bad_quoting"), (5, "bad_quoting")]
    assert_adds_up(shop, 1, 5, 3, 2, 0)
    assert quarantine.replay(shop).refused_by_reason == {"bad_quoting": 2}


def test_what_does_not_add_up_is_found(shop: Settings, put: Callable[..., str]) -> None:
    location = put("shop.csv", rows(row("a"), row("b"), "broken"))
    run(shop)
    table = f"{shop.catalog.name}.{shop.prefix}events.user_actions"
    admin = shop.trino_as("admin")
    trino.query(admin, f"INSERT INTO {table} SELECT * FROM {table} WHERE user_id = 'a'")
    trino.query(admin, f"DELETE FROM {table} WHERE user_id = 'b'")
    gaps = audit(shop).gaps
    assert {("doubled", location, 1), ("lost", location, 1)} <= {(gap.kind, gap.where, gap.rows) for gap in gaps}
    assert gaps[0].detail.endswith("; too often: line 2; lacking: line 3")
    trino.query(admin, f"UPDATE {table} SET file_version = '000001-stale' WHERE user_id = 'a'")
    assert ("doubled", location, 2) in {(gap.kind, gap.where, gap.rows) for gap in audit(shop).gaps}


@pytest.mark.faults
def test_the_daily_numbers_follow_a_correction_that_only_takes_events_away(
    shop: Settings, put: Callable[..., str]
) -> None:
    send(shop, 1)
    put("shop.csv", rows(row("a", day=24), row("b", day=25), row("c", day=25, event_name="purchase")))
    run(shop)
    transform.build(shop, "+fct_events_daily")
    assert_adds_up(shop, 1, 3, 3, 0, 0)
    assert daily(shop) == [("2023-10-23", 1), ("2023-11-24", 1), ("2023-11-25", 2)]
    put("shop.csv", rows(row("a", day=24)))
    run(shop)
    report = audit(shop)
    assert (report.gaps, report.files.records) == ((), 1)  # the build has yet to hear of it
    transform.build(shop, "+fct_events_daily")
    assert daily(shop) == [("2023-10-23", 1), ("2023-11-24", 1)]
    assert_adds_up(shop, 1, 1, 1, 0, 0)
    assert audit(shop).unaggregated_rows == 0


def daily(settings: Settings) -> list[tuple[str, int]]:
    table = f"{settings.catalog.name}.{settings.prefix}marts.fct_events_daily"
    sql = f"SELECT CAST(event_date AS varchar), sum(event_count) FROM {table} GROUP BY 1 ORDER BY 1"
    return [(day, count) for day, count in trino.query(settings.trino_as("transform"), sql)]


def test_a_run_that_was_killed_after_its_commit_is_finished_by_the_next(
    shop: Settings, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("shop.csv", rows(row("a"), "broken"))
    run(shop)
    ((ingested,),) = held(shop, USER_ACTIONS_QUARANTINE, "ingested_date")
    put("shop.csv", rows(row("b"), row("")))
    monkeypatch.setattr(csv_drop._Run, "_delete_from_quarantine", killed)
    with pytest.raises(KilledError):
        run(shop)
    monkeypatch.undo()
    assert users(shop) == ["b"]
    assert refused(shop) == [(3, "empty_field"), (3, "wrong_columns")]
    assert audit(shop).gaps == ()
    assert quarantine.replay(shop, dry_run=True).waiting_rows == 1  # the record of the version before
    later = datetime.now(UTC)
    assert run(shop).commits == 0
    assert refused(shop) == [(3, "empty_field")]
    ((day, told_at),) = told_dates(shop).items()  # builds may have moved on since the commit
    assert (day, told_at > later) == (ingested, True)
    assert_adds_up(shop, 1, 2, 1, 1, 0)


def test_the_clock_of_the_store_is_what_an_event_is_plausible_by(shop: Settings, put: Callable[..., str]) -> None:
    in_a_year = (datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT%H:%M:%SZ")
    put("shop.csv", rows(f"{in_a_year},view,web,user_1,Wireless Mouse,SKU-1001"))
    assert run(shop).quarantined_by_reason == {"implausible_timestamp": 1}
