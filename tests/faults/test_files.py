"""kill -9 at every step of a run over announced files; after each, every message and every file counts once.

One file is good, one corrects a file that counts already, and one is bad; a message is none. The run dies, another file
is announced, and the next run does all that is left.
"""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lakehouse import audit_notifications, file_notifications
from lakehouse.adapters.file_store import FileStore
from lakehouse.file_contract import DATASETS
from lakehouse.file_ledger import ALONE_AFTER, GIVE_UP_AFTER
from lakehouse.settings import Settings
from tests.faults.harness import Shop
from tests.files import (
    Line,
    aggregates,
    announcement,
    ask,
    content,
    counted,
    ledger,
    next_second,
    open_counter,
    send,
    store,
)
from tests.integration.replaying import environment_of

pytestmark = [pytest.mark.integration, pytest.mark.faults]

STEPS = {
    "messages-written": "files-recorded:kill:1",
    "offsets-committed": "offsets-committed:kill:1",
    "files-claimed": "files-claimed:kill:1",
    "before-the-check": "planned:kill:1",
    "in-a-worker-that-checks": "reading-b.csv:kill:1",
    "driver-while-a-worker-checks": "reading-b.csv:kill-driver:1",
    "checked": "collected:kill:1",
    "bad-ones-set-aside": "files-set-aside:kill:1",
    "before-the-transaction": "files-finishing:kill:1",
    "in-the-transaction": "files-day-written:kill:1",
    "days-stored": "files-finished:kill:1",
}
BEFORE = [Line("u1", "s1", 1, "10.00"), Line("u2", "s2", 1, "3.00")]
CORRECTED = [Line("u1", "s1", 2, "20.00"), Line("u3", "s3", 1, "4.00")]
MORE = [Line("u4", "s1", 1, "1.00"), Line("u1", "s1", 1, "2.00")]
LATER = [Line("u5", "s3", 1, "8.00")]


@pytest.fixture
def shop(environment: Settings) -> Iterator[Shop]:
    """A file of the day counts already; its correction, another file, a bad one and no JSON are announced."""
    settings = open_counter(environment)
    send(settings, announcement(store(settings, "sales/a.csv", content(BEFORE))))
    file_notifications.run(settings)
    next_second()
    send(
        settings,
        announcement(store(settings, "sales/a.csv", content(CORRECTED))),
        announcement(store(settings, "sales/b.csv", content(MORE))),
        announcement(store(settings, "sales/bad.csv", b"no file of sales\n")),
        b"not json",
    )
    shop = Shop(settings, environment_of(settings))
    try:
        yield shop
    finally:
        shop.end()


@pytest.mark.parametrize("failpoint", STEPS.values(), ids=STEPS)
def test_a_killed_run_loses_and_doubles_nothing(shop: Shop, failpoint: str) -> None:
    settings = shop.settings
    command = shop.start("files", "run", failpoint=failpoint)
    if failpoint.startswith("reading-b.csv:kill:"):
        command.ends(0, 75)  # Spark starts another worker
    else:
        command.dies()
    days = aggregates(settings)
    assert days in (counted(BEFORE), counted(CORRECTED + MORE))
    assert ("bad.csv", "done", None) not in ledger(settings)
    send(settings, announcement(store(settings, "sales/later.csv", content(LATER))))
    file_notifications.run(settings)
    assert aggregates(settings) == counted(CORRECTED + MORE + LATER)
    assert sorted(ledger(settings)) == [
        ("a.csv", "done", None),
        ("a.csv", "replaced", None),
        ("b.csv", "done", None),
        ("bad.csv", "failed", "wrong_columns"),
        ("later.csv", "done", None),
    ]
    outcomes = "SELECT outcome, count(*) FROM {s}.file_notifications GROUP BY outcome ORDER BY outcome"
    assert ask(settings, outcomes) == [("announced", 5), ("refused", 1)]
    found = audit_notifications.audit(settings)
    assert (found.gaps, found.waiting) == ((), 0)


