"""Keep the tables healthy and say how they are: `lakehouse maintain`, `lakehouse tables health|cost`."""

import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from lakehouse import maintenance
from lakehouse.cli.output import (
    Format,
    Output,
    answers,
    drained_on_signal,
    errors,
    print_json,
    print_table,
)
from lakehouse.errors import TransientError
from lakehouse.maintenance import Done, Target
from lakehouse.maintenance_plan import Action, told_size
from lakehouse.settings import get_settings

app = typer.Typer(help="Compact, expire, clean up and analyze the tables, as far as it is due.", no_args_is_help=True)

Tables = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="NAME", help="Only this table, such as `events.user_actions`; may be repeated."),
]

OpenToo = Annotated[
    bool,
    typer.Option("--open-partitions", help="Compact also the partitions that got rows lately, and may get more."),
]


@app.command("plan")
def plan(table: Tables = None, open_partitions: OpenToo = False, output: Output = Format.TEXT) -> None:
    """Measure the tables and say what is due, and why; changes nothing.

    Examples:

    `lakehouse maintain plan`

    `lakehouse maintain plan --table events.user_actions --output json`
    """
    _show_plans(_targets(table, open_partitions), output)


@app.command("apply")
def apply(
    table: Tables = None,
    open_partitions: OpenToo = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Do what is due: compact small files, expire snapshots, remove orphans, rewrite manifests, make statistics.

    It runs beside writers. Ctrl-C lets it end the action under way, a second one ends that too; both leave the tables
    right, and what is lacking is done by the next run. What each action did is kept in `ops.maintenance_runs`.

    Examples:

    `lakehouse maintain apply`

    `lakehouse maintain apply --table events.user_actions --table build.fct_events_daily --output json`

    `lakehouse maintain apply --open-partitions`

    `lakehouse maintain apply --dry-run`
    """
    targets = _targets(table, open_partitions)
    if dry_run:
        _show_plans(targets, output)
        return
    settings, now = get_settings(), datetime.now(UTC)
    maintenance.refuse_wrong_clock(settings, now)
    stop = threading.Event()
    with drained_on_signal(stop):
        report = maintenance.apply(
            settings,
            targets,
            stop=stop,
            tell=lambda line: errors.print(line, markup=False),
        )
    if output is Format.JSON:
        skipped = sum(done.outcome == "skipped" for done in report.actions)
        print_json(
            {
                "run_id": report.run_id,
                "actions": [asdict(done) for done in report.actions],
                "failed": len(report.failed),
                "skipped": skipped,
                "reclaimed_bytes": sum(done.reclaimed_bytes for done in report.actions),
                "stopped": report.stopped,
            }
        )
    else:
        _show_done(report)
    if report.failed:
        for done in report.failed:
            errors.print(f"error: {done.table_name}, {done.action}: {done.error}", markup=False)
        codes = {done.exit_code for done in report.failed}
        raise typer.Exit(codes.pop() if codes == {TransientError.exit_code} else 1)


def health(table: Tables = None, output: Output = Format.TEXT) -> None:
    """Say of each table whether it is as a daily run of maintenance keeps it, or why not; exits 1 when one is not.

    `files` stands beside the number that compaction would leave, `debt` is the difference.

    Examples:

    `lakehouse tables health`

    `lakehouse tables health --table events.user_actions --output json`
    """
    settings, now = get_settings(), datetime.now(UTC)
    found = maintenance.health(settings, maintenance.targets(settings, table or ()), now)
    runs = maintenance.last_runs(settings, now)
    if output is Format.JSON:
        tables = [
            asdict(one)
            | {"is_healthy": one.is_healthy, "last_run": asdict(runs[one.table]) if one.table in runs else None}
            for one in found
        ]
        print_json({"is_healthy": all(one.is_healthy for one in found), "tables": tables})
    else:
        rows = list[tuple[object, ...]]()
        for one in found:
            last = runs.get(one.table)
            rows.append(
                (
                    one.table,
                    "healthy" if one.is_healthy else "NOT HEALTHY",
                    one.files,
                    one.ideal_files,
                    one.small_file_debt,
                    one.delete_files,
                    one.snapshots,
                    one.manifests,
                    told_size(one.live_bytes),
                    told_size(one.orphan_bytes),
                    f"{last.ended_at:%Y-%m-%d %H:%M}" if last else None,
                    told_size(last.reclaimed_bytes) if last else None,
                )
            )
        columns = ["table", "health", "files", "ideal", "debt", "delete files", "snapshots", "manifests", "live"]
        print_table([*columns, "orphans", "last run", "reclaimed in 30 days"], rows)
        for one in found:
            for problem in one.problems:
                answers.print(f"{one.table}: {problem}", markup=False)
            for note in one.notes:
                answers.print(f"{one.table}: {note}", markup=False, style="dim")
    if not all(one.is_healthy for one in found):
        raise typer.Exit(1)


def cost(table: Tables = None, output: Output = Format.TEXT) -> None:
    """Say what each table costs in bytes, what that becomes at 450 GiB of messages a day, and what could be saved.

    Examples:

    `lakehouse tables cost`

    `lakehouse tables cost --output json`
    """
    settings = get_settings()
    report = maintenance.cost(settings, maintenance.targets(settings, table or ()), datetime.now(UTC))
    if output is Format.JSON:
        print_json(asdict(report))
        return
    print_table(
        ["table", "live", "held by snapshots", "orphans", "unsettled", "metadata", "growth a day", "at 450 GiB a day"],
        [
            (
                one.table,
                told_size(one.live_bytes),
                told_size(one.snapshot_held_bytes),
                told_size(one.orphan_bytes),
                told_size(one.unsettled_bytes),
                told_size(one.metadata_bytes),
                _size(one.growth_bytes_per_day),
                _size(one.projected_bytes_per_day),
            )
            for one in report.tables
        ],
    )
    answers.print(
        f"warehouse {told_size(report.warehouse_bytes)}, of it quarantine {told_size(report.quarantine_bytes)}; "
        f"archive {told_size(report.archive_bytes)}"
    )
    answers.print(
        f"at {report.full_load_bytes_per_day >> 30} GiB of messages a day: {told_size(report.projected_bytes_per_day)} "
        f"a day, {told_size(report.projected_year_bytes)} after a year"
    )
    if report.savings:
        print_table(
            ["table", "change", "saves now", "saves at 450 GiB a day"],
            [(one.table, one.change, told_size(one.now_bytes), _size(one.projected_bytes)) for one in report.savings],
        )


def _targets(table: list[str] | None, open_partitions: bool) -> list[Target]:
    found = maintenance.targets(get_settings(), table or ())
    if open_partitions:
        return [replace(one, policy=replace(one.policy, closed_after_hours=0)) for one in found]
    return found


def _show_plans(targets: list[Target], output: Format) -> None:
    plans = maintenance.plan(get_settings(), targets, datetime.now(UTC))
    if output is Format.JSON:
        actions = [_document(action) for one in plans for action in one.actions]
        notes = [{"table": one.table, "note": note} for one in plans for note in one.notes]
        print_json({"actions": actions, "notes": notes, "tables": len(plans), "dry_run": True})
        return
    for one in plans:
        for action in one.actions:
            answers.print(f"{one.table}: {action.kind}: {action.reason}", markup=False)
        for note in one.notes:
            answers.print(f"{one.table}: {note}", markup=False, style="dim")
    count = sum(len(one.actions) for one in plans)
    answers.print(f"{count:,} actions are due" if count else f"nothing is due in {len(plans)} tables", style="bold")


def _document(action: Action) -> dict[str, Any]:
    """An action for programs; paths are counted, not listed."""
    fields = asdict(action)
    for name in ("paths", "objects"):
        if name in fields:
            fields[name] = len(fields[name])
    return {"action": action.kind} | fields


def _show_done(report: maintenance.Report) -> None:
    if not report.actions:
        answers.print(f"nothing was due in {report.tables} tables")
        return
    print_table(
        ["table", "action", "partition", "outcome", "files", "bytes", "reclaimed", "planning", "scan", "seconds"],
        [
            (
                done.table_name,
                done.action,
                done.table_partition,
                done.outcome,
                _change(f"{done.files_before:,}", f"{done.files_after:,}" if done.files_after is not None else None),
                _change(
                    told_size(done.bytes_before), None if done.bytes_after is None else told_size(done.bytes_after)
                ),
                told_size(done.reclaimed_bytes),
                _change(_seconds(done.planning_seconds_before), _seconds(done.planning_seconds_after)),
                _change(_seconds(done.scan_seconds_before), _seconds(done.scan_seconds_after)),
                f"{_lasted(done):.1f}",
            )
            for done in report.actions
        ],
    )
    answers.print(f"reclaimed {told_size(sum(done.reclaimed_bytes for done in report.actions))}", style="bold")


def _change(before: str | None, after: str | None) -> str | None:
    return before if after is None or before == after else f"{before} → {after}"


def _size(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else told_size(size_bytes)


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.2f} s"


def _lasted(done: Done) -> float:
    return (done.ended_at - done.started_at).total_seconds()
