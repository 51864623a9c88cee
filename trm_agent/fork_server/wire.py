"""The messages of client and server over a UNIX socket: one JSON message with three file descriptors."""

import json
import os
import socket

_HEADER = 8
_MAX_MESSAGE = 4 << 20


def send(connection: socket.socket, argv: list[str], env: dict[str, str]) -> None:
    """Send a request for a worker, with this process's standard streams."""
    body = json.dumps({"argv": argv, "env": env, "cwd": os.getcwd()}).encode()
    socket.send_fds(connection, [len(body).to_bytes(_HEADER, "big")], [0, 1, 2])
    connection.sendall(body)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Receive a request and its file descriptors.

    Raises:
        ConnectionError: the peer went away, or did not send a request.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER, 3)
    size = int.from_bytes(header, "big")
    if len(header) != _HEADER or len(descriptors) != 3 or size > _MAX_MESSAGE:
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
