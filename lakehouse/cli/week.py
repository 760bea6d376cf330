"""`lakehouse week`: seven days of the shop in minutes, run by the real DAGs, and whether the house stands after them.

The week has an environment of its own. Each day's messages carry the times at which the shop would have sent them, and
each ingest is told an hour of that week as its end, so the DAGs see the days one after another. Two things go wrong on
purpose: Spark is killed, and a run is stopped.
What hangs on the age of files, such as the expiry of snapshots, does not happen in minutes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import psutil
import typer
from rich.rule import Rule

from lakehouse import archive, environment, maintenance, produce
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.airflow import Airflow
from lakehouse.audit import AuditReport, audit
from lakehouse.cli.output import Format, Output, answers, errors, print_json, print_table
from lakehouse.cli.stack import Profile, bring_up
from lakehouse.errors import TerminalError
from lakehouse.maintenance_plan import Health
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS

PREFIX: Final = "week_"
PARTITIONS: Final = 4
INGESTS_A_DAY: Final = 2
LIVE_DAYS: Final = 2
"""Older days are archived; late events come up to three days later, so some find their day in the archive."""
DELAY: Final = timedelta(minutes=1)
"""The last messages of a day are on their way until some seconds after midnight."""
KILLED, STOPPED = "Spark was killed, the next attempt did it", "the run was stopped, the next run did it"
_INCIDENTS: Final[Mapping[tuple[int, int], str]] = {(3, 1): KILLED, (5, 1): STOPPED}
"""What goes wrong on purpose, by the day and the ingest of that day, both counted from 1; another one follows it."""
_ENDS_AS: Final[Mapping[str, str]] = {KILLED: "success", STOPPED: "failed"}
_INCIDENT_SECONDS: Final = 120
_DRIVER: Final = "org.apache.spark.deploy.SparkSubmit"
_RUN_SECONDS: Final = 1800
_WAKING_SECONDS: Final = 600
"""A run that is woken waits until the DAG has no other."""
_TASKS: Final[Mapping[str, str]] = {
    "ingest_user_actions": "ingest",
    "transform": "dbt_build",
    "maintain_tables": "maintain",
    "archive_events": "archive",
}


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of a DAG.

    Attributes:
        day: the day of the week that it was for.
        attempts: of its task.
        result: of its task; null when there was nothing to do or it did not end.
        incident: what was done to it on purpose; empty when nothing was.
    """

    day: date
    dag_id: str
    run_id: str
    state: str
    attempts: int
    seconds: float
    result: Mapping[str, Any] | None
    incident: str

    @property
    def is_explained(self) -> bool:
        """Whether it went as it should: well at once, or as what was done to it makes it go."""
        if self.incident:
            return self.state == _ENDS_AS[self.incident]
        return self.state == "success" and self.attempts == 1


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the week, as the tables have it.

    Attributes:
        published: events that were sent on this day.
        late: those of them that happened on an earlier day.
        quarantined: messages that were sent on this day and refused.
        live: events that happened on this day and are in the live table.
        archived: events that happened on this day and are in the archive.
        in_mart: events that happened on this day, by the daily aggregate.
    """

    day: date
    published: int
    late: int
    quarantined: int
    live: int
    archived: int
    in_mart: int


def week(
    days: Annotated[int, typer.Option(min=1, max=31, help="How many days the week has.")] = 7,
    events: Annotated[int, typer.Option(min=100, help="Messages a day, late and bad ones among them.")] = 10_000,
    output: Output = Format.TEXT,
) -> None:
    """Run the last seven days with generated events through the real DAGs, then prove that all is as it should be.

    Each day is ingested in two runs, which wake the builds, then maintained, and what is two days old is archived; on
    the third and the fifth day something goes wrong on purpose. It exits 1 when the audit has a gap, a table is not
    healthy, an archived day does not answer as it should, or a run failed for no known reason. Its environment,
    `week_`, stays for you to look at until the next call.

    Examples:

    `lakehouse week`

    `lakehouse week --days 3 --events 2000 --output json`
    """
    settings = bring_up(Profile.FULL).model_copy(update={"prefix": PREFIX})
    started, first = time.monotonic(), datetime.now(UTC).date() - timedelta(days=days)
    _start_afresh(settings)
    with Airflow(settings.airflow) as airflow:
        rehearsal = _Rehearsal(settings, airflow)
        for number in range(1, days + 1):
            rehearsal.live(number, first + timedelta(days=number - 1), events)
    errors.print(Rule("Looking at what came of it", align="left", style="blue"), width=80)
    now = datetime.now(UTC)
    report, health = audit(settings), maintenance.health(settings, maintenance.targets(settings), now)
    verified, found = archive.verify(settings), _days(settings)
    problems = [
        *(f"audit: {gap.kind} at {gap.where}: {gap.detail}" for gap in report.gaps),
        *(f"{one.table} is not healthy: {problem}" for one in health for problem in one.problems),
        *(f"archive: {one.date} {one.where}: {one.what}" for one in verified.differences),
        *_amiss(found, first + timedelta(days=days - LIVE_DAYS), days * events),
        *(
            f"run {ran.run_id} of {ran.dag_id} is {ran.state} after {ran.attempts} attempts, and nobody knows why"
            for ran in rehearsal.runs
            if not ran.is_explained
        ),
    ]
    if output is Format.JSON:
        print_json(
            {
                "ok": not problems,
                "problems": problems,
                "days": [asdict(day) for day in found],
                "runs": [asdict(ran) for ran in rehearsal.runs],
                "seconds": time.monotonic() - started,
            }
        )
    else:
        _show(found, rehearsal.runs, report, health, verified, time.monotonic() - started)
    if problems:
        raise TerminalError("the week did not end well:\n" + "\n".join(problems))


class _Rehearsal:
    """Has Airflow live through the days, and keeps what ran."""

    def __init__(self, settings: Settings, airflow: Airflow) -> None:
        self._settings = settings
        self._airflow = airflow
        self._began = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        self.runs: list[Ran] = []

    def live(self, number: int, day: date, events: int) -> None:
        """Live through a day of the week, which is counted from 1."""
        errors.print(Rule(f"{day:%A %Y-%m-%d}", align="left", style="blue"), width=80)
        produce.produce_generated(self._settings, count=events, day=day, bad_ratio=0.01, late_ratio=0.05, stamped=True)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for ingest in range(1, INGESTS_A_DAY + 1):
            until = midnight + timedelta(hours=24 / INGESTS_A_DAY * ingest) + DELAY
            conf = {"until": until.isoformat()}
            self._run(day, "ingest_user_actions", conf, _INCIDENTS.get((number, ingest), ""))
        self._see_woken(day, "ingest_user_actions")
        # In minutes no partition closes, so the open ones are compacted as well.
        self._run(day, "maintain_tables", {"open_partitions": True})
        self._see_woken(day, "maintain_tables")
        self._run(day, "archive_events", {"before": str(day - timedelta(days=LIVE_DAYS - 1))})

    def _run(self, day: date, dag_id: str, conf: Mapping[str, Any], incident: str = "") -> None:
        airflow, run_id = self._airflow, f"week__{self._began}__{len(self.runs):03}"
        started = time.monotonic()
        airflow.trigger(dag_id, run_id, {"prefix": PREFIX} | dict(conf))
        try:
            if incident:
                spark = _spark(lambda: airflow.run(dag_id, run_id).finished)
                if incident == KILLED:
                    spark.kill()
                else:
                    airflow.stop(dag_id, run_id)
            self._see(day, dag_id, run_id, started, incident)
        except BaseException:  # Ctrl-C too: nobody waits for the run any more
            airflow.stop(dag_id, run_id)
            raise

    def _see_woken(self, day: date, dag_id: str) -> None:
        """Wait for what the news of this day's runs have woken; one run may answer several of them."""
        for waking in [ran for ran in self.runs if (ran.day, ran.dag_id) == (day, dag_id) and ran.result]:
            started = time.monotonic()
            while not (woken := self._airflow.runs_caused_by(dag_id, waking.run_id)):
                if time.monotonic() > started + _WAKING_SECONDS:
                    raise TerminalError(f"run {waking.run_id} of {dag_id} brought news, and they woke no DAG")
                time.sleep(1)
            for run in woken:
                if run.run_id not in {ran.run_id for ran in self.runs}:
                    self._see(day, run.dag_id, run.run_id, started)

    def _see(self, day: date, dag_id: str, run_id: str, started: float, incident: str = "") -> None:
        """Wait until a run has ended, and keep how."""
        state = self._airflow.wait(dag_id, run_id, _RUN_SECONDS).state
        (task,) = self._airflow.tasks(dag_id, run_id)
        result = self._airflow.result(dag_id, run_id, _TASKS[dag_id])
        seconds = time.monotonic() - started
        self.runs.append(Ran(day, dag_id, run_id, state, task.try_number, seconds, result, incident))
        told = ", ".join(each for each in (state, _told(dag_id, result), incident) if each)
        errors.print(f"  {dag_id:<20} {seconds:4.0f} s  {told}", markup=False)


