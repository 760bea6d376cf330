"""Installing from a Maven repository on this machine: what is fetched, kept, refused, and how it breaks."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.errors import ServerUnavailableError, SettingsError, StackError
from lakehouse.settings import Settings
from lakehouse.stack import artifacts, install, maven
from lakehouse.stack.artifacts import JAR_PARTS, LOCKS
from lakehouse.stack.maven import Jar, read_lock
from tests.stacks import has_ended

ONE, OTHER = b"one" * 1000, b"other" * 1000
LOCK = f"""\
# made for a test
{hashlib.sha256(ONE).hexdigest()} {len(ONE)} org.example:one:1.0:jar
{hashlib.sha256(OTHER).hexdigest()} {len(OTHER)} org.example.deep:other:2.1:jar:shaded
"""
PATHS = {"/org/example/one/1.0/one-1.0.jar": ONE, "/org/example/deep/other/2.1/other-2.1-shaded.jar": OTHER}


class Registry(ThreadingHTTPServer):
    """A Maven repository, or a proxy, that remembers what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files = dict(PATHS)
        self.fetched: list[str] = []
        self.proxied: list[tuple[str, str]] = []
        self.held_back: threading.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Answers(BaseHTTPRequestHandler):
    server: Registry

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path in PATHS:
            self.server.fetched.append(self.path)
        self._answer(body=True)

    def do_CONNECT(self) -> None:
        self.server.proxied.append((self.path, self.headers.get("Proxy-Authorization", "")))
        self.send_response(407)
        self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, body: bool) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            if self.server.held_back is not None:
                self.wfile.write(content[:10])
                self.wfile.flush()
                self.server.held_back.wait(60)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        if server.held_back is not None:
            server.held_back.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _only_a_small_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    locks = tmp_path / "requirements"
    locks.mkdir()
    (locks / "kafka.lock").write_text(LOCK)
    (locks / "catalog.lock").write_text("")
    monkeypatch.setattr(artifacts, "LOCKS", locks)
    monkeypatch.setattr(artifacts, "JAR_PARTS", ("kafka",))
    monkeypatch.setattr(maven, "_FETCH_ATTEMPTS", 1)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # starts in half the time
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def with_everything_else_installed(settings: Settings) -> Settings:
    artifacts.go_directory(settings, "minio").mkdir(parents=True)
    artifacts.catalog_classes(settings).mkdir(parents=True)
    return settings


@pytest.fixture
def settings(tmp_path: Path, registry: Registry) -> Settings:
    return with_everything_else_installed(
        Settings(home=tmp_path / "home", cache=tmp_path / "cache", maven_repository=registry.url)
    )


def fetched_files(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifacts.part_directory(settings, "kafka").iterdir()}


WHOLE = {"one-1.0.jar": ONE, "other-2.1-shaded.jar": OTHER}


def test_an_install_brings_exactly_the_locked_files(settings: Settings, registry: Registry) -> None:
    seen = list[tuple[str, int, int | None, str]]()
    install.install(settings, "full", lambda *step: seen.append(step))
    assert fetched_files(settings) == WHOLE
    assert sorted(registry.fetched) == sorted(PATHS)
    assert seen[-1] == ("kafka", 8000, 8000, "bytes")
    assert install.missing(settings, "full") == {}
    assert not list(settings.cache.rglob("java.flags"))


def test_only_the_profile_that_observes_needs_what_observes(settings: Settings) -> None:
    install.install(settings, "full")
    assert install.missing(settings, "full") == {}
    assert install.missing(settings, "observe") == {"prometheus": 0, "alertmanager": 0}


def test_a_second_install_asks_the_registry_for_nothing(settings: Settings, registry: Registry) -> None:
    install.install(settings, "full")
    registry.fetched.clear()
    install.install(settings, "full")
    assert registry.fetched == []


def test_an_interrupted_install_goes_on_with_the_files_it_lacks(settings: Settings, registry: Registry) -> None:
    del registry.files["/org/example/one/1.0/one-1.0.jar"]
    with pytest.raises(
        ServerUnavailableError, match=r"could not fetch 1 of 2 files of kafka .*not found: org\.example#one;1\.0"
    ):
        install.install(settings, "full")
    assert not artifacts.part_directory(settings, "kafka").exists()
    registry.files = dict(PATHS)
    registry.fetched.clear()
    install.install(settings, "full")
    assert registry.fetched == ["/org/example/one/1.0/one-1.0.jar"]
    assert fetched_files(settings) == WHOLE


