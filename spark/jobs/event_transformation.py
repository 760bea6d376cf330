"""The Spark job `event-transformation`: bring dropped CSV files into the tables, as `lakehouse csv run` does.

It is the entry point of the image, where the rest of the command line is not installed. Settings come from the
environment; the last line of output is the result as JSON, and the exit code says what a caller should do.

    spark-submit spark/jobs/event_transformation.py --date 2026-01-31
"""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime

from lakehouse import csv_drop
from lakehouse.csv_drop import CsvResult, FilesLeftError
from lakehouse.errors import LakehouseError
from lakehouse.settings import load_settings


def main() -> int:
    """Run the job; returns its exit code."""
    parser = argparse.ArgumentParser(description="Bring dropped CSV files into the tables of events.")
    parser.add_argument(
        "--date", type=date.fromisoformat, default=datetime.now(UTC).date(), help="today in UTC if unset"
    )
    parser.add_argument("--days-back", type=int, help="days before it to look at for corrected files")
    given = parser.parse_args()
    try:
        result = csv_drop.run(load_settings(), given.date, days_back=given.days_back)
    except LakehouseError as error:
        if isinstance(error, FilesLeftError):
            _tell(error.result)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    _tell(result)
    return 0


def _tell(result: CsvResult) -> None:
    print(json.dumps(asdict(result), default=str))


if __name__ == "__main__":
    sys.exit(main())
