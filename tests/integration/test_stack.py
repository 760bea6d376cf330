"""A second stack beside any other: its servers are killed in every way, and it repairs itself with its data."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pydantic import SecretStr
from pyiceberg.catalog.rest import RestCatalog

from lakehouse.adapters import kafka, postgres
from lakehouse.settings import Settings, StackSettings, load_settings
from lakehouse.stack import postgres as postgres_server
from lakehouse.stack.launch import NAME_MARK
from tests.stacks import SERVERS, Stack, own_stack

pytestmark = pytest.mark.integration

TOPIC = "kept"
TABLE = ("kept", "rows")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    with own_stack(tmp_path_factory.mktemp("second") / "home") as stack:
        yield stack


@pytest.fixture
def settings(second: Stack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    for name, value in second.environment.items():
        if name.startswith("LAKEHOUSE_"):
            monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture(scope="module")
def running(second: Stack) -> Stack:
    """The stack with a row, an object, a message and a table in it."""
    second.up()
    settings = second.settings()
    with postgres.connect(settings) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (42)")
    kafka.create_topic(settings, TOPIC, 1)
    assert kafka.send(settings, TOPIC, [kafka.Message(b"key", b"value")]) == 1
    lake = catalog(settings)
    lake.create_namespace(TABLE[0])
    lake.create_table(TABLE, pa.schema([("n", pa.int64())])).append(pa.table({"n": [1, 2, 3]}))
    return second


def catalog(settings: Settings) -> RestCatalog:
    secret = settings.catalog.client_secret.get_secret_value()
    return RestCatalog(
        "lake",
        uri=settings.catalog.uri,
        credential=f"{settings.catalog.client_id}:{secret}",
        **{"oauth2-server-uri": f"{settings.catalog.uri}/v1/oauth/tokens", "scope": "catalog"},
    )


def read_everything(settings: Settings) -> tuple[object, object, object]:
    """Row, message, and table, whose rows lie in an object."""
    with postgres.connect(settings) as connection:
        row = connection.execute("SELECT n FROM kept").fetchall()
    messages = [(message.key, message.value) for message in kafka.read(settings, TOPIC)]
    table = catalog(settings).load_table(TABLE).scan().to_arrow()
    return row, messages, table.column("n").to_pylist()


EVERYTHING = ([(42,)], [(b"key", b"value")], [1, 2, 3])


def test_status_before_the_first_start_says_stopped_and_exits_0(second: Stack) -> None:
    rows = json.loads(second.run("status", "--output", "json").stdout)["servers"]
    assert {row["health"] for row in rows} == {"stopped"}
    fields = {"name", "pid", "port", "url", "version", "rss_bytes", "health", "detail"}
    assert [set(row) for row in rows] == [fields] * 14
    assert "nothing was running" in second.run("down").stderr


def test_a_taken_port_is_named_with_its_program_before_anything_starts(second: Stack) -> None:
    port = int(second.environment["LAKEHOUSE_POSTGRES__PORT"])
    with socket.create_server(("127.0.0.1", port)):
        message = second.run("up", "postgres", code=1).stderr
    assert f"port {port}, which postgres needs, is taken by" in message
    assert f"(pid {os.getpid()})" in message
    assert second.processes() == []
    assert not second.home.joinpath("data").exists()


def test_every_server_that_runs_is_listed_with_what_it_is(running: Stack) -> None:
    rows = running.status()
    for name in SERVERS:
        process = psutil.Process(rows[name]["pid"])
        assert process.environ()[NAME_MARK] == name
        assert rows[name]["rss_bytes"] > 10_000_000
        assert rows[name]["version"]
    assert running.home.joinpath("credentials.env").stat().st_mode & 0o777 == 0o600


def test_no_server_listens_beyond_the_loopback(running: Stack) -> None:
    addresses = {
        connection.laddr.ip
        for process in running.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_no_secret_stands_in_a_command_line_or_in_the_configuration(running: Stack) -> None:
    lines = running.home.joinpath("credentials.env").read_text().splitlines()
    secrets = [line.partition("=")[2] for line in lines]
    assert len(secrets) == 15
    files = [path.read_text() for path in running.home.joinpath("conf").rglob("*") if path.is_file()]
    texts = [*files, *(" ".join(process.cmdline()) for process in running.processes())]
    assert [text for text in texts if any(secret in text for secret in secrets)] == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_server_comes_back_with_its_data(running: Stack, settings: Settings, name: str) -> None:
    pid = running.status()[name]["pid"]
    os.kill(pid, signal.SIGKILL)
    running.wait_until_healthy(without_pid=pid)
    assert read_everything(settings) == EVERYTHING


def test_up_repairs_a_stack_whose_supervisor_was_killed(running: Stack, settings: Settings) -> None:
    running.supervisor().kill()
    rows = running.status()
    assert {row["health"] for row in rows.values()} == {"healthy"}
    assert "supervisor is gone" in rows["kafka"]["detail"]
    running.up()
    assert {row["detail"] for row in running.status().values()} == {""}
    assert all(rows[name]["pid"] != row["pid"] for name, row in running.status().items())
    assert read_everything(settings) == EVERYTHING


def test_two_starts_at_once_repair_a_stack_of_which_everything_was_killed(running: Stack, settings: Settings) -> None:
    running.supervisor().kill()
    for process in running.processes():
        with suppress(psutil.NoSuchProcess):  # as one that ends with its parent
            process.kill()
    assert {row["health"] for row in running.status().values()} == {"stopped"}
    starts = [running.start("up", "kafka", "catalog") for _ in range(2)]
    said = [start.communicate(timeout=240)[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], said
    assert sum("waiting for another" in text for text in said) == 1
    assert sum(text.count("kafka                   starting") for text in said) == 1
    assert read_everything(settings) == EVERYTHING


def test_down_ends_what_a_killed_supervisor_left_and_touches_nothing_else(running: Stack) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(1, flush=True); time.sleep(300)"
    stranger = subprocess.Popen(
        [sys.executable, "-c", program], env=running.environment, stdout=subprocess.PIPE, text=True
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "1\n"
    try:
        running.supervisor().kill()
        stopped = json.loads(running.run("down", "--output", "json").stdout)["stopped"]
        assert sorted(stopped) == sorted(SERVERS)
        assert running.processes() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        stranger.stdout.close()


def test_ctrl_c_ends_a_start_and_the_next_down_takes_what_it_began(running: Stack) -> None:
    running.run("down")
    start = running.start("up", "kafka", "catalog")
    assert start.stderr is not None
    with start.stderr as said:
        while "starting" not in said.readline():
            pass
        start.send_signal(signal.SIGINT)
        assert start.wait(timeout=10) == 130
        assert "Traceback" not in said.read()
    running.run("down")
    assert running.processes() == []


def test_a_server_that_cannot_run_is_named_with_the_end_of_its_log(running: Stack, settings: Settings) -> None:
    running.run("down")
    properties = running.home / "data" / "kafka" / "meta.properties"
    whole = properties.read_text()
    properties.write_text(whole.replace("node.id=1", "node.id=7"))
    message = running.run("up", "kafka", code=1).stderr
    assert f"kafka keeps ending; its log {running.home / 'logs' / 'kafka.log'} ends with:" in message
    assert "configured node id" in message
    assert running.status()["kafka"]["health"] == "unhealthy"

    properties.write_text(whole)
    running.up()
    assert read_everything(settings) == EVERYTHING


def test_a_half_made_database_directory_is_made_anew(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, stack=StackSettings(postgres_superuser_password=SecretStr("secret")))
    draft = tmp_path / "data" / "postgres.draft"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("of a killed initdb\n")
    postgres_server.server(settings).prepare()
    assert (tmp_path / "data" / "postgres" / "PG_VERSION").read_text() == "18\n"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["postgres"]
