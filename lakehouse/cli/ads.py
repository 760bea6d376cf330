"""The ad data: `lakehouse ads load|restore|archive|audit|status|rejected`."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from lakehouse.adapters.ads_archive import AdsArchive
from lakehouse.adapters.ads_store import OPEN_STATES, AdsStore
from lakehouse.ads import archive as archiving
from lakehouse.ads import audit as auditing
from lakehouse.ads import load as loading
from lakehouse.cli.output import (
    MOMENTS,
    Format,
    Output,
    answers,
    in_utc,
    megabytes,
    print_json,
    print_table,
    row_progress,
)
from lakehouse.settings import get_settings

app = typer.Typer(
    help="Ad impressions, from the ad API to PostgreSQL, and when old to the archive.", no_args_is_help=True
)


@app.command("load")
def load(
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=MOMENTS,
            metavar="TIME",
            help="First time of change, UTC; by default where the loads before end, less the overlap.",
        ),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            formats=MOMENTS,
            metavar="TIME",
            help="Time after the last one, UTC; by default now, and never later than that.",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Load the impressions that changed in an interval: from the API to the backup, and from there to PostgreSQL.

    The backup is whole before the first row is inserted. Load an interval again at any time: the newest version of
    each impression stays, and it is there once. What an earlier run stored and did not insert is inserted first.
    Each day of the interval is a run of its own, so of a backlog stays what was done. Where the next load begins is not
    moved by an interval that was asked for by --from.

    Examples:

    `lakehouse ads load --from 2026-01-30 --until 2026-01-31`

    `lakehouse ads load --output json`
    """
    with row_progress("load") as progress:
        result = loading.run(get_settings(), in_utc(start), in_utc(end), progress=progress)
    if output is Format.JSON:
        print_json(asdict(result))
        return
    if result.recovered:
        answers.print(f"inserted from earlier backups: {', '.join(result.recovered)}")
    _show_unreadable(result.unreadable)
    if result.removed:
        answers.print(f"removed, killed before their backup was whole: {', '.join(result.removed)}")
    if not result.runs:
        answers.print(f"everything until {result.interval.end:%Y-%m-%d %H:%M:%S} is loaded")
        return
    answers.print(
        f"{result.records:,} records of {result.interval}: {result.inserted_rows:,} new, {result.updated_rows:,} newer"
        f", {result.superseded_records:,} known, {result.rejected_records:,} refused; {result.seconds:.1f} s"
    )
    first, *more = result.backups
    answers.print(f"backup: {first}{f' and {len(more)} more' if more else ''} ({megabytes(result.backup_bytes)})")
    if result.merged_rows:
        answers.print(f"{result.merged_rows:,} of archived dates went into the archive")


