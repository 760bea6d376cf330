import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from lakehouse.settings import AirflowSettings, PostgresSettings, Settings, StackSettings
from lakehouse.stack.airflow import servers


def stack(home: Path) -> Settings:
    return Settings(
        home=home,
        cache=home / "cache",
        airflow=AirflowSettings(url="http://127.0.0.1:28088"),
        postgres=PostgresSettings(port=25432, password=SecretStr("p%40/ss")),
        stack=StackSettings(
            airflow_jwt_secret=SecretStr("jwt"), airflow_secret_key=SecretStr("key"), airflow_fernet_key=SecretStr("f")
        ),
    )


def test_tasks_see_the_settings_that_differ_and_no_secret_of_ours(tmp_path: Path) -> None:
    for server in servers(stack(tmp_path)):
        ours = {name: value for name, value in server.environment.items() if name.startswith("LAKEHOUSE_")}
        assert ours == {
            "LAKEHOUSE_HOME": str(tmp_path),
            "LAKEHOUSE_CACHE": str(tmp_path / "cache"),
            "LAKEHOUSE_AIRFLOW__URL": "http://127.0.0.1:28088",
            "LAKEHOUSE_POSTGRES__PORT": "25432",
        }


def test_the_doorbell_listens_where_the_settings_say_and_commits_only_what_airflow_has_stored(tmp_path: Path) -> None:
    settings = stack(tmp_path).model_copy(update={"prefix": "dev_"})
    for server in servers(settings):
        connection = json.loads(server.environment["AIRFLOW_CONN_LAKEHOUSE_FILE_DOORBELL"])
        assert connection["conn_type"] == "kafka"
        assert connection["extra"]["bootstrap.servers"] == settings.kafka.bootstrap_servers
        assert connection["extra"]["enable.auto.commit"] is False
        assert connection["extra"]["group.id"] == "dev_file-doorbell"


def test_a_password_with_special_characters_reaches_the_database_whole(tmp_path: Path) -> None:
    environment = servers(stack(tmp_path))[0].environment
    url = "postgresql+psycopg2://lakehouse:p%2540%2Fss@127.0.0.1:25432/airflow"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == url


def test_only_the_api_server_listens_and_only_on_the_loopback(tmp_path: Path) -> None:
    api_server, *others = servers(stack(tmp_path))
    assert (api_server.port, api_server.environment["AIRFLOW__API__HOST"]) == (28088, "127.0.0.1")
    assert [server.port for server in others] == [None, None, None]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_what_airflow_forks_ends_with_the_process_that_forked_it(tmp_path: Path) -> None:
    # The worker ignores SIGTERM, as Airflow's does; the task writes down that it was asked to end.
    program = f"""
        import os, pathlib, signal, sys, time
        from lakehouse.stack.airflow_processes import end_children_with_parents
        end_children_with_parents()
        def asked(*_):
            pathlib.Path({str(tmp_path / "asked")!r}).touch()
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, asked)
                pathlib.Path({str(tmp_path / "worker")!r}).write_text(str(os.getppid()))
                print("ready", flush=True)
        time.sleep(60)
    """
    scheduler = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    assert scheduler.stdout is not None
    assert scheduler.stdout.readline() == b"ready\n"
    worker = int((tmp_path / "worker").read_text())
    scheduler.kill()
    scheduler.wait()
    scheduler.stdout.close()
    deadline = time.monotonic() + 10
    while not (tmp_path / "asked").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "asked").exists()
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker)
