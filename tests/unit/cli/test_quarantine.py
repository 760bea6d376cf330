"""How refused messages are written for people and programs."""

import pytest

from lakehouse.cli.quarantine import _bytes, _visible


@pytest.mark.parametrize(
    ("value", "is_cut", "expected"),
    [
        (b"plain", False, {"encoding": "utf-8", "value": "plain"}),
        (b"", False, {"encoding": "utf-8", "value": ""}),
        (b"\xff", False, {"encoding": "base64", "value": "/w=="}),
        ("a\N{EURO SIGN}".encode()[:3], True, {"encoding": "utf-8", "value": "a"}),  # cut within the euro sign
        ("a\N{EURO SIGN}".encode()[:3], False, {"encoding": "base64", "value": "YeKC"}),
        (b"a\xffbcde", True, {"encoding": "base64", "value": "Yf9iY2Rl"}),
        (None, False, None),
    ],
)
def test_bytes_are_text_where_they_are_utf8_and_else_base64(
    value: bytes | None, is_cut: bool, expected: dict[str, str] | None
) -> None:
    assert _bytes(value, is_cut=is_cut) == expected


def test_what_a_message_holds_steers_no_terminal() -> None:
    assert _visible("a\x1b[31m\r\n\u202eb [bold]") == "a\\x1b[31m\\r\\n\\u202eb [bold]"
