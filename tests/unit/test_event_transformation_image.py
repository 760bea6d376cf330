"""The image of the Spark job holds what the job imports, and the job says what it does."""

import json
import runpy
import subprocess
import sys

import pytest

from lakehouse import csv_drop
from lakehouse.csv_drop import CsvResult, FilesRefusedError
from lakehouse.errors import LakehouseError, TerminalError, TransientError
from lakehouse.settings import PROJECT_ROOT
from tests.images import IMAGES, copied, imported_by, installed, locked, packages_of

IMAGE = "event-transformation"
JOB = PROJECT_ROOT / "spark" / "jobs" / "event_transformation.py"
LATER = {"airflow", "pandas"}  # imported by functions that the job does not call


def test_the_image_has_every_package_that_the_job_imports() -> None:
    files, others = imported_by(JOB)
    assert "lakehouse/csv_task.py" in files
    assert not any(path.startswith(("lakehouse/cli", "lakehouse/stack")) for path in files)
    assert packages_of(others - LATER) - {"py4j", "botocore"} == installed(IMAGE)  # of pyspark and of boto3


def test_the_lock_has_every_package_of_the_image() -> None:
    assert installed(IMAGE) <= locked()


def test_the_image_copies_what_there_is_and_runs_the_job_as_nobody() -> None:
    assert [source for source in copied(IMAGE) if not (PROJECT_ROOT / source).exists()] == []
    text = (IMAGES / IMAGE / "Dockerfile").read_text()
    assert "USER 65534:65534" in text
    assert 'ENTRYPOINT ["python", "/opt/lakehouse/spark/jobs/event_transformation.py"]' in text


@pytest.mark.parametrize("error", [TransientError("a server is away"), TerminalError("it is archived")])
def test_the_job_tells_by_its_exit_code_whether_to_run_it_again(
    error: LakehouseError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(csv_drop, "run", fail)
    monkeypatch.setattr(sys, "argv", [str(JOB)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    assert ended.value.code == error.exit_code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_the_job_tells_what_it_brought_also_when_it_left_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*_: object, **__: object) -> None:
        raise FilesRefusedError("a file can't be read", CsvResult(published_rows=2))

    monkeypatch.setattr(csv_drop, "run", leave)
    monkeypatch.setattr(sys, "argv", [str(JOB)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    assert ended.value.code == TerminalError.exit_code
    told = capsys.readouterr()
    assert (json.loads(told.out)["published_rows"], told.err) == (2, "error: a file can't be read\n")


def test_the_job_refuses_days_back_that_would_be_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(JOB), "--days-back", "-1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    assert ended.value.code == TerminalError.exit_code
    assert capsys.readouterr().err == ("error: -1 days back would look at no folder: give 0 or more with --days-back\n")


def test_the_job_explains_itself() -> None:
    ended = subprocess.run(
        [sys.executable, str(JOB), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert "--date" in ended.stdout
    assert "--days-back" in ended.stdout
