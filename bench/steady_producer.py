"""Send messages at a steady rate and remember when each was sent: `python -m bench.steady_producer RATE SECONDS FILE`.

The partition of each message is chosen here, so that offsets follow the order of sending and need no account:
the i-th message to a topic partition has its i-th offset after the start.
SIGTERM ends it early. FILE is a NumPy archive: an array of send times for each topic partition (seconds since 1970),
named by its number, of the messages that Kafka confirmed.
"""

import signal
import sys
import time
from array import array
from itertools import cycle

import numpy as np

from bench.ground import messages, producer
from lakehouse.settings import get_settings

TICK_SECONDS = 0.01
LINGER_MILLIS = 5
DISTINCT = 50_000


def main(rate: str, seconds: str, file: str) -> None:
    """Send until the time is over or SIGTERM comes."""
    settings = get_settings()
    topic, partitions = settings.user_actions_topic, settings.kafka.user_actions_partitions
    to_send = cycle(messages(DISTINCT))
    client = producer(settings, LINGER_MILLIS)
    sent_at = [array("d") for _ in range(partitions)]
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    started, total, wanted = time.time(), 0, int(float(rate) * float(seconds))
    while total < wanted and not ended:
        moment = time.time()
        due = min(wanted, int((moment - started) * float(rate)))
        for _ in range(due - total):
            key, value, _headers = next(to_send)
            partition = total % partitions
            client.produce(topic, value, key, partition)
            sent_at[partition].append(moment)
            total += 1
        client.poll(0)
        time.sleep(max(0.0, moment + TICK_SECONDS - time.time()))
    if left := client.flush(60):
        sys.exit(f"Kafka did not confirm {left:,} of {total:,} messages")
    np.savez(file, **{str(partition): np.frombuffer(times) for partition, times in enumerate(sent_at)})
    print(f"{total} messages in {time.time() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
