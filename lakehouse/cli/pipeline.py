"""The jobs of the pipeline: `lakehouse tables`, `produce`, `ingest`, `transform`, `audit`."""

import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from lakehouse import audit as auditing
from lakehouse import environment, ingest, publish, transform
from lakehouse import produce as producing
from lakehouse.accept_loss import accept_loss
from lakehouse.cli.output import (
    MOMENTS,
    Format,
    Output,
    answers,
    drained_on_signal,
    errors,
    in_utc,
    print_json,
    print_table,
    row_progress,
)
from lakehouse.errors import TerminalError
from lakehouse.settings import get_settings
from lakehouse.stack import artifacts

NOTICE_SECONDS = 10.0

tables_app = typer.Typer(help="The Iceberg tables.", no_args_is_help=True)
ingest_app = typer.Typer(help="Bring Kafka's messages into the tables, each once.", no_args_is_help=True)
transform_app = typer.Typer(help="Build the models with dbt on Trino.", no_args_is_help=True)


@tables_app.command("apply")
def apply(output: Output = Format.TEXT) -> None:
    """Create the tables, or bring them up to date with their specs; a second call changes nothing.

    Example: `lakehouse tables apply`
    """
    applied = environment.apply(get_settings())
    if output is Format.JSON:
        print_json({"tables": [{"table": a.table, "outcome": a.outcome, "changes": a.changes} for a in applied]})
    else:
        print_table(["table", "outcome", "changes"], [(a.table, a.outcome, ", ".join(a.changes)) for a in applied])


