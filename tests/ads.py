"""What tests of the ad data share: an ad API of their own, a shop with ads, and the proof that each counts once."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from lakehouse.adapters import trino
from lakehouse.adapters.ads_store import AdsStore
from lakehouse.ads.audit import AuditReport, audit
from lakehouse.environment import apply
from lakehouse.settings import AdsSettings, Settings
from tests.faults.harness import Command, Shop

TOKEN = "test-token"
NO_DATA = {"impressions_per_hour": 0}
HOUR = datetime(2023, 10, 1, 12, tzinfo=UTC)
"""The hour of change in which `told` tells everything."""
NOW = datetime(2023, 11, 22, 9, tzinfo=UTC)
OLD, OLDER, RECENT = date(2023, 9, 20), date(2023, 9, 19), date(2023, 11, 20)
"""Dates of impressions; the first two are older than 30 days at `NOW`."""


@dataclass(frozen=True)
class Api:
    """A mock ad API in a process of its own."""

    url: str

    def has(self, account: str, **content: Any) -> None:
        """Say what an account's data is like, and what goes wrong; see `lakehouse.stack.mock_ad_api.Account`."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.put(f"{self.url}/admin/accounts/{account}", json=content, headers=headers, trust_env=False)
        answer.raise_for_status()

    def requests(self, account: str) -> int:
        """How often an account was asked for since then."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.get(f"{self.url}/admin/accounts/{account}", headers=headers, trust_env=False)
        return answer.raise_for_status().json()["requests"]

    def settings(self, account: str = "shop", **more: Any) -> AdsSettings:
        """How to reach an account."""
        return AdsSettings(api_url=self.url, api_token=SecretStr(TOKEN), account=account, **more)


@contextmanager
def api_running() -> Generator[Api]:
    """Start a mock ad API on a free port."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "lakehouse.stack.mock_ad_api:app"]
    command += ["--no-access-log", "--log-level", "warning"]
    with socket.socket() as listening:  # handed over, so that nobody else takes the port meanwhile
        listening.bind(("127.0.0.1", 0))
        port, fd = listening.getsockname()[1], listening.fileno()
        environment = os.environ | {"AD_API_TOKEN": TOKEN}
        process = subprocess.Popen([*command, "--fd", str(fd)], env=environment, pass_fds=[fd])
    with process:
        try:
            api = Api(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + 60
            while True:
                try:
                    httpx.get(f"{api.url}/healthz", trust_env=False).raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield api
        finally:
            process.terminate()


def impression(number: int, shown: date, **more: Any) -> dict[str, Any]:
    """A record of the API; one of the same number and date is the same impression."""
    shown_at = datetime(shown.year, shown.month, shown.day, number % 24, number % 60, tzinfo=UTC)
    return {
        "impression_id": f"i-{number:04}",
        "campaign": f"campaign-{number % 3}",
        "ad": "ad-1",
        "sku": "SKU-1001",
        "user_id": f"user_{number}",
        "shown_at": shown_at.isoformat(),
        "clicked_at": None,
        "cost_micros": 1000 + number,
        "updated_at": (shown_at + timedelta(minutes=1)).isoformat(),
    } | more


def newer(record: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A later version of a record."""
    later = datetime.fromisoformat(record["updated_at"]) + timedelta(days=3)
    return dict(record) | {"updated_at": later.isoformat()} | more


@dataclass
class AdShop:
    """An environment with an account of its own at an ad API."""

    settings: Settings
    api: Api
    processes: Shop = field(init=False)

    def __post_init__(self) -> None:
        ads = self.settings.ads
        self.processes = Shop(
            self.settings,
            os.environ
            | {
                "LAKEHOUSE_PREFIX": self.settings.prefix,
                "LAKEHOUSE_HOME": str(self.settings.home),
                "LAKEHOUSE_ADS__API_URL": ads.api_url,
                "LAKEHOUSE_ADS__API_TOKEN": ads.api_token.get_secret_value(),
                "LAKEHOUSE_ADS__ACCOUNT": ads.account,
                "LAKEHOUSE_ADS__PAGE_RECORDS": str(ads.page_records),
            },
        )

    def tells(self, *records: Mapping[str, Any], **more: Any) -> None:
        """Let the API tell these records, and nothing else, as changed in `HOUR`."""
        content = {"scenario": NO_DATA, "also": {HOUR.isoformat(): [dict(record) for record in records]}}
        self.api.has(self.settings.ads.account, **content, **more)

    def start(self, *command: str, failpoint: str = "") -> Command:
        """Start `lakehouse ads …`."""
        return self.processes.start("ads", *command, failpoint=failpoint)

    def load(self, failpoint: str = "") -> Command:
        """Start a load of `HOUR` in a process of its own."""
        end = HOUR + timedelta(hours=1)
        return self.start("load", "--from", text(HOUR), "--until", text(end), failpoint=failpoint)

    def archive(self, failpoint: str = "") -> Command:
        """Start an archiving of everything before `RECENT` in a process of its own."""
        return self.start("archive", "--before", str(RECENT), failpoint=failpoint)

    def shown(self) -> Counter[tuple[date, str, int]]:
        """Date, id and cost of every impression that the view shows."""
        view = f"{self.settings.catalog.name}.{self.settings.prefix}ads.impressions_all"
        found = trino.query(
            self.settings.trino_as("transform"), f"SELECT shown_date, impression_id, cost_micros FROM {view}"
        )
        return Counter((day, key, cost) for day, key, cost in found)

    def live(self) -> dict[date, int]:
        """Rows of PostgreSQL by date."""
        with AdsStore(self.settings).session() as session:
            return session.live_rows()

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Do something to the tables in PostgreSQL, as somebody might by hand; `{schema}` is theirs."""
        with AdsStore(self.settings).session() as session:
            session.run(statement, parameters)
            session.commit()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL; `{schema}` is that of the ad data."""
        with AdsStore(self.settings).session() as session:
            return session.ask(statement)

    def audited(self) -> AuditReport:
        """The report of an audit that finds nothing wrong."""
        report = audit(self.settings)
        assert report.gaps == ()
        assert report.ok
        placed = report.live + report.archived + report.late + report.superseded + report.refused
        assert placed == report.records
        return report

    def assert_shows(self, *records: Mapping[str, Any]) -> None:
        """Prove that the view shows these records, each once, and that the audit agrees."""
        assert self.shown() == Counter(
            (
                datetime.fromisoformat(record["shown_at"]).astimezone(UTC).date(),
                record["impression_id"],
                record["cost_micros"],
            )
            for record in records
        )
        self.audited()


@contextmanager
def opened(settings: Settings, api: Api) -> Generator[AdShop]:
    """Open a shop with ads in an environment that is dropped by who made it."""
    own = settings.model_copy(update={"ads": api.settings(settings.prefix or "shop", page_records=40)})
    apply(own)
    shop = AdShop(own, api)
    try:
        yield shop
    finally:
        shop.processes.end()


def text(moment: datetime) -> str:
    """A moment as an option takes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
