"""What a run over files refuses before it asks a server, how it tells which files it left, and that it gives way."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from typer.testing import CliRunner

from lakehouse import csv_drop
from lakehouse.cli.main import app
from lakehouse.csv_drop import CsvResult, FilesRefusedError, FilesUnservedError, Waiting
from lakehouse.csv_task import Facts
from lakehouse.errors import FenceError, LakehouseError, TerminalError, TransientError
from lakehouse.settings import load_settings
from lakehouse.stack import artifacts

DAY = date(2026, 11, 2)
UNSERVED = Facts("unserved", "the store failed on it")
DENIED = Facts("denied", "it is not for the pipeline")
WAITING = (Waiting(date(2026, 10, 2), 3, "lakehouse csv run --date 2026-10-02 --days-back 0"),)


def replaced(patch: pytest.MonkeyPatch, **steps: Any) -> None:
    """Let a run ask no server and wait for nobody; there is nothing to do in the steps that are not given."""
    nothing: dict[str, Any] = {"settle": answering(None), "bring": answering([]), "elsewhere": answering(WAITING)}
    for name, step in (nothing | steps).items():
        patch.setattr(csv_drop._Run, name, step)
    patch.setattr(csv_drop.time, "sleep", answering(None))


def answering(answer: Any) -> Callable[..., Any]:
    return lambda *_: answer


def test_days_back_that_would_be_no_folder_are_refused() -> None:
    with pytest.raises(TerminalError, match="-1 days back would look at no folder"):
        csv_drop.run(load_settings(), DAY, days_back=-1)


def test_of_no_dates_no_file_is_listed() -> None:
    assert csv_drop.dropped(load_settings(), []) == []


@pytest.mark.parametrize(
    ("unread", "is_held_back", "error", "told"),
    [
        (
            {"b.csv": UNSERVED, "a.csv": UNSERVED},
            False,
            FilesUnservedError,
            r"^a\.csv, b\.csv can't be read \(the store f",
        ),
        (
            {"a.csv": UNSERVED, "b.csv": DENIED},
            False,
            FilesRefusedError,
            r"^b\.csv, a\.csv can't be read \(it is not for",
        ),
        (
            {"a.csv": UNSERVED},
            True,
            FilesRefusedError,
            r"^c\.csv was corrected, .* --date 2026-11-02`; a\.csv can't be",
        ),
        (
            dict.fromkeys(map(str, range(10, 30)), DENIED),
            False,
            FilesRefusedError,
            r"^10, .*, 19 and 10 more can't be read",
        ),
    ],
)
def test_a_run_that_left_files_says_which_and_whether_to_run_it_again(
    unread: dict[str, Facts], is_held_back: bool, error: type[LakehouseError], told: str
) -> None:
    work = csv_drop._Run(load_settings())
    work.refuse_left(CsvResult())
    work._unread = unread
    work._held_back = {"c.csv": [DAY]} if is_held_back else {}
    with pytest.raises(error, match=told + ".*then run again; every other file is done$") as caught:
        work.refuse_left(CsvResult(commits=1))
    assert type(caught.value) is error
    assert caught.value.exit_code == (75 if error is FilesUnservedError else 1)


@pytest.mark.parametrize(("left", "error"), [(DENIED, TerminalError), (UNSERVED, TransientError)])
def test_a_run_that_left_a_file_tells_what_the_others_brought_and_what_waits(
    left: Facts, error: type[LakehouseError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(work: Any, *_: object) -> Sequence[str]:
        work.result = replace(work.result, published_rows=2, commits=1)
        work._unread = {"a.csv": left}
        return []

    replaced(monkeypatch, bring=bring)
    monkeypatch.setattr(artifacts, "with_local_spark", answering(load_settings()))
    with pytest.raises(error, match=r"^a\.csv can't be read"):
        csv_drop.run(load_settings(), DAY)
    told = CliRunner().invoke(app, ["csv", "run", "--output", "json"])
    assert isinstance(told.exception, error)
    result = json.loads(told.stdout)
    assert (result["published_rows"], result["waiting"][0]["command"]) == (2, WAITING[0].command)
    assert WAITING[0].command in CliRunner().invoke(app, ["csv", "run"]).stdout


@pytest.mark.parametrize("step", ["settle", "bring"])
def test_a_run_that_others_overtake_looks_anew_and_at_last_may_be_run_again(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(times: int) -> Callable[..., Any]:
        left = [FenceError("t has 3: another run was quicker")] * times

        def once(*_: object) -> list[str]:
            if left:
                raise left.pop()
            return []

        return once

    replaced(monkeypatch, **{step: overtaken(3)})
    assert csv_drop.run(load_settings(), DAY).waiting == WAITING
    replaced(monkeypatch, **{step: overtaken(4)})
    with pytest.raises(TransientError, match=r"^4 times in a row: t has 3: another run was quicker"):
        csv_drop.run(load_settings(), DAY)
