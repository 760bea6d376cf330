"""Who calls: keys that are nowhere kept, tokens that end with their caller, and a file that nobody else may write."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from lakehouse import callers
from lakehouse.callers import Callers, Role
from lakehouse.errors import SettingsError, TerminalError

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)  # fixed: what is known at a time does not hang on when it is asked
SECRET = "a secret that nobody else has or knows"
ANN, KEY = callers.new("ann", Role.OPERATOR, ("transform",), 2, NOW)
CLAIMS = {
    "iss": "lakehouse",
    "aud": "dag-control",
    "sub": "ann",
    "key": ANN.key_id,
    "iat": NOW,
    "exp": NOW + timedelta(minutes=5),
}


@pytest.fixture
def ann() -> tuple[Callers, str]:
    """The file with one caller, and her key."""
    return Callers().joined_by(ANN), KEY


def test_a_key_is_known_until_it_expires(ann: tuple[Callers, str]) -> None:
    known, key = ann
    assert known.with_key(key, NOW) == known.named("ann")
    assert known.with_key(key, NOW + timedelta(days=2, seconds=1)) is None
    assert known.with_key(f"{key}x", NOW) is None
    assert known.with_key("", NOW) is None


def test_the_file_holds_no_key_and_no_two_keys_are_alike(ann: tuple[Callers, str]) -> None:
    known, key = ann
    assert len(key) >= 40
    assert key not in known.model_dump_json()
    assert key != callers.new("ann", Role.OPERATOR, ("transform",), 2, NOW)[1]


def test_a_token_stands_for_its_caller_while_that_one_is_there(ann: tuple[Callers, str]) -> None:
    known, _ = ann
    token = callers.token(known.named("ann"), SECRET, 5, NOW)
    assert known.with_token(token, SECRET, NOW) == known.named("ann")
    assert known.with_token(token, SECRET, NOW + timedelta(minutes=5, seconds=-1)) == known.named("ann")
    assert known.with_token(token, SECRET, NOW + timedelta(minutes=5)) is None
    assert known.without("ann").with_token(token, SECRET, NOW) is None
    assert known.with_token(token, SECRET, NOW + timedelta(days=3)) is None  # her key has expired
    assert known.with_token(token, SECRET[::-1], NOW) is None


def test_a_new_key_ends_the_tokens_of_the_one_before(ann: tuple[Callers, str]) -> None:
    known, _ = ann
    token = callers.token(known.named("ann"), SECRET, 5, NOW)
    again = known.without("ann").joined_by(callers.new("ann", Role.OPERATOR, ("transform",), 2, NOW)[0])
    assert known.with_token(token, SECRET, NOW) is not None
    assert again.with_token(token, SECRET, NOW) is None


@pytest.mark.parametrize("missing", CLAIMS)
def test_a_token_without_one_of_its_claims_is_refused(ann: tuple[Callers, str], missing: str) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != missing}
    assert ann[0].with_token(jwt.encode(CLAIMS, SECRET, "HS256"), SECRET, NOW) is not None
    assert ann[0].with_token(jwt.encode(claims, SECRET, "HS256"), SECRET, NOW) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "another service"},
        {"iss": "somebody else"},
        {"sub": "bob"},
        {"exp": NOW},
        {"iat": NOW + timedelta(seconds=1)},
        {"exp": "tomorrow"},
        {"iat": [1]},
        {"exp": float("inf")},
        {"key": "0" * 16},
        {"exp": NOW + timedelta(hours=24, seconds=1)},
    ],
)
def test_a_token_that_says_something_else_is_refused(ann: tuple[Callers, str], changed: dict[str, object]) -> None:
    assert ann[0].with_token(jwt.encode(CLAIMS | changed, SECRET, "HS256"), SECRET, NOW) is None


def test_a_token_does_not_choose_how_it_is_checked(ann: tuple[Callers, str]) -> None:
    unsigned = jwt.encode(CLAIMS, "", "none")
    assert ann[0].with_token(unsigned, SECRET, NOW) is None
    assert ann[0].with_token(jwt.encode(CLAIMS, SECRET * 2, "HS512"), SECRET * 2, NOW) is None
    assert ann[0].with_token("no token", SECRET, NOW) is None


@pytest.mark.parametrize("short", ["", "short"])
def test_without_a_long_secret_there_are_no_tokens(ann: tuple[Callers, str], short: str) -> None:
    with pytest.raises(SettingsError, match="LAKEHOUSE_API__JWT_SECRET has less than 32 bytes"):
        callers.token(ann[0].named("ann"), short, 5, NOW)
    assert ann[0].with_token(jwt.encode(CLAIMS, SECRET, "HS256"), short, NOW) is None


def test_each_role_may_do_what_the_ones_before_it_may() -> None:
    covered = {role: [needed for needed in Role if role.covers(needed)] for role in Role}
    assert covered == {"viewer": ["viewer"], "operator": ["viewer", "operator"], "admin": [*Role]}


def test_a_caller_sees_the_dags_of_its_list_only(ann: tuple[Callers, str]) -> None:
    caller = ann[0].named("ann")
    assert (caller.sees("transform"), caller.sees("transform2"), caller.sees("*")) == (True, False, False)
    assert callers.new("bob", Role.VIEWER, ("*",), 1, NOW)[0].sees("transform")


@pytest.mark.parametrize(("name", "dag"), [("Ann", "*"), ("", "*"), ("a\nb", "*"), ("ann", "../x"), ("ann", "a*")])
def test_a_name_that_is_none_makes_no_caller(name: str, dag: str) -> None:
    with pytest.raises(TerminalError, match="that makes no caller"):
        callers.new(name, Role.VIEWER, (dag,), 1, NOW)


def test_a_name_is_there_once(ann: tuple[Callers, str]) -> None:
    with pytest.raises(TerminalError, match="`lakehouse api keys remove ann` first"):
        ann[0].joined_by(ann[0].named("ann"))
    with pytest.raises(TerminalError, match="no caller 'bob'; the file has ann"):
        ann[0].without("bob")


def test_the_file_is_read_as_it_was_written_and_a_missing_one_has_nobody(
    ann: tuple[Callers, str], tmp_path: Path
) -> None:
    path = tmp_path / "callers.json"
    assert callers.read(path) == Callers()
    path.write_text(ann[0].model_dump_json())
    assert callers.read(path) == ann[0]


def test_a_file_that_others_may_write_is_refused(ann: tuple[Callers, str], tmp_path: Path) -> None:
    path = tmp_path / "callers.json"
    path.write_text(ann[0].model_dump_json())
    path.chmod(0o666)
    with pytest.raises(SettingsError, match="others may write"):
        callers.read(path)


def test_a_broken_file_is_told_without_what_it_holds(ann: tuple[Callers, str], tmp_path: Path) -> None:
    path, digest = tmp_path / "callers.json", ann[0].named("ann").key_sha256
    document = json.loads(ann[0].model_dump_json())
    document["callers"][0]["role"] = "king"
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"callers\.0\.role") as raised:
        callers.read(path)
    assert digest not in str(raised.value)
