"""A fresh fork of the server becomes a worker of Ray, a process of `multiprocessing`, or answers a call."""

import contextlib
import gc
import importlib
import os
import pickle
import runpy
import select
import socket
import sys
import threading
import traceback
from multiprocessing import forkserver, resource_tracker, spawn
from typing import Any

import device_use
import wire

# standard input, output and error; a request with one descriptor more is a call, with several a process
STANDARD = 3


def become(request: dict, descriptors: list[int]) -> None:
    """Turn this freshly forked process into the requested worker or process. Does not return."""
    status = 1
    try:
        gc.enable()
        for standard, descriptor in enumerate(descriptors[:STANDARD]):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.setsid()
        os.chdir(request["cwd"])
        extra = descriptors[STANDARD:]
        if len(extra) > 1:
            _find_title()
        os.environ.clear()
        os.environ.update(request["env"])
        _tell_ray()
        _reseed()
        status = run_process(extra) if len(extra) > 1 else answer(*extra) if extra else run_worker(request["argv"])
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
    if device_use.may_use_gpu(os.environ):
        _read_again()
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


def answer(descriptor: int) -> int:
    """Call the function that stands in a socket, and answer with the result or the exception; see `calls`."""
    os.set_inheritable(descriptor, False)
    _set_threads()
    threading.Thread(target=_end_with, args=(os.dup(descriptor),), daemon=True).start()
    with socket.socket(fileno=descriptor) as asker:
        with asker.makefile("rb") as stream:
            module, name, arguments = pickle.load(stream)
        try:
            told: tuple[Any, Any] = (getattr(importlib.import_module(module), name)(*arguments), None)
        except (Exception, SystemExit) as error:
            told = None, (error, traceback.format_exc())
        sys.stdout.flush()
        sys.stderr.flush()
        sent = _pickled(told)
        # a process that the function has left may keep the socket open, so its end says nothing
        asker.sendall(len(sent).to_bytes(wire.LENGTH_BYTES, "big") + sent)
    return 0


def _pickled(told: tuple[Any, Any]) -> bytes:
    """Return an answer with the environment; an exception that cannot be sent becomes one of its words."""
    try:
        sent = pickle.dumps((*told, dict(os.environ)))
        pickle.loads(sent)
    except Exception as unsent:
        error, trace = told[1] or (unsent, traceback.format_exc())
        # a refusal stays one
        kind, named = (ValueError, f"{error}") if isinstance(error, ValueError) else (RuntimeError, _told(error))
        sent = pickle.dumps((None, (kind(named), trace), dict(os.environ)))
    return sent


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


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


def _read_again() -> None:
    """Let torch and Ray follow variables that they have read in the server, as they would in a fresh process.

    Without a GPU `hardware.env_vars` sets the threads. With one Ray does, in a worker, before its first task imports
    torch: a fork has torch already. And Ray numbers devices within those that the process was shown first.
    """
    _set_threads()
    utils, worker = (sys.modules.get(f"ray._private.{name}") for name in ("utils", "worker"))
    if utils is None or worker is None:
        return
    worker.global_worker.original_visible_accelerator_ids = utils.get_visible_accelerator_ids()
    set_variable = utils.set_omp_num_threads_if_unset

    def set_threads() -> bool:
        is_set = bool(set_variable())
        if is_set:
            _set_threads()
        return is_set

    vars(utils)["set_omp_num_threads_if_unset"] = set_threads


def _reseed() -> None:
    """Seed the global random generators, whose state siblings must not share."""
    import random

    import numpy

    random.seed()
    numpy.random.seed(int.from_bytes(os.urandom(4), "big"))
