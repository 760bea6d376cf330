"""The REST catalog server, spoken to by pyiceberg, by HTTP and with the S3 credentials it gives out."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow as pa
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    OAuthError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.update import AssertRefSnapshotId, SetPropertiesUpdate
from pyiceberg.types import LongType, NestedField

from lakehouse.settings import Settings

pytestmark = pytest.mark.integration

SCHEMA = Schema(NestedField(1, "n", LongType(), required=False))
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"


def connect(settings: Settings, **properties: str) -> RestCatalog:
    """Open the catalog as pyiceberg does, with nothing but the client's id and secret."""
    secret = settings.catalog.client_secret.get_secret_value()
    return RestCatalog(
        "lake",
        **{
            "uri": settings.catalog.uri,
            "credential": f"{settings.catalog.client_id}:{secret}",
            "oauth2-server-uri": f"{settings.catalog.uri}/v1/oauth/tokens",
            "scope": "catalog",
        }
        | properties,
    )


@pytest.fixture
def catalog(environment: Settings) -> RestCatalog:
    return connect(environment)


@pytest.fixture
def namespace(environment: Settings, catalog: RestCatalog) -> Iterator[str]:
    name = f"{environment.prefix}catalog_server"
    catalog.create_namespace(name)
    yield name
    for view in catalog.list_views(name):
        catalog.drop_view(view)
    for table in catalog.list_tables(name):
        catalog.purge_table(table)
    catalog.drop_namespace(name)


@pytest.fixture
def token(environment: Settings) -> str:
    return ask_for_token(environment).json()["access_token"]


def ask_for_token(settings: Settings, **form: str) -> requests.Response:
    fields = {
        "grant_type": "client_credentials",
        "client_id": settings.catalog.client_id,
        "client_secret": settings.catalog.client_secret.get_secret_value(),
    } | form
    return requests.post(f"{settings.catalog.uri}/v1/oauth/tokens", data=fields, timeout=30)


def status_with(settings: Settings, authorization: str | None) -> int:
    headers = {} if authorization is None else {"Authorization": authorization}
    return requests.get(f"{settings.catalog.uri}/v1/namespaces", headers=headers, timeout=30).status_code


