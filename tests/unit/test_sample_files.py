"""The sample files are what their script makes, what the contract accepts, and what `data/README.md` says of them."""

import importlib.util
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from pyarrow import parquet

from lakehouse.file_contract import DATASETS, Format
from lakehouse.file_formats import read_lines
from lakehouse.settings import PROJECT_ROOT

DATA = PROJECT_ROOT / "data"
FILES = DATA / "files"


@pytest.mark.parametrize(
    ("name", "form", "lines", "pieces", "amount"),
    [
        ("sales-2023-10-23-web.csv", "csv", 400, 637, "97639.11"),
        ("sales-2023-10-23-stores.jsonl", "jsonl", 250, 362, "56331.79"),
        ("returns-2023-10-23.parquet", "parquet", 30, 61, "11847.31"),
    ],
)
def test_a_sample_file_keeps_the_contract_and_adds_up(
    name: str, form: Format, lines: int, pieces: int, amount: str
) -> None:
    with (FILES / name).open("rb") as stream:
        batches = list(read_lines(stream, form, DATASETS[name.partition("-")[0]], date(2023, 10, 23)))
    assert sum(batch.num_rows for batch in batches) == lines
    assert sum(sum(batch.column("quantity").to_pylist()) for batch in batches) == pieces
    assert sum(sum(batch.column("amount").to_pylist(), Decimal(0)) for batch in batches) == Decimal(amount)


def test_the_sample_files_are_what_their_script_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_files", DATA / "build_files.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in FILES.iterdir())
    for name in made:
        if name.endswith(".parquet"):  # whose bytes name the version that wrote it
            assert parquet.read_table(tmp_path / name).equals(parquet.read_table(FILES / name))
        else:
            assert (tmp_path / name).read_bytes() == (FILES / name).read_bytes()
