"""Prometheus: asks the exporter and the servers for their numbers, and follows the rules of `compose/prometheus/`."""

import shutil
from urllib.parse import urlsplit

import httpx

from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack import artifacts, private, templates
from lakehouse.stack.server import Server

CONFIGURATION = PROJECT_ROOT / "compose" / "prometheus"
_SCRAPE_TIMEOUT_SECONDS = 10
_KEPT_BYTES = 2_000_000_000


def server(settings: Settings) -> Server:
    """Describe the Prometheus server."""
    address = urlsplit(settings.prometheus.url)
    data = settings.home / "data" / "prometheus"
    return Server(
        name="prometheus",
        profile="observe",
        version=artifacts.GO_PARTS["prometheus"].version.removeprefix("v"),
        port=address.port,
        url=settings.prometheus.url,
        command=(
            str(artifacts.go_program(settings, "prometheus")),
            f"--config.file={_configuration_file(settings)}",
            f"--storage.tsdb.path={data / 'tsdb'}",
            f"--storage.tsdb.retention.time={settings.prometheus.kept_days}d",
            f"--storage.tsdb.retention.size={_KEPT_BYTES}B",
            f"--web.listen-address={address.netloc}",
            f"--web.external-url={settings.prometheus.url}",
            "--log.level=warn",
        ),
        environment={"GOMEMLIMIT": "400MiB"},
        # Prometheus looks for its pages in web/ui/ of a directory of this name, as they are not in its Go module.
        directory=data,
        after=("alertmanager", "exporter"),
        prepare=lambda: _prepare(settings),
        probe=lambda: _probe(settings),
        start_seconds=60,
        memory_bytes=150_000_000,
    )


def configuration(settings: Settings) -> bytes:
    """Fill in `compose/prometheus/prometheus.yml`."""
    seconds = settings.prometheus.scrape_seconds
    rules = settings.prometheus.rules_directory or CONFIGURATION / "rules"
    return templates.render(
        CONFIGURATION / "prometheus.yml",
        {
            "scrape_interval": f"{seconds}s",
            "scrape_timeout": f"{min(seconds, _SCRAPE_TIMEOUT_SECONDS)}s",
            "rules": str(rules / "*.yml"),
            "exporter": urlsplit(settings.exporter.url).netloc,
            "dag_control": urlsplit(settings.api.url).netloc,
            "prometheus": urlsplit(settings.prometheus.url).netloc,
            "alertmanager": urlsplit(settings.alertmanager.url).netloc,
        },
    )


def _configuration_file(settings: Settings) -> str:
    return str(settings.home / "conf" / "prometheus" / "prometheus.yml")


def _prepare(settings: Settings) -> None:
    place = settings.home / "conf" / "prometheus"
    place.mkdir(parents=True, exist_ok=True)
    private.write(place / "prometheus.yml", configuration(settings))
    pages = settings.home / "data" / "prometheus" / "web" / "ui" / "static" / "mantine-ui"
    shutil.copytree(CONFIGURATION / "pages", pages, dirs_exist_ok=True)


def _probe(settings: Settings) -> None:
    """Ask a question: it answers none while it reads what it wrote before its last end."""
    question = {"query": "vector(1)"}
    answer = httpx.get(f"{settings.prometheus.url}/api/v1/query", params=question, timeout=5, trust_env=False)
    answer.raise_for_status()
