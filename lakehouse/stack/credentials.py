"""The secrets of the local stack: generated at the first start, kept in one file that only its owner reads."""

import secrets
from base64 import urlsafe_b64encode

from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack import private

GENERATED = (
    "LAKEHOUSE_S3__SECRET_KEY",
    "LAKEHOUSE_CATALOG__CLIENT_SECRET",
    "LAKEHOUSE_POSTGRES__PASSWORD",
    "LAKEHOUSE_TRINO__ADMIN_PASSWORD",
    "LAKEHOUSE_TRINO__INGEST_PASSWORD",
    "LAKEHOUSE_TRINO__TRANSFORM_PASSWORD",
    "LAKEHOUSE_TRINO__ANALYST_PASSWORD",
    "LAKEHOUSE_ADS__API_TOKEN",
    "LAKEHOUSE_API__JWT_SECRET",
    "LAKEHOUSE_STACK__S3_ROOT_PASSWORD",
    "LAKEHOUSE_STACK__POSTGRES_SUPERUSER_PASSWORD",
    "LAKEHOUSE_STACK__AIRFLOW_JWT_SECRET",
    "LAKEHOUSE_STACK__AIRFLOW_SECRET_KEY",
    "LAKEHOUSE_STACK__AIRFLOW_FERNET_KEY",
    "LAKEHOUSE_STACK__TRINO_SHARED_SECRET",
)
_BOUND_TO_DATA = "LAKEHOUSE_STACK__POSTGRES_SUPERUSER_PASSWORD"  # the others can be set anew by its owner


def ensure(settings: Settings) -> bool:
    """Generate the secrets that the file lacks; returns whether it wrote any, after which settings must be read anew.

    Raises:
        StackError: data of an earlier stack is there and its secrets are not, so nothing could open it.
    """
    path = settings.credentials_file
    present = ""
    if path.exists():
        path.chmod(0o600)
        present = path.read_text()
    known = {line.partition("=")[0].strip() for line in present.splitlines()}
    if _BOUND_TO_DATA not in known and (settings.home / "data").exists():
        raise StackError(
            f"{settings.home / 'data'} holds a stack's data but {path} with its secrets is gone or cut off: "
            "put that file back, or start afresh with `make clean`"
        )
    lines = [f"{name}={_secret(name)}" for name in GENERATED if name not in known]
    if not lines:
        return False
    settings.home.mkdir(parents=True, exist_ok=True)
    private.write(path, "".join(f"{line}\n" for line in [*present.splitlines(), *lines]).encode())
    return True


def _secret(name: str) -> str:
    if name.endswith("FERNET_KEY"):
        return urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(24)
