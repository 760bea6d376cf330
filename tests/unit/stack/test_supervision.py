"""One supervisor per home: found again, replaced, repaired, and ended with all that is its own and nothing else."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from lakehouse.errors import ServerUnavailableError, StackError
from lakehouse.settings import Settings, get_settings
from lakehouse.stack import local
from lakehouse.stack.launch import MARK, NAME_MARK, environment
from lakehouse.stack.server import Server
from lakehouse.stack.supervision import Supervision


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache")


@pytest.fixture
def supervision(settings: Settings) -> Iterator[Supervision]:
    supervision = Supervision(settings)
    yield supervision
    supervision.stop()
    supervision.end_leftovers()


def server(name: str, *after: str, **more: object) -> Server:
    return Server(name=name, profile="core", version="1", port=None, url="", command=("true",), after=after, **more)  # type: ignore[arg-type]


def never_ready() -> None:
    raise ServerUnavailableError("not yet")


def supervisor_pid(settings: Settings) -> int:
    (found,) = [process for process in psutil.process_iter() if is_supervisor_of(process, settings)]
    return found.pid


def is_supervisor_of(process: psutil.Process, settings: Settings) -> bool:
    try:
        return str(settings.home / "conf" / "supervisord.conf") in process.cmdline()
    except psutil.Error:
        return False


Marked = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def marked() -> Iterator[Marked]:
    """Start a program that carries the mark of a stack, and end it with the test."""
    started = list[subprocess.Popen[str]]()

    def start(home: Path, name: str = "", program: str = "pass") -> "subprocess.Popen[str]":
        marks = {MARK: str(home)} | ({NAME_MARK: name} if name else {})
        program = f"import signal, time; {program}; print('ready', flush=True); time.sleep(60)"
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=os.environ | marks, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_without_a_supervisor_no_server_has_a_state(supervision: Supervision) -> None:
    assert supervision.states() == {}
    assert not supervision.is_running()
    supervision.stop_server("kafka")
    supervision.stop()


def test_a_supervisor_that_knows_the_servers_stays(supervision: Supervision, settings: Settings) -> None:
    supervision.start([server("kafka")])
    pid = supervisor_pid(settings)
    assert supervision.states() == {"kafka": ("STOPPED", None)}
    supervision.start([server("kafka")])
    assert supervisor_pid(settings) == pid
    supervision.start([server("kafka"), server("minio")])
    assert set(supervision.states()) == {"kafka", "minio"}
    assert not psutil.pid_exists(pid)


def test_a_killed_supervisor_is_replaced_though_its_socket_and_pid_file_are_left(
    supervision: Supervision, settings: Settings
) -> None:
    supervision.start([server("kafka")])
    killed = psutil.Process(supervisor_pid(settings))
    killed.kill()
    killed.wait(10)
    assert (supervision._run / "supervisor.sock").exists()
    assert supervision.states() == {}
    supervision.start([server("kafka")])
    assert supervision.is_running()


def test_files_that_only_look_like_a_running_supervisor_are_no_obstacle(supervision: Supervision) -> None:
    supervision._run.mkdir(mode=0o700)
    (supervision._run / "supervisord.pid").write_text(f"{os.getpid()}\n")  # a number that another process has now
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(supervision._run / "supervisor.sock"))
    supervision.start([server("kafka")])
    assert supervision.is_running()


def test_a_supervisor_whose_configuration_was_removed_is_replaced(supervision: Supervision, settings: Settings) -> None:
    supervision.start([server("kafka")])
    (settings.home / "conf" / "supervisord.conf").unlink()
    supervision.start([server("kafka")])
    assert supervision.states() == {"kafka": ("STOPPED", None)}


def test_the_supervisor_is_found_under_another_temporary_directory(
    supervision: Supervision, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    supervision.start([server("kafka")])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert Supervision(settings).is_running()


def test_two_homes_have_two_supervisors_however_deep_and_odd_their_paths(
    supervision: Supervision, tmp_path: Path
) -> None:
    other = Supervision(Settings(home=tmp_path / ("deep" * 20) / ("er" * 20) / "100 % of it", cache=tmp_path))
    supervision.start([server("kafka")])
    assert not other.is_running()
    other.start([server("minio")])
    supervision.stop()
    assert other.states() == {"minio": ("STOPPED", None)}
    other.stop()
    assert other.end_leftovers() == []
    assert not other._run.exists()


def test_leftovers_are_ended_even_when_they_ignore_sigterm(
    supervision: Supervision, settings: Settings, marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.stack.supervision._SECONDS_TO_DIE", 1)
    gentle = marked(settings.home, "kafka")
    stubborn = marked(settings.home, "minio", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert supervision.end_leftovers() == ["kafka", "minio"]
    assert [psutil.pid_exists(process.pid) for process in (gentle, stubborn)] == [False, False]


def test_processes_of_another_home_and_of_nobody_are_left_alone(
    supervision: Supervision, settings: Settings, marked: Marked, tmp_path: Path
) -> None:
    theirs = [marked(tmp_path / "other", "kafka"), marked(Path(f"{settings.home}2"), "kafka"), marked(Path())]
    assert supervision.orphans() == {}
    assert supervision.end_leftovers() == []
    assert [process.poll() for process in theirs] == [None] * 3


def test_a_command_never_ends_the_process_it_runs_in(
    supervision: Supervision, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "from lakehouse.settings import get_settings\n"
        "from lakehouse.stack.supervision import Supervision\n"
        "assert Supervision(get_settings()).end_leftovers() == []"
    )
    marks = {MARK: str(settings.home), NAME_MARK: "airflow-scheduler", "LAKEHOUSE_HOME": str(settings.home)}
    subprocess.run([sys.executable, "-c", program], env=os.environ | marks, check=True)


def test_status_shows_servers_that_lost_their_supervisor(
    settings: Settings, marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(settings.home))
    monkeypatch.setenv("LAKEHOUSE_POSTGRES__PORT", "1")
    get_settings.cache_clear()
    process = marked(settings.home, "postgres")
    rows = {row.name: row for row in local.status()}
    assert rows["postgres"].pid == process.pid
    assert rows["postgres"].health == "unhealthy"
    assert rows["postgres"].rss_bytes > 1_000_000
    assert {row.health for name, row in rows.items() if name != "postgres"} == {"stopped"}


def test_a_server_sees_its_own_variables_and_nothing_of_the_shell(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_STACK__S3_ROOT_PASSWORD", "of the shell")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-of-the-shell")
    seen = environment(settings, server("kafka", environment={"OWN": "1"}))
    assert {name: seen[name] for name in ("OWN", MARK, NAME_MARK)} == {
        "OWN": "1",
        MARK: str(settings.home),
        NAME_MARK: "kafka",
    }
    assert set(seen) <= {"PATH", "LANG", "HOME", "TZ", "SSL_CERT_FILE", "LD_LIBRARY_PATH", "OWN", MARK, NAME_MARK}


def test_asking_for_some_servers_brings_what_they_need(settings: Settings) -> None:
    assert list(local._wanted(settings, "core", ["catalog"])) == ["postgres", "minio", "catalog"]
    assert list(local._wanted(settings, "core", [])) == ["postgres", "minio", "kafka", "catalog", "trino"]
    with pytest.raises(StackError, match="profile core has no server 'airflow-scheduler'; it has: postgres, minio"):
        local._wanted(settings, "core", ["airflow-scheduler"])


def test_the_first_error_stops_the_others_and_is_raised_when_they_have_ended() -> None:
    abandoned = threading.Event()
    ended = list[str]()

    def fails() -> None:
        raise StackError("first")

    def waits() -> None:
        assert abandoned.wait(10)
        ended.append("waits")
        raise StackError("later")

    with pytest.raises(StackError, match="first"):
        local._side_by_side([waits, fails], abandoned)
    assert ended == ["waits"]


def test_ctrl_c_does_not_wait_for_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned, released, awaited = threading.Event(), threading.Event(), threading.Event()

    class Outcomes(SimpleQueue[BaseException | None]):
        def get(self, block: bool = True, timeout: float | None = None) -> BaseException | None:
            awaited.set()
            return super().get(block, timeout)

    def interrupt() -> None:
        assert awaited.wait(10)
        time.sleep(0.3)  # so that the call does wait by now, or is about to
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(60)

    monkeypatch.setattr(local, "SimpleQueue", Outcomes)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        local._side_by_side([interrupt], abandoned)
    assert time.monotonic() - began < 10
    assert abandoned.is_set()
    released.set()


def test_a_server_whose_wait_was_abandoned_is_not_taken_for_healthy(
    supervision: Supervision, settings: Settings
) -> None:
    supervision.start([server("kafka")])
    abandoned = threading.Event()
    abandoned.set()
    assert not local._becomes_healthy(server("kafka"), supervision, abandoned)
    settled = list[str]()
    waited_for = server("kafka", probe=never_ready, settle=lambda: settled.append("kafka"), start_seconds=1)
    with pytest.raises(StackError, match=r"kafka was not healthy within 1 s|kafka keeps ending"):
        local._start_in_order({"kafka": waited_for}, supervision, lambda *_: None)
    assert settled == []


def test_a_supervisor_that_ends_while_a_server_starts_is_told_at_once(supervision: Supervision) -> None:
    waited_for = server("kafka", probe=never_ready, start_seconds=60)
    with pytest.raises(StackError, match="the supervisor ended while kafka was starting: run `lakehouse stack up`"):
        local._becomes_healthy(waited_for, supervision, threading.Event())


def test_a_home_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(home=tmp_path / "file" / "home")
    with pytest.raises(StackError, match=r"can't write .*home \(Not a directory\): correct LAKEHOUSE_HOME"):  # noqa: SIM117
        with local._only_one(settings, lambda *_: None):
            pass
