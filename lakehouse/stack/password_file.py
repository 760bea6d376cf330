"""The file by which Trino knows its users: their names with hashes of their passwords.

The passwords are random and long, so the hash needs no cost to withstand guessing: Trino's least is enough, and a
login costs it next to nothing.
Source: Trino's file password authenticator, PBKDF2 with HMAC-SHA-1 as `iterations:salt:hash`, salt and hash in hex.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lakehouse.stack import private

_ITERATIONS: Final = 1000
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


def ensure(path: Path, passwords: Mapping[str, str]) -> bool:
    """Have the file hold exactly these users; returns whether it was written, which Trino notices by itself.

    Args:
        path: its directory is made when it is not there.
        passwords: by user.
    """
    if path.exists() and _holds(path.read_text(), passwords):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}:{_hashed(password, secrets.token_bytes(_SALT_BYTES))}" for user, password in passwords.items()]
    private.write(path, "".join(f"{line}\n" for line in lines).encode())
    return True


def _hashed(password: str, salt: bytes) -> str:
    found = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, _ITERATIONS, _HASH_BYTES)
    return f"{_ITERATIONS}:{salt.hex()}:{found.hex()}"


def _holds(text: str, passwords: Mapping[str, str]) -> bool:
    known = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return known.keys() == passwords.keys() and all(_is_of(known[user], passwords[user]) for user in passwords)


def _is_of(entry: str, password: str) -> bool:
    try:
        _, salt, _ = entry.split(":")
        return hmac.compare_digest(entry, _hashed(password, bytes.fromhex(salt)))
    except ValueError:
        return False
