"""The messages between host, supervisor and program.

Orders and verdicts are single packets of numbers; all that a program reads or writes goes past the supervisor, by
descriptor. Messages with contents are four bytes of length, then JSON; bytes travel as base64. Files that are fetched
come after it as they are: whoever decodes many bytes holds up all threads of the host's process.
"""

import base64
import errno
import json
import socket
import struct
import time
from typing import Any, NamedTuple

READY = b"r"
"""From a program: it is confined and waits for code. From a supervisor: it takes an order."""
HERE = b"h"
"""From a supervisor and from its first program as they start: the kernel tells the host who sends it."""
STOP = b"s"
"""To a supervisor: the program has written enough."""
REFUSED = b"n"
"""From a supervisor, which ends: whatever it was asked last, it did not do."""
GO, DONE, RAISED = b"g", b"d", b"e"
"""To a program: here is your code. From a session's program: the cell came to its end, or ended by an exception."""
CALL, CELL, SCRIPT = b"p", b"c", b"b"
"""Kinds of code: a Python program, the first cell of a session, a bash script."""
RUN, FILES, END = b"r", b"f", b"e"
"""The kinds of an order."""
VERDICTS = ("exited", "done", "raised", "timeout", "memory", "output_limit")
MAX_FDS = 4
"""Largest number of descriptors with an order: the code, stdout, stderr and stdin."""
FLIGHT_S = 2.0
"""Longest wait of a sender for descriptors in flight, which all of a user's programs have together, to arrive."""
_PACKET_BYTES = 4096
_ORDER, _VERDICT = struct.Struct("!c????dd6Q"), struct.Struct("!Bidd")
_FAILURE = b"\xff"


class Order(NamedTuple):
    """The host's order to a supervisor."""

    kind: bytes
    """`RUN` code, have `FILES` written or read, or `END` a session."""
    is_session: bool
    is_last: bool
    has_share: bool
    """Whether control groups hold the call's share of the processor and its pauses: it may lead sessions then."""
    has_memory: bool
    """Whether a control group holds its memory."""
    wall_s: float
    cpu_s: float
    memory_bytes: int
    stack_bytes: int
    processes: int
    file_bytes: int
    disk_bytes: int
    num_files: int

    def packed(self) -> bytes:
        """Encode the order as a packet."""
        return _ORDER.pack(*self)


class Verdict(NamedTuple):
    """A supervisor's verdict on a run."""

    kind: str
    """One of `VERDICTS`."""
    return_code: int
    """Of a program that exited, the signal's number negated."""
    cpu_s: float
    duration_s: float

    def packed(self) -> bytes:
        """Encode the verdict as a packet."""
        return _VERDICT.pack(VERDICTS.index(self.kind), *self[1:])


def order_of(packet: bytes) -> Order:
    """Read an order."""
    return Order(*_ORDER.unpack(packet))


def failure(message: str) -> bytes:
    """Encode the reason for a missing verdict as a packet."""
    return _FAILURE + message.encode()


def verdict_of(packet: bytes) -> Verdict:
    """Read a verdict.

    Raises:
        OSError: if the supervisor failed.
    """
    if packet[:1] == _FAILURE:
        raise OSError(packet[1:].decode())
    kind, *numbers = _VERDICT.unpack(packet)
    return Verdict(VERDICTS[kind], *numbers)


def receive_packet(sock: socket.socket) -> "tuple[bytes, list[int]]":
    """Receive a packet and its descriptors.

    Raises:
        EOFError: if the other side is gone.
    """
    data, fds, _, _ = socket.recv_fds(sock, _PACKET_BYTES, MAX_FDS)
    if not data:
        raise EOFError("the other side of the sandbox's socket is gone")
    return data, fds


def send_fds(sock: socket.socket, packet: bytes, fds: "list[int]") -> None:
    """Send a packet with descriptors; if the user has too many in flight, in whichever call, try again for a while."""
    deadline = time.monotonic() + FLIGHT_S
    while True:
        try:
            socket.send_fds(sock, [packet], fds)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


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


def receive_files(sock: socket.socket, lengths: "dict[str, int]", most: int) -> "dict[str, bytes]":
    """Receive the contents of files, by name, that come one after the other.

    Raises:
        EOFError: if the other side is gone.
        ValueError: if they are longer than `most`.
    """
    if sum(lengths.values()) > most or min(lengths.values(), default=0) < 0:
        raise ValueError(f"files of {sum(lengths.values())} bytes, at most {most} expected")
    return {name: _exactly(sock, length) for name, length in lengths.items()}


def pack(data: bytes) -> str:
    """Bytes as text for a message."""
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> bytes:
    """Return the bytes of `pack`."""
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
