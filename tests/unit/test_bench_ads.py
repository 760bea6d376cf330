"""The ad data's bench: the records it makes, and the figures and words it makes of what it measured."""

import sys
from pathlib import Path
from typing import Any

import pytest

from bench import report, results
from bench.ads import measure
from bench.ads.measure import pages, rate, ratio
from bench.ads.report import BARS, parts, ratios
from lakehouse.ads.contract import decode_lines
from lakehouse.settings import PROJECT_ROOT, get_settings

STAMP: dict[str, Any] = {
    "measured_at": "2026-11-22T00:00:00Z",
    "commit": "abc",
    "airflow_running": False,
    "machine": {"cores": 2, "cpu": "a processor", "memory_bytes": 24 << 30},
}


def round_of(wall: dict[str, float], cpu: float) -> dict[str, dict[str, float]]:
    return {name: {"wall_seconds": seconds, "cpu_seconds": cpu * seconds} for name, seconds in wall.items()}


def measured() -> dict[str, Any]:
    fast = {"store": 1.0, "insert": 4.0, "copy_in": 2.0, "archive": 8.0, "copy_out": 1.0, "delete": 1.0}
    slow = {name: 2 * seconds for name, seconds in fast.items()}
    odd = fast | {"insert": 40.0, "copy_out": 3.0}
    rounds = [round_of(fast, 1), round_of(slow, 2), round_of(odd, 1)]
    rounds[0]["insert"]["cpu_seconds"] = 5.0
    rounds[2]["insert"]["cpu_seconds"] = 5.0
    sizes = {"1000": {"restore_bytes": 150_000_000, "archive_bytes": 140_000_000}}
    return {
        "speed": STAMP | {"rows": 1000, "dates": 2, "csv_bytes": 5_000_000, "rounds": rounds},
        "memory": STAMP | {"sizes": sizes},
    }


def test_the_records_keep_the_contract_and_are_the_same_each_time() -> None:
    made = list(pages(7_000, 5))
    assert made == list(pages(7_000, 5))
    good, bad = decode_lines(b"".join(made).splitlines(), 1)
    assert (good.num_rows, bad.num_rows) == (7_000, 0)
    assert len(set(good["impression_id"].to_pylist())) == 7_000
    assert len(set(good["shown_date"].to_pylist())) == 5
    assert good["clicked_at"].null_count == 6_300


def test_figures_are_medians_of_rounds() -> None:
    section = measured()["speed"]
    assert rate(section, "insert") == 1000 / 8
    assert ratio(section, ("insert",), ("copy_in",)) == 0.5
    assert ratio(section, ("insert",), ("copy_in",), "cpu_seconds") == 0.4
    assert ratios(measured()) == {"ads_load_vs_copy": 0.5, "ads_archive_vs_copy": 0.25}


def test_the_ad_data_has_its_part_of_the_document() -> None:
    page = report.render({}, {}, measured())
    assert "| ≥ 0.5 | 0.500 | aim met |" in page
    assert "| ≥ 0.5 | 0.250 | aim missed |" in page
    assert "| PostgreSQL's COPY into the same table, key included | 500 |" in page
    assert "| 1,000 | 150 MB | 140 MB |" in page
    assert "A whole load, storing the backup included, ÷ COPY: 0.400." in page
    assert "insert ÷ COPY is 0.400 and archiving ÷ COPY out and DELETE 0.250." in page
    assert "COPY out alone, which leaves the rows where they are: 0.125." in page


def test_what_was_not_measured_is_not_told() -> None:
    assert "\n\n".join(parts({})).count("not measured yet") == len(BARS)


def test_the_kept_results_hold_their_ratios() -> None:
    kept = results.load(file := PROJECT_ROOT / "bench" / "results" / "ads.json")
    assert not file.exists() or kept["ratios"] == ratios(kept)


def test_the_peak_of_a_process_is_known_also_when_it_lies_between_two_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "lakehouse"
    short = "held = b'x' * 200_000_000\ndel held\n"
    program.write_text(f"#!{sys.executable}\nimport time\n{short}time.sleep(0.8)\nprint('{{}}')\n")
    program.chmod(0o755)
    monkeypatch.setattr(measure, "LAKEHOUSE", str(program))
    monkeypatch.setattr(measure, "_POLL_SECONDS", 0.7)
    assert measure._peak(get_settings(), "archive") > 200_000_000
