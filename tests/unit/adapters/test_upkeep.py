"""How partitions are named in SQL, from their values as manifests hold them."""

from typing import Any

import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, MonthTransform
from pyiceberg.types import DateType, LongType, NestedField, StringType, TimestamptzType

from lakehouse.adapters.upkeep import _condition, _folder, _partition_name

SCHEMA = Schema(
    NestedField(1, "event_date", DateType()),
    NestedField(2, "name", StringType()),
    NestedField(3, "at", TimestamptzType()),
    NestedField(4, "number", LongType()),
)
DAY = 20_412  # days from 1970-01-01 to 2025-11-20
MIDNIGHT = "TIMESTAMP '2025-11-20 00:00:00 UTC'"
MONTH = 670  # months from 1970-01 to 2025-11


def spec(*fields: tuple[int, Any, str]) -> PartitionSpec:
    return PartitionSpec(*(PartitionField(source, 1000 + source, kind, name) for source, kind, name in fields))


@pytest.mark.parametrize(
    ("fields", "values", "name", "condition"),
    [
        ([], [], "", ""),
        (
            [(1, IdentityTransform(), "event_date")],
            [DAY],
            "event_date=2025-11-20",
            "\"event_date\" = DATE '2025-11-20'",
        ),
        (
            [(1, MonthTransform(), "event_date_month")],
            [MONTH],
            "event_date_month=2025-11",
            "\"event_date\" >= DATE '2025-11-01' AND \"event_date\" < DATE '2025-11-01' + INTERVAL '1' MONTH",
        ),
        (
            [(3, DayTransform(), "at_day")],
            [DAY],
            "at_day=2025-11-20",
            f'"at" >= {MIDNIGHT} AND "at" < {MIDNIGHT} + INTERVAL \'1\' DAY',
        ),
        (
            [(2, IdentityTransform(), "name"), (4, IdentityTransform(), "number")],
            ["it's", 7],
            "name=it's/number=7",
            "\"name\" = 'it''s' AND \"number\" = 7",
        ),
        ([(1, IdentityTransform(), "event_date")], [None], "event_date=null", '"event_date" IS NULL'),
        ([(2, BucketTransform(8), "name_bucket")], [3], "name_bucket=3", None),
    ],
)
def test_a_partition_is_told_by_a_condition_on_its_columns(
    fields: list[Any], values: list[Any], name: str, condition: str | None
) -> None:
    assert _partition_name(spec(*fields), SCHEMA, values) == name
    assert _condition(spec(*fields), SCHEMA, values) == condition


def test_a_place_is_no_part_of_one_whose_name_goes_on() -> None:
    assert not "s3://warehouse/events/user_actions_archive/".startswith(_folder("s3a://warehouse/events/user_actions"))
