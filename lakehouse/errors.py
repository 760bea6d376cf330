"""What can go wrong with a system, and what a caller should do about it.

What goes wrong with *data* is not here: a bad message becomes a row in quarantine (`lakehouse.events.Rejection`).

    LakehouseError                   exit 1
    ├── TransientError               exit 75: the same input may work later, so retry it
    │   ├── ServerUnavailableError   a server did not answer or answered with a passing fault
    │   └── SparkEndedError          Spark's own process died under us: start the program again
    ├── TerminalError                exit 1: a retry gives the same answer, so a person has to act
    │   ├── SettingsError            a setting is missing or wrong
    │   ├── NotMadeError             a table or topic is not there yet, and says what makes it
    │   ├── StackError               the local stack can't start, and says why
    │   ├── FenceError               another run moved what this one started from
    │   └── DataLossError            Kafka no longer has offsets that the table still needs
    └── CommitStateUnknownError      exit 3: ask the table whether the commit landed before anything else; a rerun does

A message says what happened, where, and what to do next. It never holds a secret.
"""

import re
import textwrap
from typing import ClassVar, Final

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class LakehouseError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class TransientError(LakehouseError):
    """The same call may succeed later; callers retry it unchanged."""

    exit_code: ClassVar[int] = 75


class ServerUnavailableError(TransientError):
    """A server could not be reached, or answered with a fault that passes by itself."""


class SparkEndedError(TransientError):
    """Spark's driver process is gone, and with it the session; only a new program can have another."""


class TerminalError(LakehouseError):
    """The same call fails again until somebody changes something."""


class SettingsError(TerminalError):
    """A setting is missing or does not fit its type."""


class NotMadeError(TerminalError):
    """A table or topic is not there; the message says which command makes it."""


class StackError(TerminalError):
    """The local stack can't do what was asked; nothing was changed beyond what the message says."""


class FenceError(TerminalError):
    """What this run started from, such as a position, is no longer what the table has: another run is alive."""


class DataLossError(TerminalError):
    """Kafka no longer holds offsets that the table has not read; the message names the lost range."""


class CommitStateUnknownError(LakehouseError):
    """A commit was sent and its answer never came; it may or may not have landed, and the same command finds out."""

    exit_code: ClassVar[int] = 3


def shorten(told: str) -> str:
    """As much of what a server or program told as a message should hold: it may be a page, or a stack trace."""
    return textwrap.shorten(told, 300, placeholder=" …")


def printable(told: str) -> str:
    """The text, with an escape for each character that a database's text or a terminal can't take, such as NUL."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], told)
