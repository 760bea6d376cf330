"""Who may do what on Trino: every user against every kind of thing, on the real server.

The matrix reads `user | allowed, denied or refused | statement`: what is denied lacks the right, and what is refused
is a procedure of a table, which Trino's rules know no right for, but never runs where they filter or mask.
In a statement `{p}` is the environment's prefix, and the fixture `house` has made, besides the tables of the specs,
`build.users` with the view `marts.users`, a table in the PostgreSQL catalog, and `{p}elsewhere`, a schema that no rule
names.
"""

import hashlib
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from pydantic import SecretStr
from trino import exceptions

from lakehouse.adapters import trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.postgres import connect
from lakehouse.cli.query import trino_cli
from lakehouse.environment import apply
from lakehouse.errors import ServerUnavailableError, SettingsError, TerminalError
from lakehouse.settings import Settings, TrinoLogin, TrinoRole
from tests.shops import wait_until

pytestmark = pytest.mark.integration

SLOW = (
    "SELECT count(*) FROM UNNEST(sequence(1, 10000)) AS a (x) CROSS JOIN UNNEST(sequence(1, 10000)) AS b (y) "
    "CROSS JOIN UNNEST(sequence(1, 10000)) AS c (z) WHERE x * y * z = 7"
)

ANSWERS = {
    "denied": "PERMISSION_DENIED",
    "refused": "ALTER TABLE EXECUTE is not supported for table with (row filter|column masks)",
}

READS = """
analyst   | allowed | SELECT * FROM lake.{p}marts.users
analyst   | allowed | SHOW TABLES FROM lake.{p}marts
analyst   | allowed | DESCRIBE lake.{p}marts.users
analyst   | allowed | EXPLAIN SELECT user_id FROM lake.{p}marts.users
analyst   | denied  | SELECT * FROM lake.{p}build.users
analyst   | denied  | SELECT * FROM lake.{p}build.users FOR VERSION AS OF 'published'
analyst   | denied  | SELECT * FROM lake.{p}staging.users
analyst   | denied  | SELECT count(*) FROM lake.{p}events.user_actions
analyst   | denied  | SELECT count(*) FROM lake.{p}quarantine.user_actions
analyst   | denied  | SELECT query FROM lake.{p}ops.query_history
analyst   | denied  | SELECT * FROM lake.{p}elsewhere.things
analyst   | denied  | SELECT m.amount FROM lake.{p}marts.users m, lake.{p}build.users b WHERE m.amount = b.amount
analyst   | denied  | EXPLAIN SELECT user_id FROM lake.{p}build.users
analyst   | denied  | EXPLAIN ANALYZE SELECT user_id FROM lake.{p}build.users
analyst   | denied  | DESCRIBE lake.{p}build.users
analyst   | denied  | SHOW TABLES FROM lake.{p}build
analyst   | denied  | SHOW STATS FOR lake.{p}build.users
analyst   | denied  | SHOW CREATE VIEW lake.{p}marts.users
analyst   | denied  | SHOW CREATE TABLE lake.{p}build.users
analyst   | denied  | SHOW CREATE SCHEMA lake.{p}marts
ingest    | allowed | SELECT count(*) FROM lake.{p}events.user_actions
ingest    | allowed | SELECT count(*) FROM lake.{p}quarantine.user_actions
ingest    | denied  | SELECT * FROM lake.{p}build.users
ingest    | denied  | SELECT * FROM lake.{p}marts.users
ingest    | denied  | SELECT * FROM lake.{p}staging.users
ingest    | denied  | SELECT * FROM lake.{p}elsewhere.things
transform | allowed | SELECT count(*) FROM lake.{p}events.user_actions
transform | allowed | SELECT count(*) FROM lake.{p}quarantine.user_actions
transform | allowed | SELECT count(*) FROM lake.{p}ops.query_history
transform | allowed | SELECT * FROM lake.{p}build.users
transform | allowed | SELECT * FROM lake.{p}marts.users
transform | denied  | SELECT * FROM lake.{p}elsewhere.things
admin     | allowed | SELECT * FROM lake.{p}elsewhere.things
admin     | allowed | SELECT * FROM lake.{p}staging.users
admin     | allowed | SELECT * FROM lake.{p}marts.users
"""

