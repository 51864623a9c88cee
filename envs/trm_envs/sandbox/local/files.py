"""The clerk's side of a world: files of the working folder, written and read by a process beside the program."""

import socket
from typing import Any

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.local.line import Line
from trm_envs.tool_time import waiting

FILES_S = 60.0
"""Seconds for files to be written or read, by a process that nothing of the program can hold up."""


class Disturbed(Exception):
    """A program that has run left no room for its files to be written or read."""


def exchange(line: Line, order: wire.Order, message: dict[str, Any], has_run: bool) -> dict[str, Any]:
    """Have a clerk started and hand it a message; return its answer, with the contents of files, once it is gone.

    Args:
        line: to the supervisor.
        order: of the kind `wire.FILES`.
        message: the names and bytes of the files to be written, the names of those to be read, and the bounds.
        has_run: whether a program has run since the world was new.

    Raises:
        Refused: if the supervisor waits no longer.
        Disturbed: if a program has kept the clerk from its work.
        OSError: if the sandbox failed.
        EOFError: if the supervisor is gone.
    """
    here, there = socket.socketpair()
    with here, waiting():
        with there:
            line.send(order, [there.fileno()])
        here.settimeout(FILES_S)
        try:
            wire.send(here, message)
            answer = wire.receive(here, 2 * message["total_bytes"] + (1 << 20))
            answer["files"] = wire.receive_files(here, answer.get("lengths", {}), message["total_bytes"])
            here.recv(1)  # the clerk's end: it holds no memory any more
        except (EOFError, ConnectionError) as error:
            line.check_refused(error)
            if has_run and not line.has_ended():
                raise Disturbed("the program's processes kept its files from being written or read") from error
            raise
    line.has_taken()
    return answer
