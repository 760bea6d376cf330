"""The file of Trino's users: hashes that Trino can check, written only when a user or a password changed."""

import hashlib
from pathlib import Path

import pytest

from lakehouse.stack import password_file

USERS = {"admin": "one long secret", "analyst": "another: with a colon"}


def test_a_line_is_the_hash_that_trino_computes(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "passwords"
    assert password_file.ensure(path, USERS) is True
    for line, (user, password) in zip(path.read_text().splitlines(), USERS.items(), strict=True):
        name, iterations, salt, found = line.split(":")
        assert (name, iterations) == (user, "1000")
        assert found == hashlib.pbkdf2_hmac("sha1", password.encode(), bytes.fromhex(salt), 1000, 32).hex()
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_password_stands_in_the_file_and_equal_ones_look_different(tmp_path: Path) -> None:
    password_file.ensure(tmp_path / "passwords", {"one": "same", "other": "same"})
    text = (tmp_path / "passwords").read_text()
    assert "same" not in text
    hashes = [line.partition(":")[2] for line in text.splitlines()]
    assert hashes[0] != hashes[1]


def test_the_same_users_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    password_file.ensure(path, USERS)
    before = path.read_text()
    assert password_file.ensure(path, USERS) is False
    assert path.read_text() == before


@pytest.mark.parametrize(
    "users", [USERS | {"admin": "changed"}, USERS | {"new": "secret"}, {"admin": "one long secret"}]
)
def test_a_changed_a_new_or_a_gone_user_writes_it_anew(tmp_path: Path, users: dict[str, str]) -> None:
    path = tmp_path / "passwords"
    password_file.ensure(path, USERS)
    assert password_file.ensure(path, users) is True
    assert [line.partition(":")[0] for line in path.read_text().splitlines()] == list(users)
    assert password_file.ensure(path, users) is False


@pytest.mark.parametrize("text", ["", "no line of ours\n", "admin:1000:zz:00\nanalyst:x\n"])
def test_a_broken_file_is_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(text)
    assert password_file.ensure(path, USERS) is True