METADATA_TABLES = """
analyst   | denied  | SELECT * FROM lake.{p}build."users$snapshots"
analyst   | denied  | SELECT * FROM lake.{p}build."users$files"
analyst   | denied  | SELECT * FROM lake.{p}build."users$partitions"
analyst   | denied  | SELECT * FROM lake.{p}build."users$manifests"
analyst   | denied  | SELECT * FROM lake.{p}build."users$history"
analyst   | denied  | SELECT * FROM lake.{p}build."users$refs"
analyst   | denied  | SELECT * FROM lake.{p}build."users$properties"
analyst   | denied  | SELECT * FROM lake.{p}build."users$all_entries"
analyst   | denied  | SELECT * FROM lake.{p}marts."plain$files"
analyst   | denied  | SELECT * FROM lake.{p}marts."plain$snapshots"
analyst   | denied  | SELECT * FROM lake.{p}marts."plain$properties"
analyst   | denied  | SELECT * FROM lake.{p}events."user_actions$files"
analyst   | denied  | SELECT * FROM lake.{p}quarantine."user_actions$partitions"
ingest    | denied  | SELECT * FROM lake.{p}build."users$files"
ingest    | allowed | SELECT count(*) FROM lake.{p}events."user_actions$snapshots"
transform | allowed | SELECT count(*) FROM lake.{p}build."users$files"
transform | allowed | SELECT count(*) FROM lake.{p}events."user_actions$partitions"
admin     | allowed | SELECT count(*) FROM lake.{p}quarantine."user_actions$files"
"""

WRITES = """
analyst   | denied  | INSERT INTO lake.{p}marts.plain VALUES ('user_9', 9)
analyst   | denied  | DELETE FROM lake.{p}marts.plain
analyst   | denied  | UPDATE lake.{p}marts.plain SET amount = 0
analyst   | denied  | MERGE INTO lake.{p}marts.plain t USING (VALUES 1) s (n) ON t.amount = s.n WHEN MATCHED THEN DELETE
analyst   | denied  | TRUNCATE TABLE lake.{p}marts.plain
analyst   | denied  | INSERT INTO lake.{p}build.users VALUES ('user_9', 9)
analyst   | denied  | CREATE TABLE lake.{p}marts.mine AS SELECT 1 AS n
analyst   | denied  | CREATE TABLE lake.{p}build.mine (n integer)
analyst   | denied  | CREATE VIEW lake.{p}marts.mine AS SELECT 1 AS n
analyst   | denied  | CREATE OR REPLACE VIEW lake.{p}marts.users AS SELECT 'x' AS user_id, 1 AS amount
analyst   | denied  | DROP VIEW lake.{p}marts.users
analyst   | denied  | DROP TABLE lake.{p}marts.plain
analyst   | denied  | ALTER TABLE lake.{p}marts.plain ADD COLUMN more integer
analyst   | denied  | ALTER TABLE lake.{p}marts.plain RENAME TO lake.{p}marts.other
analyst   | denied  | ALTER TABLE lake.{p}marts.plain SET PROPERTIES format_version = 2
analyst   | denied  | ALTER VIEW lake.{p}marts.users SET AUTHORIZATION analyst
analyst   | denied  | COMMENT ON TABLE lake.{p}marts.plain IS 'mine'
analyst   | denied  | ANALYZE lake.{p}marts.plain
analyst   | denied  | CREATE SCHEMA lake.{p}mine
analyst   | denied  | DROP SCHEMA lake.{p}intermediate
analyst   | denied  | DROP SCHEMA lake.{p}elsewhere CASCADE
analyst   | denied  | GRANT SELECT ON lake.{p}build.users TO USER analyst
analyst   | denied  | CREATE CATALOG other USING memory
ingest    | denied  | DROP SCHEMA lake.{p}intermediate
ingest    | denied  | CREATE TABLE lake.{p}build.mine (n integer)
ingest    | denied  | CREATE VIEW lake.{p}marts.mine AS SELECT 1 AS n
ingest    | allowed | DELETE FROM lake.{p}events.user_actions WHERE event_name = 'none has it'
ingest    | allowed | CREATE OR REPLACE TABLE lake.{p}ops.scratch AS SELECT 1 AS n
ingest    | allowed | DROP TABLE lake.{p}ops.scratch
transform | denied  | DELETE FROM lake.{p}events.user_actions
transform | denied  | INSERT INTO lake.{p}events.user_actions SELECT * FROM lake.{p}events.user_actions
transform | denied  | DELETE FROM lake.{p}quarantine.user_actions
transform | denied  | DROP TABLE lake.{p}events.user_actions
transform | denied  | CREATE TABLE lake.{p}ops.mine (n integer)
transform | denied  | CREATE TABLE lake.{p}elsewhere.mine (n integer)
transform | denied  | CREATE SCHEMA lake.{p}more
transform | allowed | DROP SCHEMA lake.{p}intermediate
transform | allowed | CREATE SCHEMA lake.{p}intermediate
transform | allowed | CREATE OR REPLACE TABLE lake.{p}build.scratch AS SELECT 1 AS n
transform | allowed | INSERT INTO lake.{p}build.scratch VALUES 2
transform | allowed | ANALYZE lake.{p}build.scratch
transform | allowed | DROP TABLE lake.{p}build.scratch
transform | allowed | CREATE OR REPLACE VIEW lake.{p}marts.scratch AS SELECT amount FROM lake.{p}build.users
transform | allowed | DROP VIEW lake.{p}marts.scratch
transform | denied  | ALTER VIEW lake.{p}marts.users SET AUTHORIZATION admin
admin     | allowed | CREATE SCHEMA IF NOT EXISTS lake.{p}elsewhere
"""

