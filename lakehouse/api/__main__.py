"""The server: `python -m lakehouse.api`; SIGTERM lets it drain.

It first answers for some seconds more, telling `/readyz` that it ends, so that whoever sends requests here hears of it;
then it takes no new connection, ends the requests it has, and exits with 0.
"""

import sys
import time
from types import FrameType
from urllib.parse import urlsplit

import uvicorn

from lakehouse.api.app import make
from lakehouse.api.readiness import Readiness
from lakehouse.errors import LakehouseError
from lakehouse.settings import Settings, get_settings


class DrainingServer(uvicorn.Server):
    """A server that answers for a while after it was asked to end; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, drain_seconds: float, readiness: Readiness) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._readiness = readiness
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as uvicorn calls it
        """Begin to drain."""
        if self._ends_at is None:
            self._readiness.is_draining = True
            self._ends_at = time.monotonic() + self._drain_seconds
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Say whether to end."""
        return await super().on_tick(counter) or (self._ends_at is not None and time.monotonic() >= self._ends_at)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    app = make(settings)
    address = urlsplit(settings.api.url)
    config = uvicorn.Config(
        app,
        host=address.hostname or "127.0.0.1",
        port=address.port or 80,
        access_log=False,  # the audit log and the metrics tell more, and no secret
        log_level="info",
        proxy_headers=False,  # else a caller on this machine could give itself another address
        server_header=False,
        timeout_graceful_shutdown=int(settings.api.stop_seconds) + 1,
    )
    DrainingServer(config, settings.api.drain_seconds, app.state.readiness).run()


if __name__ == "__main__":
    try:
        serve(get_settings())
    except LakehouseError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - speaks to whoever started it
        sys.exit(error.exit_code)
