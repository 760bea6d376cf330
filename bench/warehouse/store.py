"""What MinIO has sent, by its own count: Trino does not count the footers of files of which it then needs nothing."""

import base64
import hashlib
import hmac
import json
import re
import time
from typing import Final

import requests

from lakehouse.errors import LakehouseError
from lakehouse.settings import Settings
from lakehouse.stack.minio import ROOT_USER

SETTLE_SECONDS: Final = 25
"""MinIO makes its figures anew every ten seconds or so."""


def sent_bytes(settings: Settings) -> int:
    """Bytes that MinIO has sent in answer to S3 requests since it started, once its figures are up to date.

    Raises:
        LakehouseError: MinIO does not tell.
    """
    time.sleep(SETTLE_SECONDS)
    answer = requests.get(
        f"{settings.s3.endpoint}/minio/v2/metrics/node",
        headers={"Authorization": f"Bearer {_token(settings)}"},
        timeout=30,
    )
    found = re.findall(r"^minio_s3_traffic_sent_bytes\{.*\} (\S+)$", answer.text, re.MULTILINE)
    if not found:
        raise LakehouseError(f"MinIO does not tell what it has sent (HTTP {answer.status_code})")
    return sum(int(float(value)) for value in found)


def _token(settings: Settings) -> str:
    """A token for MinIO's metrics, as its own client makes it: a JWT signed with the root user's secret."""
    claims = {"sub": ROOT_USER, "iss": "prometheus", "exp": int(time.time()) + 300}
    parts = b".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS512", "typ": "JWT"}, claims))
    secret = settings.stack.s3_root_password.get_secret_value().encode()
    return (parts + b"." + _encoded(hmac.digest(secret, parts, hashlib.sha512))).decode()


def _encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
