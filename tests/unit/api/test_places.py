"""A bound refuses what is too much, and gives back what was taken."""

import pytest

from lakehouse.api import problems
from lakehouse.api.places import Places
from lakehouse.api.problems import ProblemError


def test_a_place_that_is_not_there_is_refused_until_one_is_given_back() -> None:
    places = Places(1, "of them are here")
    with (
        places.taken("a"),
        places.taken("b"),
        pytest.raises(ProblemError, match="1 of them are here"),
        places.taken("a"),
    ):
        pass
    with places.taken("a"):
        pass


def test_a_place_is_given_back_after_a_mistake_too() -> None:
    places = Places(1, "of them are here")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), places.taken():
            _ = 1 / 0


def test_a_refusal_says_whose_fault_it_is_and_when_to_ask_again() -> None:
    for kind in (problems.NOT_READY, problems.TOO_MANY_REQUESTS):
        with pytest.raises(ProblemError) as refused, Places(0, "of them are here", kind).taken():
            pass
        assert (refused.value.kind, refused.value.headers) == (kind, {"Retry-After": "5"})
