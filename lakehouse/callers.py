"""Who may call the DAG control API: the file of its callers, their keys and their tokens.

A key is shown once, when it is made; the file holds its SHA-256, which suffices because a key is 256 random bits and
no password. A token is a short-lived stand-in for a key: it names a caller of the file, and what that one may do is
looked up at each request, so that whoever leaves the file is out at once.
"""

import hashlib
import secrets
import stat
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

import jwt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lakehouse.errors import SettingsError, TerminalError

ALL_DAGS: Final = "*"
ISSUER: Final = "lakehouse"
AUDIENCE: Final = "dag-control"
MOST_TOKEN_MINUTES: Final = 24 * 60
_ALGORITHM: Final = "HS256"
_LEAST_SECRET_BYTES: Final = 32  # RFC 7518, section 3.2: as many as the hash has
_CLAIMS: Final = ("iss", "aud", "sub", "key", "iat", "exp")
_KEY_PREFIX: Final = "lh_"  # so that scanners for leaked secrets can know one

DagId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,249}$")]


class Role(StrEnum):
    """What a caller may do; each may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        """Whether this role suffices where another one is needed."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


class Caller(BaseModel):
    """One caller; key: `name`.

    Attributes:
        role: viewers read, operators run and stop, admins delete as well.
        dags: the DAGs that exist for this caller; `*` is every one.
        key_sha256: of the key, in hexadecimal.
        expires_at: when key and tokens end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    role: Role
    dags: tuple[DagId | Annotated[str, StringConstraints(pattern=r"^\*$")], ...] = Field(min_length=1)
    key_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    expires_at: AwareDatetime

    @property
    def key_id(self) -> str:
        """What a token names its key by, so that it ends when the caller gets another one."""
        return self.key_sha256[:16]

    def sees(self, dag_id: str) -> bool:
        """Whether this DAG exists for the caller."""
        return ALL_DAGS in self.dags or dag_id in self.dags


class Callers(BaseModel):
    """All callers, as the file holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    callers: tuple[Caller, ...] = ()

    def with_key(self, key: str, now: datetime) -> Caller | None:
        """Find the caller of this key, if it is one and has not expired."""
        digest = _digest(key)
        return next((one for one in self.callers if one.key_sha256 == digest and one.expires_at > now), None)

    def with_token(self, token: str, secret: str, now: datetime) -> Caller | None:
        """Find the caller whose name and key a token names, if we signed it and neither it nor the caller has expired.

        One that lives longer than any of ours is refused as well.
        """
        if len(secret.encode()) < _LEAST_SECRET_BYTES:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                secret,
                algorithms=[_ALGORITHM],  # never what the token itself says
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False},  # by `now`, below
            )
            issued, expires = int(claims["iat"]), int(claims["exp"])
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError):
            return None
        if not issued <= now.timestamp() < expires <= issued + MOST_TOKEN_MINUTES * 60:
            return None
        named = (claims["sub"], claims["key"])
        return next((one for one in self.callers if (one.name, one.key_id) == named and one.expires_at > now), None)

    def named(self, name: str) -> Caller:
        """Return the caller of this name.

        Raises:
            TerminalError: there is none.
        """
        for caller in self.callers:
            if caller.name == name:
                return caller
        known = ", ".join(one.name for one in self.callers) or "nobody"
        raise TerminalError(f"no caller {name!r}; the file has {known}: add one by `lakehouse api keys add`")

    def joined_by(self, caller: Caller) -> Self:
        """The callers with one more.

        Raises:
            TerminalError: there is one of this name.
        """
        if any(one.name == caller.name for one in self.callers):
            raise TerminalError(f"there is a caller {caller.name!r}: `lakehouse api keys remove {caller.name}` first")
        return self.model_copy(update={"callers": (*self.callers, caller)})

    def without(self, name: str) -> Self:
        """The callers without the one of this name.

        Raises:
            TerminalError: there is none.
        """
        gone = self.named(name)
        return self.model_copy(update={"callers": tuple(one for one in self.callers if one != gone)})


def read(path: Path) -> Callers:
    """Read the file; where there is none, there is no caller.

    Raises:
        SettingsError: it can't be read, or others than its owner may write it.
    """
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"others may write {path}, and so make themselves callers: `chmod go-w {path}`")
        return Callers.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Callers()
    except (OSError, ValidationError) as error:
        lines = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise SettingsError(f"{path} can't be read as the file of the API's callers: {lines}") from None


def new(name: str, role: Role, dags: tuple[str, ...], days: int, now: datetime) -> tuple[Caller, str]:
    """Make a caller and its key, which nothing but the answer holds.

    Raises:
        TerminalError: the name or a DAG's id is none.
    """
    key = _KEY_PREFIX + secrets.token_urlsafe(32)
    try:
        caller = Caller(name=name, role=role, dags=dags, key_sha256=_digest(key), expires_at=now + timedelta(days=days))
    except ValidationError as error:
        wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_input=False))
        raise TerminalError(f"that makes no caller: {wrong}") from None
    return caller, key


def token(caller: Caller, secret: str, minutes: int, now: datetime) -> str:
    """Sign a token that stands for a caller for so many minutes.

    Raises:
        SettingsError: there is no secret to sign with.
    """
    if len(secret.encode()) < _LEAST_SECRET_BYTES:
        raise SettingsError(
            f"LAKEHOUSE_API__JWT_SECRET has less than {_LEAST_SECRET_BYTES} bytes: set it, for server and command alike"
        )
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": caller.name,
        "key": caller.key_id,
        "iat": now,
        "exp": now + timedelta(minutes=minutes),
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(claims, secret, _ALGORITHM)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
