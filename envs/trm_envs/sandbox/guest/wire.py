"""What passes between host, supervisor and program.

Orders and verdicts are single packets of JSON that hold numbers; all that a program reads or writes goes past the
supervisor, by descriptor. Messages with contents are four bytes of length, then JSON; bytes travel as base64.
"""

import base64
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

READY = b"r"
"""From a program: it is confined and waits for code. From a supervisor: it takes an order."""
STOP = b"s"
"""To a supervisor: the program has written enough."""
GO, DONE, RAISED = b"g", b"d", b"e"
"""To a program: here is your code. From a session's program: the cell came to its end, or ended by an exception."""
MAX_FDS = 4
"""How many descriptors come with an order at most: the code, stdout, stderr and stdin."""
_PACKET_BYTES = 4096


def send_packet(sock: socket.socket, message: "dict[str, Any]", fds: "Sequence[int]" = ()) -> None:
    """Send a packet of numbers, with descriptors."""
    socket.send_fds(sock, [json.dumps(message).encode()], fds)


def receive_packet(sock: socket.socket) -> "tuple[bytes, list[int]]":
    """Receive a packet and its descriptors.

    Raises:
        EOFError: if the other side is gone.
    """
    data, fds, _, _ = socket.recv_fds(sock, _PACKET_BYTES, MAX_FDS)
    if not data:
        raise EOFError("the other side of the sandbox's socket is gone")
    return data, fds


def send(sock: socket.socket, message: "dict[str, Any]") -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    sock.sendall(struct.pack("!I", len(data)) + data)


def receive(sock: socket.socket, max_bytes: int = 1 << 30) -> "dict[str, Any]":
    """Receive one message.

    Raises:
        EOFError: if the other side is gone.
        ValueError: if the message is longer than `max_bytes`.
    """
    (length,) = struct.unpack("!I", _exactly(sock, 4))
    if length > max_bytes:
        raise ValueError(f"a message of {length} bytes, at most {max_bytes} expected")
    message: dict[str, Any] = json.loads(_exactly(sock, length))
    return message


def pack(data: bytes) -> str:
    """Bytes as text for a message."""
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> bytes:
    """The bytes of `pack`."""
    return base64.b64decode(text)


def _exactly(sock: socket.socket, length: int) -> bytes:
    chunks = []
    while length > 0:
        chunk = sock.recv(min(length, 1 << 20))
        if not chunk:
            raise EOFError("the other side of the sandbox's socket is gone")
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)
