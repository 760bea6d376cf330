"""Make the sample day: generated events, with the hand-made ones spread among them.

    python data/build.py [FOLDER]

The same command gives the same bytes; a test holds the files in `data/` to it.
"""

import json
import sys
from datetime import date
from pathlib import Path

from lakehouse.generator import generate

HERE = Path(__file__).resolve().parent
DAY = date(2023, 10, 23)
NAME = f"user-actions-{DAY.isoformat()}"
GENERATED = 4000
LATE_RATIO = 0.01
SEED = 20231023


def build(folder: Path) -> None:
    """Write the day's file and its sidecar into a folder."""
    lines = [
        (message.value or b"").decode()
        for message in generate(seed=SEED, day=DAY, count=GENERATED, late_ratio=LATE_RATIO)
    ]
    hand_made = [json.loads(line) for line in (HERE / "hand-made-events.jsonl").read_text().splitlines()]
    texts = [record["value"] for record in hand_made if "value" in record]
    step = GENERATED // len(texts)
    for number, text in enumerate(texts):
        lines.insert(step // 2 + number * (step + 1), text)
    (folder / f"{NAME}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / f"{NAME}.sidecar.jsonl").write_text(
        "".join(
            json.dumps({name: value for name, value in record.items() if name != "verdict"}) + "\n"
            for record in hand_made
            if "value_base64" in record
        )
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
