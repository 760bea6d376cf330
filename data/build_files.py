"""Make the sample files that are announced: what the shop's tills booked on the sample day, and what came back.

    python data/build_files.py [FOLDER]

The same command gives the same lines; a test holds the files in `data/files/` to it. They are of the products and the
date of the sample events, and of tills that the events know nothing of, so the two need not agree.
"""

import csv
import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from lakehouse.file_contract import DATASETS
from lakehouse.generator import CATALOGUE, USERS

HERE = Path(__file__).resolve().parent
DAY = date(2023, 10, 23)
SEED = 20231023


class Line(NamedTuple):
    """One line of a receipt or of a credit note."""

    moment: datetime
    user_id: str
    sku: str
    product_name: str
    quantity: int
    amount: Decimal


def lines(seed: int, count: int) -> Iterator[Line]:
    """Make lines of the sample day, in the order of their time."""
    draw = random.Random(seed)  # noqa: S311 - samples
    prices = {product.sku: Decimal(5 + 7 * number) + Decimal("0.99") for number, product in enumerate(CATALOGUE)}
    seconds = sorted(8 * 3600 + int(draw.random() * 12 * 3600) for _ in range(count))
    weights = [product.weight for product in CATALOGUE]
    for second in seconds:
        (product,) = draw.choices(CATALOGUE, weights)
        quantity = draw.choices((1, 2, 3, 10), (70, 20, 8, 2))[0]
        share = Decimal(draw.choices((100, 90, 75), (80, 15, 5))[0]) / 100  # some were on sale
        yield Line(
            datetime.combine(DAY, time(), UTC) + timedelta(seconds=second),
            f"user_{10_000 + int(draw.random() * USERS)}",
            product.sku,
            product.name,
            quantity,
            (prices[product.sku] * quantity * share).quantize(Decimal("0.01")),
        )


def build(folder: Path) -> None:
    """Write the files into a folder."""
    names = {name: [column.name for column in dataset.columns] for name, dataset in DATASETS.items()}
    with (folder / f"sales-{DAY}-web.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names["sales"])
        writer.writerows((f"{line.moment:%Y-%m-%dT%H:%M:%SZ}", *line[1:]) for line in lines(SEED, 400))
    with (folder / f"sales-{DAY}-stores.jsonl").open("w") as file:
        for line in lines(SEED + 1, 250):
            values = (f"{line.moment:%Y-%m-%dT%H:%M:%SZ}", *line[1:-1])
            members = dict(zip(names["sales"], values, strict=False))
            # The amount as it is: a float would lose its last digit.
            text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))[:-1]
            file.write(f'{text},"amount":{line.amount}}}\n')
    back = list(lines(SEED + 2, 30))
    schema = DATASETS["returns"].schema
    columns = [pa.array(values, kind) for values, kind in zip(zip(*back, strict=True), schema.types, strict=True)]
    parquet.write_table(pa.table(columns, schema=schema), folder / f"returns-{DAY}.parquet")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "files")
