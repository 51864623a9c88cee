"""Messages between host, call and program: four bytes of length, then JSON; bytes travel as base64."""

import base64
import json
import socket
import struct
from typing import Any


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
