"""The system-call filter of a sandboxed program, a classic BPF program built by hand.

It refuses what a program of a task never needs and what kernel holes are made of: namespaces, mounts, tracing,
kernel keys, BPF, io_uring, memory that no limit counts (memfd, System V shared memory), and sockets of any kind but
those that a network namespace holds (a virtual machine's socket to its host is none of them), with larger buffers.
Nor may a program set the limits or the scheduling of PID 1, which has its user and judges it, or have a signal sent
that would wake a session between its cells. And PID 1 hears of every socket that belongs to the network namespace.
"""

import contextlib
import ctypes
import errno
import fcntl
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
    "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300,
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
    "inotify_init1": 26, "fanotify_init": 262,
}  # fmt: skip
_OF_PID_1 = ((0, 1),)  # refused values of arguments, by index
_VALUES = {
    "setpriority": ((0, 2), (1, 1)),  # all processes of a user, and process 1
    "ioprio_set": ((0, 3), (1, 1)),
    "fcntl": ((1, 10),),  # F_SETSIG
    "prctl": ((0, 1),),  # PR_SET_PDEATHSIG
}
_X86_WITH_VALUES = {
    "prlimit64": 302, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142,
    "sched_setattr": 314, "setpriority": 141, "ioprio_set": 251, "fcntl": 72, "prctl": 157,
}  # fmt: skip
_ARM_WITH_VALUES = {
    "prlimit64": 261, "sched_setaffinity": 122, "sched_setscheduler": 119, "sched_setparam": 118,
    "sched_setattr": 274, "setpriority": 140, "ioprio_set": 30, "fcntl": 25, "prctl": 167,
}  # fmt: skip
_X86_OTHERS = {
    "socket": 41, "socketpair": 53, "setsockopt": 54, "timer_create": 222, "clone": 56, "clone3": 435, "seccomp": 317,
}  # fmt: skip
_ARM_OTHERS = {
    "socket": 198, "socketpair": 199, "setsockopt": 208, "timer_create": 107, "clone": 220, "clone3": 435,
    "seccomp": 277,
}  # fmt: skip
# audit architecture, refused calls, calls refused with some values, others that are looked at
_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86, _X86_WITH_VALUES, _X86_OTHERS),
    "aarch64": (0xC00000B7, _ARM, _ARM_WITH_VALUES, _ARM_OTHERS),
}
_UNIX, _OF_NETWORK = 1, (2, 10, 16)  # AF_INET, AF_INET6, AF_NETLINK
_NEW_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_SOL_SOCKET, _SO_SNDBUF, _SO_RCVBUF, _SIGCONT = 1, 7, 8, 18
_ALLOW, _ASK, _KILL, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _ANSWER, _GO_ON = 0xC0502100, 0xC0182101, 1


def install(syscall: Callable[..., int]) -> "int | None":
    """Install the filter in this process, for good and for all that it starts.

    Returns:
        The descriptor over which PID 1 hears of sockets and lets them be made; None if this kernel has none.
    """
    number = _known(platform.machine())[3]["seccomp"]
    listener = syscall(
        number, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.addressof(header(platform.machine(), True)), 0, 0
    )
    if listener >= 0:
        return listener
    if syscall(number, _SET_MODE_FILTER, 0, ctypes.addressof(header(platform.machine(), False)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return None


def let_socket_be_made(listener: int) -> None:
    """As PID 1: answer one question of the filter."""
    question = bytearray(80)  # of struct seccomp_notif; the first eight bytes are its number
    with contextlib.suppress(OSError):  # who asked has ended
        fcntl.ioctl(listener, _RECEIVE, question)
        fcntl.ioctl(listener, _ANSWER, bytes(question[:8]) + struct.pack("qiI", 0, 0, _GO_ON))


@functools.cache
def header(machine: str, asks: bool) -> "ctypes.Array[ctypes.c_char]":
    """Return the struct sock_fprog of the filter: unsigned short length, pointer."""
    code = program(machine, asks)  # its cache keeps it where the pointer points
    address = ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value
    return ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, address), 16)


def clone_number() -> int:
    """Return the number of the clone system call on this machine."""
    return _known(platform.machine())[3]["clone"]


@functools.cache
def program(machine: str, asks: bool) -> bytes:
    """Return the filter's instructions for `machine`, which ask for sockets of the network or allow them.

    Raises:
        OSError: if the system-call numbers of this machine are not known.
    """
    architecture, refused, with_values, others = _known(machine)
    refuse, absent, allow = (_step(_RETURN, how) for how in (_ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ALLOW))
    steps = [_step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    steps += [_step(_AT_LEAST, 0x40000000, 0, 1), refuse]  # the x32 numbers would pass by every other test
    # glibc falls back from clone3, whose flags a filter cannot see, to clone; `timeout` from timers to an alarm
    for name in ("clone3", "timer_create"):
        steps += _if_called(others[name], [absent])
    for number in sorted(refused.values()):
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    for name, number in with_values.items():
        tests = []
        for index, value in _VALUES.get(name, _OF_PID_1):
            tests += [_argument(index), _step(_EQUAL, value, 0, 1), refuse]
        steps += _if_called(number, [*tests, allow])
    of_unix = [_argument(0), _step(_EQUAL, _UNIX, 0, 1), allow]
    of_network = [_step(_EQUAL, family, len(_OF_NETWORK) - at, 0) for at, family in enumerate(_OF_NETWORK)]
    asked = _step(_RETURN, _ASK) if asks else allow
    steps += _if_called(others["socket"], [*of_unix, *of_network, refuse, asked])
    steps += _if_called(others["socketpair"], [*of_unix, refuse])
    sizes = [_step(_EQUAL, _SO_SNDBUF, 1, 0), _step(_EQUAL, _SO_RCVBUF, 0, 1), refuse]
    of_socket = [_argument(1), _step(_EQUAL, _SOL_SOCKET, 0, 4), _argument(2), *sizes]
    steps += _if_called(others["setsockopt"], [*of_socket, allow])
    at_its_end = [_step(_AND, 0xFF), _step(_EQUAL, _SIGCONT, 0, 1), refuse]
    namespaces = [_argument(0), _step(_ANY_BIT, _NEW_FLAGS, 0, 1), refuse]
    steps += _if_called(others["clone"], [*namespaces, *at_its_end, allow])
    return b"".join([*steps, allow])


def _if_called(number: int, steps: "list[bytes]") -> "list[bytes]":
    return [_step(_EQUAL, number, 0, len(steps)), *steps]


def _argument(index: int) -> bytes:
    return _step(_LOAD, 16 + 8 * index)


def _known(machine: str) -> "tuple[int, dict[str, int], dict[str, int], dict[str, int]]":
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"machine = {machine!r}: expected one of {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
