"""What a run over files refuses before it asks a server, and how it tells which files it left."""

from datetime import date

import pytest

from lakehouse import csv_drop
from lakehouse.csv_task import Facts
from lakehouse.errors import LakehouseError, TerminalError, TransientError
from lakehouse.settings import load_settings

DAY = date(2026, 11, 2)
UNSERVED = Facts("unserved", "the store failed on it")
DENIED = Facts("denied", "it is not for the pipeline")


def test_days_back_that_would_be_no_folder_are_refused() -> None:
    with pytest.raises(TerminalError, match="-1 days back would look at no folder"):
        csv_drop.run(load_settings(), DAY, days_back=-1)


def test_of_no_dates_no_file_is_listed() -> None:
    assert csv_drop.dropped(load_settings(), []) == []


@pytest.mark.parametrize(
    ("unread", "is_held_back", "error", "told"),
    [
        ({"b.csv": UNSERVED, "a.csv": UNSERVED}, False, TransientError, r"^a\.csv, b\.csv can't be read \(the store f"),
        ({"a.csv": UNSERVED, "b.csv": DENIED}, False, TerminalError, r"^b\.csv, a\.csv can't be read \(it is not for"),
        ({"a.csv": UNSERVED}, True, TerminalError, r"^c\.csv was corrected, .* --date 2026-11-02`; a\.csv can't be"),
        (
            dict.fromkeys(map(str, range(10, 30)), DENIED),
            False,
            TerminalError,
            r"^10, .*, 19 and 10 more can't be read",
        ),
    ],
)
def test_a_run_that_left_files_says_which_and_whether_to_run_it_again(
    unread: dict[str, Facts], is_held_back: bool, error: type[LakehouseError], told: str
) -> None:
    work = csv_drop._Run(load_settings())
    work.refuse_left()
    work._unread = unread
    work._held_back = {"c.csv": [DAY]} if is_held_back else {}
    with pytest.raises(error, match=told + ".*then run again; every other file is done$") as caught:
        work.refuse_left()
    assert type(caught.value) is error