def encoded(content: bytes) -> str:
    """Encode a part of a JWT (RFC 7515 § 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def numbers_in(table: Table) -> list[int]:
    return sorted(table.scan().to_arrow()["n"].to_pylist())


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Run `call` in `count` threads; the answers, an exception for a call that raised one."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(call, number) for number in range(count)]
    return [future.exception() or future.result() for future in futures]


def test_rows_appended_to_a_new_table_read_back(catalog: RestCatalog, namespace: str) -> None:
    table = catalog.create_table(f"{namespace}.numbers", SCHEMA)
    table.append(rows(1, 2))
    table.append(rows(3))
    assert numbers_in(catalog.load_table(f"{namespace}.numbers")) == [1, 2, 3]
    assert catalog.list_tables(namespace) == [(namespace, "numbers")]


def test_a_commit_on_a_position_that_moved_is_refused(catalog: RestCatalog, namespace: str) -> None:
    stale = catalog.create_table(f"{namespace}.numbers", SCHEMA)
    catalog.load_table(f"{namespace}.numbers").append(rows(1))
    with pytest.raises(CommitFailedException):
        catalog.commit_table(
            stale,
            (AssertRefSnapshotId(ref="main", snapshot_id=None),),
            (SetPropertiesUpdate(updates={"position": "5"}),),
        )
    assert "position" not in catalog.load_table(f"{namespace}.numbers").properties


def test_writers_at_the_same_time_lose_and_double_nothing(
    environment: Settings, catalog: RestCatalog, namespace: str
) -> None:
    catalog.create_table(f"{namespace}.numbers", SCHEMA, properties={"commit.retry.num-retries": "20"})

    def write(writer: int) -> None:
        mine = connect(environment)
        for commit in range(3):
            mine.load_table(f"{namespace}.numbers").append(rows(writer * 3 + commit))

    assert at_once(4, write) == [None] * 4
    assert numbers_in(catalog.load_table(f"{namespace}.numbers")) == list(range(12))


def test_one_of_those_who_make_a_table_at_once_wins(environment: Settings, namespace: str) -> None:
    clients = [connect(environment) for _ in range(4)]
    answers = at_once(4, lambda n: clients[n].create_table(f"{namespace}.numbers", SCHEMA))
    assert [type(answer) for answer in answers if not isinstance(answer, Table)] == [TableAlreadyExistsError] * 3


def test_one_of_those_who_make_a_namespace_at_once_wins(environment: Settings) -> None:
    name = f"{environment.prefix}race"
    clients = [connect(environment) for _ in range(4)]
    answers = at_once(4, lambda n: clients[n].create_namespace(name))
    clients[0].drop_namespace(name)
    assert [type(answer) for answer in answers if answer] == [NamespaceAlreadyExistsError] * 3


def test_a_table_in_a_namespace_that_does_not_exist_is_refused(catalog: RestCatalog, environment: Settings) -> None:
    with pytest.raises(NoSuchNamespaceError):
        catalog.create_table(f"{environment.prefix}absent.numbers", SCHEMA)


def test_a_table_made_again_does_not_lie_among_the_files_of_the_dropped_one(
    catalog: RestCatalog, namespace: str
) -> None:
    first = catalog.create_table(f"{namespace}.numbers", SCHEMA)
    catalog.drop_table(f"{namespace}.numbers")
    assert catalog.create_table(f"{namespace}.numbers", SCHEMA).location() != first.location()


def test_namespaces_nest(catalog: RestCatalog, namespace: str) -> None:
    catalog.create_namespace((namespace, "inner"))
    table = catalog.create_table((namespace, "inner", "numbers"), SCHEMA)
    table.append(rows(7))
    assert numbers_in(catalog.load_table((namespace, "inner", "numbers"))) == [7]
    assert catalog.list_namespaces(namespace) == [(namespace, "inner")]
    catalog.purge_table((namespace, "inner", "numbers"))
    catalog.drop_namespace((namespace, "inner"))


def test_a_view_is_kept_and_listed(environment: Settings, catalog: RestCatalog, namespace: str, token: str) -> None:
    view = {
        "name": "small",
        "schema": {"type": "struct", "schema-id": 0, "fields": []},
        "view-version": {
            "version-id": 1,
            "timestamp-ms": 1_700_000_000_000,
            "schema-id": 0,
            "summary": {},
            "default-namespace": [namespace],
            "representations": [{"type": "sql", "sql": "select 1", "dialect": "trino"}],
        },
        "properties": {},
    }
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{environment.catalog.uri}/v1/namespaces/{namespace}/views"
    made = requests.post(url, json=view, headers=headers, timeout=30)
    assert made.status_code == 200, made.text
    loaded = requests.get(f"{url}/small", headers=headers, timeout=30).json()
    assert loaded["metadata"]["versions"][0]["representations"][0]["sql"] == "select 1"
    assert catalog.list_views(namespace) == [(namespace, "small")]


def test_a_wrong_secret_is_named_as_such(environment: Settings) -> None:
    with pytest.raises(OAuthError, match="invalid_client"):
        connect(environment, credential=f"{environment.catalog.client_id}:wrong")
    assert ask_for_token(environment, client_id="somebody").status_code == 401
    assert ask_for_token(environment, grant_type="password").status_code == 400


def test_nothing_is_served_without_a_valid_token(environment: Settings, token: str) -> None:
    assert status_with(environment, f"Bearer {token}") == 200
    assert status_with(environment, None) == 401
    assert status_with(environment, f"Basic {token}") == 401
    assert status_with(environment, "Bearer client-credentials-token:sub=lakehouse") == 401
    header, claims, signature = token.split(".")
    other_claims = encoded(json.dumps({"sub": environment.catalog.client_id, "exp": int(time.time()) + 60}).encode())
    assert status_with(environment, f"Bearer {header}.{other_claims}.{signature}") == 401
    unsigned = encoded(b'{"alg": "none", "typ": "JWT"}')
    assert status_with(environment, f"Bearer {unsigned}.{claims}.") == 401


def test_a_token_ends_at_its_time(environment: Settings) -> None:
    def token_until(expiry: int) -> str:
        claims = {"sub": environment.catalog.client_id, "exp": expiry}
        content = f"{encoded(b'{}')}.{encoded(json.dumps(claims).encode())}"
        key = environment.catalog.client_secret.get_secret_value().encode()
        return f"{content}.{encoded(hmac.digest(key, content.encode(), hashlib.sha256))}"

    now = int(time.time())
    assert status_with(environment, f"Bearer {token_until(now + 60)}") == 200
    assert status_with(environment, f"Bearer {token_until(now - 1)}") == 401


def test_a_token_can_be_exchanged_for_a_new_one_while_it_is_valid(environment: Settings, token: str) -> None:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_id": "",
        "client_secret": "",
        "subject_token_type": TOKEN_TYPE,
    }
    renewed = ask_for_token(environment, subject_token=token, **form)
    assert renewed.status_code == 200
    assert status_with(environment, f"Bearer {renewed.json()['access_token']}") == 200
    assert ask_for_token(environment, subject_token="1.forged", **form).status_code == 401


def test_a_malformed_request_is_the_clients_fault(environment: Settings, token: str) -> None:
    for body in ("{", '{"namespace": 5}'):
        answer = requests.post(
            f"{environment.catalog.uri}/v1/namespaces",
            data=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
        assert (body, answer.status_code, answer.json()["error"]["type"]) == (body, 400, "BadRequestException")


def test_the_health_check_needs_no_token(environment: Settings) -> None:
    answer = requests.get(f"{environment.catalog.uri}/healthz", timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_credentials_given_out_reach_one_table_only(
    environment: Settings, catalog: RestCatalog, namespace: str
) -> None:
    mine = catalog.create_table(f"{namespace}.mine", SCHEMA)
    other = catalog.create_table(f"{namespace}.mine2", SCHEMA)
    other.append(rows(1))
    given = catalog.load_table(f"{namespace}.mine").io.properties
    assert given["s3.access-key-id"] != environment.s3.access_key
    s3 = boto3.client(
        "s3",
        endpoint_url=environment.s3.endpoint,
        region_name=environment.s3.region,
        aws_access_key_id=given["s3.access-key-id"],
        aws_secret_access_key=given["s3.secret-access-key"],
        aws_session_token=given["s3.session-token"],
        config=Config(s3={"addressing_style": "path"}),
    )

    def location_of(table: Table) -> dict[str, str]:
        url = urlsplit(table.location())
        return {"Bucket": url.netloc, "Prefix": f"{url.path[1:]}/"}

    def key_of(table: Table, name: str) -> dict[str, str]:
        location = location_of(table)
        return {"Bucket": location["Bucket"], "Key": f"{location['Prefix']}{name}"}

    s3.put_object(**key_of(mine, "data/probe"), Body=b"7")
    assert s3.get_object(**key_of(mine, "data/probe"))["Body"].read() == b"7"
    assert s3.list_objects_v2(**location_of(mine))["KeyCount"] >= 2
    s3.delete_object(**key_of(mine, "data/probe"))

    metadata = urlsplit(other.metadata_location)
    attempts: list[Callable[[], Any]] = [
        lambda: s3.get_object(Bucket=metadata.netloc, Key=metadata.path[1:]),
        lambda: s3.put_object(**key_of(other, "data/probe"), Body=b"7"),
        lambda: s3.delete_object(**key_of(other, "data/probe")),
        lambda: s3.list_objects_v2(**location_of(other)),
        lambda: s3.list_objects_v2(Bucket=metadata.netloc),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()


def test_no_credentials_are_given_to_a_client_that_does_not_ask(environment: Settings, namespace: str) -> None:
    catalog = connect(environment, **{"header.X-Iceberg-Access-Delegation": ""})
    table = catalog.create_table(f"{namespace}.numbers", SCHEMA)
    assert not any("access-key" in name or "token" in name for name in table.config)
