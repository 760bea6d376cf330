"""Trino, the SQL engine, on one machine.

The configuration in `trino/etc` holds no secret and nothing that differs between places:
Trino reads those from its environment (`${ENV:NAME}`), here and in compose alike.
Two files are made for this machine alone: the certificate and the hashes of the passwords.
"""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple, get_args

from lakehouse.adapters import trino
from lakehouse.errors import ServerUnavailableError, StackError
from lakehouse.settings import PROJECT_ROOT, Settings, TrinoRole
from lakehouse.stack import artifacts, certificates, password_file
from lakehouse.stack.server import Server

CONFIGURATION = PROJECT_ROOT / "trino" / "etc"
PLUGINS = frozenset(artifacts.TRINO_PLUGINS)
CATALOGS = frozenset({"app", "lake"})


def server(settings: Settings) -> Server:
    """Describe the Trino server: one node that coordinates and works."""
    data = settings.home / "data" / "trino"
    return Server(
        name="trino",
        profile="core",
        version=artifacts.TRINO_VERSION,
        port=settings.trino.port,
        url=settings.trino_as("admin").url,
        command=_command(settings),
        environment=_environment(settings, data),
        directory=data,
        after=("catalog", "kafka", "minio", "postgres"),  # Kafka takes its history, but only if it is there first
        prepare=lambda: _prepare(settings, data),
        probe=lambda: _probe(settings),
        settle=lambda: _know_users(settings),
        start_seconds=180,
        stop_seconds=30,
        memory_bytes=1_500_000_000,
    )


def _command(settings: Settings) -> tuple[str, ...]:
    return (
        str(artifacts.java(settings)),
        *_lines(CONFIGURATION / "jvm.config"),
        *(f"-D{line}" for line in _lines(CONFIGURATION / "node.properties")),
        f"-Dconfig={CONFIGURATION / 'config.properties'}",
        f"-Dlog.levels-file={CONFIGURATION / 'log.properties'}",
        f"-Djava.io.tmpdir={settings.home / 'data' / 'trino' / 'tmp'}",
        "-cp",
        f"{artifacts.trino_home(settings) / 'lib'}/*",
        "io.trino.server.TrinoServer",
    )


def _prepare(settings: Settings, data: Path) -> None:
    # A killed server leaves the native libraries that it unpacked among its temporary files.
    shutil.rmtree(data / "tmp", ignore_errors=True)
    (data / "tmp").mkdir(parents=True)
    etc = data / "etc"  # where Trino looks for the resource groups, and nowhere else
    etc.unlink(missing_ok=True)
    etc.symlink_to(CONFIGURATION)
    # Before a start alone: a server that runs goes on trusting the authority that it started with.
    certificates.ensure(settings.own_ca_file.parent, datetime.now(UTC))
    _know_users(settings)


def _know_users(settings: Settings) -> None:
    """Have the file with the users' hashes up to date; a server that runs takes it up within seconds."""
    roles: tuple[TrinoRole, ...] = get_args(TrinoRole)
    logins = {role: settings.trino_as(role).password for role in roles}
    password_file.ensure(
        _password_file(settings), {role: password.get_secret_value() for role, password in logins.items() if password}
    )


def _password_file(settings: Settings) -> Path:
    return settings.home / "conf" / "trino" / "passwords"


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _environment(settings: Settings, data: Path) -> dict[str, str]:
    address = "127.0.0.1" if settings.trino.host == "localhost" else settings.trino.host  # nodes go by addresses
    return {
        "TRINO_ADDRESS": address,
        "TRINO_BIND_ADDRESS": address,
        "TRINO_PORT": str(settings.trino.port),
        "TRINO_KEYSTORE": str(settings.own_ca_file.with_name("server.pem")),
        "TRINO_TRUSTSTORE": str(settings.own_ca_file),
        "TRINO_PASSWORD_FILE": str(_password_file(settings)),
        "TRINO_QUERIES_TOPIC": settings.kafka.trino_queries_topic,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "TRINO_SHARED_SECRET": settings.stack.trino_shared_secret.get_secret_value(),
        "TRINO_CONFIG_DIRECTORY": str(CONFIGURATION),
        "TRINO_DATA_DIRECTORY": str(data),
        "TRINO_PLUGIN_DIRECTORY": str(artifacts.trino_home(settings) / "plugin"),
        "CATALOG_URI": settings.catalog.uri,
        "CATALOG_CLIENT_ID": settings.catalog.client_id,
        "CATALOG_CLIENT_SECRET": settings.catalog.client_secret.get_secret_value(),
        "S3_ENDPOINT": settings.s3.endpoint,
        "S3_REGION": settings.s3.region,
        "S3_ACCESS_KEY": settings.s3.access_key,
        "S3_SECRET_KEY": settings.s3.secret_key.get_secret_value(),
        "POSTGRES_HOST": settings.postgres.host,
        "POSTGRES_PORT": str(settings.postgres.port),
        "POSTGRES_DATABASE": settings.postgres.database,
        "POSTGRES_USER": settings.postgres.user,
        "POSTGRES_PASSWORD": settings.postgres.password.get_secret_value(),
    }