def test_a_damaged_file_of_an_interrupted_install_is_fetched_again(settings: Settings, registry: Registry) -> None:
    del registry.files["/org/example/deep/other/2.1/other-2.1-shaded.jar"]
    with pytest.raises(ServerUnavailableError):
        install.install(settings, "full")
    draft = artifacts.part_directory(settings, "kafka").with_suffix(".draft")
    assert (draft / "one-1.0.jar").read_bytes() == ONE
    (draft / "one-1.0.jar").write_bytes(ONE[::-1])
    (draft / "other-2.1-shaded.jar").write_bytes(OTHER[:-1])
    registry.files = dict(PATHS)
    install.install(settings, "full")
    assert fetched_files(settings) == WHOLE


def test_a_file_that_is_not_the_locked_one_is_refused(settings: Settings, registry: Registry) -> None:
    registry.files["/org/example/one/1.0/one-1.0.jar"] = ONE[::-1]
    with pytest.raises(StackError, match=r"one-1\.0\.jar .* is not the file of kafka\.lock \(sha256 differs\)"):
        install.install(settings, "full")
    assert not artifacts.part_directory(settings, "kafka").exists()


def test_an_unreachable_registry_is_reported_with_the_reason(settings: Settings, registry: Registry) -> None:
    registry.server_close()
    with pytest.raises(ServerUnavailableError, match=r"Connection refused.*run again; what was fetched is kept"):
        install.install(settings, "full")