@app.command("restore")
def restore(
    from_backup: Annotated[
        bool, typer.Option("--from-backup", help="From the backups in the object store; there is no other source.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Rebuild the table of live impressions from the backups alone, by today's contract; any number of times.

    Rows that are there are set right where they differ, and what is archived stays in the archive alone. Rows that no
    backup has are left; `lakehouse ads audit` names them. A backup that can't be read keeps no other one out; the
    command names it, and exits with 1 at its end.

    Example: `lakehouse ads restore --from-backup`
    """
    if not from_backup:
        raise typer.BadParameter("say --from-backup")
    with row_progress("restore") as progress:
        result = loading.restore(get_settings(), progress=progress)
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        answers.print(
            f"{result.records:,} records of {result.runs:,} backups: {result.inserted_rows:,} brought back, "
            f"{result.updated_rows:,} set right, {result.superseded_records:,} known, "
            f"{result.rejected_records:,} refused; {result.seconds:.1f} s"
        )
        _show_unreadable(result.unreadable)
    if result.unreadable:
        raise typer.Exit(1)


def _show_unreadable(runs: Sequence[str]) -> None:
    if runs:
        answers.print(f"can't be read, see `lakehouse ads audit`: {', '.join(runs)}")


@app.command("archive")
def archive(
    days: Annotated[
        int, typer.Option(min=0, help="Age from which on impressions are old, in days since they were shown.")
    ] = archiving.DAYS,
    before: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="DATE", help="Archive dates before this one instead; today always stays."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is due, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Move old impressions to Parquet files in the archive, each counted once at any moment.

    Files are written, read back and compared before anything leaves PostgreSQL. Run it again at any time: what an
    earlier run left half done is ended first, and what came late for an archived date is merged into the archive.

    Examples:

    `lakehouse ads archive --dry-run`

    `lakehouse ads archive --days 60 --output json`
    """
    with row_progress("archive") as progress:
        result = archiving.run(
            get_settings(), days=days, before=before.date() if before else None, dry_run=dry_run, progress=progress
        )
    if output is Format.JSON:
        print_json(asdict(result))
        return
    if result.due:
        rows = [(str(due.date), due.rows, "merge" if due.is_merge else "first") for due in result.due]
        print_table(["date", "live rows", "kind"], rows)
    if result.dry_run:
        answers.print(f"{len(result.due)} dates are due; nothing was changed")
        return
    if result.archived:
        rows = [
            (one.batch_id, str(one.date), "merge" if one.is_merge else "first", one.rows, one.removed_rows)
            for one in result.archived
        ]
        print_table(["batch", "date", "kind", "rows archived", "rows removed"], rows)
    waiting = sum(one.removed_rows is None for one in result.archived)
    answers.print(
        f"{len(result.archived)} batches, {result.seconds:.1f} s; dates before {result.boundary} are archived"
    )
    if waiting:
        answers.print(f"{waiting} dates wait for queries that began earlier; the next run removes their rows")
    if result.abandoned:
        answers.print(f"given up: batch {', '.join(map(str, result.abandoned))}")


@app.command("audit")
def audit(output: Output = Format.TEXT) -> None:
    """Prove that every record of every backup is in one place: live, archived, superseded or refused; exits 1 if not.

    It reads the backups, the live table and the archive, and waits for a load or an archiving that is at work.

    Example: `lakehouse ads audit --output json`
    """
    with row_progress("audit") as progress:
        report = auditing.audit(get_settings(), progress)
    if output is Format.JSON:
        print_json(asdict(report))
    else:
        show_audit(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("status")
def status(output: Output = Format.TEXT) -> None:
    """Show what was loaded, what is live, and how far the archive reaches.

    Example: `lakehouse ads status`
    """
    settings = get_settings()
    with AdsStore(settings).session() as session:
        loads, live = session.loads(), session.live_rows()
        batches = session.batches(OPEN_STATES)
    boundary = AdsArchive(settings).boundary()
    last = loads[-5:]
    if output is Format.JSON:
        print_json(
            {
                "loads": len(loads),
                "last_loads": [asdict(load) for load in last],
                "live_rows": sum(live.values()),
                "oldest_live_date": min(live, default=None),
                "boundary": boundary,
                "open_batches": [asdict(batch) for batch in batches],
            }
        )
        return
    print_table(
        ["load", "from", "until", "records", "new", "newer", "known", "refused"],
        [
            (
                load.run_id,
                f"{load.interval_start:%Y-%m-%d %H:%M}",
                f"{load.interval_end:%Y-%m-%d %H:%M}",
                load.records,
                load.inserted_rows,
                load.updated_rows,
                load.superseded_records,
                load.rejected_records,
            )
            for load in last
        ],
    )
    answers.print(f"{sum(live.values()):,} live rows of {len(live)} dates; dates before {boundary} are archived")
    if batches:
        answers.print(f"{len(batches)} batches are open; the next `lakehouse ads archive` ends them")


@app.command("rejected")
def rejected(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    output: Output = Format.TEXT,
) -> None:
    """Show the records that break the contract, the newest run first; the backup has them as they came.

    Example: `lakehouse ads rejected --limit 10`
    """
    with AdsStore(get_settings()).session() as session:
        found = session.rejected(limit)
    columns = ["run", "part", "line", "reason", "field", "message", "record"]
    if output is Format.JSON:
        print_json({"rejected": [dict(zip(columns, row, strict=True)) for row in found]})
    else:
        print_table(columns[:-1], [row[:-1] for row in found])


def show_audit(report: auditing.AuditReport) -> None:
    """Print an audit of the ad data."""
    if report.gaps:
        print_table(
            ["what is wrong", "how many", "such as"],
            [(gap.what, gap.count, ", ".join(gap.examples[:3])) for gap in report.gaps],
        )
    backups = "1 backup" if report.runs == 1 else f"{report.runs:,} backups"
    answers.print(
        f"{report.records:,} records of {backups} = {report.live:,} live + {report.archived:,} archived"
        f" + {report.late:,} late + {report.superseded:,} superseded + {report.refused:,} refused"
        + ("" if report.ok else f"; {len(report.gaps)} things are wrong")
    )
    if report.leaving or report.open_batches:
        answers.print(f"{report.leaving:,} rows of PostgreSQL are archived and leave with the next archiving")
    if report.unfinished:
        answers.print(f"killed before their backup was whole: {', '.join(report.unfinished)}")
