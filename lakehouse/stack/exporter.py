"""The health exporter of the local stack."""

from lakehouse.settings import Settings
from lakehouse.stack import own_programs
from lakehouse.stack.server import Server


def server(settings: Settings) -> Server:
    """Describe the health exporter; it starts beside what it looks at, to tell of what does not start."""
    return own_programs.program(
        "exporter",
        ("lakehouse.exporter",),
        settings.exporter.url,
        profile="observe",
        environment=own_programs.settings_environment(settings),
        memory_bytes=200 << 20,
        page="/metrics",
    )