def test_a_proxy_of_the_environment_is_used_with_its_login(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40s%22s%5C@127.0.0.1:{registry.server_port}")
    behind = settings.model_copy(update={"maven_repository": "https://maven.invalid/"})
    with pytest.raises(ServerUnavailableError) as caught:
        install.install(behind, "full")
    assert {address for address, _ in registry.proxied} == {"maven.invalid:443"}
    login = b64encode(b'me:p@s"s\\').decode()
    assert f"Basic {login}" in {given for _, given in registry.proxied}
    assert "p@s" not in str(caught.value)
    assert not [path for path in settings.cache.rglob("*") if path.is_file() and b"p@s" in path.read_bytes()]


@pytest.mark.parametrize("excepted", ["*", "elsewhere.example, 127.0.0.1"])
def test_a_registry_that_no_proxy_names_is_reached_directly(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    monkeypatch.setenv("http_proxy", "127.0.0.1:1")
    monkeypatch.setenv("no_proxy", excepted)
    install.install(settings, "full")
    assert fetched_files(settings) == WHOLE


def test_a_missing_file_of_authorities_is_named(settings: Settings, tmp_path: Path) -> None:
    wrong = settings.model_copy(update={"ca_bundle": tmp_path / "gone.pem"})
    with pytest.raises(SettingsError, match=r"gone\.pem.*No such file or directory.*correct or unset it"):
        install.install(wrong, "full")


def test_a_file_of_authorities_without_any_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    wrong = settings.model_copy(update={"ca_bundle": tmp_path / "empty.pem"})
    with pytest.raises(SettingsError, match=r"empty\.pem.*no certificates in PEM format"):
        install.install(wrong, "full")


def test_a_java_that_is_too_old_is_refused_before_anything_is_fetched(
    settings: Settings, registry: Registry, tmp_path: Path
) -> None:
    program = tmp_path / "old" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'openjdk version \"21.0.9\" 2025-10-21' >&2\n")
    program.chmod(0o755)
    with pytest.raises(StackError, match=r"is Java 21\.0\.9, too old: set LAKEHOUSE_JAVA_HOME to a Java 24 or newer"):
        install.install(settings.model_copy(update={"java_home": tmp_path / "old"}), "full")
    with pytest.raises(StackError, match=r"can't run .*nowhere/bin/java \(No such file or directory\)"):
        install.install(settings.model_copy(update={"java_home": tmp_path / "nowhere"}), "full")
    assert registry.fetched == []


def test_a_cache_on_a_full_disk_is_refused_before_anything_is_fetched(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifacts.LOCKS / "kafka.lock").write_text(f"{'0' * 64} {10**18} org.example:huge:1.0:jar\n")
    with pytest.raises(StackError, match=r"the servers need 1000000000\.0 GB: free some space or set LAKEHOUSE_CACHE"):
        install.install(settings, "full")
    assert registry.fetched == []


INSTALL = """
    import sys, pathlib
    from lakehouse.settings import get_settings
    from lakehouse.stack import artifacts, install
    artifacts.LOCKS, artifacts.JAR_PARTS = pathlib.Path({locks!r}), ("kafka",)
    try:
        install.install(get_settings(), "full")
    except KeyboardInterrupt:
        sys.exit(130)
"""


def install_elsewhere(settings: Settings) -> subprocess.Popen[str]:
    environment = os.environ | {
        "LAKEHOUSE_HOME": str(settings.home),
        "LAKEHOUSE_CACHE": str(settings.cache),
        "LAKEHOUSE_MAVEN_REPOSITORY": settings.maven_repository,
    }
    program = textwrap.dedent(INSTALL.format(locks=str(artifacts.LOCKS)))
    return subprocess.Popen([sys.executable, "-c", program], env=environment, text=True)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_an_install_with_its_children_and_the_next_one_completes_it(
    settings: Settings, registry: Registry
) -> None:
    registry.held_back = threading.Event()
    other = install_elsewhere(settings)
    wait_for(lambda: registry.fetched)
    children = psutil.Process(other.pid).children(recursive=True)
    assert [child.name() for child in children] == ["java"]
    other.send_signal(signal.SIGINT)
    assert other.wait(timeout=10) == 130
    wait_for(lambda: all(has_ended(child) for child in children))

    registry.held_back.set()
    registry.held_back = None
    install.install(settings, "full")
    assert fetched_files(settings) == WHOLE


def test_what_a_killed_install_left_running_keeps_the_next_one_waiting(settings: Settings, registry: Registry) -> None:
    registry.held_back = threading.Event()
    other = install_elsewhere(settings)
    wait_for(lambda: registry.fetched)
    (child,) = psutil.Process(other.pid).children()
    other.kill()
    other.wait()
    assert child.is_running()
    with (settings.cache / "locks" / "kafka").open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    registry.held_back.set()
    registry.held_back = None
    install.install(settings, "full")
    assert has_ended(child)
    assert fetched_files(settings) == WHOLE


def test_ctrl_c_ends_an_install_that_waits_for_another_clone(settings: Settings, registry: Registry) -> None:
    (settings.cache / "locks").mkdir()
    with (settings.cache / "locks" / "kafka").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = install_elsewhere(settings)
        wait_for(lambda: lock.name in [file.path for file in psutil.Process(other.pid).open_files()])
        other.send_signal(signal.SIGINT)
        assert other.wait(timeout=10) == 130
    assert registry.fetched == []


@pytest.mark.parametrize("part", JAR_PARTS)
def test_every_lock_file_reads_back_as_it_is_written(part: str) -> None:
    text = (LOCKS / f"{part}.lock").read_text()
    jars = read_lock(text)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [jar.line() for jar in jars]
    assert all(len(jar.sha256) == 64 for jar in jars)
    names = [jar.file_name for jar in jars]
    assert len(names) == len(set(names))


words = st.from_regex(r"\A[A-Za-z0-9._-]{1,20}\Z")


@given(words, words, words, st.sampled_from(["jar", "tar.gz"]), words | st.just(""), st.integers(0, 10**12))
def test_any_jar_survives_a_lock_file(
    group: str, name: str, version: str, kind: str, classifier: str, size: int
) -> None:
    jar = Jar(group, name, version, kind, classifier, "ab" * 32, size)
    assert read_lock(f"# comment\n{jar.line()}\n") == [jar]


def test_a_part_moves_to_a_new_place_when_its_lock_changes(settings: Settings) -> None:
    before = artifacts.part_directory(settings, "kafka")
    (artifacts.LOCKS / "kafka.lock").write_text(LOCK + "\n")
    assert artifacts.part_directory(settings, "kafka") != before
