"""What is read of a file before its records are judged, and that each line is accounted for."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse import csv_task
from lakehouse.csv_lines import Records
from lakehouse.csv_task import CsvFile, CsvTask, Facts, read
from lakehouse.ingest_task import Target
from lakehouse.settings import Settings
from lakehouse.transforms import EVENTS_SCHEMA, QUARANTINE_SCHEMA, FileVersion
from tests.faults.proxy import in_front_of

HEADER = b"timestamp,event_name,platform,user_id,product_name,sku"
ROW = b"2023-10-23T12:34:56Z,view,web,user_12345,Wireless Mouse,SKU-1001"


def read_all(content: bytes) -> tuple[list[dict[str, Any]], Facts]:
    found = list(read(Records([content])))
    table = pa.Table.from_batches([batch for batch, _ in found])
    return table.to_pylist(), found[-1][1]


def test_records_become_messages_with_their_lines() -> None:
    rows, facts = read_all(b"\xef\xbb\xbf" + HEADER + b"\n" + ROW + b"\n\n" + ROW + b",x\r\n" + b'"a\n')
    assert facts == Facts(header=HEADER.decode(), lines=5, blank_lines=1, records=3)
    assert [(row["line"], row["raw"], row["reason"]) for row in rows] == [
        (2, ROW, None),
        (4, ROW + b",x", "wrong_columns"),
        (5, b'"a', "bad_quoting"),
    ]
    assert json.loads(rows[0]["value"])["user_identifiers"] == {"platform": "web", "id": "user_12345"}
    assert rows[0]["problem"] is None
    assert [row["value"] for row in rows[1:]] == [None, None]
    assert rows[1]["problem"] == "7 fields, the header has 6"


@pytest.mark.parametrize(
    ("content", "reason", "line", "raw", "lines"),
    [
        (b"", "empty_file", 1, b"", 0),
        (b"\n\r\n", "empty_file", 1, b"", 2),
        (b"\n" + ROW + b"\n" + ROW, "wrong_header", 2, ROW, 3),
        (HEADER.replace(b",", b";") + b"\n1;2\n", "wrong_header", 1, HEADER.replace(b",", b";"), 2),
        ("timestamp\n1".encode("utf-16"), "not_utf8", 1, None, 2),
    ],
)
def test_a_file_without_a_header_is_one_refused_record(
    content: bytes, reason: str, line: int, raw: bytes | None, lines: int
) -> None:
    (row,), facts = read_all(content)
    assert (row["reason"], row["line"], row["value"]) == (reason, line, None)
    assert raw is None or row["raw"] == raw
    assert (facts.header, facts.records, facts.lines) == (None, 1, lines)


def test_a_file_of_a_header_alone_has_no_record() -> None:
    assert read_all(HEADER + b"\n") == ([], Facts(header=HEADER.decode(), lines=1, records=0))


def test_a_large_file_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_task, "RECORDS_AT_ONCE", 10)
    found = list(read(Records([HEADER + b"\n", *[ROW + b"\n"] * 25])))
    assert [batch.num_rows for batch, _ in found] == [10, 10, 5]
    assert [facts.records for _, facts in found] == [10, 20, 25]
    monkeypatch.setattr(csv_task, "BYTES_AT_ONCE", 3 * len(ROW))
    assert [batch.num_rows for batch, _ in read(Records([HEADER + b"\n", *[ROW + b"\n"] * 7]))] == [3, 3, 1]


def test_a_line_break_in_a_required_column_costs_its_lines_and_no_other() -> None:
    rows, facts = read_all(b"\n".join([HEADER, b't,view,web,u1,"Sofa,S1', ROW, ROW, b't,view,web,u4,TV 24",S4', ROW]))
    assert [(row["line"], row["reason"]) for row in rows] == [
        (2, "bad_quoting"),
        (3, None),
        (4, None),
        (5, "bad_quoting"),
        (6, None),
    ]
    assert (facts.records, facts.lines) == (5, 6)


@pytest.mark.parametrize(("status", "trouble"), [(403, "denied"), (400, "denied"), (412, "changed"), (404, "changed")])
def test_a_file_that_the_store_does_not_give_is_told_and_ends_no_task(status: int, trouble: str) -> None:
    moment = datetime(2026, 11, 2, tzinfo=UTC)
    version = FileVersion("s3://user-events/poison.csv", "000001-a", moment)
    file = CsvFile("user-events", "poison.csv", "a", 10, version, np.empty(0, np.int64))
    with in_front_of("http://127.0.0.1:9") as store:
        store.on("answer", "GET", r"/poison\.csv", status=status)
        task = CsvTask(
            run_id="run",
            ingested_at=moment,
            s3=Settings().s3.model_copy(update={"endpoint": store.url}),
            files=(file,),
            events=Target("s3://warehouse/events", EVENTS_SCHEMA),
            quarantine=Target("s3://warehouse/quarantine", QUARANTINE_SCHEMA),
            rows_per_file=10,
        )
        (told,) = task([pa.record_batch({"id": pa.array([0])})])
    (row,) = told.to_pylist()
    facts = json.loads(row["facts"])
    assert (row["number"], facts["trouble"], facts["records"]) == (0, trouble, 0)
    assert "user-events/poison.csv" in facts["told"]
