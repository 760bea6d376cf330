"""What tests of the archive share: where the events of a shop are, and the proof that each counts once."""

from collections import Counter
from datetime import date

from lakehouse import archive, ledger
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.audit import audit
from lakehouse.settings import Settings
from lakehouse.tables import USER_ACTIONS, USER_ACTIONS_ARCHIVE, USER_ACTIONS_QUARANTINE, TableSpec

FIRST, SECOND = date(2023, 10, 22), date(2023, 10, 23)
"""The dates of the events that `tests.faults.harness.Shop` sends, in turn."""


def dates_in(settings: Settings, spec: TableSpec) -> dict[date, int]:
    """Rows of a table by event date, whether they count there or not."""
    rows = Lake(settings).load(spec).scan(selected_fields=("event_date",)).to_arrow()
    return dict(sorted(Counter(rows["event_date"].to_pylist()).items()))


def live(settings: Settings) -> dict[date, int]:
    return dates_in(settings, USER_ACTIONS)


def archived(settings: Settings) -> dict[date, int]:
    return dates_in(settings, USER_ACTIONS_ARCHIVE)


def states(settings: Settings) -> list[tuple[date, str, int]]:
    """Date, state and rows of each part."""
    return [(part.date, part.state, part.rows) for part in archive.parts(settings)]


def counted(settings: Settings) -> Counter[tuple[int, int]]:
    """The coordinates of every event, by one query that looks at the live table first, as the models do."""
    schema = f"{settings.catalog.name}.{settings.prefix}events"
    counts = ledger.counting_now(f'{schema}."{USER_ACTIONS.name}$properties"')
    columns = "kafka_partition, kafka_offset"
    found = trino.query(
        settings.trino_as("transform"),
        f"SELECT {columns} FROM {schema}.{USER_ACTIONS.name} UNION ALL "
        f"SELECT {columns} FROM {schema}.{USER_ACTIONS_ARCHIVE.name} WHERE {counts}",
    )
    return Counter((partition, offset) for partition, offset in found)


def assert_every_event_counts_once(settings: Settings) -> None:
    """Prove it for a topic that is ingested to its end: by the coordinates, and by the audit."""
    refused = Lake(settings).load(USER_ACTIONS_QUARANTINE).scan(selected_fields=("kafka_partition", "kafka_offset"))
    held = counted(settings)
    held.update((row["kafka_partition"], row["kafka_offset"]) for row in refused.to_arrow().to_pylist())
    available = kafka.offsets(settings, settings.user_actions_topic)
    assert held == Counter((p, o) for p, (start, end) in available.items() for o in range(start, end))
    report = audit(settings)
    assert report.gaps == ()
    position = ledger.position(Lake(settings).load(USER_ACTIONS).properties, settings.user_actions_topic)
    assert position == {p: end for p, (_, end) in available.items()}


def assert_archive_is_whole(settings: Settings) -> None:
    """Prove that every file in the archive is what its manifest says, and that nothing is half done."""
    found = archive.verify(settings)
    assert found.differences == ()
    assert found.ok
    assert {state for _, state, _ in states(settings)} <= {"archived"}
