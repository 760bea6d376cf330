import json
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from email.message import Message

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from lakehouse import __version__
from lakehouse.errors import TerminalError
from lakehouse.exporter.exposition import Exposition, listen
from lakehouse.exporter.looks import Collector, Fact, Watches
from lakehouse.exporter.metrics import LEDGER_GAPS, ROWS_PUBLISHED, ROWS_QUARANTINED
from lakehouse.exporter.service import serve
from lakehouse.settings import Settings

FACTS = [
    Fact(ROWS_QUARANTINED, 2, ("events.user_actions", 'a "quoted"\nreason')),
    Fact(ROWS_PUBLISHED, 40, ("events.user_actions",)),
    Fact(LEDGER_GAPS, 0, ("kafka",)),
]
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@contextmanager
def exporter(watches: Watches) -> Generator[str]:
    """Answer at a free port of this machine."""
    server = listen("http://127.0.0.1:0", Exposition(watches))
    answering = threading.Thread(target=server.serve_forever)
    answering.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        answering.join()
        server.server_close()


@pytest.fixture
def looked() -> Watches:
    """Watches that have seen the facts."""
    watches = Watches([Collector("one", lambda: FACTS, 60, 5)])
    watches.start()
    assert watches.wait_until_settled(10)
    watches.stop()
    return watches


def get(url: str, **headers: str) -> tuple[int, Message, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def samples(families: Iterable[object]) -> dict[str, float]:
    return {
        f"{sample.name} {json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in families
        for sample in family.samples  # type: ignore[attr-defined]
    }


def test_what_was_seen_is_told_in_the_form_that_is_asked_for(looked: Watches) -> None:
    with exporter(looked) as url:
        _, plain_headers, plain = get(f"{url}/metrics")
        _, open_headers, told = get(f"{url}/metrics", Accept=OPEN_METRICS)
    assert plain_headers["Content-Type"].startswith("text/plain")
    assert open_headers["Content-Type"].startswith("application/openmetrics-text")
    assert told.endswith("# EOF\n")
    for found in (samples(prometheus_text(plain)), samples(open_metrics(told))):
        assert found['lakehouse_rows_published_total {"table": "events.user_actions"}'] == 40
        assert found['lakehouse_ledger_gaps {"ledger": "kafka"}'] == 0
        assert found['lakehouse_exporter_collector_up {"collector": "one"}'] == 1
        assert found[f'lakehouse_exporter_build_info {{"version": "{__version__}"}}'] == 1
        quoted = json.dumps({"reason": 'a "quoted"\nreason', "table": "events.user_actions"})
        assert found[f"lakehouse_rows_quarantined_total {quoted}"] == 2


def test_each_scrape_tells_the_cpu_time_of_the_one_before(looked: Watches) -> None:
    with exporter(looked) as url:
        first, second = (get(f"{url}/metrics")[2] for _ in range(2))
    assert "lakehouse_exporter_scrape_cpu_seconds" not in first
    (used,) = (v for k, v in samples(prometheus_text(second)).items() if k.startswith("lakehouse_exporter_scrape_cpu"))
    assert used > 0


def test_a_metric_that_nobody_saw_is_left_out(looked: Watches) -> None:
    with exporter(looked) as url:
        assert "lakehouse_bucket_bytes" not in get(f"{url}/metrics")[2]


def test_it_is_ready_when_every_collector_has_looked_and_healthy_before() -> None:
    end = threading.Event()

    def wait() -> Iterable[Fact]:
        end.wait(30)
        return []

    watches = Watches([Collector("slow", wait, 60, 60), Collector("quick", list, 60, 60)])
    watches.start()
    with exporter(watches) as url:
        assert get(f"{url}/healthz")[0] == 200
        status, _, text = get(f"{url}/readyz")
        assert status == 503
        assert "slow" in text
        end.set()
        assert watches.wait_until_settled(10)
        assert get(f"{url}/readyz")[0] == 200
    watches.stop()


def test_another_path_says_where_to_look(looked: Watches) -> None:
    with exporter(looked) as url:
        status, _, text = get(f"{url}/secret")
    assert status == 404
    assert "/metrics" in text


def test_an_address_that_is_taken_is_an_error_that_says_so(looked: Watches) -> None:
    with exporter(looked) as url:
        settings = Settings().model_copy(update={"exporter": Settings().exporter.model_copy(update={"url": url})})
        with pytest.raises(TerminalError, match="LAKEHOUSE_EXPORTER__URL"):
            serve(settings, threading.Event())
