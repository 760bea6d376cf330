"""Manifests: JSON objects beside data files that say what these hold, and in which format they say it."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def to_json(manifest: "DataclassInstance", layout: int) -> bytes:
    """The manifest as it is stored, indented for people; `layout` is the number of its format."""
    document = {"format": layout} | asdict(manifest)
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


@contextmanager
def read(text: bytes, layout: int) -> Generator[dict[str, Any]]:
    """Give the fields of a stored manifest to the block, in which what it lacks shows.

    Raises:
        ValueError: it is cut off, or of a format that this program does not know.
    """
    try:
        document: dict[str, Any] = orjson.loads(text)
        if document["format"] != layout:
            raise ValueError("a newer program wrote it")
        yield document
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks what a manifest has: {error!r}") from error
