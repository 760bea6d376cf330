"""`lakehouse demo`: the whole road once, on real servers, and the proof that nothing was lost or doubled."""

import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.rule import Rule

from lakehouse import announce, csv_drop, produce
from lakehouse.adapters import trino
from lakehouse.adapters.airflow import Airflow, Run, Task
from lakehouse.adapters.file_store import FileStore
from lakehouse.ads import audit as ads_audit
from lakehouse.announce import Misbehaviour
from lakehouse.audit import AuditReport, audit
from lakehouse.cli.ads import show_audit as show_ads_audit
from lakehouse.cli.csv_drop import today
from lakehouse.cli.output import answers, errors, print_table
from lakehouse.cli.pipeline import show_audit
from lakehouse.cli.query import cli_environment, trino_cli
from lakehouse.cli.stack import Profile, bring_up
from lakehouse.errors import TerminalError
from lakehouse.settings import PROJECT_ROOT, Settings

SAMPLES = PROJECT_ROOT / "data"
SAMPLE_DAY = SAMPLES / "user-actions-2023-10-23.jsonl"
SAMPLE_CSV = SAMPLES / "example.csv"
SAMPLE_FILES = SAMPLES / "files"
AD_DAY = ("2023-10-23", "2023-10-24")
INGEST, TRANSFORM = "ingest_user_actions", "transform"

_RUN_SECONDS = 600


def demo() -> None:
    """Run the main job on real servers: sample data of every source goes to daily numbers, sequenced by Airflow.

    Run it again: no message is sent, ingested or counted twice, and it says so.

    Example: `lakehouse demo`
    """
    with _step("Starting the servers"):
        settings = bring_up(Profile.OBSERVE)
    with _step(f"Sending {SAMPLE_DAY.relative_to(PROJECT_ROOT)} to Kafka"):
        sent = produce.produce_file(settings, SAMPLE_DAY, once=True)
        errors.print(f"  {sent.sent:,} messages sent and confirmed, {sent.already_there:,} were there already")
    before = audit(settings)
    with Airflow(settings.airflow) as airflow:
        with _step("Ad impressions: API, backup, PostgreSQL, and the archive of the old ones"):
            _load_ads(settings, airflow)
        with _step("Files announced on Kafka: one of them twice, one that is not there"):
            _announce_files(settings, airflow)
        with _step(f"Dropping {SAMPLE_CSV.relative_to(PROJECT_ROOT)} for today"):
            _drop_csv(settings, airflow)
        with _step("Ingesting and building, by Airflow"):
            _sequence(settings, airflow)
    after = audit(settings)
    _show(settings, after)
    if sent.sent == 0 and before == after:
        answers.print("Run again: no message was sent, ingested or counted twice.")
    _show_ways_in(settings)


@contextmanager
def _step(title: str) -> Generator[None]:
    errors.print(Rule(title, align="left", style="blue"), width=80)
    started = time.monotonic()
    yield
    errors.print(f"  {time.monotonic() - started:.0f} s", style="dim")


def _load_ads(settings: Settings, airflow: Airflow) -> None:
    start, end = AD_DAY
    _run(airflow, "api-load", {"from": f"{start}T00:00:00Z", "until": f"{end}T00:00:00Z"})
    _run(airflow, "archive_ads")
    view = f"{settings.catalog.name}.{settings.prefix}ads.impressions_all"
    campaigns = trino.query(
        settings.trino_as("transform"),
        f"SELECT campaign, count(*), count(clicked_at), format('%,.2f', sum(cost_micros) / 1e6) FROM {view} "
        f"WHERE shown_date = DATE '{start}' GROUP BY campaign ORDER BY 2 DESC",
    )
    print_table(["campaign", "impressions", "clicks", "cost"], campaigns)
    show_ads_audit(ads_audit.audit(settings))


def _announce_files(settings: Settings, airflow: Airflow) -> None:
    first, *others = sorted(SAMPLE_FILES.glob("sales-*"))
    announce.announce(settings, [first], "sales", misbehaviour=Misbehaviour.TWICE)
    announce.announce(settings, others, "sales")
    announce.announce(settings, sorted(SAMPLE_FILES.glob("returns-*")), "returns")
    announce.announce(settings, [SAMPLE_FILES / "missing-2023-10-23.csv"], "sales", misbehaviour=Misbehaviour.MISSING)
    _run(airflow, "file_notifications")
    store = FileStore(settings)
    rows = [(day.dataset, str(day.event_date), day.products, day.lines, str(day.amount)) for day in store.days()]
    print_table(["dataset", "date", "products", "lines", "amount"], rows)
    failed = ", ".join(f"{one.place}: {one.reason}" for one in store.files("failed", None, None, 10))
    answers.print(f"{store.counts()['done']:,} files count; set aside: {failed}", markup=False)


def _drop_csv(settings: Settings, airflow: Airflow) -> None:
    put = csv_drop.drop(settings, SAMPLE_CSV, today())
    errors.print(f"  {put.file}", markup=False)
    _run(airflow, "event_transformation")
    (loaded,) = [row.loaded for row in csv_drop.states(settings, put.drop_date) if row.file == put.file and row.loaded]
    answers.print(
        f"{loaded.records:,} records of {SAMPLE_CSV.name} = {loaded.published_rows:,} events + "
        f"{loaded.quarantined_rows:,} in quarantine"
    )


