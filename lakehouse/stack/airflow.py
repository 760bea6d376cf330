"""Airflow on one machine: four processes on PostgreSQL, tasks as processes of the scheduler.

Every setting is an environment variable, so no rendered file holds a secret.
The log servers of scheduler and triggerer are off, because they bind to every address;
all four processes share one directory of logs, and the API server reads it there.
"""

import functools
import hashlib
import hmac
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.postgres import connect
from lakehouse.errors import StackError
from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack.own_programs import settings_environment
from lakehouse.stack.server import Server

DAGS = PROJECT_ROOT / "dags"
DATABASE = "airflow"
PARALLEL_TASKS = 4
"""Two for Spark and dbt on two cores, and two that only wait or watch."""
POOLS = {
    "transform": "One dbt writer at a time, because two would rebuild the same table_partition.",
    "maintenance": "One maintainer at a time, because two would rewrite or delete the same files.",
}
DOORBELL_CONNECTION = "lakehouse_file_doorbell"
"""Through it Airflow hears that a file was announced; `dags/file_notifications.py` names it."""
S3_CONNECTION = "lakehouse_s3"
"""Through it Airflow's own sensors see the object store; `dags/event_transformation.py` names it."""
MIGRATION_SECONDS = 300


def servers(settings: Settings) -> tuple[Server, ...]:
    """Describe Airflow's API server, scheduler, DAG processor and triggerer."""
    address = urlsplit(settings.airflow.url)
    connect = functools.partial(Airflow, settings.airflow, timeout_seconds=10)
    server = functools.partial(
        Server,
        profile="full",
        version=importlib.metadata.version("apache-airflow"),
        url=settings.airflow.url,
        environment=_environment(settings),
        directory=_home(settings),
    )
    return (
        server(
            name="airflow-api-server",
            port=address.port or 80,
            command=_command("api-server"),
            after=("postgres",),
            prepare=functools.partial(_prepare, settings),
            probe=functools.partial(_probe_api, connect),
            settle=functools.partial(_settle, connect),
            start_seconds=180,
            stop_seconds=30,
            memory_bytes=450 << 20,
        ),
        server(
            name="airflow-scheduler",
            port=None,
            command=_command("scheduler", "--skip-serve-logs"),
            after=("airflow-api-server", "catalog", "kafka", "trino"),  # what its first runs need
            probe=functools.partial(_probe, connect, "scheduler"),
            stop_seconds=40,
            memory_bytes=350 << 20,
        ),
        server(
            name="airflow-dag-processor",
            port=None,
            command=_command("dag-processor"),
            after=("airflow-api-server",),
            probe=functools.partial(_probe_dag_processor, connect),
            memory_bytes=250 << 20,
        ),
        server(
            name="airflow-triggerer",
            port=None,
            command=_command("triggerer", "--skip-serve-logs"),
            after=("airflow-api-server",),
            probe=functools.partial(_probe, connect, "triggerer"),
            memory_bytes=350 << 20,
        ),
    )


def _command(*arguments: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("airflow")), *arguments)


def _home(settings: Settings) -> Path:
    return settings.home / "data" / "airflow"


def _environment(settings: Settings) -> dict[str, str]:
    home = _home(settings)
    url = settings.airflow.url.rstrip("/")
    login = f"{quote(settings.postgres.user)}:{quote(settings.postgres.password.get_secret_value(), safe='')}"
    database = f"{login}@{settings.postgres.host}:{settings.postgres.port}/{DATABASE}"
    bundles = [
        {
            "name": "dags",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(DAGS)},
        }
    ]
    options: dict[str, dict[str, str | int]] = {
        "core": {
            "auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            "dags_are_paused_at_creation": "False",
            "dags_folder": str(DAGS),
            "execution_api_server_url": f"{url}/execution/",
            "executor": "LocalExecutor",
            "fernet_key": settings.stack.airflow_fernet_key.get_secret_value(),
            "hostname_callable": "socket.gethostname",  # the default asks a name server
            "load_examples": "False",
            "parallelism": PARALLEL_TASKS,
        },
        "database": {
            "sql_alchemy_conn": f"postgresql+psycopg2://{database}",
            "sql_alchemy_conn_async": f"postgresql+psycopg://{database}",
        },
        "api": {
            "base_url": url,
            "expose_config": "False",
            "host": urlsplit(url).hostname or "127.0.0.1",
            "port": urlsplit(url).port or 80,
            "secret_key": settings.stack.airflow_secret_key.get_secret_value(),
            "worker_timeout": 20,  # also how long a stop waits for open requests
            "workers": 1,
        },
        "api_auth": {"jwt_secret": settings.stack.airflow_jwt_secret.get_secret_value()},
        "dag_processor": {
            "dag_bundle_config_list": json.dumps(bundles),
            "min_file_process_interval": 300,  # an edited file is read at the next refresh all the same
            "parsing_processes": 1,
            "print_stats_interval": 0,
            "refresh_interval": 30,
        },
        "fab": {"config_file": str(home / "webserver_config.py")},
        "logging": {
            "base_log_folder": str(home / "logs"),
            "colored_console_log": "False",
            "dag_processor_child_process_log_directory": str(home / "logs" / "dag_processor"),
            # The UI asks for a log server that is off; the answer comes from the shared directory.
            "namespace_levels": "airflow.utils.log.file_task_handler=CRITICAL",
        },
        "metrics": {"otel_on": "False", "statsd_on": "False"},
        "openlineage": {"disabled": "True"},
        "scheduler": {
            "catchup_by_default": "False",
            "orphaned_tasks_check_interval": 30,  # tasks of a killed scheduler run again within a minute
            "task_instance_heartbeat_timeout": 120,
        },
        "traces": {"otel_on": "False"},
        "usage_data_collection": {"enabled": "False"},
    }
    return {
        **settings_environment(settings),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(settings.home / "conf" / "airflow" / "airflow.cfg"),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
        # The triggerer, unlike the others, does not look into the folder of the DAGs for their callbacks.
        "PYTHONPATH": os.pathsep.join((str(DAGS), str(PROJECT_ROOT))),
        f"AIRFLOW_CONN_{DOORBELL_CONNECTION}".upper(): _doorbell(settings),
        f"AIRFLOW_CONN_{S3_CONNECTION}".upper(): _object_store(settings),
        **{
            f"AIRFLOW__{section}__{option}".upper(): str(value)
            for section, values in options.items()
            for option, value in values.items()
        },
    }