PROCEDURES_AND_FUNCTIONS = """
analyst   | denied  | ALTER TABLE lake.{p}build.users EXECUTE optimize
analyst   | denied  | ALTER TABLE lake.{p}build.users EXECUTE expire_snapshots(retention_threshold => '7d')
analyst   | denied  | ALTER TABLE lake.{p}build.users EXECUTE remove_orphan_files(retention_threshold => '7d')
analyst   | denied  | ALTER TABLE lake.{p}build.users EXECUTE rollback_to_snapshot(1)
analyst   | refused | ALTER TABLE lake.{p}marts.plain EXECUTE optimize
analyst   | refused | ALTER TABLE lake.{p}marts.nameless EXECUTE optimize
analyst   | refused | ALTER TABLE lake.{p}marts.nameless EXECUTE rollback_to_snapshot(1)
analyst   | denied  | ALTER TABLE lake.{p}events.user_actions EXECUTE drop_extended_stats
transform | refused | ALTER TABLE lake.{p}events.user_actions EXECUTE optimize
transform | refused | ALTER TABLE lake.{p}quarantine.user_actions EXECUTE rollback_to_snapshot(1)
transform | allowed | ALTER TABLE lake.{p}build.users EXECUTE optimize
ingest    | allowed | ALTER TABLE lake.{p}events.user_actions EXECUTE optimize
ingest    | denied  | ALTER TABLE lake.{p}build.users EXECUTE optimize
admin     | allowed | ALTER TABLE lake.{p}build.users EXECUTE optimize
analyst   | denied  | CALL lake.system.unregister_table('{p}build', 'users')
analyst   | denied  | CALL lake.system.register_table('{p}marts', 'mine', 's3://warehouse/{p}build/users')
transform | denied  | CALL lake.system.unregister_table('{p}events', 'user_actions')
ingest    | denied  | CALL lake.system.unregister_table('{p}events', 'user_actions')
analyst   | denied  | SELECT * FROM TABLE(app.system.query(query => 'SELECT 1 AS n'))
analyst   | denied  | CALL app.system.execute('SELECT 1')
analyst   | denied  | CALL app.system.flush_metadata_cache()
transform | denied  | SELECT * FROM TABLE(app.system.query(query => 'SELECT 1 AS n'))
transform | denied  | CALL app.system.execute('SELECT 1')
ingest    | denied  | SELECT * FROM TABLE(app.system.query(query => 'SELECT 1 AS n'))
admin     | allowed | SELECT * FROM TABLE(app.system.query(query => 'SELECT 1 AS n'))
analyst   | denied  | SELECT * FROM TABLE(lake.system.table_changes('{p}build', 'users', 1, 2))
transform | denied  | SELECT * FROM TABLE(lake.system.table_changes('{p}build', 'users', 1, 2))
analyst   | allowed | SELECT lower('X'), sum(n) FROM UNNEST(sequence(1, 3)) AS t (n)
"""

