"""Write the Grafana dashboards: `python -m compose.grafana.build`, or `make dashboards`.

What matters most stands at the top left of a page. A query answers at all times, or its panel says why it may not.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from compose.grafana import api, dags, pipeline, tables
from compose.grafana.page import TAG
from lakehouse.settings import PROJECT_ROOT

DIRECTORY: Final = PROJECT_ROOT / "compose" / "grafana" / "dashboards"
DASHBOARDS: Final[Mapping[str, Callable[[], dashboard.Dashboard]]] = {
    "pipeline": pipeline.build,
    "tables": tables.build,
    "dags": dags.build,
    "api": api.build,
}
"""The dashboards by their file's name."""


def text(name: str) -> str:
    """The dashboard's file: JSON as Grafana reads it."""
    built = DASHBOARDS[name]().uid(f"{TAG}-{name}").build()
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write() -> None:
    """Write every dashboard."""
    for name in DASHBOARDS:
        (DIRECTORY / f"{name}.json").write_text(text(name))


if __name__ == "__main__":
    write()
