"""The image of the Spark job holds what the job imports, and the job says what it does."""

import ast
import re
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from lakehouse import csv_drop
from lakehouse.errors import LakehouseError, TerminalError, TransientError
from lakehouse.settings import PROJECT_ROOT

IMAGE = PROJECT_ROOT / "compose" / "images" / "event-transformation"
JOB = PROJECT_ROOT / "spark" / "jobs" / "event_transformation.py"
LATER = {"airflow", "pandas"}  # imported by functions that the job does not call


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> set[str]:
    lines = (IMAGE / "packages.txt").read_text().splitlines()
    return {normal(line.partition("[")[0]) for line in lines if line and not line.startswith("#")}


def imports(path: str) -> set[str]:
    """The modules that a file imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PROJECT_ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def ours(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((f for f in (f"{path}.py", f"{path}/__init__.py") if (PROJECT_ROOT / f).is_file()), None)


def test_the_image_has_every_package_that_the_job_imports() -> None:
    waiting, seen, others = [str(JOB.relative_to(PROJECT_ROOT))], set[str](), set[str]()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            for module in imports(path):
                if module.startswith("lakehouse"):
                    waiting += [file for file in [ours(module)] if file]
                else:
                    others.add(module.partition(".")[0])
    assert "lakehouse/csv_task.py" in seen
    assert not any(path.startswith(("lakehouse/cli", "lakehouse/stack")) for path in seen)
    owners = packages_distributions()
    needed = {normal(owners[name][0]) for name in others - sys.stdlib_module_names - LATER}
    needed -= {"py4j", "botocore"}  # of pyspark and of boto3
    assert needed == installed()


def test_the_lock_has_every_package_of_the_image() -> None:
    lock = (PROJECT_ROOT / "requirements" / "dev.txt").read_text()
    locked = {normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    assert installed() <= locked


def test_the_image_copies_what_there_is_and_runs_the_job_as_nobody() -> None:
    text = (IMAGE / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (PROJECT_ROOT / source).exists(), source
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