APPLICATION = """
analyst   | denied  | SELECT * FROM app.public.{p}secrets
analyst   | denied  | SHOW TABLES FROM app.public
analyst   | denied  | CREATE TABLE app.reporting.mine (n integer)
analyst   | allowed | SELECT * FROM app.{p}reporting.file_aggregates
analyst   | denied  | SELECT * FROM app.{p}reporting.file_ledger
transform | allowed | SELECT * FROM app.{p}reporting.file_aggregates
transform | denied  | DELETE FROM app.{p}reporting.file_aggregates
ingest    | allowed | SELECT count(*) FROM app.{p}reporting.file_ledger
ingest    | denied  | UPDATE app.{p}reporting.file_ledger SET status = 'pending'
ingest    | allowed | SELECT * FROM app.public.{p}secrets
ingest    | denied  | DELETE FROM app.public.{p}secrets
transform | allowed | SELECT * FROM app.public.{p}secrets
transform | denied  | INSERT INTO app.public.{p}secrets VALUES 2
transform | denied  | DROP TABLE app.public.{p}secrets
transform | denied  | CREATE SCHEMA app.{p}mine
admin     | allowed | SELECT * FROM app.public.{p}secrets
"""

SESSION_AND_SYSTEM = """
analyst   | allowed | SET TIME ZONE 'Europe/Paris'
analyst   | allowed | SELECT query FROM system.runtime.queries
analyst   | allowed | SELECT * FROM system.metadata.catalogs
analyst   | denied  | SELECT * FROM system.runtime.nodes
analyst   | denied  | SELECT * FROM system.runtime.tasks
analyst   | denied  | SELECT * FROM system.runtime.transactions
transform | denied  | SELECT * FROM system.runtime.tasks
admin     | allowed | SELECT * FROM system.runtime.nodes
analyst   | denied  | SET SESSION query_max_memory = '1GB'
analyst   | denied  | SET SESSION query_priority = 100
analyst   | denied  | SET SESSION lake.expire_snapshots_min_retention = '0s'
transform | denied  | SET SESSION app.write_batch_size = 7
transform | allowed | SET SESSION lake.expire_snapshots_min_retention = '0s'
analyst   | denied  | SET SESSION AUTHORIZATION admin
ingest    | denied  | SET SESSION AUTHORIZATION transform
transform | denied  | SET SESSION AUTHORIZATION ingest
admin     | denied  | SET SESSION AUTHORIZATION analyst
analyst   | denied  | CREATE ROLE boss
"""


def rows(text: str) -> list[Any]:
    found: list[Any] = []
    for line in text.strip().splitlines():
        user, verdict, statement = (part.strip() for part in line.split("|", 2))
        found.append(pytest.param(user, verdict, statement, id=f"{user}-{statement[:70]}"))
    return found


@pytest.fixture(scope="module")
def house(module_environment: Settings) -> Iterator[Settings]:
    """An environment with something in every schema."""
    settings, prefix = module_environment, module_environment.prefix
    lake = Lake(settings)
    apply(settings)
    ask = asking(settings, "transform")
    for schema in ("staging", "intermediate", "build", "marts"):
        ask(f"CREATE SCHEMA lake.{prefix}{schema}")
    ask(f"CREATE VIEW lake.{prefix}staging.users AS SELECT user_id, sku FROM lake.{prefix}events.user_actions")
    ask(f"CREATE TABLE lake.{prefix}build.users (user_id varchar, amount integer)")
    ask(f"INSERT INTO lake.{prefix}build.users VALUES ('user_1', 1), ('user_1', 2), ('user_2', 3)")
    table = lake._catalog.load_table(f"{prefix}build.users")
    table.manage_snapshots().create_tag(table.metadata.current_snapshot_id, "published").commit()
    published = f"lake.{prefix}build.users FOR VERSION AS OF 'published'"
    ask(f"CREATE VIEW lake.{prefix}marts.users AS SELECT user_id, amount FROM {published}")
    ask(f"CREATE TABLE lake.{prefix}marts.plain AS SELECT 'user_1' AS user_id, 1 AS amount")
    ask(f"CREATE TABLE lake.{prefix}marts.nameless AS SELECT 1 AS amount")
    ask = asking(settings, "admin")
    ask(f"CREATE SCHEMA lake.{prefix}elsewhere")
    ask(f"CREATE TABLE lake.{prefix}elsewhere.things AS SELECT 1 AS n")
    with connect(settings, database=settings.postgres.database) as connection:
        connection.execute(f"CREATE TABLE public.{prefix}secrets AS SELECT 1 AS n".encode())
    yield settings
    with connect(settings, database=settings.postgres.database) as connection:
        connection.execute(f"DROP TABLE public.{prefix}secrets".encode())


def asking(settings: Settings, role: TrinoRole) -> Callable[[str], list[tuple[Any, ...]]]:
    return lambda sql: trino.query(settings.trino_as(role), sql)


