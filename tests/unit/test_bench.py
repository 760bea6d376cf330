"""The bench's own arithmetic: what it counts, in which order it runs, and what it makes of the figures."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench import measure, report, results
from bench.ads import report as ads_report
from bench.contenders.registry import ALL, OURS
from bench.ground import count_offsets, messages
from bench.live import Poll, delays
from bench.race import Run, pairs, schedule
from bench.warehouse import report as warehouse_report
from lakehouse.events import Event, decode
from lakehouse.settings import PROJECT_ROOT
from lakehouse.stack.artifacts import BENCH_PARTS, lock_text
from lakehouse.stack.maven import read_lock

BURN = "import time\nwhile time.process_time() < 0.5: pass\n"

# Burns half a second itself, in a child it waits for, in a child that outlives it, and in a child whose parent has the
# kernel drop its account, as PySpark's daemon does.
FAMILY = f"""
import os, signal, subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}])
subprocess.Popen([sys.executable, "-c", {BURN!r}])
daemon = '''
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
busy = "import time\\\\nwhile time.process_time() < 1: pass\\\\ntime.sleep(1)"
child = subprocess.Popen([sys.executable, "-c", busy])
while child.poll() is None: time.sleep(0.1)
'''
subprocess.run([sys.executable, "-W", "ignore", "-c", daemon])
{BURN}
os._exit(3)
"""


def measured(directory: Path, *command: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.measure", str(directory / "cost.json"), *command], cwd=PROJECT_ROOT, check=False
    )
    return done.returncode, json.loads((directory / "cost.json").read_text())


def run(contender: str, cpu_seconds: float, wall_seconds: float = 10.0, events: int = 2_000_000, lost: int = 0) -> Run:
    return Run(
        contender,
        events=events,
        wall_seconds=wall_seconds,
        cpu_seconds=cpu_seconds,
        own_cpu_seconds=cpu_seconds,
        server_cpu_seconds={},
        elsewhere_cpu_seconds=0.5,
        rows=events - lost,
        lost=lost,
        doubled=0,
        files=4,
        file_bytes=20_000_000,
    )


STAMP: dict[str, Any] = {
    "measured_at": "2023-10-23T12:00:00Z",
    "commit": "abc1234",
    "airflow_running": False,
    "machine": {"cores": 2, "cpu": "a fast one", "memory_bytes": 24 * 2**30},
}


def section(*of: tuple[Run, Run]) -> dict[str, Any]:
    return STAMP | {"events": 2_000_000, "json_bytes": 400_000_000, "pairs": results.as_pairs(of)}


def everything() -> dict[str, Any]:
    """Results whose ratios are easy to reckon."""
    three = [(run(OURS, 8), run("stock_spark", 16)), (run(OURS, 8), run("stock_spark", 20))]
    three += [(run(OURS, 9, 5.0), run("stock_spark", 30, 20.0))]
    clean_and_bad = [(run(OURS, 10), run(OURS, 11))]
    freshness = {"p50_seconds": 1.5, "p95_seconds": 4.0, "p99_seconds": 6.0, "worst_seconds": 7.0, "polls": 9}
    freshness |= {"events": 6, "events_per_second": 21_000, "failed_polls": 0, "compactions": 2}
    freshness |= {"compaction_seconds": [2.0, 4.0], "failed_compactions": [], "compaction_pause_seconds": 10}
    kill = {"seconds": [9.0, 30.0, 12.0], "median_seconds": 12.0, "events_per_second": 21_000}
    drain = {"events": 2_000_000, "json_bytes": 400_000_000, "table_bytes": 20_000_000, "files": 8}
    drain |= {"compacted_table_bytes": 10_000_000, "compacted_files": 2, "drain_peak_memory_bytes": 2**30}
    fine = {"rows": 6, "lost": 0, "doubled": 0}
    floor = [{"cpu_seconds": 2.0, "wall_seconds": 1.0}]
    return {
        "contenders": {
            "stock_spark": section(*three),
            "two_sinks": section((run(OURS, 8), run("two_sinks", 40, lost=7))),
            "python_script": section((run(OURS, 8), run("python_script", 10))),
        },
        "bad_rows": section(*clean_and_bad) | {"bad_ratio": 0.05, "bad_json_bytes": 450_000_000},
        "freshness": STAMP | freshness | fine,
        "kill": STAMP | kill | fine,
        "drain": STAMP | drain | fine | {"wall_seconds": 10.0},
        "backlog": STAMP | drain | fine | {"json_bytes": 10 * 2**30, "wall_seconds": 300.0, "doubled": 3},
        "floors": STAMP
        | {"events": 2_000_000, "runs": {"consume": floor, "spark_start": floor}}
        | {"in_memory": [{"events": 1_000_000, "decode": 0.7, "write": 1.25}]},
    }


def test_the_cpu_of_the_whole_family_is_counted_also_of_orphans_and_of_children_nobody_waits_for(
    tmp_path: Path,
) -> None:
    code, cost = measured(tmp_path, sys.executable, "-W", "ignore", "-c", FAMILY)
    assert code == cost["exit_code"] == 3
    assert cost["cpu_seconds"] >= 0.5 + 0.5 + 0.5 + 0.9
    assert cost["peak_memory_bytes"] == 0


def test_the_memory_of_all_processes_is_looked_at_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(measure.MEMORY_MARK, "yes")
    hold = "import sys, time; held = bytearray(64 * 2**20); time.sleep(2)"
    code, cost = measured(tmp_path, sys.executable, "-c", hold)
    assert code == 0
    assert cost["peak_memory_bytes"] > 64 * 2**20


def test_ending_the_measurement_ends_what_it_measures(tmp_path: Path) -> None:
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    command = [sys.executable, "-m", "bench.measure", str(tmp_path / "cost.json"), sys.executable, "-c", program]
    wrapper = subprocess.Popen(command, cwd=PROJECT_ROOT)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert wrapper.poll() is None
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(30) == 143
    child.wait(30)


def test_a_process_is_read_whatever_its_name_is() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    text = f"42 (a) b ( c) S 7 42 42 0 -1 4194304 1 2 3 4 {5 * ticks} {2 * ticks} {3 * ticks} {ticks} 20 0 1 0 9"
    assert measure.parse_stat(text) == (7, 7.0, 4.0)


def test_a_tree_holds_all_that_descends_from_its_root_and_no_one_else() -> None:
    family = {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 6: 5}
    table = {pid: measure.Process(parent, 1.0, 0.5) for pid, parent in family.items()}
    assert measure.below([2], table) == {3, 4}
    assert measure.tree_cpu_seconds(2, table) == 4.5
    assert measure.tree_cpu_seconds(99, table) == 0


def test_each_rival_stands_beside_a_run_of_ours() -> None:
    order = list(schedule(["a", "b", "c"], 2))
    assert order == ["a", OURS, "b", "c", OURS, "a", OURS, "b", "c", OURS]
    found = [(ours.cpu_seconds, other.contender) for ours, other in pairs([run(n, i) for i, n in enumerate(order)])]
    assert found == [(1, "a"), (1, "b"), (4, "c"), (4, "a"), (6, "b"), (9, "c")]


def test_a_run_of_ours_is_there_for_a_rival_alone() -> None:
    assert list(schedule(["a"], 2)) == ["a", OURS, "a", OURS]


def test_lost_and_doubled_rows_are_counted_offset_by_offset() -> None:
    coordinates = [
        (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])),
        (np.array([0, 1, 1, 9]), np.array([1, 1, 1, 0])),
    ]
    # Partition 0 has 0 once, 1 twice and lacks 2; partition 1 has 0 and 1 twice; one row is of a partition unknown.
    assert count_offsets(iter(coordinates), {0: 3, 1: 2}) == (1, 4, 8)


def test_a_topic_in_its_table_once_has_nothing_lost_or_doubled() -> None:
    assert count_offsets(iter([(np.array([0, 1, 0]), np.array([1, 0, 0]))]), {0: 2, 1: 1, 2: 0}) == (0, 0, 3)


def test_an_event_is_fresh_from_its_sending_to_the_first_answer_that_shows_it() -> None:
    sent_at = {0: np.array([10.0, 11.0, 12.0]), 1: np.array([10.0, 10.5])}
    polls = [Poll(10.5, {0: 4}), Poll(12.5, {0: 6, 1: 0}), Poll(14.0, {0: 7, 1: 0})]
    # Offsets 5, 6, 7 of partition 0 and 0, 1 of partition 1; the last is never shown.
    assert delays(sent_at, {0: 5, 1: 0}, polls).tolist() == [2.5, 1.5, 2.0, 2.5, float("inf")]


def test_the_contract_accepts_every_message_that_is_loaded() -> None:
    loaded = messages(1001)
    assert len(loaded) == 1001
    micros = int(np.datetime64("now", "us").astype(int))
    verdicts = [decode(message.value, micros) for message in loaded]
    dates = [verdict.event_date for verdict in verdicts if isinstance(verdict, Event)]
    assert sorted(map(dates.count, set(dates))) == [500, 501]


def test_the_ratios_are_medians_of_the_pairs() -> None:
    assert results.ratios(everything()) == {
        "cpu_vs_stock_spark": 0.4,
        "cpu_vs_stock_two_sinks": 0.2,
        "cpu_vs_python_script": 0.8,
        "drain_speedup_vs_stock_spark": 1.0,
        "freshness_p50_seconds": 1.5,
        "freshness_p95_seconds": 4.0,
        "cpu_bad5_vs_clean": 1.1,
        "kill_to_next_commit_seconds": 12.0,
        "table_bytes_vs_json": 0.05,
    }


def test_what_was_not_measured_has_no_ratio() -> None:
    measured_alone = {"contenders": {"python_script": everything()["contenders"]["python_script"]}}
    found = results.ratios(measured_alone)
    assert found.pop("cpu_vs_python_script") == 0.8
    assert set(found.values()) == {None}
    assert results.ratios({}) == dict.fromkeys(results.RATIOS)


def test_results_are_read_back_with_their_ratios(tmp_path: Path) -> None:
    file = tmp_path / "results" / "ingest.json"
    assert results.load(file) == {}
    results.save(file, everything())
    assert results.load(file) == everything() | {"ratios": results.ratios(everything())}


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("cpu_vs_stock_spark", 0.33, "aim met"),
        ("cpu_vs_stock_spark", 0.5, "must met"),
        ("cpu_vs_stock_spark", 0.51, "**missed**"),
        ("drain_speedup_vs_stock_spark", 3.0, "aim met"),
        ("drain_speedup_vs_stock_spark", 2.0, "must met"),
        ("drain_speedup_vs_stock_spark", 1.9, "**missed**"),
        ("freshness_p50_seconds", 2.1, "aim missed"),
        ("kill_to_next_commit_seconds", None, "not measured yet"),
    ],
)
def test_a_bar_is_met_or_it_is_said(key: str, value: float | None, verdict: str) -> None:
    (bar,) = [bar for bar in report.BARS if bar.key == key]
    assert bar.verdict(value) == verdict


def test_every_ratio_has_its_bar() -> None:
    assert tuple(bar.key for bar in report.BARS) == results.RATIOS


def test_the_document_shows_the_figures_and_does_not_hide_what_was_lost() -> None:
    page = report.render(everything())
    assert "stock streaming sink (no quarantine) | ≤ 0.5 | ≤ 0.333 | 0.400 | must met |" in page
    assert "| `two_sinks` | 20.00 | 20.00 to 20.00 | 200,000 | 0.500 | 20 | **7 lost, 0 doubled** | 1 |" in page
    assert "| `stock_spark` | 10.00 | 8.00 to 15.00 | 200,000 | 0.500 | 20 | none | 3 |" in page
    assert "| only sort and write Parquet to MinIO | 1.25 |" in page
    assert "9.0, 30.0, 12.0 s" in page
    assert "A backlog of 10.0 GiB, 2,000,000 messages, was drained in 300 s;" in page
    assert "held 1.00 GiB at most. Lost or doubled: **0 lost, 3 doubled**." in page


def test_the_document_can_be_written_before_anything_was_measured() -> None:
    page = report.render({})
    assert page.count("not measured yet") == len(results.RATIOS) + len(warehouse_report.BARS) + len(ads_report.BARS)


def test_the_document_in_the_project_is_the_one_its_results_give() -> None:
    written = (PROJECT_ROOT / "docs" / "benchmarks.md").read_text()
    assert written == report.page(PROJECT_ROOT / "bench" / "results")


@pytest.mark.parametrize("part", BENCH_PARTS)
def test_the_lock_file_of_the_sink_reads_back_as_it_is_written(part: str) -> None:
    lines = [line for line in lock_text(part).splitlines() if not line.startswith("#")]
    assert lines == [jar.line() for jar in read_lock(lock_text(part))]


def test_every_contender_that_is_a_script_is_there() -> None:
    folder = PROJECT_ROOT / "bench" / "contenders"
    assert [name for name in ALL if name != OURS and not (folder / f"{name}.py").exists()] == []