def _start_afresh(settings: Settings) -> None:
    """Drop what an earlier week left, and make the topic and the tables."""
    environment.drop(settings)
    kafka.delete_topic(settings, settings.user_actions_topic)
    # The messages keep their own times, which are days ago, so no retention by age may look at them.
    config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    kafka.create_topic(settings, settings.user_actions_topic, PARTITIONS, config)
    environment.apply(settings)


def _spark(is_over: Callable[[], bool]) -> psutil.Process:
    """Wait for the Spark of this week's ingest.

    Raises:
        TerminalError: the run ended before.
    """
    deadline = time.monotonic() + _INCIDENT_SECONDS
    while time.monotonic() < deadline and not is_over():
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _DRIVER in process.cmdline() and process.environ().get("LAKEHOUSE_PREFIX") == PREFIX:
                    time.sleep(2)  # it may be anywhere in its work by then
                    return process
    raise TerminalError("no Spark of this week was found, so nothing could be done to it; run it again")


def _told(dag_id: str, result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    match dag_id:
        case "ingest_user_actions":
            return f"{result['published_rows']:,} published, {result['quarantined_rows']:,} quarantined"
        case "transform":
            return f"{result['models']} models, {result['tests']} tests"
        case "maintain_tables":
            return f"{len(result['actions'])} actions, {result['failed']} failed"
        case _:
            return f"archived {', '.join(str(part['date']) for part in result['archived'])}"


def _days(settings: Settings) -> list[Day]:
    """Read the days from the tables and the mart, by Trino."""
    lake = f"{settings.catalog.name}.{settings.prefix}"
    both = f"""
        SELECT event_date, kafka_timestamp, 'live' AS place FROM {lake}events.user_actions
        UNION ALL
        SELECT event_date, kafka_timestamp, 'archive' FROM {lake}events.user_actions_archive
    """
    sent_on = "date(kafka_timestamp AT TIME ZONE 'UTC')"

    def by_day(columns: str, tables: str) -> dict[date, Sequence[int]]:
        statement = f"SELECT {columns} FROM {tables} GROUP BY 1"
        return {day: counts for day, *counts in trino.query(settings.trino_as("admin"), statement)}  # pyright: ignore[reportReturnType]  # rows have no types

    sent = by_day(f"{sent_on}, count(*), count_if(event_date < {sent_on})", f"({both})")
    refused = by_day(f"{sent_on}, count(*)", f"{lake}quarantine.user_actions")
    happened = by_day("event_date, count_if(place = 'live'), count_if(place = 'archive')", f"({both})")
    mart = by_day("event_date, sum(event_count)", f"{lake}marts.fct_events_daily")
    found: list[Day] = []
    for day in sorted({*sent, *refused, *happened, *mart}):
        published, late = sent.get(day, (0, 0))
        live, archived = happened.get(day, (0, 0))
        (quarantined,), (in_mart,) = refused.get(day, (0,)), mart.get(day, (0,))
        found.append(Day(day, published, late, quarantined, live, archived, in_mart))
    return found


def _amiss(found: list[Day], oldest_live: date, messages: int) -> list[str]:
    """Say what the days are not: all messages there, old days in the archive alone, the mart the sum of both."""
    problems: list[str] = []
    arrived = sum(day.published + day.quarantined for day in found)
    if arrived != messages:
        problems.append(f"{arrived:,} of {messages:,} messages are in the tables")
    for day in found:
        if day.in_mart != day.live + day.archived:
            problems.append(f"{day.day}: {day.in_mart:,} events in the mart, {day.live + day.archived:,} in the tables")
        if day.day < oldest_live and (day.live or not day.archived):
            problems.append(f"{day.day}: {day.live:,} events are live and {day.archived:,} archived")
    return problems


def _show(
    found: list[Day],
    runs: list[Ran],
    report: AuditReport,
    health: tuple[Health, ...],
    verified: archive.Verification,
    seconds: float,
) -> None:
    print_table(
        ["day", "published", "late", "quarantined", "live", "archived", "in the mart", "runs", "went wrong"],
        [
            (
                str(day.day),
                *(day.published, day.late, day.quarantined, day.live, day.archived, day.in_mart),
                sum(ran.day == day.day for ran in runs),
                "; ".join(ran.incident for ran in runs if ran.day == day.day and ran.incident) or None,
            )
            for day in found
        ],
        title="\nThe week: by the day a message was sent, then by the day its event happened",
    )
    events = next(one for one in health if one.table == USER_ACTIONS.identifier)
    unhealthy = [one.table for one in health if not one.is_healthy]
    answers.print(f"\naudit: {'nothing is lost or doubled' if report.ok else f'{len(report.gaps)} gaps'}")
    answers.print(f"tables: {len(health) - len(unhealthy)} of {len(health)} healthy {', '.join(unhealthy)}".rstrip())
    answers.print(f"{events.table}: {events.files} files, {events.ideal_files} would do")
    differences = f"{len(verified.differences)} differences" if verified.differences else "as they were archived"
    answers.print(f"archive: {verified.rows:,} events in {verified.parts} parts read back, {differences}")
    failed = [ran for ran in runs if ran.state != "success"]
    answers.print(
        f"runs: {len(runs)}, {len(failed)} failed, {sum(not ran.is_explained for ran in runs)} of them unexplained"
    )
    answers.print(f"{len({ran.day for ran in runs})} days in {seconds / 60:.0f} minutes")