def _probe(settings: Settings) -> None:
    """Ask both catalogs for their schemas: the server says it has started before its catalogs can answer."""
    login = settings.trino_as("admin")
    present = {name for (name,) in trino.query(login, "SHOW CATALOGS", attempts=1)}
    if missing := CATALOGS - present:
        raise ServerUnavailableError(
            f"Trino has no catalog {', '.join(sorted(missing))}; see `lakehouse stack logs trino`"
        )
    for catalog in sorted(CATALOGS):
        trino.query(login, f"SHOW SCHEMAS FROM {catalog}", attempts=1)


class ExtractionPlan(NamedTuple):
    """What to take out of the server's tarball, paths relative to its top folder.

    Attributes:
        files: member name of a regular file → the path its content is written to.
        links: path → the path of the written file it is another name of.
    """

    files: dict[str, str]
    links: dict[str, str]


def is_kept(path: str) -> bool:
    """Say whether the server needs the file at `path`, relative to the tarball's top folder."""
    match path.split("/"):
        case ["lib", _]:
            return True
        case ["plugin", plugin, _]:
            return plugin in PLUGINS
        case ["NOTICE"]:
            return True
        case _:
            return False


def plan_extraction(members: Iterable[tuple[str, str | None]]) -> ExtractionPlan:
    """Plan which members to write, from `(name, name of the member it links to)` in the tarball's order.

    A jar that several plugins share lies once in the tarball, in the first folder that needs it;
    the other folders hold hard links to it.
    When that first folder is not kept, the content goes to the first kept link instead.
    """
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    for name, target in members:
        path = name.partition("/")[2]
        if not is_kept(path):
            continue
        content = target or name
        if content in files:
            links[path] = files[content]
        else:
            files[content] = path
    return ExtractionPlan(files, links)


def extract(tarball: Path, destination: Path, progress: Callable[[int], None] | None = None) -> None:
    """Unpack the server and the plugins in `PLUGINS` from `tarball` into the new directory `destination`.

    The tarball is read twice, because what to write is known only at its end.
    `destination` appears complete or not at all.

    Args:
        tarball: `io.trino:trino-server:tar.gz`.
        destination: must not exist yet.
        progress: called with the bytes done so far, from 0 to the size of the tarball.

    Raises:
        StackError: the tarball is not one of a Trino server.
    """

    def members(reading: int) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        size = tarball.stat().st_size
        with tarball.open("rb") as compressed, tarfile.open(fileobj=compressed, mode="r:gz") as archive:
            for member in archive:
                if progress is not None:
                    progress((reading * size + compressed.tell()) // 2)
                yield archive, member

    draft = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        plan = plan_extraction((m.name, m.linkname if m.islnk() else None) for _, m in members(0))
        found = {path.split("/")[1] for path in (*plan.files.values(), *plan.links) if path.startswith("plugin/")}
        if missing := PLUGINS - found:
            raise StackError(f"{tarball.name} is not the Trino server this version expects: no plugin {min(missing)}")
        for archive, member in members(1):
            path = plan.files.get(member.name)
            source = archive.extractfile(member) if path else None
            if path and source:
                _write(source, draft / path)
        for path, target in plan.links.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).hardlink_to(draft / target)
        draft.rename(destination)
        if progress is not None:
            progress(tarball.stat().st_size)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise StackError(f"{tarball.name} is damaged ({error}): delete it and install again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(source: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
