"""The mock ad API of the local stack, by uvicorn."""

from urllib.parse import urlsplit

from lakehouse.settings import Settings
from lakehouse.stack import own_programs
from lakehouse.stack.server import Server


def server(settings: Settings) -> Server:
    """Describe the mock ad API."""
    address = urlsplit(settings.ads.api_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    return own_programs.program(
        "ads-api",
        (
            *("uvicorn", "--factory", "lakehouse.stack.mock_ad_api:app"),
            *("--host", host, "--port", str(port), "--no-access-log", "--log-level", "warning"),
        ),
        settings.ads.api_url,
        profile="full",
        environment={"AD_API_TOKEN": settings.ads.api_token.get_secret_value()},
        memory_bytes=120_000_000,
        package="fastapi",
    )
