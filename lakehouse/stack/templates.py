"""Configuration files of servers, made of templates in `compose/`: one text for every place, only values differ."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Values = Mapping[str, str | bool | None]

_PLACE = re.compile(r"\$\{(\w+)\}")


class _NoValueError(Exception):
    pass


def render(template: Path, values: Values) -> bytes:
    """Fill in each `${name}` of a YAML file, and leave out every entry of a list that has no value.

    Values are filled into what the file means, not into its text, so none can change its structure.

    Args:
        template: the file.
        values: by name; None where there is none.

    Raises:
        KeyError: the file asks for a name that is not among the values.
    """
    filled = _fill(yaml.safe_load(template.read_text()), values)
    return yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, encoding="utf-8")


def _fill(node: Any, values: Values) -> Any:
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        kept: list[Any] = []
        for entry in node:
            with contextlib.suppress(_NoValueError):
                kept.append(_fill(entry, values))
        return kept
    if isinstance(node, str):
        if whole := _PLACE.fullmatch(node):
            return _value(whole, values)
        return _PLACE.sub(lambda place: str(_value(place, values)), node)
    return node


def _value(place: re.Match[str], values: Values) -> str | bool:
    value = values[place[1]]
    if value is None:
        raise _NoValueError
    return value
