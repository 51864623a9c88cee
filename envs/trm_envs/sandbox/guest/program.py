"""The program's own process: confined first, then running code in the interpreter that the fork has brought along."""

import os
import signal
import socket

from . import cells, isolation, wire

READY = b"r"


def prepare() -> None:
    """In the zygote: make what every program finds."""
    stdin, (reading, writing) = os.memfd_create("stdin"), os.pipe()
    for fd, target in ((stdin, 0), (writing, 1), (writing, 2)):  # of the kinds that they will be: a stream looks once
        os.dup2(fd, target)
    for fd in (stdin, reading, writing):
        os.close(fd)
    cells.make_main()


def run(channel: socket.socket) -> None:
    """Confine this process, wait for code over the channel and run it. Never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # PID 1 has none: no signal of a program reaches it
    try:
        isolation.confine()
    except OSError as error:
        channel.send(str(error).encode())
        os._exit(70)
    channel.send(READY)
    cells.run(wire.receive(channel), channel, isolation.WORK)
