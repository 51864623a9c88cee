"""Processes of `multiprocessing` as forks of the server, for libraries that would start them anew."""

import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

from trm_agent.fork_server import wire
from trm_agent.fork_server.client import SOCKET_VARIABLE, TIMEOUT_SECONDS


def context() -> BaseContext | None:
    """Return a context whose processes are forks of the server; None where no server answers.

    It is the standard library's `forkserver`, with our server in place of the library's: from now on in this process
    each process of that method is a fork of ours.
    """
    address = os.environ.get(SOCKET_VARIABLE, "")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(address)
    except OSError as error:
        if address:
            print(f"fork server at {address}: {error}; starting the process the usual way", file=sys.stderr)
        return None
    # a name that popen_forkserver looks up at each start
    vars(forkserver)["connect_to_new_process"] = _connect
    return multiprocessing.get_context("forkserver")


def _connect(descriptors: list[int]) -> tuple[int, int]:
    """Ask for a process; return where it writes its id and exit code, and where it reads what it is to run."""
    status_read, status_write = os.pipe()
    data_read, data_write = os.pipe()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(os.environ[SOCKET_VARIABLE])
            tracker = resource_tracker.getfd()
            assert tracker is not None
            extra = [data_read, status_write, tracker, *descriptors]
            wire.send(connection, [], dict(os.environ), extra)
            if connection.recv(1) != b"1":
                raise ConnectionError("the fork server starts no process")
    except BaseException:
        os.close(status_read)
        os.close(data_write)
        raise
    finally:
        os.close(data_read)
        os.close(status_write)
    return status_read, data_write
