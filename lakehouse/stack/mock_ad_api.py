"""The ad API of the local stack: a small HTTP server whose accounts have seeded data, and misbehave on request.

    GET /v1/accounts/{account}/impressions?updated_from=…&updated_until=…&limit=…&cursor=…

answers with JSON lines, the records of these times of change in order; `X-Record-Count` says how many, and
`X-Next-Cursor` leads to the next page where there is one. `PUT /admin/accounts/{account}` says what an account's data
is like and what goes wrong with its answers; it is forgotten when the server ends.
"""

import asyncio
import hmac
import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lakehouse.adapters.ads_api import MEDIA_TYPE, NEXT_CURSOR, RECORD_COUNT
from lakehouse.ads.sample import HOUR, Scenario, encode, records

TOKEN: Final = "AD_API_TOKEN"  # noqa: S105 - the name of the variable that holds it
_MOST_RECORDS: Final = 20_000
_SHIFTED: Final = 7919
"""Cursors are numbers that say nothing, so that nobody reckons with them."""


class Faults(BaseModel):
    """What goes wrong with an account's answers; 0 is never, 1 always, and so on.

    Attributes:
        busy_every: one in so many requests is refused with 429.
        retry_after: what `Retry-After` says then, in seconds.
        fail_every: one in so many is answered with `fail_status`.
        slow_every: one in so many waits `slow_seconds`.
        cut_every: one in so many lacks its last records.
        page_every: one in so many is a page for people instead.
        circle: the cursor leads back to the page it came with.
    """

    model_config = ConfigDict(extra="forbid")

    busy_every: Annotated[int, Field(ge=0)] = 0
    retry_after: Annotated[float, Field(ge=0)] = 0.05
    fail_every: Annotated[int, Field(ge=0)] = 0
    fail_status: Annotated[int, Field(ge=400, le=599)] = 503
    slow_every: Annotated[int, Field(ge=0)] = 0
    slow_seconds: Annotated[float, Field(ge=0, le=120)] = 0.2
    cut_every: Annotated[int, Field(ge=0)] = 0
    page_every: Annotated[int, Field(ge=0)] = 0
    circle: bool = False


class Account(BaseModel):
    """An account: what its data is like, and what goes wrong.

    Attributes:
        also: further records of single hours, told after those of the scenario, by the hour's beginning.
    """

    model_config = ConfigDict(extra="forbid")

    scenario: Scenario = Scenario()
    faults: Faults = Faults()
    also: dict[AwareDatetime, list[dict[str, Any]]] = {}


def app() -> FastAPI:
    """Make the server; its token is in the variable `AD_API_TOKEN`."""
    token = os.environ[TOKEN]
    accounts: dict[str, Account] = {}
    asked: dict[str, int] = {}

    def known(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})

    # No pages for people: they would load their scripts from elsewhere.
    server = FastAPI(title="Mock ad API", docs_url=None, redoc_url=None)

    @server.get("/healthz")
    async def healthz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}

    @server.put("/admin/accounts/{account}", dependencies=[Depends(known)])
    async def put(account: str, wanted: Account) -> Account:  # pyright: ignore[reportUnusedFunction]
        accounts[account] = wanted
        asked[account] = 0
        return wanted

    @server.get("/admin/accounts/{account}", dependencies=[Depends(known)])
    async def requests(account: str) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"requests": asked.get(account, 0)}

    @server.get("/v1/accounts/{account}/impressions", dependencies=[Depends(known)])
    async def impressions(  # pyright: ignore[reportUnusedFunction]
        account: str,
        updated_from: AwareDatetime,
        updated_until: AwareDatetime,
        limit: Annotated[int, Query(ge=1, le=_MOST_RECORDS)] = 1_000,
        cursor: str = "",
    ) -> Response:
        asked[account] = asked.get(account, 0) + 1
        question = Question(updated_from.astimezone(UTC), updated_until.astimezone(UTC), limit, _offset(cursor))
        return await _answer(accounts.get(account, _ANY), question, asked[account])

    return server


_ANY: Final = Account()


class Question(NamedTuple):
    """What a request asks for; times in UTC, `offset` in records of the interval."""

    start: datetime
    end: datetime
    limit: int
    offset: int


async def _answer(account: Account, question: Question, number: int) -> Response:
    """Answer the request of this number, or do wrong what is due."""

    def is_due(every: int) -> bool:
        return every > 0 and number % every == 0

    faults = account.faults
    if is_due(faults.busy_every):
        return Response("slow down\n", 429, {"Retry-After": f"{faults.retry_after:g}"})
    if is_due(faults.fail_every):
        return Response("out of order\n", faults.fail_status)
    if is_due(faults.slow_every):
        await asyncio.sleep(faults.slow_seconds)
    if is_due(faults.page_every):
        return Response("<html>We are busy.</html>", media_type="text/html")
    lines, more = await asyncio.to_thread(_page, account, question)
    headers = {RECORD_COUNT: str(len(lines))}
    if more:
        headers[NEXT_CURSOR] = _cursor(question.offset + (0 if faults.circle else question.limit))
    if is_due(faults.cut_every):
        lines = lines[:-1]
    return Response(b"".join(line + b"\n" for line in lines), 200, headers, MEDIA_TYPE)


def _cursor(offset: int) -> str:
    return f"c{(offset + _SHIFTED) * _SHIFTED:x}"


def _offset(cursor: str) -> int:
    try:
        return int(cursor.removeprefix("c"), 16) // _SHIFTED - _SHIFTED if cursor else 0
    except ValueError as error:
        raise HTTPException(400, "no such cursor") from error


def _page(account: Account, question: Question) -> tuple[list[bytes], bool]:
    """The records of a page, and whether there are more; hours before the page are only counted."""
    start, end, limit, offset = question
    extra = {hour.astimezone(UTC): tuple(map(encode, told)) for hour, told in account.also.items()}
    hour = start.replace(minute=0, second=0, microsecond=0)
    taken: list[bytes] = []
    passed = 0
    while hour < end:
        told = [*_hour(account.scenario, hour), *((line, hour) for line in extra.get(hour, ()))]
        chosen = [line for line, updated_at in told if start <= updated_at < end]
        taken += chosen[max(0, offset - passed) :]
        passed += len(chosen)
        if len(taken) > limit:
            return taken[:limit], True
        hour += HOUR
    return taken, False


@lru_cache(maxsize=64)
def _hour(scenario: Scenario, hour: datetime) -> list[tuple[bytes, datetime]]:
    """The records of an hour with their time of change; broken ones count as changed when the hour begins."""
    return [(line, _updated_at(line, hour)) for line in records(scenario, hour)]


def _updated_at(line: bytes, hour: datetime) -> datetime:
    _, found, rest = line.rpartition(b'"updated_at":"')
    try:
        moment = datetime.fromisoformat(rest[:27].decode()) if found else hour
    except ValueError:
        return hour
    if moment.tzinfo is None:
        return hour
    return moment if hour <= moment < hour + timedelta(hours=1) else hour
