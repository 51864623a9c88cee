"""The program's own process: confined first, then running code in the interpreter that the fork has brought along."""

import os
import signal
import socket

from . import cells, isolation, wire


def prepare() -> None:
    """In the zygote: prepare the surroundings of every program."""
    stdin, (reading, writing) = os.memfd_create("stdin"), os.pipe()
    for fd, target in ((stdin, 0), (writing, 1), (writing, 2)):  # of the kinds that they will be: a stream looks once
        os.dup2(fd, target)
    for fd in (stdin, reading, writing):
        os.close(fd)
    cells.make_main()


def run(channel: socket.socket) -> None:
    """Confine this process, wait for code and streams over the channel and run it. Never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # PID 1 has none: no signal of a program reaches it
    try:
        listener = isolation.confine()
    except OSError as error:
        channel.send(str(error).encode())
        os._exit(70)
    if listener is None:
        channel.send(wire.READY)
    else:
        wire.send_fds(channel, wire.READY, [listener])
        os.close(listener)
    isolation.limit_own()
    source, streams = _receive(channel)
    for fd, target in zip(streams, (1, 2, 0), strict=True):
        os.dup2(fd, target)
        os.close(fd)
    kind = source[:1]
    if kind != wire.CELL:
        channel.close()

    def next_cell(raised: bool) -> "str | None":
        channel.send(wire.RAISED if raised else wire.DONE)
        try:
            return _text(_receive(channel)[0])
        except EOFError:
            return None

    cells.run(kind, _text(source[1:]), isolation.WORK, next_cell)


def _receive(channel: socket.socket) -> "tuple[bytes, list[int]]":
    """Receive code and the descriptors that came with it."""
    fd, *others = wire.receive_packet(channel)[1]
    code = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return code, others


def _text(code: bytes) -> str:
    return code.decode("utf-8", "surrogateescape")
