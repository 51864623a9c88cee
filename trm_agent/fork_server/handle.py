"""The driver's side: start the server and make Ray use the client."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trm_agent.fork_server.client import SOCKET_VARIABLE

RAY_VERSION = "2.60.0"
# Ray counts the jobs of a cluster from 1, little-endian
FIRST_JOB = "01000000"
_HERE = Path(__file__).resolve().parent


@dataclass
class _Server:
    process: subprocess.Popen
    """Its input is open as long as the driver lives; closing it ends the server."""
    out: IO[bytes]
    """Its output until it has heard of a log, which empties this file."""
    folder: Path
    """Made for its socket alone; the server removes it at its end."""
    env: Mapping[str, str]
    """The environment that its imports read."""
    expected: Collection[str] = ()
    """The variables that it was given before the configuration was known."""
    log: Path | None = None
    """The log that it was told."""


_SERVERS: list[_Server] = []


def start_at_once(env: Mapping[str, str]) -> None:
    """Start the server beside the composition of the configuration, with the variables that it will most likely set.

    A process that has done their imports already does not wait for them, and starts it when they are done.

    Args:
        env: what the imports read, such as OMP_NUM_THREADS. A fork gets the environment of the process that asks for
            it, so what is read later (TENSORBOARD_DIR, TOKENIZERS_PARALLELISM) may be set later.
    """
    if "torch" not in sys.modules and not _SERVERS:
        _start({**os.environ, **env}, tuple(env))


def start_early(is_wanted: bool, names: Iterable[str]) -> None:
    """Start the server beside the checks of the model, if none has started at once with the environment as it is now.

    Args:
        is_wanted: whether the run has a server: one that has started is stopped otherwise.
        names: the variables that the configuration sets.
    """
    if not is_wanted or any(_differs(server, {*names, *server.expected}) for server in _SERVERS):
        stop()
    if is_wanted:
        start_at_once({})


def _differs(server: _Server, names: Iterable[str]) -> bool:
    return any(server.env.get(name) != os.environ.get(name) for name in names)


def start(log: Path) -> None:
    """Start the server in the background, if there is none, and give it a log.

    Args:
        log: the file for the output of the server and the imports, also for what they have said before.

    Call it before Ray starts, and after the session has begun, which looks at the log.
    """
    tell_ended()
    if not _SERVERS:
        _start(os.environ)
    for server in _SERVERS:
        server.log = log.resolve()
        assert server.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended
            server.process.stdin.write(f"{server.log}\n".encode())
    tell_ended()


def tell_ended() -> None:
    """Put into the log what a server that has ended did not say there itself, and forget the server."""
    for server in list(_SERVERS):
        if server.log is None or server.process.poll() is None:
            continue
        server.out.seek(0)
        if told := server.out.read():
            with server.log.open("ab") as file:
                file.write(told)
        _forget(server)


def _forget(server: _Server) -> None:
    for file in (server.process.stdin, server.out):
        assert file is not None
        file.close()
    _SERVERS.remove(server)


def _start(variables: Mapping[str, str], expected: Collection[str] = ()) -> None:
    """Start the server in an environment, and tell Ray's workers its address through that of this process."""
    folder = Path(tempfile.mkdtemp(prefix="trm-agent-"))
    address = str(folder / "fork_server")
    command = [sys.executable, "-P", str(_HERE / "server.py"), address]
    # for Ray's core, which is loaded before there is a raylet: workers watch this process, which ends with the raylet
    ray_reads = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
    env = {**variables, **ray_reads, "PYTHONPATH": os.pathsep.join([str(_HERE), variables.get("PYTHONPATH", "")])}
    out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
    # a session of its own: a signal to the command's group is not for the workers
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env, start_new_session=True, bufsize=0
    )
    _SERVERS.append(_Server(server, out, folder, dict(variables), expected))
    os.environ[SOCKET_VARIABLE] = address


def is_serving() -> bool:
    """Wait until the server listens, which is long before its imports; False if there is none that forks."""
    address = Path(os.environ.get(SOCKET_VARIABLE, ""))
    while _SERVERS and not address.is_socket():
        # a file in the place of the socket says that the server is there and refuses
        if _SERVERS[-1].process.poll() is not None or address.is_file():
            return False
        time.sleep(0.01)
    return bool(_SERVERS)


def stop() -> None:
    """End the server, also while it imports; for a run that is refused, or has ended."""
    # who finds it there expects a server
    os.environ.pop(SOCKET_VARIABLE, None)
    for server in list(_SERVERS):
        server.process.kill()
        server.process.wait()
        shutil.rmtree(server.folder, ignore_errors=True)
        _forget(server)


def use_for_ray() -> None:
    """Make the local Ray start its workers through the client.

    Ray has no setting for its worker set-up script; its path is joined from this constant, and an absolute path wins.

    Raises:
        RuntimeError: Ray has another version than the one that this was written for.
    """
    import ray
    from ray._private import ray_constants

    if ray.__version__ != RAY_VERSION:
        raise RuntimeError(
            f"hardware.fork_server=true was written for ray {RAY_VERSION}, found {ray.__version__}; "
            "install that version (scripts/setup.sh does) or set hardware.fork_server=false"
        )
    ray_constants.SETUP_WORKER_FILENAME = str(_HERE / "client.py")
