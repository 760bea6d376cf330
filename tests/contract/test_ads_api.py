"""The client of the ad API against the mock server, which misbehaves on request; needs no stack."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from lakehouse.adapters import ads_api
from lakehouse.adapters.ads_api import AdApi
from lakehouse.ads.sample import Scenario, records
from lakehouse.errors import ServerUnavailableError, SettingsError, TerminalError
from lakehouse.settings import AdsSettings
from tests.ads import Api, api_running

START = datetime(2023, 10, 23, 10, tzinfo=UTC)
END = START + timedelta(hours=3)
EVERYTHING = [line for hour in range(3) for line in records(Scenario(), START + timedelta(hours=hour))]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_running() as running:
        yield running


def returned(settings: AdsSettings, start: datetime = START, end: datetime = END) -> list[bytes]:
    waits: list[float] = []
    with AdApi(settings, sleep=waits.append) as client:
        return b"".join(client.pages(start, end)).splitlines()


@pytest.mark.parametrize("page_records", [1, 7, 100, 5000])
def test_pages_of_any_size_bring_every_record_in_order(api: Api, page_records: int) -> None:
    api.has("pages")
    assert returned(api.settings("pages", page_records=page_records)) == EVERYTHING


def test_an_interval_brings_what_changed_in_it_and_neighbours_add_up(api: Api) -> None:
    settings = api.settings("intervals")
    middle = START + timedelta(minutes=77)
    assert sorted(returned(settings, START, middle) + returned(settings, middle, END)) == sorted(EVERYTHING)
    assert returned(settings, START, START) == []


@pytest.mark.parametrize(
    "faults",
    [
        {"busy_every": 2},
        {"fail_every": 2},
        {"fail_every": 3, "fail_status": 500},
        {"cut_every": 2},
        {"page_every": 2},
        {"slow_every": 2, "slow_seconds": 0.05},
        {"busy_every": 3, "fail_every": 5, "cut_every": 7, "page_every": 11},
    ],
    ids="-".join,
)
def test_passing_faults_cost_requests_and_no_record(api: Api, faults: dict[str, Any]) -> None:
    api.has("faults", faults=faults)
    assert returned(api.settings("faults", page_records=30)) == EVERYTHING
    assert api.requests("faults") >= len(EVERYTHING) // 30


def test_a_busy_api_is_left_alone_for_as_long_as_it_asks(api: Api) -> None:
    api.has("busy", faults={"busy_every": 2, "retry_after": 0.25})
    waits: list[float] = []
    with AdApi(api.settings("busy", page_records=50), sleep=waits.append) as client:
        list(client.pages(START, END))
    assert waits
    assert set(waits) == {0.25}


def test_an_api_that_stays_away_is_a_fault_that_may_pass(api: Api) -> None:
    api.has("away", faults={"fail_every": 1})
    with pytest.raises(ServerUnavailableError, match="answered 503"):
        returned(api.settings("away"))
    with pytest.raises(ServerUnavailableError, match="did not answer"):
        returned(api.settings("away").model_copy(update={"api_url": "http://127.0.0.1:1"}))


def test_a_wrong_token_is_a_setting_to_mend_and_never_shown(api: Api) -> None:
    settings = api.settings("token").model_copy(update={"api_token": SecretStr("a-wrong-one")})
    with pytest.raises(SettingsError, match="api_token") as caught:
        returned(settings)
    assert "a-wrong-one" not in str(caught.value)


def test_a_refusal_is_final_and_says_what_the_api_said(api: Api) -> None:
    api.has("gone", faults={"fail_every": 1, "fail_status": 410})
    with pytest.raises(TerminalError, match="410: out of order"):
        returned(api.settings("gone"))
    assert api.requests("gone") == 1


def test_an_api_that_leads_in_a_circle_is_noticed(api: Api) -> None:
    api.has("circle", faults={"circle": True})
    with pytest.raises(TerminalError, match="circle"):
        returned(api.settings("circle", page_records=20))


def test_a_page_without_end_is_not_read_to_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ads_api, "_MOST_PAGE_BYTES", 10_000)
    with pytest.raises(TerminalError, match="10,000 bytes"):
        returned(api.settings("large"))


def test_empty_pages_are_no_fault_until_they_lead_on_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ads_api, "_MOST_EMPTY_PAGES", 3)
    bodies = [b"", b"", b"{}\n", b"", b"", b"", b"{}\n"]
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = bodies[len(asked)]
        asked.append(request)
        headers = {"Content-Type": ads_api.MEDIA_TYPE, ads_api.RECORD_COUNT: str(body.count(b"\n"))}
        return httpx.Response(200, headers=headers | {ads_api.NEXT_CURSOR: f"c{len(asked)}"}, content=body)

    settings = AdsSettings(api_url="http://ads.example")  # pyright: ignore[reportCallIssue]
    with (
        AdApi(settings, transport=httpx.MockTransport(answer)) as client,
        pytest.raises(TerminalError, match="3 empty pages in a row"),
    ):
        list(client.pages(START, END))
    assert len(asked) == 6


def test_a_page_that_comes_byte_by_byte_is_given_up_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ads_api, "_MOST_PAGE_SECONDS", 0.05)

    def byte_by_byte() -> Iterator[bytes]:
        for byte in b'"1st"\n':
            time.sleep(0.1)
            yield bytes([byte])

    bodies: Iterator[bytes | Iterator[bytes]] = itertools.chain([byte_by_byte()], itertools.repeat(b'"2nd"\n'))
    headers = {"Content-Type": ads_api.MEDIA_TYPE, ads_api.RECORD_COUNT: "1"}
    settings = AdsSettings(api_url="http://ads.example")  # pyright: ignore[reportCallIssue]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=next(bodies)))
    with AdApi(settings, transport=transport, sleep=lambda _: None) as client:
        assert list(client.pages(START, END)) == [b'"2nd"\n']


def test_a_server_that_hangs_up_in_the_middle_is_asked_again() -> None:
    answers = iter(["cut", "whole"])

    def answer(request: httpx.Request) -> httpx.Response:
        if next(answers) == "cut":
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        headers = {"Content-Type": ads_api.MEDIA_TYPE, ads_api.RECORD_COUNT: "1"}
        return httpx.Response(200, headers=headers, content=b"{}\n")

    settings = AdsSettings(api_url="http://ads.example")  # pyright: ignore[reportCallIssue]
    with AdApi(settings, transport=httpx.MockTransport(answer), sleep=lambda _: None) as client:
        assert list(client.pages(START, END)) == [b"{}\n"]
