"""The child of the unsafe sandbox: the same cells, behind rlimits alone."""

import contextlib
import resource
import socket

from . import cells, wire


def main(channel_fd: int, folder: str) -> None:
    """Take code over the channel and run it in `folder`. Never returns."""
    channel = socket.socket(fileno=channel_fd)
    request = wire.receive(channel)
    limits = request["limits"]
    cpu = int(-(-limits["session_cpu_s" if request["session"] else "cpu_s"] // 1))
    _limit(resource.RLIMIT_CPU, cpu, cpu + 1)
    _limit(resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"])
    _limit(resource.RLIMIT_CORE, 0, 0)
    cells.make_main()
    cells.run(request, channel, folder)


def _limit(kind: int, soft: int, hard: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # the user's own is lower, or the system knows none
        resource.setrlimit(kind, (soft, hard))
