"""Dropped CSV files: `lakehouse drop`, `lakehouse csv run|list`."""

from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from lakehouse import csv_drop
from lakehouse.cli.output import Format, Output, answers, print_json, print_table, row_progress
from lakehouse.csv_drop import CsvResult, FilesLeftError, FileState
from lakehouse.csv_files import State
from lakehouse.errors import TerminalError
from lakehouse.settings import get_settings
from lakehouse.stack import artifacts

app = typer.Typer(help="Bring dropped CSV files into the tables of events.", no_args_is_help=True)

DAY = ["%Y-%m-%d"]


def drop(
    files: Annotated[list[Path], typer.Argument(help="CSV files on this machine.")],
    date: Annotated[
        datetime | None, typer.Option("--date", formats=DAY, metavar="DATE", help="The folder's date [default: today].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the file is called in the bucket; for one file.")] = None,
    output: Output = Format.TEXT,
) -> None:
    """Put CSV files into the folder of a date, where `lakehouse csv run` and the DAG look for them.

    A file of that name that is there already is replaced, and the next run takes what it brought out of the tables.

    Examples:

    `lakehouse drop data/example.csv`

    `lakehouse drop shop.csv --date 2026-01-31 --name shop-north.csv`
    """
    if name is not None and len(files) > 1:
        raise TerminalError("--name goes with one file")
    day = date.date() if date else today()
    put = [csv_drop.drop(get_settings(), path, day, name) for path in files]
    if output is Format.JSON:
        print_json({"files": [asdict(one) for one in put]})
    else:
        for one in put:
            answers.print(f"{one.file} ({one.size_bytes:,} bytes)", markup=False)


@app.command("run")
def run(
    date: Annotated[
        datetime | None, typer.Option("--date", formats=DAY, metavar="DATE", help="The folder's date [default: today].")
    ] = None,
    days_back: Annotated[
        int | None,
        typer.Option(min=0, help="Days before the date that are looked at for corrected files [default: a setting]."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Bring the files of a date, and corrected ones of the days before, into the tables; each version once.

    Records that break the contract go to quarantine with file and line. A corrected file replaces what its earlier
    version brought, in one commit. Run it again at any time: what is in the tables is not read again.

    Examples:

    `lakehouse csv run`

    `lakehouse csv run --date 2026-01-31 --days-back 0 --output json`
    """
    settings = artifacts.with_local_spark(get_settings())
    try:
        with row_progress("files") as progress:
            result = csv_drop.run(settings, date.date() if date else today(), days_back=days_back, progress=progress)
    except FilesLeftError as error:
        _tell(error.result, output)
        raise
    _tell(result, output)


@app.command("list")
def list_files(
    date: Annotated[
        datetime | None, typer.Option("--date", formats=DAY, metavar="DATE", help="Only the folder of this date.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only files of this state.")] = None,
    output: Output = Format.TEXT,
) -> None:
    """List the files that were dropped, with what came of each.

    The next run that looks at their date takes those that are `waiting` or `changed`. A `refused` file has no header
    that fits: put a corrected one in its place. A `gone` file is no longer in the bucket; its events stay.

    Examples:

    `lakehouse csv list --date 2026-01-31`

    `lakehouse csv list --state refused --output json`
    """
    found = csv_drop.states(get_settings(), date.date() if date else None)
    chosen = [row for row in found if state in (None, row.state)]
    if output is Format.JSON:
        print_json({"files": [asdict(row) for row in chosen]})
    elif not chosen:
        answers.print("no file was dropped" if state is None else f"no file is {state}")
    else:
        _show_states(chosen)


def today() -> date:
    """The date in UTC, by which folders are named."""
    return datetime.now(UTC).date()


def _tell(result: CsvResult, output: Format) -> None:
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        _show(result)


def _show(result: CsvResult) -> None:
    if result.files:
        print_table(
            ["file", "version", "status", "records", "published", "quarantined", "withdrawn"],
            [
                (
                    one.file,
                    one.file_version,
                    one.status,
                    one.records,
                    one.published_rows,
                    one.quarantined_rows,
                    one.withdrawn_rows,
                )
                for one in result.files
            ],
        )
    answers.print(
        f"{len(result.files)} files brought, {result.unchanged_files} were there already as they are, "
        f"in {result.seconds:.1f} s"
    )
    if result.quarantined_by_reason:
        print_table(["reason", "records"], list(result.quarantined_by_reason.items()))
    if result.waiting:
        answers.print("Files of dates that this run did not look at wait:")
        waiting = [(str(one.drop_date), one.files, one.command) for one in result.waiting]
        print_table(["date", "files", "what brings them"], waiting)


def _show_states(rows: list[FileState]) -> None:
    print_table(
        ["date", "file", "state", "bytes", "records", "published", "quarantined"],
        [
            (
                str(row.drop_date),
                row.file,
                row.state,
                row.size_bytes,
                row.loaded and row.loaded.records,
                row.loaded and row.loaded.published_rows,
                row.loaded and row.loaded.quarantined_rows,
            )
            for row in rows
        ],
    )
