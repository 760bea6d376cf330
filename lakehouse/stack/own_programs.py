"""Servers that are programs of ours, each a module of Python."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack.server import Profile, Server, answers

_UNCHANGED: Final = frozenset({"home", "cache", "stack", "run"})


def program(
    name: str,
    module: tuple[str, ...],
    url: str,
    *,
    profile: Profile,
    environment: Mapping[str, str],
    memory_bytes: int,
    package: str = "lakehouse",
    after: tuple[str, ...] = (),
    page: str = "",
) -> Server:
    """Describe a server that runs in this Python, and answers at `/healthz` when it is up.

    Args:
        name: of the server.
        module: what `python -m` runs, with its arguments.
        url: address that it listens at.
        profile: the smallest profile that starts it.
        environment: what it is told besides the place of its modules.
        memory_bytes: about what it needs resident.
        package: the one whose version is told.
        after: servers that must be healthy before.
        page: path of what a person opens.
    """
    return Server(
        name=name,
        profile=profile,
        version=importlib.metadata.version(package),
        port=urlsplit(url).port or 80,
        url=url + page,
        command=(sys.executable, "-m", *module),
        environment={**environment, "PYTHONPATH": str(PROJECT_ROOT)},
        after=after,
        probe=lambda: answers(f"{url}/healthz"),
        start_seconds=60,
        memory_bytes=memory_bytes,
    )


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables of the environment; the secrets it finds in the credentials file."""
    home = {"LAKEHOUSE_HOME": str(settings.home), "LAKEHOUSE_CACHE": str(settings.cache)}
    return home | dict(_changed_values(settings, "LAKEHOUSE_", without=_UNCHANGED))


def _changed_values(model: BaseModel, prefix: str, without: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    for name, field in type(model).model_fields.items():
        value: Any = getattr(model, name)
        if name in without or value is None or isinstance(value, SecretStr):
            continue
        if isinstance(value, BaseModel):
            yield from _changed_values(value, f"{prefix}{name.upper()}__")
        elif value != field.get_default(call_default_factory=True, validated_data={}):
            yield f"{prefix}{name.upper()}", json.dumps(value) if isinstance(value, dict) else str(value)
