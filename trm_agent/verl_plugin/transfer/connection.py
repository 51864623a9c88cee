"""A TCP connection that carries tensors: a short header in JSON, then the bytes of one tensor.

No pickles: whoever reaches the port can hand over numbers, and no program.
"""

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

LENGTH = struct.Struct("!I")
LARGEST_HEADER = 1 << 16
"""Bytes; a header names one weight."""
PIECE = 1 << 20
"""Bytes that go to a socket at once: its deadline is for the whole call."""
NOTHING = memoryview(b"")


class TransferError(RuntimeError):
    """Weights did not come through; the message says what, and who was at the other end."""


class Connection:
    """One end of a connection, whose other end counts as dead when it is silent for too long.

    Args:
        sock: connected.
        peer: the other end, for messages.
        silence_s: seconds without a byte in either direction.
    """

    def __init__(self, sock: socket.socket, peer: str, silence_s: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self.peer = sock, peer
        self.set_silence(silence_s)

    def set_silence(self, seconds: float) -> None:
        """Set the seconds after which the other end counts as dead."""
        self._silence_s = seconds
        self._socket.settimeout(seconds)

    def send(self, header: Mapping[str, Any], payload: memoryview = NOTHING) -> None:
        """Send a header, and the bytes that it announces.

        Raises:
            TransferError: the other end is gone, or takes nothing.
        """
        text = json.dumps(header).encode()
        with self._told(f"while {_named(header)} was sent"):
            self._socket.sendall(LENGTH.pack(len(text)) + text)
            for start in range(0, len(payload), PIECE):
                self._socket.sendall(payload[start : start + PIECE])

    def header(self) -> dict[str, Any]:
        """Receive a header.

        Raises:
            TransferError: the other end is gone or silent, or sends something else.
        """
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        if length > LARGEST_HEADER:
            raise TransferError(f"{self.peer} announced a header of {length} bytes, more than {LARGEST_HEADER}")
        try:
            found = json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise TransferError(f"{self.peer} sent a header that is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise TransferError(f"{self.peer} sent a header that is no JSON object")
        return found

    def fill(self, buffer: memoryview, what: str) -> None:
        """Receive as many bytes as a buffer has.

        Args:
            buffer: writable, of bytes.
            what: their name, for messages.

        Raises:
            TransferError: the other end is gone or silent.
        """
        start = 0
        with self._told(f"in the middle of the {len(buffer)} bytes of {what}"):
            while start < len(buffer):
                received = self._socket.recv_into(buffer[start:])
                if not received:
                    raise ConnectionError("it closed the connection")
                start += received

    def close(self) -> None:
        """Close this end; the other one notices, and so does a thread that waits here."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, number: int) -> bytes:
        found = bytearray(number)
        self.fill(memoryview(found), "a header")
        return bytes(found)

    @contextmanager
    def _told(self, when: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise TransferError(f"{self.peer} was silent for {self._silence_s:g} s {when}") from error
        except OSError as error:
            raise TransferError(f"{self.peer} is gone, {when}: {error}") from error


def _named(header: Mapping[str, Any]) -> str:
    return str(header.get("name", "/".join(header)))
