"""Everything that can go wrong, as a caller sees it: problem details by RFC 9457, all in one catalogue."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from lakehouse.adapters.airflow import NOT_FOUND, AirflowRefusedError
from lakehouse.errors import LakehouseError, ServerUnavailableError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:lakehouse:problem:"
SCHEMA: Final = "Problem"
_MOST_FAULTS: Final = 100
"""Told of one request; a small body can hold tens of thousands."""
REQUEST_ID: Final = "X-Request-ID"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem.

    Attributes:
        name: stable, for programs.
        status: of the answer.
        title: the same each time.
        example: what `detail` may say.
        retry_seconds: when it is worth asking again; None when it is not, or nobody knows.
    """

    name: str
    status: HTTPStatus
    title: str
    example: str
    retry_seconds: int | None = None

    @property
    def uri(self) -> str:
        """The kind as RFC 9457 wants it named."""
        return TYPE_PREFIX + self.name


UNAUTHENTICATED: Final = Kind(
    "unauthenticated", HTTPStatus.UNAUTHORIZED, "Who are you?", "send a key in X-API-Key, or a token as a bearer"
)
FORBIDDEN: Final = Kind(
    "forbidden", HTTPStatus.FORBIDDEN, "Your role does not suffice", "this needs the role operator; yours is viewer"
)
NOT_FOUND_HERE: Final = Kind("not-found", HTTPStatus.NOT_FOUND, "There is no such thing", "there is no such run")
METHOD_NOT_ALLOWED: Final = Kind(
    "method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED, "That method does not exist here", "see the header Allow"
)
SLOW_REQUEST: Final = Kind(
    "slow-request", HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time", "its body took more than 15 s"
)
STILL_RUNNING: Final = Kind(
    "still-running",
    HTTPStatus.CONFLICT,
    "The run has not ended",
    "run api__1 is running: stop it by POST /dags/transform/runs/api__1/stop, or delete it with ?force=true",
)
NOT_RUNNABLE: Final = Kind(
    "not-runnable", HTTPStatus.CONFLICT, "The DAG can't be run now", "Airflow could not read its file anew"
)
NOT_GONE: Final = Kind("not-gone", HTTPStatus.CONFLICT, "Not all of the run is gone", "left: java, pid 4711")
TOO_LARGE: Final = Kind(
    "too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large", "a body has at most 65,536 bytes"
)
INVALID: Final = Kind(
    "invalid", HTTPStatus.UNPROCESSABLE_ENTITY, "The request does not fit", "see errors, which name each place"
)
KEY_REUSED: Final = Kind(
    "idempotency-key-reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "This Idempotency-Key stands for another request",
    "the key started run api__1 with another conf: take a new key",
)
TOO_MANY_REQUESTS: Final = Kind(
    "too-many-requests", HTTPStatus.TOO_MANY_REQUESTS, "Too many requests", "120 a minute are yours", 60
)
INTERNAL: Final = Kind(
    "internal", HTTPStatus.INTERNAL_SERVER_ERROR, "That is our mistake", "the server's log has it under the request id"
)
AIRFLOW_NONSENSE: Final = Kind(
    "airflow-nonsense",
    HTTPStatus.BAD_GATEWAY,
    "Airflow's answer makes no sense",
    "GET dags was not answered by Airflow",
)
AIRFLOW_AWAY: Final = Kind(
    "airflow-away", HTTPStatus.SERVICE_UNAVAILABLE, "Airflow does not answer", "ask again in some seconds", 5
)
START_UNKNOWN: Final = Kind(
    "start-unknown",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Nobody knows whether the run began",
    "GET /dags/transform/runs/api__1 tells; asking again with the same Idempotency-Key never starts a second one",
)
NOT_READY: Final = Kind(
    "not-ready", HTTPStatus.SERVICE_UNAVAILABLE, "The server is not ready", "it is ending: ask another one", 5
)

KINDS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
OF_EVERY_REQUEST: Final = (SLOW_REQUEST, TOO_LARGE, INTERNAL, NOT_READY)
"""What any request can meet before its route is found."""


