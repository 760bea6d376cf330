"""`docs/connect.md` tells the truth: each of its blocks runs, and finds what is in the tables."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse import transform
from lakehouse.adapters import spark, trino
from lakehouse.environment import apply
from lakehouse.settings import PROJECT_ROOT, Settings
from tests.shops import EVENT_COLUMNS

pytestmark = pytest.mark.integration

PAGE = PROJECT_ROOT / "docs" / "connect.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
UNSET = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
COUNTS = "purchase 1\nview 3\n"


def blocks() -> dict[str, dict[str, str]]:
    """The code of each section, by language."""
    return {title: dict(BLOCK.findall(text)) for title, text in SECTION.findall(PAGE.read_text())}


@pytest.fixture(scope="module")
def shop(module_environment: Settings) -> Iterator[Settings]:
    """An environment with four events and the mart that the page reads, published."""
    apply(module_environment)
    moment = "TIMESTAMP '2026-11-18 {:02}:00:00 UTC'".format
    rows = ", ".join(
        f"({moment(number)}, DATE '2026-11-18', '{name}', 'u{number}', 'web', 'Sofa', 'SKU-1', NULL, "
        f"'user-actions', 0, {number}, {moment(number)}, {moment(12)}, NULL)"
        for number, name in enumerate(("view", "view", "view", "purchase"))
    )
    table = f"{module_environment.catalog.name}.{module_environment.prefix}events.user_actions"
    trino.query(module_environment.trino_as("ingest"), f"INSERT INTO {table} {EVENT_COLUMNS} VALUES {rows}")
    transform.build(module_environment, "+fct_events_daily")
    yield module_environment
    shutil.rmtree(transform.target_directory(module_environment), ignore_errors=True)


def here(text: str, settings: Settings) -> str:
    """The page's text with the addresses, files and schemas of this environment."""
    text = text.replace("http://127.0.0.1:18181", settings.catalog.uri)
    text = text.replace("127.0.0.1:19000", settings.s3.endpoint.removeprefix("http://"))
    text = text.replace("port=18080", f"port={settings.trino.port}")
    text = text.replace(".lakehouse/tls/ca.pem", str(settings.trino_as("analyst").ca_file))
    return re.sub(r'\b(marts|build|events)(?=\.\w|")', rf"{settings.prefix}\1", text)


def environment(settings: Settings) -> dict[str, str]:
    secrets = {
        "LAKEHOUSE_TRINO__ANALYST_PASSWORD": settings.trino.analyst_password,
        "LAKEHOUSE_CATALOG__CLIENT_SECRET": settings.catalog.client_secret,
        "LAKEHOUSE_S3__SECRET_KEY": settings.s3.secret_key,
    }
    shown = {name: secret.get_secret_value() for name, secret in secrets.items()}
    return {name: value for name, value in os.environ.items() if name not in UNSET} | shown


def output_of(command: list[str], settings: Settings, **more: str) -> str:
    done = subprocess.run(
        command, env=environment(settings) | more, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def script(settings: Settings, section: str, folder: Path) -> str:
    path = folder / "block.py"
    path.write_text(here(blocks()[section]["python"], settings))
    return str(path)


def test_the_trino_cli_answers(shop: Settings) -> None:
    (program, *arguments) = shlex.split(blocks()["Trino CLI"]["sh"])
    assert (PROJECT_ROOT / program).exists()
    command = [str(Path(sys.executable).with_name("lakehouse")), *arguments]
    found = output_of(command, shop, LAKEHOUSE_HOME=str(shop.home), LAKEHOUSE_PREFIX=shop.prefix)
    assert found == '"purchase","1"\n"view","3"\n'


@pytest.mark.parametrize("section", ["Python", "pyiceberg"])
def test_a_block_of_python_finds_the_published_counts(section: str, shop: Settings, tmp_path: Path) -> None:
    assert output_of([sys.executable, script(shop, section, tmp_path)], shop) == COUNTS


def test_duckdb_reads_the_events(shop: Settings, tmp_path: Path) -> None:
    requirements = str(PROJECT_ROOT / "requirements" / "connect.txt")
    uv = [str(Path(sys.executable).with_name("uv")), "run", "--no-project", "--isolated", "--quiet"]
    command = [*uv, "--python", sys.executable, "--with-requirements", requirements]
    assert output_of([*command, script(shop, "DuckDB", tmp_path)], shop) == COUNTS


def test_spark_reads_what_is_published(shop: Settings, tmp_path: Path) -> None:
    told = dict(line.split(maxsplit=1) for line in here(blocks()["Spark"]["properties"], shop).splitlines())
    packages = told.pop("spark.jars.packages").split(",")  # the stack has these jars already
    jars = [path.name for path in (shop.spark.jars_directory or Path()).iterdir()]
    assert [package for package in packages if f"{'-'.join(package.split(':')[1:])}.jar" not in jars] == []
    defaults = tmp_path / "spark-defaults.conf"
    known = spark.configuration(shop.spark, "docs/connect.md") | told
    defaults.write_text("".join(f"{key} {value}\n" for key, value in known.items()))
    java = {"JAVA_HOME": str(shop.spark.java_home), "SPARK_CONF_DIR": str(tmp_path)}
    assert output_of([sys.executable, script(shop, "Spark", tmp_path)], shop, **java) == COUNTS


def test_every_way_in_is_either_run_here_or_said_to_be_untried() -> None:
    tried, untried = PAGE.read_text().split("## Not tried here")
    assert [title for title, _ in SECTION.findall(tried)] == ["Trino CLI", "Python", "pyiceberg", "DuckDB", "Spark"]
    assert [title for title, _ in SECTION.findall(untried)] == ["DBeaver", "Superset", "Power BI"]
    assert BLOCK.findall(untried) == []
