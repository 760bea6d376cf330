"""Which servers there are, in the order they start."""

from lakehouse.settings import Settings
from lakehouse.stack import ads_api, airflow, catalog, kafka, minio, postgres, trino
from lakehouse.stack.server import Profile, Server


def servers(settings: Settings, profile: Profile = "full") -> dict[str, Server]:
    """The servers of a profile by name; each stands after the ones it needs."""
    everything = [
        postgres.server(settings),
        minio.server(settings),
        kafka.server(settings),
        catalog.server(settings),
        trino.server(settings),
        ads_api.server(settings),
        *airflow.servers(settings),
    ]
    return {server.name: server for server in everything if profile == "full" or server.profile == "core"}
