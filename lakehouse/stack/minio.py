"""MinIO: the object store of the local stack. All other code speaks plain S3 to it."""

import json
import time
from urllib.parse import urlsplit

import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED
from minio.credentials.providers import StaticProvider
from minio.error import S3Error
from minio.versioningconfig import VersioningConfig

from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack import artifacts
from lakehouse.stack.server import Server

ROOT_USER = "lakehouse-root"
POLICY = "lakehouse-pipeline"
POLICY_SECONDS = 30


def server(settings: Settings) -> Server:
    """Describe the MinIO server with its buckets and the pipeline's user."""
    endpoint = urlsplit(settings.s3.endpoint)
    port = endpoint.port or 80
    console = port + 1
    data = settings.home / "data" / "minio"
    return Server(
        name="minio",
        profile="core",
        version=artifacts.GO_PARTS["minio"].version.split("-")[1],
        port=port,
        more_ports=(console,),
        url=f"http://{endpoint.hostname}:{console}",
        command=(
            str(artifacts.go_program(settings, "minio")),
            "server",
            str(data),
            f"--address={endpoint.hostname}:{port}",
            f"--console-address={endpoint.hostname}:{console}",
            "--quiet",
        ),
        environment={
            "MINIO_ROOT_USER": ROOT_USER,
            "MINIO_ROOT_PASSWORD": settings.stack.s3_root_password.get_secret_value(),
            "MINIO_REGION": settings.s3.region,
            "MINIO_UPDATE": "off",
            "GOMEMLIMIT": "400MiB",
        },
        prepare=lambda: data.mkdir(parents=True, exist_ok=True),
        probe=lambda: _probe(settings),
        settle=lambda: _create_buckets_and_user(settings),
        start_seconds=60,
        memory_bytes=300_000_000,
    )


def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(timeout=urllib3.Timeout(5), retries=False)


def _root(settings: Settings) -> StaticProvider:
    return StaticProvider(ROOT_USER, settings.stack.s3_root_password.get_secret_value())


def _client(settings: Settings, credentials: StaticProvider | None = None) -> Minio:
    address = urlsplit(settings.s3.endpoint).netloc
    return Minio(
        address,
        credentials=credentials or _root(settings),
        secure=False,
        region=settings.s3.region,
        http_client=_pool(),
    )


def _probe(settings: Settings) -> None:
    _client(settings).list_buckets()


def _create_buckets_and_user(settings: Settings) -> None:
    s3 = settings.s3
    buckets = (s3.warehouse_bucket, s3.archive_bucket, s3.ads_bucket, s3.user_events_bucket, s3.file_drop_bucket)
    client = _client(settings)
    for bucket in buckets:
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    # An announced version stays what it was when the next one is uploaded.
    client.set_bucket_versioning(s3.file_drop_bucket, VersioningConfig(ENABLED))
    address = urlsplit(settings.s3.endpoint).netloc
    admin = MinioAdmin(endpoint=address, credentials=_root(settings), secure=False, http_client=_pool())
    allowed = {
        "Effect": "Allow",
        "Action": ["s3:*"],
        "Resource": [f"arn:aws:s3:::{bucket}{objects}" for bucket in buckets for objects in ("", "/*")],
    }
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    admin.policy_add(POLICY, policy=policy)
    admin.user_add(settings.s3.access_key, settings.s3.secret_key.get_secret_value())
    attached = json.loads(admin.user_info(settings.s3.access_key)).get("policyName", "")
    if POLICY not in attached.split(","):
        admin.policy_set(POLICY, user=settings.s3.access_key)
    # A server that has just started may still read its policies of before, and go by those for minutes.
    deadline = time.monotonic() + POLICY_SECONDS
    while not all(_may_list(settings, bucket) for bucket in buckets):
        if time.monotonic() > deadline:
            raise StackError(f"MinIO does not let {settings.s3.access_key} into {', '.join(buckets)}: start it again")
        time.sleep(0.5)
        admin.policy_add(POLICY, policy=policy)


def _may_list(settings: Settings, bucket: str) -> bool:
    own = StaticProvider(settings.s3.access_key, settings.s3.secret_key.get_secret_value())
    try:
        next(iter(_client(settings, own).list_objects(bucket)), None)
    except S3Error as error:
        if error.code == "AccessDenied":
            return False
        raise
    return True
