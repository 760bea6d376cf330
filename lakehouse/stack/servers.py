"""Which servers there are, in the order they start."""

from lakehouse.settings import Settings
from lakehouse.stack import (
    ads_api,
    airflow,
    alertmanager,
    catalog,
    dag_control,
    exporter,
    kafka,
    minio,
    postgres,
    prometheus,
    trino,
)
from lakehouse.stack.server import PROFILES, Profile, Server


def servers(settings: Settings, profile: Profile = PROFILES[-1]) -> dict[str, Server]:
    """The servers of a profile by name, all of them by default; each stands after the ones it needs."""
    everything = [
        postgres.server(settings),
        minio.server(settings),
        kafka.server(settings),
        catalog.server(settings),
        trino.server(settings),
        ads_api.server(settings),
        *airflow.servers(settings),
        dag_control.server(settings),
        exporter.server(settings),
        alertmanager.server(settings),
        prometheus.server(settings),
    ]
    wanted = PROFILES[: PROFILES.index(profile) + 1]
    return {server.name: server for server in everything if server.profile in wanted}
