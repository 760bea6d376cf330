"""Obstacles on a machine are found before any harm, and each is named with its fix."""

import dataclasses
import os
import socket
import sys
from pathlib import Path

import pytest

from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack import checks
from lakehouse.stack.server import Server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "deep" / "home", cache=tmp_path / "cache", java_home=None)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def server(port: int | None, *more_ports: int, name: str = "kafka", memory_bytes: int = 0) -> Server:
    return Server(
        name=name,
        profile="core",
        version="1",
        port=port,
        more_ports=more_ports,
        url="",
        command=("true",),
        memory_bytes=memory_bytes,
    )


def test_a_machine_without_obstacles_may_start(settings: Settings, free_port: int) -> None:
    checks.before_start(settings, [server(free_port, memory_bytes=1)])
    assert not settings.home.exists()


@pytest.mark.parametrize("second", [False, True])
def test_a_taken_port_is_named_with_the_program_that_has_it(settings: Settings, free_port: int, second: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = server(free_port, port) if second else server(port)
        with pytest.raises(StackError, match=rf"port {port}, which kafka needs, is taken by .*\(pid {os.getpid()}\)"):
            checks.before_start(settings, [wanted])


def test_a_port_of_which_only_closed_connections_are_left_is_free(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # this side waits (TIME_WAIT) after the other has closed too
    checks.before_start(settings, [server(port)])


def test_two_servers_on_one_port_are_named(settings: Settings, free_port: int) -> None:
    with pytest.raises(StackError, match=f"minio and trino both need port {free_port}"):
        checks.before_start(settings, [server(None, free_port, name="minio"), server(free_port, name="trino")])


def test_too_little_memory_is_refused(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"these servers need 1000000000\.0 GB: close other programs"):
        checks.before_start(settings, [server(None, memory_bytes=10**18)])


def test_too_little_disk_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_STATE_BYTES", 10**18)
    with pytest.raises(StackError, match="free some space, or set LAKEHOUSE_HOME"):
        checks.before_start(settings, [])


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
def test_a_python_that_does_not_fit_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(StackError, match=r"make the environment with 3\.11, 3\.12 or 3\.13"):
        checks.before_start(settings, [])


def test_an_old_java_is_refused(settings: Settings, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    with pytest.raises(StackError, match=r"is Java 17\.0\.15, too old"):
        checks.before_start(settings.model_copy(update={"java_home": tmp_path}), [])


def test_root_without_setpriv_is_told_so(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: None)
    with pytest.raises(StackError, match=r"`setpriv` \(package util-linux\) is missing"):
        checks.before_start(settings, [])


def findings(settings: Settings) -> dict[str, checks.Finding]:
    return {finding.check: finding for finding in checks.examine(settings, "full")}


def test_doctor_goes_on_after_a_failing_check_and_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    found = findings(settings.model_copy(update={"ca_bundle": tmp_path / "gone.pem"}))
    assert len(found) == 11
    assert found["python"].ok
    assert found["java"].detail.startswith("25.")
    assert not found["servers installed"].ok
    assert "run `lakehouse stack install --profile full`" in found["servers installed"].detail
    assert not found["certificates"].ok
    assert "gone.pem" in found["certificates"].detail
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_secrets_that_others_can_read(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    settings.credentials_file.touch(mode=0o600)
    assert findings(settings)["credentials"].ok
    settings.credentials_file.chmod(0o640)
    assert findings(settings)["credentials"].detail == (
        f"others can read {settings.credentials_file}: `chmod 600 {settings.credentials_file}`"
    )


def test_a_finding_has_the_fields_that_programs_read() -> None:
    assert dataclasses.asdict(checks.Finding("disk", ok=True, detail="75 GB free")) == {
        "check": "disk",
        "ok": True,
        "detail": "75 GB free",
    }
