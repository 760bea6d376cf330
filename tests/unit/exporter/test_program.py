"""The exporter as a program, where no server ever answers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.stacks import free_url

PROGRAM = """
import time
from pyiceberg.utils.concurrent import ExecutorFactory
from lakehouse.exporter.__main__ import main

ExecutorFactory.get_or_create().submit(time.sleep, 60)  # as a look does whose object store is deaf
main()
"""


def test_it_logs_errors_and_ends_at_sigterm_though_servers_are_deaf_and_a_caller_dribbles(tmp_path: Path) -> None:
    url, log = free_url(), tmp_path / "log"
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_server(("127.0.0.1", 0), backlog=100) as deaf, log.open("wb") as stderr:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        environment = os.environ | {
            "LAKEHOUSE_HOME": str(tmp_path),
            "LAKEHOUSE_EXPORTER__URL": url,
            "LAKEHOUSE_CATALOG__URI": f"http://{address}",
            "LAKEHOUSE_S3__ENDPOINT": f"http://{address}",
            "LAKEHOUSE_AIRFLOW__URL": "http://127.0.0.1:1",
            "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": address,
        }
        running = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=stderr)
        try:
            deadline = time.monotonic() + 30
            while "collector dags: " not in log.read_text() or not answers(url):
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            with socket.create_connection((host, int(port))) as dribbling:
                dribbling.sendall(b"GET /metr")
                running.send_signal(signal.SIGTERM)
                assert running.wait(10) == 0
        finally:
            running.kill()
            running.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False
