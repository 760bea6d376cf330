"""Messages that an older version of the rules refused, put into quarantine by a real ingest of that version.

Ingest runs as a process of its own, in which a `sitecustomize` turns the rules back, in the driver and in Spark's
workers alike. So everything but the rules is the real thing: the files, the commits, the rule version in both tables.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.settings import Settings
from tests.shops import event, open_shop

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
OLDER_RULES = Path(__file__).with_name("older_rules")


LARGE = [event(f"large_{n}", note="n" * 400) for n in range(2)]
DEEP = event("deep", day=22, tree={"a": {"b": {"c": 1}}})
BAD = [b"bad 0", b"\xffbad 1"]
MESSAGES = [
    Message(b"0", event("plain_0")),
    Message(b"1", LARGE[0]),
    Message(b"2", BAD[0]),
    Message(b"3", DEEP),
    Message(b"4", event("plain_1", day=24)),
    Message(b"5", LARGE[1]),
    Message(b"6", BAD[1], [("trace", b"\x00\xff"), ("trace", b"abc"), ("none", None)]),
    Message(b"7", None),
]
"""On a topic of one partition, in this order: offsets 1, 3 and 5 can be replayed, 2, 6 and 7 can't."""


def environment_of(settings: Settings) -> dict[str, str]:
    return os.environ | {"LAKEHOUSE_PREFIX": settings.prefix, "LAKEHOUSE_HOME": str(settings.home)}


def open_replay_shop(settings: Settings) -> None:
    """Make the tables and a topic of one partition with `MESSAGES`, and ingest them by the older rules."""
    open_shop(settings, 1)
    kafka.send(settings, settings.user_actions_topic, MESSAGES)
    counted = ingest_by_older_rules(settings)
    assert (counted["published_rows"], counted["quarantined_rows"]) == (2, 6)


def ingest_by_older_rules(settings: Settings) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(OLDER_RULES), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [LAKEHOUSE, "ingest", "run", "--output", "json"],
        env=environment_of(settings) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
