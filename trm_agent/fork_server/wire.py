"""The messages of client and server over a UNIX socket: one JSON message with three file descriptors or more."""

import json
import os
import socket
from collections.abc import Sequence

LENGTH_BYTES = 8
"""Of the length in front of a message."""
_MAX_MESSAGE = 4 << 20
_STANDARD = (0, 1, 2)
_MAX_DESCRIPTORS = 64


def send(connection: socket.socket, argv: list[str], env: dict[str, str], extra: Sequence[int] = ()) -> None:
    """Send a request for a worker, a call or a process of `multiprocessing`, with this process's standard streams.

    Args:
        connection: to the server.
        argv: the worker's command line; for a call the module that it waits for; nobody reads it for a process.
        env: the environment of the fork.
        extra: for a call, the descriptor of its socket; for a process of `multiprocessing`, those of its data, its
            status, the resource tracker, and more.
    """
    body = json.dumps({"argv": argv, "env": env, "cwd": os.getcwd()}).encode()
    socket.send_fds(connection, [len(body).to_bytes(LENGTH_BYTES, "big")], [*_STANDARD, *extra])
    connection.sendall(body)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Receive a request and its file descriptors.

    Raises:
        EOFError: the peer only looked whether the server is there.
        ConnectionError: the peer went away, or did not send a request.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, LENGTH_BYTES, _MAX_DESCRIPTORS)
    if not header:
        raise EOFError
    size = int.from_bytes(header, "big")
    if len(header) != LENGTH_BYTES or len(descriptors) < len(_STANDARD) or size > _MAX_MESSAGE:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ConnectionError("not a request of the fork server's client")
    body = bytearray()
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise ConnectionError("the client went away in the middle of a request")
        body += part
    return json.loads(body), descriptors