class Fault(BaseModel):
    """One place of the request that does not fit."""

    place: str = Field(description="Such as `body.conf.until`.", examples=["body.conf.until"])
    message: str = Field(description="What is wrong with it.", examples=["'yesterday' does not match '^\\\\d{4}-…'"])


class Problem(BaseModel):
    """What went wrong, by RFC 9457."""

    model_config = ConfigDict(title=SCHEMA)

    type: str = Field(description="The kind of problem, for programs.", examples=[NOT_FOUND_HERE.uri])
    title: str = Field(description="The same words for each problem of this kind.", examples=[NOT_FOUND_HERE.title])
    status: int = Field(description="The status of the answer.", examples=[404])
    detail: str = Field(description="What happened this time, and what to do.", examples=[NOT_FOUND_HERE.example])
    instance: str = Field(description="The path that was asked.", examples=["/dags/transform/runs/api__1"])
    request_id: str = Field(description="Under which the server's logs tell more.", examples=["8c0e5b7a7d1f4a55"])
    errors: list[Fault] | None = Field(None, description="The places that do not fit, if it is the request's fault.")


class ProblemError(Exception):
    """A request that ends with a problem.

    Args:
        kind: of the catalogue.
        detail: what happened this time; never a secret, and nothing that the caller may not know.
        errors: the places of the request that do not fit; no more are asked for than the first ones, which are kept.
        headers: to add to the answer.
    """

    def __init__(
        self, kind: Kind, detail: str = "", errors: Iterable[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{kind.name}: {detail}")
        self.kind = kind
        self.detail = detail or kind.example
        self.errors = list(islice(errors, _MOST_FAULTS))
        self.headers = dict(headers or {})
        if kind.retry_seconds is not None:
            self.headers.setdefault("Retry-After", str(kind.retry_seconds))

    def body(self, path: str, request_id: str) -> dict[str, Any]:
        """The document to answer with."""
        return Problem(
            type=self.kind.uri,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            instance=path,
            request_id=request_id,
            errors=self.errors or None,
        ).model_dump(exclude_none=True)


def of(error: LakehouseError) -> ProblemError:
    """Tell a caller of an error of Airflow's; what only its owner should know stays in the server's log."""
    if isinstance(error, ServerUnavailableError):
        return ProblemError(AIRFLOW_AWAY)
    if isinstance(error, AirflowRefusedError) and error.status == NOT_FOUND:
        return ProblemError(NOT_FOUND_HERE, "there is no such DAG or run")
    return ProblemError(AIRFLOW_NONSENSE, "Airflow refuses what it should not, or is something else: see the log")


def responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """Describe for OpenAPI that a route can end with these problems, with an example of each."""
    by_status: dict[int, list[Kind]] = defaultdict(list)
    for kind in (*kinds, *OF_EVERY_REQUEST):
        by_status[kind.status].append(kind)
    return {
        status: {
            "description": "; ".join(kind.title for kind in found),
            "headers": _headers(found),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{SCHEMA}"},
                    "examples": {kind.name: {"summary": kind.title, "value": _example(kind)} for kind in found},
                }
            },
        }
        for status, found in sorted(by_status.items())
    }


def header(description: str) -> dict[str, Any]:
    """Describe for OpenAPI a header of an answer."""
    return {"description": description, "schema": {"type": "string"}}


def _headers(kinds: Iterable[Kind]) -> dict[str, Any]:
    found = dict[str, Any]()
    for kind in kinds:
        if kind is UNAUTHENTICATED:
            found["WWW-Authenticate"] = header("How a caller can be known.")
        if kind.retry_seconds is not None or kind is START_UNKNOWN:
            found["Retry-After"] = header("Seconds after which it is worth asking again, if it is.")
    return found


def _example(kind: Kind) -> dict[str, Any]:
    faults = [Fault(place="body.conf.until", message="it is no date")] if kind is INVALID else []
    return ProblemError(kind, errors=faults).body("/dags/transform/runs/api__1", "8c0e5b7a7d1f4a55")
