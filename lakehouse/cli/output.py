"""How commands speak: tables for people, JSON for programs, progress on standard error."""

import json
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from threading import Event, Lock
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_WIDTH_OF_FILES = 500


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES  # else a table that goes into a pipe or a file would fold at 80 characters
    return console


errors = _console(stderr=True)
"""Progress, notices and errors; standard output holds the answer alone."""

answers = _console()


class Format(StrEnum):
    """How an answer is written."""

    TEXT = "text"
    JSON = "json"


MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"]
"""How a moment may be written in an option; without an offset it is UTC."""

Output = Annotated[Format, typer.Option("--output", "-o", help="Write the answer as text or as one line of JSON.")]


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(json.dumps(document, default=str) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print rows as a table; numbers stand to the right."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    answers.print(table)


def _cell(value: object) -> Text:
    if value is None:
        return Text()
    return Text(f"{value:,}" if isinstance(value, int) else str(value))  # text as it is, whatever brackets it holds


def in_utc(moment: datetime | None) -> datetime | None:
    """A moment as an option brought it, in UTC."""
    if moment is None or moment.tzinfo is None:
        return moment and moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def megabytes(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / 1e6:,.0f} MB"


@contextmanager
def install_progress() -> Generator["InstallProgress"]:
    """Show what an install fetches and builds, side by side; where nobody watches, a line at each tenth."""
    with Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        console=errors,
        disable=not errors.is_terminal,
    ) as bars:
        yield InstallProgress(bars)


class InstallProgress:
    """The callback for `install.install`; several threads call it."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._lock = Lock()

    def __call__(self, step: str, done: int, total: int | None, unit: str) -> None:
        """Show the state of one step."""
        amount = f"{megabytes(done)} of {megabytes(total or done)}" if unit == "bytes" else f"{done} {unit}"
        with self._lock:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total, amount=amount)
            self._bars.update(self._tasks[step], completed=done, total=total, amount=amount)
            if not errors.is_terminal:
                tenth = done * 10 // total if total else done // 200
                if self._tenths.get(step) != tenth:
                    self._tenths[step] = tenth
                    errors.print(f"  {step}: {amount}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


@contextmanager
def row_progress(title: str) -> Generator[Callable[[int, int | None], None]]:
    """A bar over rows with rate and remaining time, fed with (done, total); invisible where nobody watches."""
    with Progress(
        TextColumn(title),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def drained_on_signal(
    stop: Event, note: str = "ending after the commit in flight; once more ends at once"
) -> Generator[None]:
    """Let the first Ctrl-C or SIGTERM set `stop`, so that work in flight is finished; the second one ends at once."""

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if note:
            errors.print(f"{signal.Signals(number).name}: {note}")

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
