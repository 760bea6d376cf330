"""`lakehouse ingest follow`, killed again and again at moments that a seed draws, while messages keep coming."""

import random
import signal
import threading
import time

import pytest

from tests.faults.harness import Shop
from tests.shops import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]

KILLS = 10


@pytest.mark.parametrize("seed", [4])
def test_a_follower_killed_at_any_moment_loses_and_doubles_nothing(shop: Shop, seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311
    ended = threading.Event()

    def produce() -> None:
        while not ended.is_set():
            shop.send(20)
            time.sleep(0.5)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for number in range(KILLS):
            before = shop.committed_rows()
            follower = shop.follow()
            if number % 3:  # at work; else as it starts
                wait_until(lambda before=before: shop.committed_rows() > before, "the follower commits")
            time.sleep(moments.uniform(0, 4))
            follower.process.kill()
            follower.ends(-signal.SIGKILL)
            if number == KILLS // 2:
                shop.compact_and_expire()
    finally:
        ended.set()
        producer.join()
    shop.finish()
    shop.assert_settled()


def test_a_follower_that_is_told_to_stop_amid_a_commit_ends_it_first(shop: Shop) -> None:
    shop.send(100)
    follower = shop.follow(failpoint="events-sending:hold:1")
    wait_until(follower.is_held, "the follower is about to commit")
    follower.process.terminate()
    time.sleep(1)
    assert follower.process.poll() is None
    follower.release()
    follower.ends(0)
    shop.assert_settled()
