"""The DAG control API of the local stack."""

from lakehouse.settings import Settings
from lakehouse.stack import own_programs
from lakehouse.stack.server import Server


def server(settings: Settings) -> Server:
    """Describe the DAG control API."""
    return own_programs.program(
        "dag-control",
        ("lakehouse.api",),
        settings.api.url,
        profile="full",
        environment=own_programs.settings_environment(settings),
        memory_bytes=150 << 20,
        after=("airflow-api-server",),
    )
