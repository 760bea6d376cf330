"""Files of a Maven repository: locked by sha256, fetched by Ivy, which the wheel pyspark ships.

Ivy knows the repository's address itself. It gets what every other client here gets from the environment: the proxy
and the certificate authorities.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import threading
import urllib.request
import warnings
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import quoteattr

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from lakehouse.errors import ServerUnavailableError, SettingsError, StackError, TerminalError
from lakehouse.settings import Settings
from lakehouse.stack import artifacts
from lakehouse.stack.children import Children, Progress

_TRUST_PASSWORD = b"changeit"  # a Java trust store must have one; it holds public certificates only
_FETCH_ATTEMPTS = 3
_WATCH_SECONDS = 0.5


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


def fetch(settings: Settings, part: str, draft: Path, report: Progress, children: Children, lock: int) -> None:
    """Fill `draft` with the locked jars of `part`; files already there and whole are not fetched again."""
    jars = read_lock(artifacts.lock_text(part))
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
        while not done.wait(_WATCH_SECONDS):
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
    children: Children,
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
    command: list[str | Path] = [artifacts.java(settings), "-Xmx256m", f"@{flags}", "-cp", ivy_jar]
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
    store = settings.cache / "java" / f"trust-{artifacts.digest(content)}.p12"
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


def lock(settings: Settings) -> None:
    """Resolve `requirements/java/*.ivy.xml` anew and write the lock files beside them (`make lock`)."""
    for part in (*artifacts.JAR_PARTS, *artifacts.BENCH_PARTS):
        work = settings.cache / "lock" / part
        shutil.rmtree(work, ignore_errors=True)
        files = work / "files"
        files.mkdir(parents=True)
        module = (artifacts.LOCKS / f"{part}.ivy.xml").read_text()
        layout = "[organisation]/[module]/[revision]/"
        lines = _run_ivy(settings, work, files, module, Children(), usepoms=True, layout=layout)
        found = sorted(path for path in files.glob("*/*/*/*") if ".ivy" not in path.parts and path.is_file())
        if not found or any("UNRESOLVED" in line or "FAILED DOWNLOADS" in line for line in lines):
            raise TerminalError(f"Ivy could not resolve {part}.ivy.xml; it printed: {work / 'ivy.log'}")
        jars = [_locked(path) for path in found]
        header = f"# made by `make lock` from {part}.ivy.xml: sha256 size group:name:version:type[:classifier]\n"
        (artifacts.LOCKS / f"{part}.lock").write_text(header + "".join(f"{jar.line()}\n" for jar in jars))
        shutil.rmtree(work)


def _locked(path: Path) -> Jar:
    group, name, version = path.parent.parts[-3:]
    rest = path.name.removeprefix(f"{name}-{version}")
    stem, _, kind = rest.partition(".")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Jar(group, name, version, kind, stem.removeprefix("-"), sha256, path.stat().st_size)
