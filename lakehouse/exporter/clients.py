"""The connections that all looks share, opened when they are first needed and kept."""

import ssl
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock
from typing import Final, Self

import httpx

from lakehouse.adapters.airflow import Airflow
from lakehouse.adapters.objects import Objects
from lakehouse.adapters.observed import Observed
from lakehouse.settings import Settings

PING_SECONDS: Final = 3.0
"""How long a server may take to answer a health request."""


class Clients:
    """What looks ask, until the block ends; several threads may use it at once.

    Attributes:
        settings: of the environment that is looked at.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = Lock()
        self._lake: Observed | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was opened; a look that still goes on fails."""
        for name in ("airflow", "airflow_health", "http"):
            if name in self.__dict__:
                self.__dict__[name].close()

    @property
    def lake(self) -> Observed:
        """The tables.

        Raises:
            ServerUnavailableError: the catalog does not answer.
            SettingsError: it does not know our credentials.
        """
        with self._lock:
            self._lake = self._lake or Observed(self.settings)
            return self._lake

    @cached_property
    def airflow(self) -> Airflow:
        """Airflow's REST API."""
        return Airflow(self.settings.airflow, self.settings.exporter.timeout_seconds)

    @cached_property
    def airflow_health(self) -> Airflow:
        """The same, with the patience of a health request."""
        return Airflow(self.settings.airflow, PING_SECONDS)

    @cached_property
    def objects(self) -> Objects:
        """The object store."""
        return Objects(self.settings.s3)

    @cached_property
    def http(self) -> httpx.Client:
        """For health requests."""
        return health_client()


def health_client(trusted: ssl.SSLContext | bool = True) -> httpx.Client:
    """Make a client for health requests, which trusts these authorities, or the public ones."""
    # A proxy of the environment would not find a server on the loopback.
    return httpx.Client(timeout=PING_SECONDS, trust_env=False, verify=trusted)


def age(moment: datetime) -> float:
    """Seconds since a moment; 0 of one to come, because clocks differ."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