def _sequence(settings: Settings, airflow: Airflow) -> None:
    """Have Airflow ingest, and build when something came; a schedule's run that was quicker counts as well."""
    run_id = _run(airflow, INGEST)
    report = audit(settings)
    if report.aggregated_rows is not None and not report.unaggregated_rows:
        errors.print("  nothing new to build")
        return
    caused = _caused(airflow, run_id)
    if caused is None:  # and the build that run started may have ended before we looked
        errors.print("  a run of the schedule was quicker and brought the rows; asking for a build of them")
        _run(airflow, TRANSFORM)
    else:
        _wait(airflow, TRANSFORM, caused)


def _caused(airflow: Airflow, run_id: str) -> str | None:
    """Find the build that an ingest's news have woken; it is made when the builds before it have ended."""
    if not any(task.state == "success" for task in airflow.tasks(INGEST, run_id)):
        return None
    deadline = time.monotonic() + _RUN_SECONDS
    while time.monotonic() < deadline:
        for run in airflow.runs_caused_by(INGEST, run_id):
            if run.dag_id == TRANSFORM:
                return run.run_id
        time.sleep(1)
    return None


def _run(airflow: Airflow, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
    """Start a run and wait until it ended well; returns its id."""
    run_id = f"demo__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    airflow.trigger(dag_id, run_id, conf)
    _wait(airflow, dag_id, run_id)
    return run_id


def _wait(airflow: Airflow, dag_id: str, run_id: str) -> None:
    def show(run: Run, tasks: tuple[Task, ...]) -> None:
        states = ", ".join(f"{task.task_id} {task.state}" for task in tasks)
        errors.print(f"  {dag_id}: {run.state}" + (f" ({states})" if states else ""))

    run = airflow.wait(dag_id, run_id, _RUN_SECONDS, show)
    if run.state != "success":
        raise TerminalError(
            f"run {run_id} of DAG {dag_id} ended as {run.state}:\n{airflow.failure(dag_id, run_id)}\n"
            "mend what it says, then run `make demo` again; nothing is lost or doubled by that"
        )


def _show(settings: Settings, report: AuditReport) -> None:
    lake, prefix = settings.catalog.name, settings.prefix
    answers.print(Rule("Result", align="left", style="blue"), width=80)
    reasons = trino.query(
        settings.trino_as("ingest"),
        f"SELECT reason, count(*) FROM {lake}.{prefix}quarantine.user_actions GROUP BY reason ORDER BY 2 DESC, 1",
    )
    print_table(["quarantined because", "messages"], reasons)
    answers.print("\nThe daily aggregate, read through the Trino CLI:\n")
    statement = (
        "SELECT event_date, event_name, sum(event_count) AS events, count(*) AS platforms "
        "FROM fct_events_daily GROUP BY event_date, event_name ORDER BY event_date DESC, events DESC LIMIT 12"
    )
    command = trino_cli(settings, "analyst", "--execute", statement, "--output-format", "ALIGNED")
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=cli_environment(settings, "analyst"))
    answers.print("\nThe ledger, from Kafka's offsets to the daily aggregate (`lakehouse audit`):\n")
    show_audit(report)
    messages = sum((row.end_offset or row.position) - row.first_offset for row in report.ledger)
    published = sum(row.published_rows for row in report.ledger)
    quarantined = sum(row.quarantined_rows - row.replayed_rows for row in report.ledger)
    answers.print(
        f"{messages:,} messages in Kafka = {published:,} events + {quarantined:,} in quarantine\n"
        f"{report.files.records:,} records of CSV files = {report.files.published_rows:,} events + "
        f"{report.files.quarantined_rows - report.files.replayed_rows:,} in quarantine\n"
        f"{report.aggregated_rows or 0:,} events in the daily aggregate"
    )
    if not report.ok:
        raise TerminalError(
            "the ledger has gaps, so rows are lost or doubled; run `make demo` again, and report it if they stay"
        )


def _show_ways_in(settings: Settings) -> None:
    airflow, postgres = settings.airflow, settings.postgres
    secrets = f"secret in {_relative(settings.credentials_file)}"
    rows = [
        ("Airflow", airflow.url, f"{airflow.user} / {airflow.password.get_secret_value()}"),
        ("DAG control", f"{settings.api.url}/docs", "a key: .venv/bin/lakehouse api keys add me --role admin"),
        ("Prometheus", f"{settings.prometheus.url}/alerts", "none, this machine only"),
        ("Alertmanager", settings.alertmanager.url, "none, this machine only"),
        ("Trino", settings.trino_as("analyst").url, f"analyst, {secrets}"),
        ("Trino CLI", ".venv/bin/lakehouse sql", ""),
        ("dbt docs", "make docs", ""),
        ("MinIO", _console(settings), f"{settings.s3.access_key}, {secrets}"),
        ("REST catalog", settings.catalog.uri, f"{settings.catalog.client_id}, {secrets}"),
        ("Kafka", settings.kafka.bootstrap_servers, "none, this machine only"),
        ("PostgreSQL", f"{postgres.host}:{postgres.port}", f"{postgres.user}, {secrets}"),
        ("ad API (mock)", settings.ads.api_url, f"token in {_relative(settings.credentials_file)}"),
    ]
    print_table(["open", "address", "login"], rows, title="\nEverything runs until `make stop`:")


def _console(settings: Settings) -> str:
    address, _, port = settings.s3.endpoint.rpartition(":")
    return f"{address}:{int(port) + 1}"


def _relative(path: Path) -> Path:
    return path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
