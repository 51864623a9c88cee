"""The child of the unsafe sandbox: the same cells, behind rlimits alone."""

import contextlib
import resource
import socket

from . import cells, wire


def main(channel_fd: int, folder: str, packages: str) -> None:
    """Take code over the channel and run it in `folder`, with `packages` to import from. Never returns."""
    cells.limit_imports(packages)
    channel = socket.socket(fileno=channel_fd)
    request = wire.receive(channel)
    cpu = int(-(-request["cpu_s"] // 1))
    _limit(resource.RLIMIT_CPU, cpu, cpu + 1)
    _limit(resource.RLIMIT_AS, request["memory_bytes"], request["memory_bytes"])
    _limit(resource.RLIMIT_STACK, request["stack_bytes"], request["stack_bytes"])
    _limit(resource.RLIMIT_FSIZE, request["file_bytes"], request["file_bytes"])
    _limit(resource.RLIMIT_CORE, 0, 0)
    kind = request["kind"].encode()
    if kind != wire.CELL:
        channel.close()
    cells.make_main()

    def next_cell(raised: bool) -> "str | None":
        wire.send(channel, {"raised": raised})
        try:
            code: str = wire.receive(channel)["code"]
            return code
        except EOFError:
            return None

    cells.run(kind, request["code"], folder, next_cell)


def _limit(kind: int, soft: int, hard: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # the user's own is lower, or the system knows none
        resource.setrlimit(kind, (soft, hard))
