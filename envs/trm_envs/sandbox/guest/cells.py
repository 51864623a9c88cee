"""Runs code in this very interpreter as `python main.py` would, once or cell by cell."""

import atexit
import builtins
import contextlib
import gc
import linecache
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from . import wire

NAME = "main.py"
_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"


def limit_imports(packages: str) -> None:
    """Let programs import the standard library and the folder `packages`, whatever else is installed."""
    library = os.path.dirname(os.__file__)
    own = (library, os.path.join(library, "lib-dynload"), f"{os.path.dirname(library)}/{_ZIP}")
    sys.path[:] = [*(entry for entry in sys.path if entry in own), packages]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")]


def make_main() -> None:
    """Make the `__main__`, the streams over descriptors 0 to 2 and the signal handlers that a program finds."""
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        buffering = 1 if fd == 2 else -1
        stream = open(fd, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.argv[:] = [NAME]


def run(kind: bytes, code: str, folder: str, next_cell: "Callable[[bool], str | None]") -> None:
    """Run the code in `folder`. Never returns.

    Args:
        kind: one of `wire.CALL`, `wire.CELL` and `wire.SCRIPT`.
        code: the program, or the first cell of a session.
        folder: where it runs.
        next_cell: in a session, takes whether the cell ended by an exception, and returns the next; None if none comes.
    """
    os.chdir(folder)
    if kind == wire.SCRIPT:
        _run_bash(code, os.path.join(os.path.dirname(folder), ".main.sh"))
    sys.path.insert(0, folder)  # not earlier: a supervisor must never import from there
    gc.enable()
    module = sys.modules["__main__"]
    if kind == wire.CALL:
        _leave(_run_code(code, module, NAME))
    cell: str | None = code
    number = 0
    while cell is not None:
        number += 1
        status = _run_code(cell, module, f"cell_{number}.py")
        if status is not None and status[0] == "exit":
            _leave(status)
        _flush()
        cell = next_cell(status is not None)
    os._exit(0)


def _run_code(source: str, module: types.ModuleType, name: str) -> "tuple[str, Any] | None":
    """Run the code; return None if it came to its end, else ("exit", code) or ("raised", None)."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    try:
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        return ("exit", error.code)
    except BaseException as error:
        own = error.__traceback__.tb_next if error.__traceback__ else None  # without the frame of this function
        with contextlib.suppress(BaseException):
            traceback.print_exception(type(error), error, own)
        return ("raised", None)
    return None


def _leave(status: "tuple[str, Any] | None") -> None:
    """End as `python main.py` would: wait for threads, run atexit, flush, exit."""
    code = 0 if status is None else 1
    if status is not None and status[0] == "exit":
        value = status[1]
        if value is None or isinstance(value, int):
            code = (value or 0) & 0xFF
        else:
            print(value, file=sys.stderr)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        if not _flush() and code == 0:
            code = 120  # what the interpreter itself exits with
        os._exit(code)


def _flush() -> bool:
    done = True
    # the original streams too: a program may have put others in their place and kept them
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:
            done = False
    return done


def _run_bash(source: str, path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, source.encode("utf-8", "surrogateescape"))
    os.close(fd)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    os.execv("/bin/bash", ["bash", path])
