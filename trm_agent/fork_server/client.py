"""Stand in for Ray's `setup_worker.py`: ask the fork server for the requested worker.

Ray runs it as `python client.py [--serialized-runtime-env-context JSON] [--language PYTHON] default_worker.py ...`.
It is run by path, so it must not import more than the standard library before it has reached the server.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping

SOCKET_VARIABLE = "TRM_AGENT_FORK_SERVER"
# a worker with this variable waits until the server has imported all, also what an engine needs
NEEDS_ALL = "TRM_AGENT_NEEDS_ALL"
TIMEOUT_SECONDS = 60
# read by an interpreter and its loader as they begin, which a fork does not
AT_START = ("PYTHONHASHSEED", "LD_LIBRARY_PATH", "LD_PRELOAD")


def parse(argv: list[str]) -> tuple[dict, str, list[str]]:
    """Split Ray's arguments.

    Returns:
        The context of the runtime environment, the language, and the worker's own command line.
    """
    context, language, worker = {}, "PYTHON", []
    options = iter(argv)
    for argument in options:
        name, separator, value = argument.partition("=")
        if name == "--serialized-runtime-env-context":
            context = json.loads((value if separator else next(options)) or "{}")
        elif name == "--language":
            language = value if separator else next(options)
        else:
            worker.append(argument)
    return context, language, worker


def is_plain(context: dict, env: Mapping[str, str]) -> bool:
    """Return True if a runtime environment asks for variables alone, which are read after an interpreter has begun.

    A fork has one interpreter, begun long before, and without a command such as a profiler's around it.

    Args:
        context: of the runtime environment.
        env: the variables that a worker has without it.
    """
    given = context.get("env_vars", {})
    others = [value for name, value in context.items() if name not in ("env_vars", "py_executable")]
    others += [name for name in AT_START if given.get(name, env.get(name)) != env.get(name)]
    return not any(others) and context.get("py_executable") in (None, sys.executable)


def ask(address: str, argv: list[str], env: dict[str, str]) -> bool:
    """Ask the server at `address` for a worker; False if it cannot be reached."""
    import wire  # a neighbour of this file, which is run by path

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        try:
            connection.connect(address)
            wire.send(connection, argv, env)
            return connection.recv(1) == b"1"
        except OSError as error:
            print(f"fork server at {address}: {error}; starting the worker the usual way", file=sys.stderr)
            return False


def main() -> None:
    """Ask for a fork; without a server, start the worker as Ray does."""
    address = os.environ.get(SOCKET_VARIABLE, "")
    context, language, worker = parse(sys.argv[1:])
    if address and language == "PYTHON" and is_plain(context, os.environ):
        env = dict(os.environ)
        for name, value in context.get("env_vars", {}).items():
            env[name] = os.path.expandvars(value)
        if ask(address, worker, env):
            return
    # what is started by itself starts its own processes so
    os.environ.pop(SOCKET_VARIABLE, None)
    import ray._private.workers.setup_worker as original

    os.execv(sys.executable, [sys.executable, original.__file__, *sys.argv[1:]])


if __name__ == "__main__":
    main()
