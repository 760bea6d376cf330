"""Ends the processes that Airflow forks together with the one that forked them.

When its scheduler is killed, LocalExecutor's workers would wait for it for ever, and a running task would go on
beside the attempt that the next scheduler starts.
Airflow imports this through `airflow_local_settings.py` in its home.
"""

import ctypes
import itertools
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_children_with_parents() -> None:
    """From now on, let each process forked by this one or its children end when its parent does.

    A child gets SIGKILL, because Airflow's workers ignore SIGTERM;
    a grandchild gets SIGTERM, because it is a task and has a command to stop.

    Source: prctl(2), PR_SET_PDEATHSIG; on other systems than Linux this does nothing.
    """
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl
    signals = itertools.chain([signal.SIGKILL], itertools.repeat(signal.SIGTERM))

    def end_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, next(signals))

    os.register_at_fork(after_in_child=end_with_parent)
