"""The system-call filter of a sandboxed program, a classic BPF program built by hand.

It refuses what a program of a task never needs and what kernel holes are made of: namespaces, mounts, tracing,
kernel keys, BPF, io_uring, memory that no limit counts (memfd, System V shared memory), and sockets of any kind but
those that a network namespace holds (a virtual machine's socket to its host is none of them). Nor may a program set
the limits or the scheduling of PID 1, which has its user and judges it.
"""

import ctypes
import errno
import functools
import platform
import struct
from collections.abc import Callable

_X86 = {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68, "semget": 64, "personality": 135,
    "init_module": 175, "finit_module": 313, "kexec_load": 246, "open_by_handle_at": 304, "swapon": 167,
    "quotactl": 179, "syslog": 103, "acct": 163, "vmsplice": 278,
}  # fmt: skip
_ARM = {
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438,
    "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
    "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "msgget": 186, "semget": 190, "personality": 92,
    "init_module": 105, "finit_module": 273, "kexec_load": 104, "open_by_handle_at": 265, "swapon": 224,
    "quotactl": 60, "syslog": 116, "acct": 89, "vmsplice": 75,
}  # fmt: skip
_OF_PID_1 = ((0, 1),)  # refused values of arguments, by index
_OF_KIND = {"setpriority": ((0, 2), (1, 1)), "ioprio_set": ((0, 3), (1, 1))}  # all processes of a user, and process 1
_X86_OF_OTHERS = {
    "prlimit64": 302, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142,
    "sched_setattr": 314, "setpriority": 141, "ioprio_set": 251,
}  # fmt: skip
_ARM_OF_OTHERS = {
    "prlimit64": 261, "sched_setaffinity": 122, "sched_setscheduler": 119, "sched_setparam": 118,
    "sched_setattr": 274, "setpriority": 140, "ioprio_set": 30,
}  # fmt: skip
# audit architecture, refused calls, calls refused with some arguments, socket and socketpair, clone, clone3
_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86, _X86_OF_OTHERS, (41, 53), 56, 435),
    "aarch64": (0xC00000B7, _ARM, _ARM_OF_OTHERS, (198, 199), 220, 435),
}
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_NEW_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def install(prctl: Callable[..., int]) -> None:
    """Install the filter in this process, for good and for all that it starts."""
    if prctl(_PR_SET_SECCOMP, _MODE_FILTER, header(platform.machine()), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


@functools.cache
def header(machine: str) -> bytes:
    """Return the struct sock_fprog of the filter: unsigned short length, pointer."""
    code = program(machine)  # its cache keeps it where the pointer points
    return struct.pack("HxxxxxxP", len(code) // 8, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value)


def clone_number() -> int:
    """The number of the clone system call on this machine."""
    return _known(platform.machine())[4]


@functools.cache
def program(machine: str) -> bytes:
    """Return the filter's instructions for `machine`.

    Raises:
        OSError: if the system-call numbers of this machine are not known.
    """
    architecture, refused, of_others, sockets, clone, clone3 = _known(machine)
    refuse, absent = _step(_RETURN, _ERRNO | errno.EPERM), _step(_RETURN, _ERRNO | errno.ENOSYS)
    steps = [_step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    steps += [_step(_AT_LEAST, 0x40000000, 0, 1), refuse]  # the x32 numbers would pass by every other test
    # glibc falls back from clone3, whose flags a filter cannot see, to clone
    steps += [_step(_EQUAL, clone3, 0, 1), absent]
    for number in sorted(refused.values()):
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    for name, number in of_others.items():
        tests = [(_EQUAL, *test) for test in _OF_KIND.get(name, _OF_PID_1)]
        steps += _with_arguments(number, tests, refuse)
    known = [_step(_EQUAL, family, len(_FAMILIES) - index, 0) for index, family in enumerate(_FAMILIES)]
    for number in sockets:
        steps += [_step(_EQUAL, number, 0, len(known) + 3), _step(_LOAD, 16), *known, refuse, _step(_RETURN, _ALLOW)]
    steps += _with_arguments(clone, [(_ANY_BIT, 0, _NEW_FLAGS)], refuse)
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _with_arguments(number: int, tests: "list[tuple[int, int, int]]", refuse: bytes) -> "list[bytes]":
    """Refuse a call if a test, of the kind, the argument's index and the value, is true; else allow it."""
    steps = []
    for kind, index, value in tests:
        steps += [_step(_LOAD, 16 + 8 * index), _step(kind, value, 0, 1), refuse]
    steps.append(_step(_RETURN, _ALLOW))
    return [_step(_EQUAL, number, 0, len(steps)), *steps]


def _known(machine: str) -> "tuple[int, dict[str, int], dict[str, int], tuple[int, int], int, int]":
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"machine = {machine!r}: expected one of {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
