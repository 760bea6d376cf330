"""kill -9 at every step of a run over files, new ones and corrected ones, and what happens between that and the next.

After each kill the audit has no gap, and the next run ends what was begun: each record of the newest version of each
file is in one table, once, and of earlier versions nothing is left.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psutil
import pytest

from lakehouse import csv_drop
from lakehouse.adapters.catalog import Lake
from lakehouse.audit import audit
from lakehouse.audit_files import FilesLedger
from lakehouse.settings import Settings
from lakehouse.tables import CSV_FILES, USER_ACTIONS, USER_ACTIONS_QUARANTINE
from tests.faults.harness import Shop, opened
from tests.integration.replaying import environment_of
from tests.shops import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]

DAY = date(2026, 11, 2)
HEADER = "timestamp,event_name,platform,user_id,product_name,sku"
STEPS = {
    "before-the-job": "planned",
    "mid-file": "mid-file",
    "files-written": "uploaded",
    "job-ended": "collected",
    "before-the-refused": "quarantine-sending",
    "when-the-refused-are-there": "quarantine-landed",
    "before-the-events": "events-sending",
    "when-the-events-are-there": "events-landed",
    "when-the-dates-are-told": "quarantine-landed:2",
    "refused-of-before-deleted": "quarantine-cleared",
    "before-the-files-are-recorded": "ops-sending",
    "when-the-files-are-recorded": "ops-landed",
}


def put(shop: Shop, name: str, *users: str) -> None:
    path = Path(shop.environment["SCRATCH"]) / name
    lines = [f"2023-11-24T12:00:00Z,view,web,{user},Wireless Mouse,SKU-1001" for user in users]
    path.write_text("\n".join((HEADER, *lines, "")))
    csv_drop.drop(shop.settings, path, DAY)


def nothing(_: Shop) -> None:
    pass


def maintain(shop: Shop) -> None:
    shop.compact_and_expire()


def ingest(shop: Shop) -> None:
    shop.send(20)
    shop.finish()


def correct_again(shop: Shop) -> None:
    put(shop, "corrected.csv", "c1", "", "c2", "c3")


@pytest.fixture
def shop(environment: Settings, tmp_path: Path) -> Iterator[Shop]:
    """Some messages, and two files: one stays, and the other has a corrected version that waits."""
    with opened(environment, environment_of(environment) | {"SCRATCH": str(tmp_path)}) as shop:
        shop.send(40)
        shop.finish()
        put(shop, "kept.csv", "k1", "", "k2")
        put(shop, "corrected.csv", "a1", "", "", "a2")
        csv_drop.run(environment, DAY, days_back=0)
        put(shop, "corrected.csv", "b1", "", "b2")
        put(shop, "new.csv", "n1", "")
        yield shop


def users(settings: Settings) -> list[str]:
    rows = Lake(settings).load(USER_ACTIONS).scan("source = 'csv'", selected_fields=("user_id",)).to_arrow()
    return sorted(rows["user_id"].to_pylist())


def refused(settings: Settings) -> list[tuple[str, int]]:
    columns = ("file", "file_line")
    rows = Lake(settings).load(USER_ACTIONS_QUARANTINE).scan("source = 'csv'", selected_fields=columns).to_arrow()
    return sorted((row["file"].rpartition("/")[2], row["file_line"]) for row in rows.to_pylist())


@pytest.mark.parametrize(
    "then", [nothing, maintain, ingest, correct_again], ids=["plain", "maintained", "ingested", "corrected-again"]
)
@pytest.mark.parametrize("place", STEPS.values(), ids=STEPS)
def test_a_killed_run_loses_and_doubles_nothing(shop: Shop, place: str, then: Callable[[Shop], None]) -> None:
    settings = shop.settings
    command = ("csv", "run", "--date", str(DAY), "--days-back", "0")
    name, _, time_passed = place.partition(":")
    shop.start(*command, failpoint=f"{name}:kill-driver:{time_passed or 1}").ends(-9)
    assert audit(settings).gaps == ()
    then(shop)
    assert audit(settings).gaps == ()
    csv_drop.run(settings, DAY, days_back=0)
    newest = ["c1", "c2", "c3"] if then is correct_again else ["b1", "b2"]
    assert users(settings) == sorted([*newest, "k1", "k2", "n1"])
    assert refused(settings) == [("corrected.csv", 3), ("kept.csv", 3), ("new.csv", 3)]
    report = audit(settings)
    assert report.gaps == ()
    assert report.files == FilesLedger(3, len(newest) + 6, len(newest) + 3, 3, 0)
    assert csv_drop.run(settings, DAY, days_back=0).commits == 0
    recorded = Lake(settings).load(CSV_FILES).scan(selected_fields=("file_version", "file")).to_arrow().to_pylist()
    assert len({tuple(row.values()) for row in recorded}) == len(recorded)


@pytest.mark.parametrize("place", ["quarantine-sending", "events-sending"])
def test_a_run_that_another_one_overtakes_leaves_nothing_in_quarantine(shop: Shop, place: str) -> None:
    settings = shop.settings
    command = ("csv", "run", "--date", str(DAY), "--days-back", "0")
    first = shop.start(*command, failpoint="events-sending:hold:1")
    wait_until(first.is_held, "the first run has committed what it refused")
    correct_again(shop)
    second = shop.start(*command, failpoint=f"{place}:hold:1")
    wait_until(second.is_held, "the second run gets there")
    first.release()
    first.ends(0)
    assert users(settings) == ["b1", "b2", "k1", "k2", "n1"]
    assert audit(settings).gaps == ()
    second.release()
    second.ends(0)
    assert users(settings) == ["c1", "c2", "c3", "k1", "k2", "n1"]
    assert refused(settings) == [("corrected.csv", 3), ("kept.csv", 3), ("new.csv", 3)]
    assert audit(settings).gaps == ()


@pytest.mark.timeout(1800)
def test_a_file_of_ten_million_lines_takes_no_more_memory_than_a_part_of_it(shop: Shop, tmp_path: Path) -> None:
    settings, lines = shop.settings, int(os.environ.get("CSV_LINES", "10000000"))
    path = tmp_path / "large.csv"
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        for start in range(0, lines, 100_000):
            file.writelines(
                f"2023-11-24T12:{number // 60 % 60:02}:{number % 60:02}Z,view,web,"
                f"user_{number * 7919 % 1_000_003},Wireless Mouse,SKU-{number % 97}\n"
                for number in range(start, min(lines, start + 100_000))
            )
    csv_drop.drop(settings, path, DAY)
    path.unlink()
    command = shop.start("csv", "run", "--date", str(DAY), "--days-back", "0", "--output", "json")
    peak = watched(command.process.pid)
    command.process.wait(1200)  # longer than any other command may take
    command.ends(0)
    result = json.loads(command.output)
    assert result["published_rows"] == lines + 3
    assert audit(settings).gaps == ()
    # The file alone has 700 MB; the driver's JVM may have a gigabyte of heap, which it does not fill.
    assert peak() < 2_500_000_000, peak()


def watched(pid: int) -> Callable[[], int]:
    """Look at the memory that a process and all below it have to themselves, until it ends."""
    highest = 0

    def look() -> None:
        nonlocal highest
        while psutil.pid_exists(pid):
            total = 0
            try:
                driver = psutil.Process(pid)
                for process in (driver, *driver.children(recursive=True)):
                    total += process.memory_full_info().uss
            except psutil.Error:
                pass
            highest = max(highest, total)
            time.sleep(0.5)

    threading.Thread(target=look, daemon=True).start()
    return lambda: highest
