"""The driver's side: start the server and make Ray use the client."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from trm_agent.fork_server.client import SOCKET_VARIABLE

RAY_VERSION = "2.60.0"
# Ray counts the jobs of a cluster from 1, little-endian
FIRST_JOB = "01000000"
_HERE = Path(__file__).resolve().parent
# open as long as the driver lives; closing it ends the server
_SERVERS: list[subprocess.Popen] = []


def start(log: Path) -> None:
    """Start the server in the background, and tell Ray's workers its address through the environment.

    Args:
        log: the file for the output of the server and the imports.

    Call it before Ray starts, after the environment variables of the run are set (forks inherit what the imports have
    read, such as OMP_NUM_THREADS), and after the session has begun, which looks at the log.
    """
    address = str(Path(tempfile.mkdtemp(prefix="trm-agent-")) / "fork_server")
    command = [sys.executable, "-P", str(_HERE / "server.py"), address]
    # for Ray's core, which is loaded before there is a raylet: workers watch this process, which ends with the raylet
    ray_reads = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
    env = {**os.environ, **ray_reads, "PYTHONPATH": os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")])}
    with log.open("ab") as out:
        # a session of its own: a signal to the command's group is not for the workers
        _SERVERS.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env, start_new_session=True)
        )
    os.environ[SOCKET_VARIABLE] = address


def stop() -> None:
    """End the server, also while it imports; for a run that is refused."""
    for server in _SERVERS:
        server.kill()
        server.wait()
    _SERVERS.clear()


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
