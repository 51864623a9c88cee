"""Memory of a call's processes, seen by their PID 1."""

import contextlib
import os


def of_all(limit: int) -> int:
    """Bytes of memory of all processes of the call: resident sizes, and if their sum is over `limit`, exact shares."""
    pids = _pids()
    resident = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
            resident += int(file.read().split()[1]) * 4096
    if resident <= limit:
        return resident
    shares = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            shares += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return shares


def _pids() -> "list[str]":
    return [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