@ingest_app.command("run")
def run(
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=MOMENTS,
            metavar="TIME",
            help="Leave what Kafka stamped at this time or later, UTC, to another run.",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Ingest what the topics hold now, then stop; a second call finds nothing new.

    Examples:

    `lakehouse ingest run --output json`

    `lakehouse ingest run --until 2023-10-24T00:00:00`
    """
    settings = artifacts.with_local_spark(get_settings())
    with row_progress("ingest") as progress:
        result = ingest.run(settings, progress, in_utc(until))
    _show_ingest(result, output)


@ingest_app.command("follow")
def follow(output: Output = Format.TEXT) -> None:
    """Ingest until you stop it, and commit every few seconds (setting `LAKEHOUSE_INGEST__COMMIT_SECONDS`).

    It tells how far it is every ten seconds; with `--output json` it writes a line of JSON after each commit.
    While a server is down it waits and tries again. Ctrl-C or SIGTERM lets it commit what it has begun, a second one
    ends it at once.

    Example: `lakehouse ingest follow --output json`
    """
    settings = artifacts.with_local_spark(get_settings())
    stop = threading.Event()
    told_at, told_rows = time.monotonic(), 0

    def tell(notice: ingest.Notice) -> None:
        nonlocal told_at, told_rows
        if notice.problem:
            errors.print(f"waiting: {notice.problem}", markup=False)
        elif output is Format.JSON:
            print_json(asdict(notice.total))
        elif (passed := time.monotonic() - told_at) >= NOTICE_SECONDS:
            rows = notice.total.published_rows + notice.total.quarantined_rows
            rate = (rows - told_rows) / passed
            left = f", {notice.total.lag_rows / rate:,.0f} s left" if notice.total.lag_rows else ""
            errors.print(f"{rows:,} rows, {rate:,.0f} a second, {notice.total.lag_rows:,} wait in Kafka{left}")
            told_at, told_rows = time.monotonic(), rows

    with drained_on_signal(stop):
        result = ingest.follow(settings, stop, tell)
    _show_ingest(result, output)


@ingest_app.command("accept-loss")
def accept(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is lost, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Go on where Kafka has dropped what was not read yet, or has made a topic anew; the ledger remembers it.

    Without a loss it changes nothing.

    Example: `lakehouse ingest accept-loss --dry-run`
    """
    losses = accept_loss(get_settings(), dry_run=dry_run)
    if output is Format.JSON:
        print_json({"losses": [asdict(loss) for loss in losses], "accepted": not dry_run})
    elif not losses:
        answers.print("nothing is lost")
    else:
        rows = [(x.source, x.topic_partition, x.start_offset, x.end_offset, x.rows, x.consequence) for x in losses]
        print_table(["source", "topic partition", "from", "to before", "rows", "consequence"], rows)
        answers.print("nothing was changed" if dry_run else "accepted: the next ingest goes on from there")


def _show_ingest(result: ingest.IngestResult, output: Format) -> None:
    if output is Format.JSON:
        print_json(asdict(result))
        return
    answers.print(
        f"{result.published_rows:,} rows published, {result.quarantined_rows:,} quarantined "
        f"from {', '.join(result.position) or 'no topic'} in {result.seconds:.1f} s"
    )
    if result.quarantined_by_reason:
        print_table(["reason", "rows"], list(result.quarantined_by_reason.items()))


@transform_app.command("run")
def transform_run(
    select: Annotated[
        str | None, typer.Option(help="dbt selection; `+fct_events_daily` takes in what the mart stands on.")
    ] = None,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Build incremental models anew.")] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=MOMENTS,
            metavar="TIME",
            help="Take in again what arrived since this time, UTC, and rebuild the dates it touches.",
        ),
    ] = None,
    withdraw_gone: Annotated[
        bool, typer.Option("--withdraw-gone", help="Drop marts that the project has no more, with their data.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Build the models, run their tests, and publish the marts when nothing failed.

    When a model or a test fails, nothing is published: readers keep the marts as they were, and the error says so.

    Examples:

    `lakehouse transform run --select +fct_events_daily`

    `lakehouse transform run --since 2023-10-24`
    """
    result = transform.build(
        get_settings(),
        select,
        full_refresh,
        since=in_utc(since),
        withdraw_gone=withdraw_gone,
        report=lambda line: errors.print(line, markup=False),
    )
    if result.gone and not withdraw_gone:
        told = f"no model of the project, and still in the catalog: {', '.join(result.gone)}"
        errors.print(f"{told}; `lakehouse transform run --withdraw-gone` drops them")
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        answers.print(f"{result.models} models built, {result.tests} tests passed in {result.seconds:.1f} s")
        news = ", ".join(result.published)
        answers.print(f"published: {news}" if news else "the published marts are as they were")


@transform_app.command("status")
def transform_status(output: Output = Format.TEXT) -> None:
    """Show what readers see of each mart and since when, what waits to be published, and what failed last.

    Example: `lakehouse transform status --output json`
    """
    settings = get_settings()
    marts, last = publish.status(settings), transform.last_build(settings)
    if output is Format.JSON:
        print_json({"marts": [asdict(mart) for mart in marts], "last_build": asdict(last) if last else None})
        return
    rows = [
        (m.mart, _when(m.published_at), m.snapshot_id and str(m.snapshot_id), m.rows, _when(m.waits_since))
        for m in marts
    ]
    print_table(["mart", "published at", "version", "rows", "not published since"], rows)
    if last is not None:
        answers.print(f"last build: {_when(last.ended_at)}, {transform.describe(last.failed)}", markup=False)


def _when(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else None


def produce(
    file: Annotated[
        Path | None, typer.Argument(help="A file of messages, one a line; without it events are generated.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Send only the lines of the file that the topic lacks.")] = False,
    count: Annotated[int, typer.Option(min=1, help="How many events to generate.")] = 1000,
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the generated events, UTC [default: today].")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Messages per second at most.")] = None,
    bad_ratio: Annotated[float, typer.Option(min=0, max=1, help="Share of messages that break the contract.")] = 0.0,
    late_ratio: Annotated[float, typer.Option(min=0, max=1, help="Share of events from earlier days.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed and day give the same events.")] = 1,
    output: Output = Format.TEXT,
) -> None:
    """Send messages to Kafka and wait until each is confirmed.

    Examples:

    `lakehouse produce data/sample-events.jsonl --once`

    `lakehouse produce --count 100000 --rate 5000 --bad-ratio 0.01 --seed 7`
    """
    settings = get_settings()
    with row_progress("produce") as bar:

        def progress(done: int) -> None:
            bar(done, None if file else count)

        if file is None:
            if once:
                raise TerminalError("--once goes with a file: generated events are new messages each time")
            result = producing.produce_generated(
                settings,
                count=count,
                day=(day or datetime.now(UTC)).date(),
                seed=seed,
                rate=rate,
                bad_ratio=bad_ratio,
                late_ratio=late_ratio,
                progress=progress,
            )
        else:
            result = producing.produce_file(settings, file, once=once, rate=rate, progress=progress)
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        there = f", {result.already_there:,} were there already" if result.already_there else ""
        answers.print(f"{result.sent:,} messages sent to {result.topic} and confirmed{there}")


def audit(output: Output = Format.TEXT) -> None:
    """Prove that nothing is lost or doubled, from Kafka's offsets to the daily aggregate; exits 1 at any gap.

    Example: `lakehouse audit --output json`
    """
    report = auditing.audit(get_settings())
    if output is Format.JSON:
        print_json(asdict(report))
    else:
        show_audit(report)
    if not report.ok:
        raise typer.Exit(1)


def show_audit(report: auditing.AuditReport) -> None:
    """Print the ledger of each topic partition, and each gap."""
    print_table(
        [
            *("topic partition", "read from", "up to", "published", "quarantined", "replayed", "no message"),
            *("accepted loss", "waiting"),
        ],
        [
            (
                f"{row.topic}/{row.topic_partition}",
                row.first_offset,
                row.position,
                row.published_rows,
                row.quarantined_rows,
                row.replayed_rows,
                row.absent_offsets,
                row.lost_offsets,
                row.lag_rows,
            )
            for row in report.ledger
        ],
    )
    if report.files.files:
        print_table(
            ["files", "records", "published", "quarantined", "replayed"],
            [
                (
                    report.files.files,
                    report.files.records,
                    report.files.published_rows,
                    report.files.quarantined_rows,
                    report.files.replayed_rows,
                )
            ],
        )
    if report.gaps:
        print_table(["gap", "where", "rows", "what"], [(g.kind, g.where, g.rows, g.detail) for g in report.gaps])
    aggregated = "not published yet" if report.aggregated_rows is None else f"{report.aggregated_rows:,} events"
    answers.print(f"daily aggregate: {aggregated}, {report.unaggregated_rows:,} wait for the next build")
    answers.print("nothing is lost or doubled" if report.ok else f"{len(report.gaps)} gaps", style="bold")
