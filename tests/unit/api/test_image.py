"""The image of the DAG control API holds what it imports, runs as nobody, and writes nothing."""

from lakehouse.settings import PROJECT_ROOT
from tests.images import IMAGES, copied, imported_by, installed, locked, packages_of

IMAGE = "dag-control"


def test_the_image_has_every_package_that_the_api_imports() -> None:
    files, others = imported_by(PROJECT_ROOT / "lakehouse" / "api" / "__main__.py")
    assert "lakehouse/adapters/airflow_runs.py" in files
    assert not any(path.startswith(("lakehouse/cli", "lakehouse/stack")) for path in files)
    assert packages_of(others) == installed(IMAGE)


def test_the_lock_has_every_package_of_the_image() -> None:
    assert installed(IMAGE) <= locked()


def test_the_image_is_built_in_stages_and_runs_as_nobody_with_a_health_check() -> None:
    assert [source for source in copied(IMAGE) if not (PROJECT_ROOT / source).exists()] == []
    text = (IMAGES / IMAGE / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 2
    final = text.rpartition("\nFROM ")[2]
    assert "USER 65534:65534" in final
    assert "HEALTHCHECK" in final
    assert "uv" not in final.replace("uvicorn", "")
    assert "LAKEHOUSE_API__SEES_PROCESSES=false" in final  # it has process ids of its own
    assert 'ENTRYPOINT ["python", "-m", "lakehouse.api"]' in final