def test_a_file_that_kills_whoever_reads_it_holds_up_no_other_and_is_given_up(shop: Shop) -> None:
    settings = shop.settings
    send(settings, announcement(store(settings, "sales/poison.csv", content(LATER))))
    poison = "reading-poison.csv:kill:1-1000"
    for _ in range(ALONE_AFTER):
        shop.start("files", "run", failpoint=poison).ends(75)
        assert aggregates(settings) == counted(BEFORE)
    for _ in range(GIVE_UP_AFTER - ALONE_AFTER):
        shop.start("files", "run", failpoint=poison).ends(75)
        assert aggregates(settings) == counted(CORRECTED + MORE)
    shop.start("files", "run", failpoint=poison).ends(0)
    assert ("poison.csv", "failed", "gave_up") in ledger(settings)
    FileStore(settings).retry(["gave_up"], [])
    file_notifications.run(settings)
    assert aggregates(settings) == counted(CORRECTED + MORE + LATER)


LARGE = """
import io, re, sys
from datetime import date
from pathlib import Path
from lakehouse.file_contract import DATASETS
from lakehouse.file_formats import read_lines

HEADER = b"sold_at,user_id,sku,product_name,quantity,amount\\n"
CSV = b"2023-10-23T12:00:00Z,user_1,SKU-1001,Wireless Mouse,2,12.50\\n"
JSON = (
    b'{"sold_at":"2023-10-23T12:00:00Z","user_id":"user_1","sku":"SKU-1001",'
    b'"product_name":"Wireless Mouse","quantity":2,"amount":12.50}\\n'
)

class Large(io.RawIOBase):
    def __init__(self, header, line, size):
        self.held, self.block, self.left = header, line * max(1, 1_000_000 // len(line)), size

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.held and self.left > 0:
            self.held, self.left = self.block, self.left - len(self.block)
        piece = self.held[: len(buffer)]
        buffer[: len(piece)] = piece
        self.held = self.held[len(piece) :]
        return len(piece)

form, size, padding, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
header, line = (HEADER, CSV) if form == "csv" else (b"", JSON[:-2] + b" " * padding + JSON[-2:])
stream = open(path, "rb") if form == "parquet" else io.BufferedReader(Large(header, line, size))
lines = sum(batch.num_rows for batch in read_lines(stream, form, DATASETS["sales"], date(2023, 10, 23)))
# Not `ru_maxrss`, which begins with that of the process that started this one.
print(lines, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def write_long_lines(path: Path, size: int) -> None:
    """Write a Parquet file of lines whose names are as long as they may be, some 4 KiB, and of large row groups."""
    schema = DATASETS["sales"].schema
    noon = datetime(2023, 10, 23, 12, tzinfo=UTC)
    line = ["user_1", "SKU-1001", "\N{MOUSE}" * 1024, 2, Decimal("12.50")]
    group = pa.Table.from_pylist([dict(zip(schema.names, [noon, *line], strict=True))] * 4096, schema=schema)
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(max(1, size // (64 << 20))):
            writer.write_table(pa.concat_tables([group] * 4))
        writer.write_table(group)


@pytest.mark.parametrize(
    ("form", "line_bytes"),
    [("csv", 60), ("jsonl", 130), ("jsonl", 1_000_000), ("parquet", 4200)],
    ids=["csv", "jsonl", "jsonl of long lines", "parquet of long lines"],
)
def test_the_memory_that_a_file_takes_grows_neither_with_it_nor_with_its_lines(
    form: str, line_bytes: int, tmp_path: Path
) -> None:
    peaks: list[int] = []
    for size in (20 << 20, 500 << 20):
        path = tmp_path / str(size)
        if form == "parquet":
            write_long_lines(path, size)
        padding = max(0, line_bytes - 130)
        done = subprocess.run(
            [sys.executable, "-c", LARGE, form, str(size), str(padding), str(path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
        lines, megabytes = map(int, done.stdout.split())
        assert lines > size / line_bytes / 1.6
        peaks.append(megabytes)
    assert peaks[1] < peaks[0] + 60
    assert peaks[1] < 300
