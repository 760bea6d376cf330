"""What messages may hold."""

import pytest

from lakehouse.errors import printable


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("a\x00b", r"a\x00b"),
        ("two\nlines\x1b[31m", r"two\nlines\x1b[31m"),
        ("\ud800", r"\ud800"),
        ("\x7f\x85", r"\x7f\x85"),
        ("Müller 沙发 🛋 \\x00", "Müller 沙发 🛋 \\x00"),
    ],
)
def test_what_neither_a_database_nor_a_terminal_takes_is_written_as_an_escape(told: str, shown: str) -> None:
    assert printable(told) == shown
