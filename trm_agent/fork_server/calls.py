"""Functions that need the imports of the server, called in a fork of it: the command itself stays small."""

import os
import pickle
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trm_agent.fork_server import handle, wire

T = TypeVar("T")
# what a function may need of the server's imports, which come in this order
TRANSFORMERS, VERL = "transformers.models.auto.modeling_auto", "verl.trainer.main_ppo"


class InFork(Exception):
    """The traceback of an exception in a fork, as the cause of the exception here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def apart(function: Callable[..., T], *arguments: Any, needs: str = VERL) -> T:
    """Call a function in a fork of the server; in this process if it has no server, or one that has failed.

    What the function prints goes where this process prints. The variables that it sets or deletes in the environment
    are set or deleted here too.

    Args:
        function: of a module.
        arguments: what can be pickled.
        needs: the module after whose import in the server it is called.

    Raises:
        RuntimeError: the fork ended without an answer, such as for lack of memory.
        BaseException: what the function raises.
    """
    before, name = dict(os.environ), _name(function)
    asked = _fork(before, needs) if name and handle.is_serving() else None
    if asked is None:
        return function(*arguments)
    with asked:
        asked.sendall(pickle.dumps((name, function.__name__, arguments)))
        with asked.makefile("rb") as stream:
            length = int.from_bytes(stream.read(wire.LENGTH_BYTES), "big")
            told = stream.read(length)
    if not told or len(told) < length:
        raise RuntimeError(f"a process ended without an answer, as one that is killed does ({function.__name__})")
    value, failure, after = pickle.loads(told)
    _follow(before, after)
    if failure is not None:
        error, trace = failure
        raise error from InFork(trace)
    return value


def _name(function: Callable[..., Any]) -> str | None:
    """Return the module of a function by which a fork can import it; None if there is none."""
    if function.__module__ != "__main__":
        return function.__module__
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else None


def _fork(env: Mapping[str, str], needs: str) -> socket.socket | None:
    """Ask the server for a fork, which waits for an import; None if it has failed."""
    ours, theirs = socket.socketpair()
    try:
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            sys.stdout.flush()
            sys.stderr.flush()
            connection.connect(env[handle.SOCKET_VARIABLE])
            wire.send(connection, [needs], dict(env), [theirs.fileno()])
            if connection.recv(1) == b"1":
                return ours
            raise ConnectionError("it has ended")
    except OSError as error:
        print(f"fork server: {error}; this process goes on without it", file=sys.stderr)
    except BaseException:
        ours.close()
        raise
    ours.close()
    return None


def _follow(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Make the changes of another process's environment in this one's."""
    for name in before.keys() - after.keys():
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in after.items() if before.get(name) != value})
