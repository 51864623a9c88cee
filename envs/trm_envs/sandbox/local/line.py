"""The line from the host to one supervisor: orders go out, verdicts come back."""

import contextlib
import select
import socket
from collections.abc import Sequence

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.guest.wire import Order, Verdict


class Refused(Exception):
    """A supervisor has ended before it took an order: nothing has happened, and another one can be asked."""


class Line:
    """The packets to and from a supervisor, which may refuse the first order after a call.

    Args:
        connection: a SOCK_SEQPACKET socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._may_refuse = False

    def is_ready(self, patience_s: float) -> bool:
        """Return True once the supervisor that has served a call takes another order, False if it has ended.

        Raises:
            BlockingIOError: if it has not said within `patience_s`.
        """
        self.connection.settimeout(patience_s)
        self._may_refuse = True
        try:
            return self.connection.recv(1) == wire.READY
        except TimeoutError as error:
            raise BlockingIOError from error
        except ConnectionError:
            return False

    def has_ended(self) -> bool:
        """Return True if the supervisor is gone."""
        poll = select.poll()
        poll.register(self.connection, 0)
        return bool(poll.poll(0))

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Send an order, with descriptors.

        Raises:
            Refused: if the supervisor waits no longer.
            OSError: if it is gone.
        """
        try:
            wire.send_fds(self.connection, order.packed(), list(fds))
        except BrokenPipeError as error:
            self.check_refused(error)
            raise

    def check_refused(self, reason: Exception) -> None:
        """Raise `Refused` if the supervisor, which is gone, has taken no order since its last call."""
        if self._may_refuse:
            raise Refused from reason

    def has_taken(self) -> None:
        """Note that the supervisor has taken an order."""
        self._may_refuse = False

    def stop(self) -> None:
        """Have the program stopped that has written too much, if it has not just ended."""
        with contextlib.suppress(OSError):
            self.connection.send(wire.STOP)

    def verdict(self) -> Verdict:
        """Receive the verdict on a run.

        Raises:
            Refused: if the supervisor waits no longer.
            OSError: if it failed.
            EOFError: if it is gone.
        """
        try:
            packet, _ = wire.receive_packet(self.connection)
        except ConnectionResetError:  # reported first if the supervisor ended and left a packet unread
            packet, _ = wire.receive_packet(self.connection)
        if packet == wire.REFUSED:
            raise Refused
        self.has_taken()
        return wire.verdict_of(packet)

    def hang_up(self) -> None:
        """End it under a thread that waits for it; that thread is woken and closes it.

        Closed here, its number could go to another socket before that thread looks, which would wait on that one then.
        """
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
