"""The aggregates of lines on a real Spark session: the numbers a person gets, whatever the lines are spread over."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakehouse.adapters import spark
from lakehouse.file_notifications import aggregate
from lakehouse.file_task import LINES, LINES_DDL
from lakehouse.settings import Settings
from tests.files import Line, counted

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def session(stack: Settings) -> Iterator[SparkSession]:
    with spark.session(stack, "test of the aggregates of files") as session:
        yield session


def computed(session: SparkSession, lines: list[tuple[Any, ...]], partitions: int) -> list[tuple[Any, ...]]:
    table = pa.Table.from_pylist([dict(zip(LINES.names, line, strict=True)) for line in lines], schema=LINES)
    pieces = table.to_batches(max_chunksize=40)

    def task(batches: Any) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield from pieces[number : number + 1]

    frame = aggregate(spark.task_frame(session, task, max(1, len(pieces)), LINES_DDL), partitions)
    return sorted(map(tuple, spark.rows(frame)))


@pytest.mark.parametrize("partitions", [1, 5])
def test_lines_are_aggregated_by_day_and_product(session: SparkSession, partitions: int) -> None:
    days = {
        0: [Line(f"u{n % 7}", f"s{n % 3}", 1 + n % 4, f"{(n * 37) % 101}.{n % 10}{n % 9}") for n in range(100)],
        1: [Line("u1", "s1", 1, "9999999999.99"), Line("u1", "s1", 1, "0.00"), Line("u2", "s9", 3, "0.01")],
    }
    lines = [
        (day, line.sku, f"Name of {line.sku}", line.user_id, line.quantity, Decimal(line.amount))
        for day, held in days.items()
        for line in held
    ]
    wanted = [(day, *row[2:]) for day, held in days.items() for row in counted(held)]
    assert computed(session, lines, partitions) == wanted


def test_of_several_names_the_last_by_the_alphabet_is_told(session: SparkSession) -> None:
    lines = [(0, "s1", name, "u1", 1, Decimal("1.00")) for name in ("Mouse", "mouse", "Maus")]
    ((_, _, name, *_),) = computed(session, lines, 2)
    assert name == "mouse"


def test_no_lines_give_no_rows(session: SparkSession) -> None:
    assert computed(session, [], 2) == []
