"""Who did what to which run: a line of JSON for each change, before and after it, and for each refusal."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from lakehouse.settings import STANDARD_OUTPUT, Settings

_LONGEST: Final = 300
"""Characters of one value; what a caller sends must not fill the disk."""


class AuditLog:
    """A log that is appended to; it never loses a line silently.

    Raises:
        OSError: a line can't be written, at each `write`.
    """

    def __init__(self, settings: Settings) -> None:
        path = settings.api_audit_file
        if path == STANDARD_OUTPUT:
            self._handler: logging.Handler = logging.StreamHandler(sys.stdout)
        else:
            self._handler = _PrivateFiles(
                path,
                maxBytes=settings.api.audit_file_bytes,
                backupCount=settings.api.audit_files,
                encoding="utf-8",
                delay=True,
            )
        # Else logging would print what went wrong and go on.
        self._handler.handleError = _raise

    def write(self, facts: Mapping[str, str | int | None]) -> None:
        """Write one line, with the time before the facts; JSON keeps a line break in a value from making a line."""
        told = {name: _bounded(value) for name, value in facts.items() if value not in (None, "")}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **told})
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def check(self) -> None:
        """Raise OSError if the file can't be opened for writing."""
        if isinstance(self._handler, _PrivateFiles):
            self._handler.opened().close()

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class _PrivateFiles(RotatingFileHandler):
    """Files that only their owner reads, each new one included."""

    def opened(self) -> TextIOWrapper:
        """Open the newest file once more."""
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), self.encoding)

    _open = opened  # as logging calls it


def _raise(record: logging.LogRecord) -> None:
    raise  # noqa: PLE0704 - logging calls it while the error is being handled


def _bounded(value: str | int | None) -> str | int | None:
    return value[:_LONGEST] if isinstance(value, str) else value
