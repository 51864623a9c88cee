"""The system-call filter of a sandboxed program: a list of what it may call, by number and by argument.

`syscalls` holds the numbers, `arguments` the checks. It lets through what the interpreter, numerical libraries, shells
and compilers need; not what kernel holes are made of, nor what the machine has once for all programs. Nor may a program
set the limits or the scheduling of PID 1, which has its user and judges it, or have a signal sent that would wake a
session between its cells. And PID 1 is asked for every socket of the network namespace and for every lock.
"""

import ctypes
import errno
import functools
import platform
import struct
from collections.abc import Callable

from . import arguments, bpf, syscalls

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit architecture, column of the numbers
_ANSWERS = (
    (syscalls.ALLOWED, arguments.ALLOW),
    (syscalls.IDLE, arguments.NOTHING),
    (syscalls.UNSUPPORTED, arguments.UNSUPPORTED),
    (syscalls.ABSENT, arguments.ABSENT),
    (syscalls.REFUSED, arguments.REFUSE),
)
_SET_MODE_FILTER, _NEW_LISTENER, _UNINTERRUPTED = 1, 8, 32
"""The last: who asks is left alone by signals once PID 1 has the question (Linux 5.19)."""

_counts = [False]  # the last: as the zygote was told


def prepare(counts: bool) -> None:
    """In the zygote: make what all calls need.

    Args:
        counts: whether PID 1 is to be asked for threads.
    """
    _counts.append(counts)
    header(platform.machine(), True, counts)
    for name in ("clone", "seccomp", "socket", "sched_setattr"):
        number_of(name)


def install(syscall: Callable[..., int]) -> "int | None":
    """Install the filter in this process, for good and for all that it starts.

    Returns:
        The descriptor over which PID 1 is asked, see `questions`; None if this kernel has none.
    """
    machine, seccomp = platform.machine(), number_of("seccomp")
    for flags in (_NEW_LISTENER | _UNINTERRUPTED, _NEW_LISTENER):
        listener = syscall(seccomp, _SET_MODE_FILTER, flags, ctypes.addressof(header(machine, True, _counts[-1])), 0, 0)
        if listener >= 0:
            return listener
    if syscall(seccomp, _SET_MODE_FILTER, 0, ctypes.addressof(header(machine, False, False)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return None


@functools.cache
def header(machine: str, asks: bool, counts: bool) -> "ctypes.Array[ctypes.c_char]":
    """Return the struct sock_fprog of the filter: unsigned short length, pointer."""
    code = program(machine, asks, counts)  # its cache keeps it where the pointer points
    address = ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value
    return ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, address), 16)


@functools.cache
def number_of(name: str) -> int:
    """Return the number of a system call on this machine."""
    known = {name: numbers for names, _ in _ANSWERS for name, numbers in names.items()} | syscalls.CHECKED
    return known[name][_known(platform.machine())[1]]


@functools.cache
def program(machine: str, asks: bool, counts: bool = False) -> bytes:
    """Return the filter's instructions for `machine`.

    Args:
        machine: as `platform.machine` names it.
        asks: whether PID 1 is asked, or all is allowed for which it would be.
        counts: whether it is asked for threads, too.

    Raises:
        OSError: if the system-call numbers of this machine are not known.
    """
    architecture, column = _known(machine)
    answers = {numbers[column]: [answer] for names, answer in _ANSWERS for numbers in names.values()}
    for name, steps in arguments.checks(asks, counts).items():
        answers[syscalls.CHECKED[name][column]] = steps
    answers.pop(-1, None)
    steps = [bpf.step(bpf.LOAD, bpf.ARCHITECTURE), bpf.step(bpf.EQUAL, architecture, 1, 0), arguments.KILL]
    return b"".join([*steps, bpf.step(bpf.LOAD, bpf.NUMBER), *bpf.tree(answers, [arguments.ABSENT])])


def _known(machine: str) -> "tuple[int, int]":
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"machine = {machine!r}: expected one of {', '.join(_MACHINES)}")
    return _MACHINES[machine]
