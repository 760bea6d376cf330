"""The mock ad API of the local stack, by uvicorn."""

import importlib.metadata
import sys
from urllib.parse import urlsplit

import httpx

from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack.server import Server


def server(settings: Settings) -> Server:
    """Describe the mock ad API."""
    address = urlsplit(settings.ads.api_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    return Server(
        name="ads-api",
        profile="full",
        version=importlib.metadata.version("fastapi"),
        port=port,
        url=settings.ads.api_url,
        command=(
            *(sys.executable, "-m", "uvicorn", "--factory", "lakehouse.stack.mock_ad_api:app"),
            *("--host", host, "--port", str(port), "--no-access-log", "--log-level", "warning"),
        ),
        environment={
            "AD_API_TOKEN": settings.ads.api_token.get_secret_value(),
            "PYTHONPATH": str(PROJECT_ROOT),
        },
        probe=lambda: _probe(settings),
        start_seconds=60,
        memory_bytes=120_000_000,
    )


def _probe(settings: Settings) -> None:
    httpx.get(f"{settings.ads.api_url}/healthz", timeout=5, trust_env=False).raise_for_status()