@pytest.mark.parametrize(
    ("user", "verdict", "statement"),
    [
        *rows(READS),
        *rows(METADATA_TABLES),
        *rows(WRITES),
        *rows(PROCEDURES_AND_FUNCTIONS),
        *rows(APPLICATION),
        *rows(SESSION_AND_SYSTEM),
    ],
)
def test_each_user_may_do_what_the_matrix_says(house: Settings, user: TrinoRole, verdict: str, statement: str) -> None:
    ask = asking(house, user)
    if verdict == "allowed":
        ask(statement.format(p=house.prefix))
    else:
        with pytest.raises(TerminalError, match=ANSWERS[verdict]):
            ask(statement.format(p=house.prefix))


def test_an_analyst_sees_no_name_of_what_is_closed_to_them(house: Settings) -> None:
    ask = asking(house, "analyst")
    assert {name for (name,) in ask("SHOW CATALOGS")} == {"app", "lake", "system"}
    ours = f"WHERE table_schema LIKE '{house.prefix.replace('_', '$_')}%' ESCAPE '$'"
    assert sorted(ask(f"SELECT table_schema, table_name FROM lake.information_schema.tables {ours}")) == [
        (f"{house.prefix}marts", "nameless"),
        (f"{house.prefix}marts", "plain"),
        (f"{house.prefix}marts", "users"),
    ]
    columns = ask(f"SELECT DISTINCT table_schema FROM lake.information_schema.columns {ours}")
    assert columns == [(f"{house.prefix}marts",)]
    schemas = {name for (name,) in ask("SHOW SCHEMAS FROM lake") if name.startswith(house.prefix)}
    assert schemas == {f"{house.prefix}marts"}


# What an analyst sees of a user


def test_an_analyst_sees_a_pseudonym_that_is_the_same_everywhere(house: Settings) -> None:
    pseudonym = hashlib.sha256(b"user_1").hexdigest()[:16]
    users, plain = f"lake.{house.prefix}marts.users", f"lake.{house.prefix}marts.plain"
    ask = asking(house, "analyst")
    assert ask(f"SELECT user_id, sum(amount) FROM {users} GROUP BY 1 HAVING count(*) = 2") == [(pseudonym, 3)]
    assert ask(f"SELECT DISTINCT user_id FROM {users} JOIN {plain} USING (user_id)") == [(pseudonym,)]
    assert asking(house, "transform")(f"SELECT DISTINCT user_id FROM {plain}") == [("user_1",)]


def test_an_analyst_can_not_ask_for_a_user_by_id(house: Settings) -> None:
    users = f"lake.{house.prefix}marts.users"
    ask = asking(house, "analyst")
    assert ask(f"SELECT count(*) FROM {users} WHERE user_id = 'user_1'") == [(0,)]
    assert ask(f"SELECT count(*) FROM {users} WHERE user_id LIKE 'user%'") == [(0,)]
    assert asking(house, "admin")(f"SELECT count(*) FROM {users} WHERE user_id LIKE 'user%'") == [(3,)]


# Logging in


@contextmanager
def web(login: TrinoLogin) -> Generator[requests.Session]:
    """Speak HTTP with Trino, logged in."""
    assert login.password is not None
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(login.ca_file)
        session.auth = (login.user, login.password.get_secret_value())
        yield session


@pytest.mark.parametrize("password", [SecretStr("wrong"), SecretStr(""), None])
@pytest.mark.parametrize("user", get_args(TrinoRole))
def test_nobody_gets_in_without_their_password(stack: Settings, user: TrinoRole, password: SecretStr | None) -> None:
    with pytest.raises(SettingsError, match="refuses the login"):
        trino.query(replace(stack.trino_as(user), password=password), "SELECT 1", attempts=1)


def test_a_password_opens_one_user_only(stack: Settings) -> None:
    stolen = replace(stack.trino_as("analyst"), user="admin")
    with pytest.raises(SettingsError, match="refuses the login"):
        trino.query(stolen, "SELECT 1", attempts=1)


