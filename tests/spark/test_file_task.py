"""What Spark's processes find of announced files, one task after the other."""

import pytest

from lakehouse.adapters import spark
from lakehouse.file_task import FINDINGS_DDL, CheckTask
from lakehouse.settings import Settings
from tests.files import notification

pytestmark = pytest.mark.integration


def test_a_process_that_found_the_store_away_asks_for_no_file_of_its_next_tasks(stack: Settings) -> None:
    away = stack.s3.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    files = tuple(notification(f"{number}.csv") for number in range(40))
    check = CheckTask(away, files, tuple((number,) for number in range(40)), frozenset())
    with spark.session(stack, "test of a store that is away") as session:
        found = spark.run_tasks(session, check, len(check.tasks), FINDINGS_DDL)
        processes = session.sparkContext.defaultParallelism
    assert [row.finding for row in found] == ["unavailable"] * 40
    # Each message names the file that was asked for.
    assert len({row.message for row in found}) <= processes < 40
