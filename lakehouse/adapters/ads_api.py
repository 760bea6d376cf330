"""The ad API, by HTTP: pages of records, asked for again when a fault may pass."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, NoReturn, Self

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lakehouse.errors import ServerUnavailableError, SettingsError, TerminalError, shorten
from lakehouse.settings import AdsSettings

RECORD_COUNT: Final = "X-Record-Count"
NEXT_CURSOR: Final = "X-Next-Cursor"
MEDIA_TYPE: Final = "application/x-ndjson"

_ATTEMPTS: Final = 8
_FIRST_WAIT_SECONDS: Final = 0.5
_MOST_WAIT_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = httpx.Timeout(30.0, connect=5.0)
_MOST_PAGE_BYTES: Final = 64 << 20
_MOST_PAGE_SECONDS: Final = 300.0
_MOST_EMPTY_PAGES: Final = 1_000
"""In a row; some are no fault, of an API that looks for what changed page by page."""


class _BusyError(ServerUnavailableError):
    """The API asked to be left alone for so many seconds."""

    def __init__(self, message: str, seconds: float | None) -> None:
        super().__init__(message)
        self.seconds = seconds


class AdApi:
    """The API of `settings`; a context manager.

    Args:
        settings: where it is and who asks.
        transport: stands in for the network, for tests of what no server does.
        sleep: how to wait, for tests.
    """

    def __init__(
        self,
        settings: AdsSettings,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        token = settings.api_token.get_secret_value()
        self._client = httpx.Client(
            base_url=settings.api_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_ANSWER_SECONDS,
            trust_env=False,  # a proxy of the environment is not meant for it
            transport=transport,
        )
        self._retrying = Retrying(
            sleep=sleep,
            stop=stop_after_attempt(_ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception_type(ServerUnavailableError),
            reraise=True,
        )

    def __enter__(self) -> Self:
        """Use it until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self._client.close()

    def pages(self, start: datetime, end: datetime) -> Iterator[bytes]:
        """Read what changed in an interval, page by page, each as the bytes of whole JSON lines.

        Args:
            start: first time of change.
            end: the time after the last one.

        Raises:
            ServerUnavailableError: the API did not answer properly, asked several times.
            SettingsError: it does not know our token or the account.
            TerminalError: it refused what was asked, leads in a circle, or on and on without a record.
        """
        cursor: str | None = None
        seen: set[str] = set()
        empty = 0
        while True:
            page, cursor = self._retrying(self._page, start, end, cursor)
            yield page
            if cursor is None:
                return
            if cursor in seen:
                raise TerminalError(f"the ad API leads in a circle: it gave the cursor {shorten(cursor)!r} twice")
            seen.add(cursor)
            empty = 0 if page else empty + 1
            if empty == _MOST_EMPTY_PAGES:
                raise TerminalError(f"the ad API gave {empty:,} empty pages in a row and leads on: ask who runs it")

    def _page(self, start: datetime, end: datetime, cursor: str | None) -> tuple[bytes, str | None]:
        asked = {
            "updated_from": start.astimezone(UTC).isoformat(),
            "updated_until": end.astimezone(UTC).isoformat(),
            "limit": str(self._settings.page_records),
        } | ({"cursor": cursor} if cursor else {})
        path = f"/v1/accounts/{self._settings.account}/impressions"
        try:
            with self._client.stream("GET", path, params=asked) as response:
                body = self._body(response)
        except httpx.HTTPError as error:
            raise ServerUnavailableError(
                f"the ad API at {self._settings.api_url} did not answer ({type(error).__name__}: {error})"
            ) from error
        if response.status_code != HTTPStatus.OK:
            self._refuse(response, body)
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if kind != MEDIA_TYPE:
            raise ServerUnavailableError(f"the ad API answered with {kind or 'nothing'} where records were to come")
        promised = response.headers.get(RECORD_COUNT)
        came = body.removesuffix(b"\n").count(b"\n") + 1 if body else 0
        if promised != str(came):
            raise ServerUnavailableError(f"the ad API promised {promised} records and {came} came")
        return body, response.headers.get(NEXT_CURSOR) or None

    def _body(self, response: httpx.Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        deadline = time.monotonic() + _MOST_PAGE_SECONDS  # `_ANSWER_SECONDS` begins anew with each piece
        for piece in response.iter_bytes():
            if time.monotonic() > deadline:
                raise ServerUnavailableError(f"the ad API took more than {_MOST_PAGE_SECONDS:g} s for a page")
            size += len(piece)
            if size > _MOST_PAGE_BYTES:
                raise TerminalError(
                    f"the ad API answers with more than {_MOST_PAGE_BYTES:,} bytes: ask for less a page"
                )
            pieces.append(piece)
        return b"".join(pieces)

    def _refuse(self, response: httpx.Response, body: bytes) -> NoReturn:
        status, where = response.status_code, self._settings.api_url
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise SettingsError(f"the ad API at {where} refuses our token ({status}): see ads.api_token")
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            seconds: float | None = None
            with contextlib.suppress(ValueError):  # it may be a date, which nobody sends here
                seconds = float(response.headers.get("Retry-After", ""))
            raise _BusyError(f"the ad API at {where} answered {status}", seconds)
        told = shorten(body.decode("utf-8", "replace"))
        raise TerminalError(f"the ad API at {where} refused with {status}: {told}")


def _wait(state: RetryCallState) -> float:
    """As long as the API asked for, else longer each time; never longer than `_MOST_WAIT_SECONDS`."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _BusyError) and error.seconds is not None:
        return min(max(error.seconds, 0.0), _MOST_WAIT_SECONDS)
    return wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_MOST_WAIT_SECONDS)(state)
