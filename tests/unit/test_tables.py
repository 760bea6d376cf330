"""The table specs against the contracts they stand for, written out by hand."""

import pyarrow as pa
import pytest

from lakehouse.tables import ALL, USER_ACTIONS, USER_ACTIONS_QUARANTINE, TableSpec

TIME = pa.timestamp("us", tz="UTC")


def columns_of(spec: TableSpec) -> list[tuple[str, pa.DataType, bool]]:
    return [(column.name, column.type, column.required) for column in spec.columns]


def test_user_actions_has_the_columns_of_its_contract() -> None:
    assert columns_of(USER_ACTIONS) == [
        ("event_datetime", TIME, True),
        ("event_date", pa.date32(), True),
        ("event_name", pa.string(), True),
        ("user_id", pa.string(), True),
        ("platform", pa.string(), True),
        ("product_name", pa.string(), True),
        ("sku", pa.string(), True),
        ("unknown_fields", pa.string(), False),
        ("kafka_topic", pa.string(), False),
        ("kafka_partition", pa.int32(), False),
        ("kafka_offset", pa.int64(), False),
        ("kafka_timestamp", TIME, False),
        ("ingested_at", TIME, True),
        ("replayed_at", TIME, False),
        ("source", pa.string(), False),
        ("file", pa.string(), False),
        ("file_version", pa.string(), False),
        ("file_line", pa.int64(), False),
        ("file_modified_at", TIME, False),
    ]
    assert (USER_ACTIONS.partition_by, USER_ACTIONS.sort_by) == (("event_date",), ("user_id", "event_datetime"))


def test_quarantine_has_the_columns_of_its_contract() -> None:
    headers = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    assert columns_of(USER_ACTIONS_QUARANTINE) == [
        ("reason", pa.string(), True),
        ("message", pa.string(), True),
        ("field", pa.string(), False),
        ("raw", pa.binary(), False),
        ("kafka_topic", pa.string(), False),
        ("kafka_partition", pa.int32(), False),
        ("kafka_offset", pa.int64(), False),
        ("kafka_timestamp", TIME, False),
        ("kafka_key", pa.binary(), False),
        ("kafka_headers", headers, False),
        ("rule_version", pa.int32(), True),
        ("ingested_at", TIME, True),
        ("ingested_date", pa.date32(), True),
        ("source", pa.string(), False),
        ("file", pa.string(), False),
        ("file_version", pa.string(), False),
        ("file_line", pa.int64(), False),
        ("file_modified_at", TIME, False),
    ]
    assert USER_ACTIONS_QUARANTINE.partition_by == ("ingested_date",)
    assert USER_ACTIONS_QUARANTINE.sort_by == ("reason",)


def test_bounds_of_every_column_that_may_name_a_person_are_off() -> None:
    hidden = {
        spec.identifier: {
            name.removeprefix("write.metadata.metrics.column.")
            for name, mode in spec.table_properties.items()
            if name.startswith("write.metadata.metrics.column.") and mode == "none"
        }
        for spec in ALL
    }
    assert hidden == {
        "events.user_actions": {"user_id", "unknown_fields"},
        "events.user_actions_archive": {"user_id", "unknown_fields"},
        "quarantine.user_actions": {"message", "raw", "kafka_key"},
        "ops.query_history": {"query", "error_message"},
        "ops.maintenance_runs": set(),
        "ops.csv_files": set(),
        "ads.impressions_archive": {"user_id"},
    }


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.identifier)
def test_a_spec_is_whole(spec: TableSpec) -> None:
    names = [column.name for column in spec.columns]
    assert len(set(names)) == len(names)
    assert all(column.doc.endswith(".") for column in spec.columns)
    assert {*spec.partition_by, *spec.sort_by} <= {column.name for column in spec.columns if column.required}
    assert spec.doc
    assert spec.owner
    assert spec.table_properties["format-version"] == "2"
    assert spec.arrow_schema.names == names
    assert [field.nullable for field in spec.arrow_schema] == [not column.required for column in spec.columns]
