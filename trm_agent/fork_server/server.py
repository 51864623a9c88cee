"""The process that imports once and forks: `python -m trm_agent.fork_server.server SOCKET`.

It must stay without threads, which a fork does not copy. It ends when its standard input closes, that is, when the
driver is gone for any reason.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from multiprocessing import forkserver, resource_tracker, spawn

import wire

# seconds between two looks for workers that have ended
REAP_SECONDS = 0.3
# standard input, output and error; a request with more descriptors is for a process of `multiprocessing`
STANDARD = 3
# bytes of what the imports have said before there is a log
_MOST_OUTPUT = 1 << 20
# what the processes of a run import: loaded once, and its pages shared
PRELOAD = (
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch.utils.tensorboard",
    "pandas",
    "tensordict",
    "torchdata.stateful_dataloader",
    "transformers.models.auto.modeling_auto",
    "peft",
    "datasets",
    "gymnasium",
    "hydra",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.engine.input_processor",
    "vllm.v1.engine.output_processor",
    "transfer_queue",
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "verl.workers.engine_workers",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "trm_agent.verl_plugin.extension",
    "trm_agent.verl_plugin.driver.trainer",
    "trm_agent.verl_plugin.driver.dataset",
    "trm_agent.verl_plugin.rollout.agent_loop",
    "trm_agent.verl_plugin.rollout.recording_server",
    "trm_agent.verl_plugin.rollout.beside_server",
)

# Ray's core reads it once, when it is loaded: `handle` sets it to that of a new Ray's first driver
JOB = "RAY_JOB_ID"


def preload(names: tuple[str, ...]) -> list[str]:
    """Import the modules; returns the names of those that could not be imported, with the reason.

    Raises:
        SystemExit: the driver is gone, and nobody needs the server any more.
    """
    failed = []
    for name in names:
        if select.select([sys.stdin], [], [], 0)[0] and not hear_driver():
            raise SystemExit
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
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


def become(request: dict, descriptors: list[int]) -> None:
    """Turn this freshly forked process into the requested worker or process. Does not return."""
    status = 1
    try:
        for standard, descriptor in enumerate(descriptors[:STANDARD]):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.setsid()
        os.chdir(request["cwd"])
        extra = descriptors[STANDARD:]
        if extra:
            _find_title()
        os.environ.clear()
        os.environ.update(request["env"])
        _tell_ray()
        _reseed()
        status = run_process(extra) if extra else run_worker(request["argv"])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_worker(argv: list[str]) -> int:
    """Run a worker's script as Ray would."""
    for entry in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if entry and entry not in sys.path:
            sys.path.insert(0, entry)
    sys.argv = argv
    sys.path[0] = os.path.dirname(argv[0])
    runpy.run_path(argv[0], run_name="__main__")
    return 0


def run_process(descriptors: list[int]) -> int:
    """Run a process of `multiprocessing`, as the standard library's fork server does; return its exit code.

    Args:
        descriptors: what it is to run, where it tells its id and exit code, the resource tracker, and its own.
    """
    data, status, tracker, *own = descriptors
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    forkserver.write_signed(status, os.getpid())
    vars(resource_tracker._resource_tracker)["_fd"] = tracker
    vars(forkserver._forkserver)["_inherited_fds"] = own
    _set_threads()
    parent = os.dup(data)
    threading.Thread(target=_end_with, args=(os.dup(data),), daemon=True).start()
    code = spawn._main(data, parent)  # type: ignore[attr-defined]
    forkserver.write_signed(status, code)
    return code


def _find_title() -> None:
    """Let the process name itself: the library finds the place through the environment, which is about to go.

    Not for Ray's workers, whose names Ray's core finds in the same way, once.
    """
    with contextlib.suppress(ImportError):
        # of vLLM, which imports it where it names a process
        importlib.import_module("setproctitle").getproctitle()


def _end_with(parent: int) -> None:
    """End this process when the one that asked for it has ended: it is not our parent, whose end we would not see."""
    ended = select.poll()
    ended.register(parent, 0)  # the end alone, not the data
    ended.poll()
    os._exit(1)


def _set_threads() -> None:
    """Give torch, if it is loaded, the threads that the environment names, which it has read in the server."""
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdecimal():
        torch.set_num_threads(int(threads))


def _tell_ray() -> None:
    """Let Ray's core, if it is loaded, read its settings again: how to authenticate is decided when Ray starts."""
    core = sys.modules.get("ray._raylet")
    if core is not None:
        core.Config.initialize("")


def _reseed() -> None:
    """Seed the global random generators, whose state siblings must not share."""
    import random

    import numpy

    random.seed()
    numpy.random.seed(int.from_bytes(os.urandom(4), "big"))


def is_of_job(env: dict[str, str], job: str | None) -> bool:
    """Return True if a fork can become the worker: Ray's core, if it is loaded, knows one job."""
    return "ray._raylet" not in sys.modules or env.get(JOB, job) == job


def serve(listener: socket.socket) -> None:
    """Fork a worker for every request of this job until standard input closes."""
    job = os.environ.get(JOB)
    while True:
        readable, _, _ = select.select([listener, sys.stdin.fileno()], [], [], REAP_SECONDS)
        reap()
        if sys.stdin.fileno() in readable and not hear_driver():
            return
        if listener not in readable:
            continue
        connection, _ = listener.accept()
        with connection:
            try:
                request, descriptors = wire.receive(connection)
            except EOFError:
                continue
            except (ConnectionError, ValueError):
                traceback.print_exc()
                continue
            if len(descriptors) == STANDARD and not is_of_job(request["env"], job):
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.sendall(b"0")
                continue
            if os.fork() == 0:
                listener.close()
                connection.close()
                become(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            connection.sendall(b"1")


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
    status = 0
    try:
        if is_fit():
            serve(listener)
            return
        listener.close()
        os.unlink(address)
        if not has_log():
            hear_driver()
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        os._exit(status)  # nothing to save, and the libraries take seconds to shut down


def is_fit() -> bool:
    """Import, and say how it went; returns False if a fork would not be safe."""
    started = time.monotonic()
    gc.disable()  # a fourth of the time, for garbage that imports hardly leave
    for failure in preload(PRELOAD):
        print(f"fork server: not preloaded: {failure}", flush=True)
    threads = [thread.name for thread in threading.enumerate()]
    if len(threads) > 1:
        print(f"fork server: an import started threads ({threads}); refusing to fork", flush=True)
        return False
    gc.collect()
    gc.freeze()  # keep shared pages shared
    gc.enable()
    print(f"fork server: imports took {time.monotonic() - started:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
