"""A DAG control API of a test's own: its settings, with a caller of each role whose keys the test knows."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lakehouse import callers
from lakehouse.callers import Callers, Role
from lakehouse.settings import Settings

JWT_SECRET = "a secret of a test's own, long enough"


@dataclass(frozen=True)
class Api:
    """Settings of an API, and the key of each of its callers by name."""

    settings: Settings
    keys: dict[str, str]

    def key(self, name: str) -> dict[str, str]:
        """The header by which this caller is known."""
        return {"X-API-Key": self.keys[name]}

    @property
    def audit_file(self) -> Path:
        return self.settings.api_audit_file


def api_of(settings: Settings, directory: Path, dags: dict[str, tuple[str, ...]] | None = None, **changes: Any) -> Api:
    """Lay out an API with callers `viewer`, `operator` and `admin`, whose files lie in this directory.

    Args:
        settings: of the servers it speaks to.
        directory: for its files.
        dags: those that a caller may see; all of them if it is not named.
        changes: other settings of the API.
    """
    known, keys = Callers(), dict[str, str]()
    for role in Role:
        caller, key = callers.new(role, role, (dags or {}).get(role, ("*",)), 1, datetime.now(UTC))
        known, keys[role] = known.joined_by(caller), key
    file = directory / "api-callers.json"
    file.write_text(known.model_dump_json())
    own = {
        "callers_file": file,
        "audit_file": directory / "audit.jsonl",
        "jwt_secret": SecretStr(JWT_SECRET),
        "requests_per_minute": 10_000,
        "refused_logins_per_minute": 10_000,
    }
    return Api(settings.model_copy(update={"api": settings.api.model_copy(update=own | changes)}), keys)
