"""A process that holds a sandbox for a test, under a user and an interpreter of the test's choice.

It imports the standard library and `trm_envs.sandbox` alone, so that /usr/bin/python3 can run it.
"""

import sys
import threading
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Take requests (number, name, arguments) over the inherited descriptor; answer by (number, value or error)."""
    channel = Connection(int(sys.argv[1]))
    channel.recv()  # the parent has put this process where it belongs
    from trm_envs.sandbox import LocalSandbox

    made, arguments = None, channel.recv()
    try:
        made = LocalSandbox(**arguments)
    except Exception as error:
        channel.send((0, error))
        return
    channel.send((0, dict(made.isolation)))
    with made as sandbox:
        serve(channel, sandbox)


def serve(channel: Connection, sandbox: Any) -> None:
    """Answer requests, each in a thread of its own, until the parent hangs up."""
    runners, lock = {0: sandbox}, threading.Lock()

    def open_session(key: int) -> None:
        runners[key] = sandbox.session()

    def evaluate(source: str) -> Any:
        names = {"sandbox": sandbox, "runners": runners}
        exec(source, names)
        return names.get("value")

    calls = {
        "run": lambda key, arguments: runners[key].run(**arguments),
        "open": open_session,
        "close": lambda key: runners.pop(key).close(),
        "evaluate": evaluate,
    }

    def answer(number: int, name: str, arguments: Any) -> None:
        try:
            value = calls[name](*arguments)
        except Exception as error:
            value = error
        with lock:
            channel.send((number, value))

    while True:
        try:
            request = channel.recv()
        except EOFError:
            request = None
        if request is None:
            return
        threading.Thread(target=answer, args=request, daemon=True).start()


if __name__ == "__main__":
    main()
