"""So many at once, and no more: a bound that refuses instead of letting wait."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from lakehouse.api import problems
from lakehouse.api.problems import ProblemError


class Places:
    """So many places for each of some things; of one event loop."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
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
            raise ProblemError(problems.NOT_READY, f"{self._most} {self._what}")
        self._taken[of] += 1
        try:
            yield
        finally:
            self._taken[of] -= 1
            if not self._taken[of]:
                del self._taken[of]
