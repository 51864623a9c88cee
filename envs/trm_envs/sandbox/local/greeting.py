"""The first packets of a supervisor and of its first program, by which the host learns their process numbers."""

import socket
import struct

from trm_envs.sandbox.guest import wire

_CREDENTIALS = struct.Struct("iII")


def sender(connection: socket.socket, patience_s: float) -> int:
    """Receive a greeting; return the number of its sender, which the kernel vouches for and no program can send.

    Raises:
        OSError: if the supervisor failed.
    """
    connection.settimeout(patience_s)
    packet, notes, _, _ = connection.recvmsg(1000, socket.CMSG_SPACE(_CREDENTIALS.size))
    if packet == wire.HERE:
        for level, kind, data in notes:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return int(_CREDENTIALS.unpack(data)[0])
    if packet:
        wire.verdict_of(packet)  # raises the reason
    raise OSError("a supervisor ended as it started")
