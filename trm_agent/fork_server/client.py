"""Stand in for Ray's `setup_worker.py`: ask the fork server for the requested worker.

Ray runs it as `python client.py [--serialized-runtime-env-context JSON] [--language PYTHON] default_worker.py ...`.
It is run by path, so it must not import more than the standard library before it has reached the server.
"""

import json
import os
import socket
import sys

SOCKET_VARIABLE = "TRM_AGENT_FORK_SERVER"
# a worker with this variable waits until the server has imported all, also what an engine needs
NEEDS_ALL = "TRM_AGENT_NEEDS_ALL"
TIMEOUT_SECONDS = 60


def parse(argv: list[str]) -> tuple[dict[str, str], str, list[str]]:
    """Split Ray's arguments.

    Returns:
        The environment variables of the runtime environment, the language, and the worker's own command line.
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
    return context.get("env_vars", {}), language, worker


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
    env_vars, language, worker = parse(sys.argv[1:])
    if address and language == "PYTHON":
        env = dict(os.environ)
        for name, value in env_vars.items():
            env[name] = os.path.expandvars(value)
        if ask(address, worker, env):
            return
    import ray._private.workers.setup_worker as original

    os.execv(sys.executable, [sys.executable, original.__file__, *sys.argv[1:]])


if __name__ == "__main__":
    main()
