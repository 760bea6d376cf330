"""Old events in the archive: `lakehouse archive run|list|verify|restore`."""

from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated

import typer

from lakehouse import archive
from lakehouse.archive import ArchiveResult, Part
from lakehouse.cli.output import Format, Output, answers, megabytes, print_json, print_table, row_progress
from lakehouse.settings import get_settings

app = typer.Typer(help="Move old events to the archive, look after them, and bring them back.", no_args_is_help=True)

DAY = ["%Y-%m-%d"]
OneDate = Annotated[
    datetime | None, typer.Option("--date", formats=DAY, metavar="DATE", help="Only events of this UTC date.")
]


@app.command("run")
def run(
    before: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY,
            metavar="DATE",
            help="Archive the dates before this one instead of those that policy names; today always stays.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is due, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Move the dates that policy has due from the live table to the archive, each event counted once at any moment.

    Files are written, read back and compared before anything leaves the live table. Run it again at any time: what an
    earlier run left half done is ended first. Late events of an archived date follow as a further part. Restored dates
    wait until their hold has passed.

    Examples:

    `lakehouse archive run --dry-run`

    `lakehouse archive run --before 2026-01-01 --output json`
    """
    with row_progress("archive") as progress:
        result = archive.run(get_settings(), before=_day(before), dry_run=dry_run, progress=progress)
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        _show_run(result)


@app.command("list")
def list_parts(date: OneDate = None, output: Output = Format.TEXT) -> None:
    """List what is in the archive: the parts of each date, and whether their rows count there.

    Examples:

    `lakehouse archive list`

    `lakehouse archive list --date 2026-01-31 --output json`
    """
    found = archive.parts(get_settings(), _day(date))
    if output is Format.JSON:
        print_json({"parts": [asdict(part) for part in found]})
    elif not found:
        answers.print("nothing is in the archive")
    else:
        _show_parts(found)


@app.command("verify")
def verify(date: OneDate = None, output: Output = Format.TEXT) -> None:
    """Read archived files back from the bucket and compare them with their manifests; exits 1 when something differs.

    It compares bytes, rows and content, and the files that the archive table names with those of the manifests.

    Examples:

    `lakehouse archive verify`

    `lakehouse archive verify --date 2026-01-31 --output json`
    """
    with row_progress("verify") as progress:
        found = archive.verify(get_settings(), _day(date), progress)
    if output is Format.JSON:
        print_json(asdict(found))
    else:
        if found.differences:
            print_table(["date", "where", "what differs"], [(str(d.date), d.where, d.what) for d in found.differences])
        read = f"{found.parts} parts with {found.files} files, {found.rows:,} rows, {megabytes(found.size_bytes)}"
        answers.print(f"{read}: {'as they were archived' if found.ok else f'{len(found.differences)} differences'}")
    if not found.ok:
        raise typer.Exit(1)


@app.command("restore")
def restore(
    date: Annotated[datetime, typer.Option(formats=DAY, metavar="DATE", help="The UTC date to bring back.")],
    hold_days: Annotated[
        int, typer.Option(min=0, help="How long `lakehouse archive run` leaves the date alone, in days.")
    ] = archive.HOLD_DAYS,
    output: Output = Format.TEXT,
) -> None:
    """Bring the archived events of a date back into the live table, each once, and take them out of the archive.

    A second call finds nothing to do. The models see the same events before and after: they read both tables.

    Example: `lakehouse archive restore --date 2026-01-31 --hold-days 30`
    """
    with row_progress("restore") as progress:
        result = archive.restore(get_settings(), date.date(), hold_days=hold_days, progress=progress)
    if output is Format.JSON:
        print_json(asdict(result))
    elif not result.parts:
        answers.print(f"the archive has nothing of {result.restored_date}")
    else:
        answers.print(
            f"{result.rows:,} events of {result.restored_date} are live again; "
            f"`lakehouse archive run` leaves them alone until {result.held_until}"
        )


def _show_run(result: ArchiveResult) -> None:
    if result.due:
        rows = [(str(due.date), due.rows, due.files, megabytes(due.size_bytes)) for due in result.due]
        print_table(["date", "rows", "files", "size"], rows)
    if result.archived:
        _show_parts(result.archived)
    if result.dry_run:
        answers.print(f"{len(result.due)} dates are due; nothing was changed")
    else:
        answers.print(f"{len(result.archived)} parts archived in {result.seconds:.1f} s")
    if result.withdrawn:
        answers.print(f"taken back, as the date was rewritten meanwhile: {', '.join(result.withdrawn)}")
    if result.held:
        answers.print(f"restored lately and left alone: {', '.join(map(str, result.held))}")


def _show_parts(parts: list[Part] | tuple[Part, ...]) -> None:
    print_table(
        ["date", "part", "state", "archived at", "rows", "files", "size"],
        [
            (
                str(part.date),
                part.name,
                part.state,
                f"{part.archived_at:%Y-%m-%d %H:%M:%S}",
                part.rows,
                part.files,
                megabytes(part.size_bytes),
            )
            for part in parts
        ],
    )


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None
