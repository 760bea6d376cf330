"""Announced files: `lakehouse announce` and `lakehouse files run|list|retry|audit|accept-loss`."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lakehouse import announce as announcing
from lakehouse import audit_notifications, file_notifications
from lakehouse.adapters.file_store import FileLoss, FileStore
from lakehouse.announce import Misbehaviour
from lakehouse.cli.output import Format, Output, answers, print_json, print_table, row_progress
from lakehouse.file_contract import DatasetName, FileReason
from lakehouse.file_ledger import Status
from lakehouse.file_notifications import FilesResult
from lakehouse.settings import get_settings
from lakehouse.stack import artifacts

app = typer.Typer(help="Files that are announced on Kafka and aggregated into PostgreSQL.", no_args_is_help=True)

DAY = ["%Y-%m-%d"]


def announce(
    files: Annotated[list[Path], typer.Argument(help="Files to upload; the suffix says the format.")],
    dataset: Annotated[DatasetName, typer.Option(help="What their lines are.")],
    date: Annotated[
        datetime | None,
        typer.Option(formats=DAY, metavar="DATE", help="UTC date of the lines [default: the date in a file's name]."),
    ] = None,
    misbehave: Annotated[
        Misbehaviour | None,
        typer.Option(
            help="Do it wrong: announce twice, without the file, with a wrong checksum, or with broken lines."
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Upload files to the bucket of announced files, and announce each on Kafka.

    What is there already with the same content is not uploaded again, and the same announcement changes nothing.

    Examples:

    `lakehouse announce data/files/sales-2023-10-23-web.csv --dataset sales`

    `lakehouse announce data/files/sales-2023-10-23-web.csv --dataset sales --misbehave twice`
    """
    day = date.date() if date else None
    done = announcing.announce(get_settings(), files, dataset, day, misbehave)
    if output is Format.JSON:
        print_json({"files": [asdict(one) for one in done]})
    else:
        rows = [(one.key, one.version, "yes" if one.uploaded else "no", one.notifications) for one in done]
        print_table(["key", "version", "uploaded", "notifications"], rows)


@app.command("run")
def run(output: Output = Format.TEXT) -> None:
    """Take up what was announced, aggregate it by day and product, and store the aggregates in PostgreSQL.

    Files that are not what was announced are set aside with their reason, and the others go on. Run it again at any
    time: no file counts twice.

    Examples:

    `lakehouse files run`

    `lakehouse files run --output json`
    """
    settings = artifacts.with_local_spark(get_settings())
    with row_progress("files") as progress:
        result = file_notifications.run(settings, progress)
    if output is Format.JSON:
        print_json(asdict(result))
    else:
        _show_run(result)


