"""Clocks that do not go on while the machine does something else."""

import threading
import time
from pathlib import Path


def standing_s() -> float:
    """Return seconds in which this thread stood still: it neither ran nor waited for a processor that others had.

    Only differences mean something.
    """
    try:
        ran_ns, queued_ns, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    except FileNotFoundError:  # not Linux: all waits count
        return time.monotonic() - time.thread_time()
    return time.monotonic() - (int(ran_ns) + int(queued_ns)) / 1e9