def test_a_user_that_trino_does_not_know_stays_out(stack: Settings) -> None:
    with pytest.raises(SettingsError, match="refuses the login"):
        trino.query(replace(stack.trino_as("analyst"), user="nobody"), "SELECT 1", attempts=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", get_args(TrinoRole))
def test_nobody_runs_a_query_as_somebody_else(stack: Settings, user: TrinoRole) -> None:
    login = stack.trino_as(user)
    other = "admin" if user != "admin" else "analyst"
    with web(login) as session:
        told = session.post(f"{login.url}/v1/statement", data="SELECT 1", headers={"X-Trino-User": other}).json()
        while "nextUri" in told:
            told = session.get(told["nextUri"]).json()
    assert told["error"]["message"] == f"Access Denied: User {user} cannot impersonate user {other}"


def test_trino_does_not_speak_in_the_clear(stack: Settings) -> None:
    login = replace(stack.trino_as("analyst"), tls=False, password=None)
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        trino.query(login, "SELECT 1", attempts=1)


def test_a_client_that_does_not_know_the_authority_sends_no_password(stack: Settings) -> None:
    with pytest.raises(SettingsError, match=r"not to be trusted, see trino\.ca_file"):
        trino.query(replace(stack.trino_as("analyst"), ca_file=None), "SELECT 1", attempts=1)


def test_the_certificate_is_that_of_localhost_too(stack: Settings) -> None:
    assert trino.query(replace(stack.trino_as("analyst"), host="localhost"), "SELECT current_user") == [("analyst",)]


@pytest.mark.parametrize("user", ["analyst", "transform"])
def test_the_command_line_client_logs_in_as_it_is_told_and_shows_no_password(stack: Settings, user: TrinoRole) -> None:
    login = stack.trino_as(user)
    assert login.password is not None
    assert not any(login.password.get_secret_value() in word for word in trino_cli(stack, user))
    program = str(Path(sys.executable).with_name("lakehouse"))
    words = [program, "sql", "--as", user, "--format", "TSV", "SELECT current_user"]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.split() == [user]


# Queries of others, and room for one's own


@contextmanager
def running(settings: Settings, role: TrinoRole, count: int) -> Generator[str]:
    """Have so many slow queries of a user under way; yields a mark that stands in each; they are killed at the end."""
    mark = secrets.token_hex(8)

    def ask() -> None:
        try:
            with trino.connection(settings.trino_as(role)) as connection:
                connection.cursor().execute(f"{SLOW} /* {mark} */").fetchall()
        except exceptions.Error:
            pass  # killed

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(states(settings, mark)) == count, "not all of them were accepted", 60)
        yield mark
    finally:
        for query_id, _ in states(settings, mark):
            trino.query(settings.trino_as("admin"), f"CALL system.runtime.kill_query('{query_id}', 'the test is over')")
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


def states(settings: Settings, mark: str, role: TrinoRole = "admin") -> list[tuple[str, str]]:
    """Ids and states of the slow queries as a user sees them; not of those that have ended."""
    found = trino.query(
        settings.trino_as(role),
        f"SELECT query_id, state FROM system.runtime.queries WHERE query LIKE '%/* {mark} */' "
        "AND query NOT LIKE '%system.runtime%' AND state NOT IN ('FINISHED', 'FAILED')",
    )
    return [(query_id, state) for query_id, state in found]


def test_only_an_admin_sees_and_ends_the_queries_of_others(house: Settings) -> None:
    with running(house, "transform", 1) as mark:
        ((query_id, _),) = states(house, mark)
        assert states(house, mark, "analyst") == []
        assert len(states(house, mark, "transform")) == 1
        for user in ("analyst", "ingest"):
            with pytest.raises(TerminalError, match="PERMISSION_DENIED"):
                asking(house, user)(f"CALL system.runtime.kill_query('{query_id}', 'mine')")
        login = house.trino_as("analyst")
        with web(login) as session:
            assert session.delete(f"{login.url}/v1/query/{query_id}").status_code == 403
        assert len(states(house, mark)) == 1
        asking(house, "transform")(f"CALL system.runtime.kill_query('{query_id}', 'our own')")
        wait_until(lambda: not states(house, mark), "it was not killed", 30)


def test_an_analyst_is_answered_while_transform_has_more_to_do_than_room(house: Settings) -> None:
    with running(house, "transform", 6) as mark:
        wait_until(lambda: [s for _, s in states(house, mark)].count("RUNNING") == 4, "not four at once", 60)
        started = time.monotonic()
        ask = asking(house, "analyst")
        assert ask(f"SELECT sum(amount) FROM lake.{house.prefix}marts.users") == [(6,)]
        assert time.monotonic() - started < 60
        assert sorted(state for _, state in states(house, mark)) == ["QUEUED"] * 2 + ["RUNNING"] * 4
