"""So many at once, and no more: a bound that refuses instead of letting wait."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from lakehouse.api import problems
from lakehouse.api.problems import Kind, ProblemError

_RETRY: Final = {"Retry-After": "5"}


class Places:
    """So many places for each of some things; of one event loop.

    Args:
        most: so many.
        what: takes them, in the words of the refusal.
        kind: of the refusal.
    """

    def __init__(self, most: int, what: str, kind: Kind = problems.NOT_READY) -> None:
        self._most = most
        self._what = what
        self._kind = kind
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, of: str = "") -> Generator[None]:
        """Take a place.

        Args:
            of: what has places of its own, such as an address.

        Raises:
            ProblemError: there is none left.
        """
        if self._taken[of] >= self._most:
            raise ProblemError(self._kind, f"{self._most} {self._what}", headers=_RETRY)
        self._taken[of] += 1
        try:
            yield
        finally:
            self._taken[of] -= 1
            if not self._taken[of]:
                del self._taken[of]