@app.command("list")
def list_files(
    status: Annotated[Status | None, typer.Option(help="Only files of this status.")] = None,
    dataset: Annotated[DatasetName | None, typer.Option(help="Only files of this dataset.")] = None,
    date: Annotated[
        datetime | None, typer.Option(formats=DAY, metavar="DATE", help="Only files of this UTC date.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 100,
    output: Output = Format.TEXT,
) -> None:
    """List the files that were announced, what became of each and why; refused notifications are among the failed.

    Examples:

    `lakehouse files list --status failed`

    `lakehouse files list --dataset sales --date 2023-10-23 --output json`
    """
    store = FileStore(get_settings())
    found = store.files(status, dataset, date.date() if date else None, limit)
    if output is Format.JSON:
        print_json({"files": [asdict(one) for one in found], "counts": store.counts()})
        return
    rows = [
        (
            one.file_id and str(one.file_id),
            one.place,
            one.dataset,
            one.event_date and str(one.event_date),
            one.status,
            one.line_count,
            f"{one.reason}: {one.message}" if one.reason else None,
        )
        for one in found
    ]
    print_table(["file", "where", "dataset", "date", "status", "lines", "why"], rows)
    told = ", ".join(f"{count:,} {name}" for name, count in store.counts().items() if name != "refused")
    answers.print(f"files: {told}; {store.counts()['refused']:,} notifications refused")


@app.command("retry")
def retry(
    reason: Annotated[
        list[FileReason] | None,
        typer.Option(help="Only files set aside for this; may be given several times."),
    ] = None,
    file: Annotated[
        list[int] | None, typer.Option(help="Only the file of this number in `files list`; may be given several times.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Let the next run try files again that were set aside; without options all of them, and refused notifications too.

    A refused notification is judged by the contract of today.

    Examples:

    `lakehouse files retry`

    `lakehouse files retry --reason missing_object --output json`
    """
    settings = get_settings()
    files = FileStore(settings).retry([one.value for one in reason or ()], file or ())
    judged = FilesResult() if reason or file else file_notifications.judge_again(settings)
    if output is Format.JSON:
        accepted = judged.announced + judged.repeated
        print_json({"files": files, "notifications": accepted, "refused": judged.refused})
    else:
        told = f"{files:,} files are pending again; `lakehouse files run` reads them"
        answers.print(told if files else "no such file is set aside")
        if judged.notifications:
            answers.print(f"{judged.announced + judged.repeated:,} of {judged.notifications:,} notifications accepted")


@app.command("audit")
def audit(output: Output = Format.TEXT) -> None:
    """Prove that each notification that was read is stored, and that the aggregates are those of the files that count.

    Exits 1 at any gap. A loss that was accepted is told, and is none.

    Example: `lakehouse files audit --output json`
    """
    settings = get_settings()
    found, accepted = audit_notifications.audit(settings), FileStore(settings).accepted_losses()
    if output is Format.JSON:
        print_json(asdict(found) | {"accepted_losses": [asdict(loss) for loss in accepted], "ok": found.ok})
    else:
        if found.gaps:
            print_table(["gap", "where", "count", "what"], [(g.kind, g.where, g.count, g.detail) for g in found.gaps])
        if accepted:
            rows = [(*_place(loss), loss.accepted_at) for loss in accepted]
            print_table(["accepted loss of", "from", "to before", "notifications", "accepted at"], rows)
        told = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
        answers.print(f"{told}; {found.waiting:,} notifications wait in Kafka")
        answers.print("nothing is lost or doubled" if found.ok else f"{len(found.gaps)} gaps", style="bold")
    if not found.ok:
        raise typer.Exit(1)


@app.command("accept-loss")
def accept(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is lost, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Accept that Kafka dropped notifications before they were read; the audit remembers it, and it is a gap no more.

    Before that, have the files that came meanwhile announced again. It accepts what a run has noticed; what Kafka drops
    later is a gap again. Without a loss it changes nothing.

    Examples:

    `lakehouse files accept-loss --dry-run`

    `lakehouse files accept-loss --output json`
    """
    losses = FileStore(get_settings()).accept_losses(dry_run=dry_run)
    if output is Format.JSON:
        print_json({"losses": [asdict(loss) for loss in losses], "accepted": not dry_run})
    elif not losses:
        answers.print("no run has noticed a loss that is not accepted")
    else:
        rows = [(*_place(loss), loss.noticed_at) for loss in losses]
        print_table(["topic partition", "from", "to before", "notifications", "noticed at"], rows)
        answers.print("nothing was changed" if dry_run else "accepted: `lakehouse files audit` remembers it")


def _place(loss: FileLoss) -> tuple[str, int, int, int]:
    return f"{loss.topic}/{loss.topic_partition}", loss.start_offset, loss.end_offset, loss.notifications


def _show_run(result: FilesResult) -> None:
    answers.print(
        f"{result.notifications:,} notifications: {result.announced:,} announce, {result.repeated:,} repeat, "
        f"{result.refused:,} refused"
    )
    answers.print(
        f"{result.done:,} files with {result.lines:,} lines counted, {result.replaced:,} replaced, "
        f"{result.days:,} days computed in {result.seconds:.1f} s"
    )
    if result.failed:
        print_table(["set aside because", "files"], list(result.failed.items()))
        answers.print("`lakehouse files list --status failed` shows them")