def _doorbell(settings: Settings) -> str:
    """A Connection to Kafka with a consumer group of its own: who rings commits nothing for who works."""
    consumer = {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "group.id": f"{settings.prefix}file-doorbell",
        "enable.auto.commit": False,  # Airflow commits when it has stored the ring
        "auto.offset.reset": "latest",
        "log.connection.close": False,
    }
    return json.dumps({"conn_type": "kafka", "extra": consumer})


def _object_store(settings: Settings) -> str:
    """A Connection to the object store, as Airflow's hooks and `LakehouseCommand` read it."""
    return json.dumps(
        {
            "conn_type": "aws",
            "login": settings.s3.access_key,
            "password": settings.s3.secret_key.get_secret_value(),
            "extra": {
                "endpoint_url": settings.s3.endpoint,
                "region_name": settings.s3.region,
                "config_kwargs": {"s3": {"addressing_style": "path"}},  # a bucket is no host name here
            },
        }
    )


def _prepare(settings: Settings) -> None:
    home = _home(settings)
    (home / "logs").mkdir(parents=True, exist_ok=True)
    configuration = settings.home / "conf" / "airflow" / "airflow.cfg"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    # Without this file Airflow writes its whole default configuration, with a key of its own in it.
    configuration.write_text("# Every setting is an environment variable: see lakehouse/stack/airflow.py\n")
    hook = home / "config" / "airflow_local_settings.py"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "from lakehouse.stack.airflow_processes import end_children_with_parents\n\nend_children_with_parents()\n"
    )
    wanted = _fingerprint(settings)
    with connect(settings, database=DATABASE) as connection:
        done = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    if done == (wanted,):
        return
    environment = _environment(settings)
    _run_airflow(environment, "db", "migrate")
    user, password = settings.airflow.user, settings.airflow.password.get_secret_value()
    account = ("--username", user, "--password", password)
    person = ("--firstname", "Local", "--lastname", "Admin", "--email", f"{user}@localhost", "--role", "Admin")
    if "already exists" in _run_airflow(environment, "users", "create", *account, *person):
        _run_airflow(environment, "users", "reset-password", *account)
    with connect(settings, database=DATABASE) as connection:
        connection.execute(f"COMMENT ON DATABASE {DATABASE} IS '{wanted}'".encode())


def _fingerprint(settings: Settings) -> str:
    """Name the state that `_prepare` leads to; kept as the database's comment, so that it is lost with it."""
    key = settings.stack.airflow_secret_key.get_secret_value().encode()
    account = f"{settings.airflow.user}:{settings.airflow.password.get_secret_value()}".encode()
    packages = ("apache-airflow", "apache-airflow-providers-fab")
    versions = " ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"{versions} account {hmac.new(key, account, hashlib.sha256).hexdigest()[:16]}"


def _run_airflow(environment: Mapping[str, str], *arguments: str) -> str:
    result = subprocess.run(
        _command(*arguments),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MIGRATION_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        last_lines = "\n".join(result.stdout.splitlines()[-20:])
        raise StackError(f"`airflow {' '.join(arguments[:2])}` ended with {result.returncode}:\n{last_lines}")
    return result.stdout


def _settle(connect: Callable[[], Airflow]) -> None:
    with connect() as client:
        for name, description in POOLS.items():
            client.ensure_pool(name, 1, description)


def _probe_api(connect: Callable[[], Airflow]) -> None:
    with connect() as client:
        client.version()


def _probe(connect: Callable[[], Airflow], part: str) -> None:
    with connect() as client:
        health = client.health().get(part, "unknown")
    if health != "healthy":
        raise StackError(f"Airflow's {part} is {health}")


def _probe_dag_processor(connect: Callable[[], Airflow]) -> None:
    _probe(connect, "dag_processor")
    written = {path.stem for path in DAGS.glob("*.py") if "dag_id=" in path.read_text()}
    with connect() as client:
        unread = written - client.dag_ids()
        if unread and not client.import_errors():
            raise StackError(f"Airflow has not read {', '.join(sorted(unread))} in {DAGS} yet")
