"""The process that imports once and forks: `python -m trm_agent.fork_server.server SOCKET`.

It must stay without threads, which a fork does not copy. It ends when its standard input closes, that is, when the
driver is gone for any reason.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

import device_use
import wire
from client import NEEDS_ALL
from forked import STANDARD, become
from preloads import preloads
from root_logger import kept_root_logger

# seconds between two looks for workers that have ended
REAP_SECONDS = 0.3
# bytes of what the imports have said before there is a log
_MOST_OUTPUT = 1 << 20
PRELOAD = preloads(os.environ)
# the module after which a worker is forked while others are imported
WORKERS_AFTER = "verl.workers.rollout.vllm_rollout.vllm_async_server"

# Ray's core reads it once, when it is loaded: `handle` sets it to that of a new Ray's first driver
JOB = "RAY_JOB_ID"


class Unfit(Exception):
    """A process that has threads, which a fork does not copy, or a GPU, which a fork of it cannot use."""


def preload(names: tuple[str, ...], between: Callable[[str], None] = lambda _: None) -> list[str]:
    """Import the modules; returns the names of those that could not be imported, with the reason.

    Args:
        names: the modules, in order.
        between: called with the name of each afterwards.
    """
    failed = []
    for name in names:
        try:
            with kept_root_logger():
                importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
        between(name)
    return failed


def hear_driver() -> bool:
    """Go on in the log that the driver has named; returns False once the driver is gone."""
    named = os.read(sys.stdin.fileno(), select.PIPE_BUF).decode().rstrip("\n")
    if not named:
        return False
    log = os.open(named, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    if not has_log():
        os.write(log, os.pread(1, _MOST_OUTPUT, 0))
        os.ftruncate(1, 0)  # the driver looks there for what could not be said in the log
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return True


def has_log() -> bool:
    """Return True if the output goes to a log, which is open for writing only."""
    return fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


def is_of_job(env: dict[str, str], job: str | None) -> bool:
    """Return True if a fork can become the worker: Ray's core, if it is loaded, knows one job."""
    return "ray._raylet" not in sys.modules or env.get(JOB, job) == job


class Desk:
    """The requests that came, and the forks that they get as soon as what they need is imported."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.imported, self.is_complete = listener, set[str](), False
        self._job = os.environ.get(JOB)
        self._waiting: list[tuple[socket.socket, dict, list[int]]] = []

    def attend(self, seconds: float) -> None:
        """Hear the driver, and serve the requests, of which the first may come within these seconds.

        Raises:
            SystemExit: the driver is gone, and nobody needs the server any more.
            Unfit: a fork would not be safe.
        """
        while True:
            readable, _, _ = select.select([self.listener, sys.stdin.fileno()], [], [], seconds)
            reap()
            if sys.stdin.fileno() in readable and not hear_driver():
                raise SystemExit
            if self.listener in readable:
                self._receive()
            for request in [each for each in self._waiting if self._is_ready(*each[1:])]:
                self._waiting.remove(request)
                self._serve(*request)
            if not readable:
                return
            seconds = 0

    def note(self, module: str) -> None:
        """Go on after an import.

        Raises:
            Unfit: it has used a GPU.
            SystemExit: as `attend`.
        """
        check_devices(f"the import of {module}")
        self.imported.add(module)
        self.attend(0)

    def _receive(self) -> None:
        connection, _ = self.listener.accept()
        try:
            self._waiting.append((connection, *wire.receive(connection)))
        except EOFError:
            connection.close()
        except (ConnectionError, ValueError):
            connection.close()
            traceback.print_exc()

    def _is_ready(self, request: dict, descriptors: list[int]) -> bool:
        if len(descriptors) == STANDARD + 1:
            needs = next(iter(request["argv"]), "")  # of one that names nothing, all
        else:
            needs = WORKERS_AFTER if len(descriptors) == STANDARD and NEEDS_ALL not in request["env"] else ""
        return self.is_complete or needs in self.imported

    def _serve(self, connection: socket.socket, request: dict, descriptors: list[int]) -> None:
        # who has asked says no more, but for leaving
        is_waited_for = not select.select([connection], [], [], 0)[0]
        is_ours = is_waited_for and (len(descriptors) != STANDARD or is_of_job(request["env"], self._job))
        with connection:
            if is_ours:
                check_fit()
                gc.freeze()  # keep shared pages shared
                if os.fork() == 0:
                    self.close()
                    connection.close()
                    become(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            with contextlib.suppress(BrokenPipeError):  # it waits no more
                connection.sendall(b"1" if is_ours else b"0")

    def close(self) -> None:
        """Refuse all requests, also those that wait."""
        self.listener.close()
        for connection, _, descriptors in self._waiting:
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)


def check_fit() -> None:
    """Raise `Unfit` if an import has started threads, or used a GPU."""
    threads = [thread.name for thread in threading.enumerate()]
    if len(threads) > 1:
        raise Unfit(f"an import started threads ({threads}); refusing to fork")
    check_devices("something")


def check_devices(who: str) -> None:
    """Raise `Unfit` if this process holds a GPU that its forks are to use.

    Args:
        who: what may have used it, for the message.
    """
    if device_use.may_use_gpu(os.environ) and (held := device_use.in_use()):
        raise Unfit(f"warning: {who} left {', '.join(held)}; refusing to fork, so each worker starts by itself")


def reap() -> None:
    """Take note of the workers that have ended; one that a signal killed cannot tell it itself."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name
            print(f"fork server: worker {pid} was killed by signal {number} ({name})", flush=True)


def main() -> None:
    """Listen first, so that clients wait instead of failing, then import, then serve."""
    address = sys.argv[1]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    status, desk = 0, Desk(listener)
    try:
        serve(desk)
    except SystemExit:
        pass
    except Unfit as unfit:
        print(f"fork server: {unfit}", flush=True)
        desk.close()
        os.unlink(address)
        with open(address, "x"):  # a socket that is to come would be waited for
            pass
        if not has_log():
            hear_driver()
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(OSError):
            os.unlink(address)
            os.rmdir(os.path.dirname(address))  # the driver made it for the socket alone
        os._exit(status)  # nothing to save, and the libraries take seconds to shut down


def serve(desk: Desk) -> None:
    """Import, say how it went, and serve, also in between, until the driver is gone."""
    started = time.monotonic()
    gc.disable()  # a fourth of the time, for garbage that imports hardly leave
    desk.attend(0)
    for failure in preload(PRELOAD, desk.note):
        print(f"fork server: not preloaded: {failure}", flush=True)
    check_fit()
    gc.collect()
    gc.freeze()
    gc.enable()
    print(f"fork server: imports took {time.monotonic() - started:.1f} s", flush=True)
    desk.is_complete = True
    desk.attend(0)
    while True:
        desk.attend(REAP_SECONDS)


if __name__ == "__main__":
    main()
