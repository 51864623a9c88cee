"""Attempts to use up what the machine has once, or to reach the kernel where no ordinary program does."""

import platform

_IMPORTS = (
    "import contextlib, ctypes, errno, fcntl, mmap, os, socket, struct\n"
    "libc = ctypes.CDLL(None, use_errno=True)\nlibc.mmap.restype = libc.syscall.restype = ctypes.c_long\n"
    "def said(result): return errno.errorcode.get(ctypes.get_errno()) if result == -1 else result\n"
    "context, many = ctypes.c_ulong(0), bytes(64)\n"
)


def _called(expected: str, *calls: str) -> dict[str, tuple[str, str]]:
    return {call: (f"{_IMPORTS}print(said(libc.{call}))", f"{expected}\n") for call in calls}


def _tried(expected: str, *statements: str) -> dict[str, tuple[str, str]]:
    code = "{}try:\n    {}\n    print('done')\nexcept OSError as error: print(errno.errorcode[error.errno])"
    return {statement: (code.format(_IMPORTS, statement), f"{expected}\n") for statement in statements}


_ACL = "struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *one) for one in ((1, 7, 0), (4, 7, 0), (32, 7, 0)))"
_GROUP = "socket.inet_pton(socket.AF_INET6, 'ff02::1:3') + struct.pack('i', 1) + bytes(300)"
_IP_GROUP = "socket.inet_aton('224.0.0.9') + socket.inet_aton('127.0.0.1') + bytes(300)"
_CODE = """
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('{}'))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""

ATTACKS = {
    # contexts of asynchronous I/O, of which the machine has 65,536
    **_called("EPERM", "syscall(206, 60000, ctypes.byref(context))", "syscall(209, context, 1, many)",
              "syscall(333, context, 0, 1, many, 0, 0)", "syscall(425, 64, many)", "syscall(427, 0, 0, 0, 0)"),
    # lists of access, each kilobytes of the kernel's memory
    **_tried("ENOTSUP", f"os.setxattr('.', 'system.posix_acl_default', {_ACL})",
             f"os.mkdir('x'); os.setxattr('x', 'system.posix_acl_access', {_ACL}, follow_symlinks=False)",
             f"os.setxattr(os.open('.', os.O_RDONLY), 'system.posix_acl_access', {_ACL})",
             "os.setxattr('.', 'user.x', b'y')", "os.removexattr('.', 'user.x')"),
    **_called("ENOTSUP", "syscall(463, -100, b'.', 0, b'system.posix_acl_default', many, 16)",
              "syscall(466, -100, b'.', 0, b'user.x')"),
    # pipes
    **_tried("EPERM", "fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)", "fcntl.fcntl(os.pipe()[1], 1031, 65537)",
             "fcntl.fcntl(1, 1031, 1 << 19)"),
    **_called("EPERM", "fcntl(os.pipe()[0], 1031, ctypes.c_ulong((1 << 32) + 4096))",
              "syscall(72, os.pipe()[0], ctypes.c_ulong((9 << 32) + 1031), ctypes.c_long(1 << 20))",
              "syscall(278, os.pipe()[1], many, 1, 0)"),
    # netlink's protocols, and kinds of sockets
    **_tried("EPERM", *(f"socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {number})" for number in (2, 4, 9, 12, 16)),
             "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", "socket.socket(socket.AF_INET, 5, 132)",
             "socket.socket(38, 5, 0)", "socket.socket(40, 1, 0)"),
    **_tried("ENOPROTOOPT", "socket.socketpair()[0].setsockopt(1, 26, bytes(16))",
             "socket.socket().setsockopt(6, 31, b'tls')", "socket.socket().getsockopt(6, 35, 64)",
             "socket.socket().setsockopt(0, 64, bytes(64))"),
    # multicast groups, a list of which the kernel walks through for each that is joined, or left as the program ends
    **_tried("ENOPROTOOPT", *(f"socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).setsockopt(41, {option}, {_GROUP})"
                              for option in (20, 21, 27, 42, 46)),
             *(f"socket.socket(socket.{family}, socket.SOCK_DGRAM).setsockopt(0, {option}, {_IP_GROUP})"
               for family in ("AF_INET", "AF_INET6") for option in (35, 39, 42))),
    # what only later kernels have, and what libraries do without
    **_called("ENOSYS", *(f"syscall({number}, 0, 0, 0, 0, 0, 0)" for number in (435, 444, 451, 459, 462, 999, -1))),
    "all calls of the next years": (
        f"{_IMPORTS}print({{said(libc.syscall(number, -1, -1, -1, -1, -1, -1)) for number in range(468, 700)}})",
        "{'ENOSYS'}\n",
    ),
    # memory that is nobody's, filters compiled into memory that all share, hiding
    **_called("ENOMEM", "mmap(0, 1 << 21, 3, 0x40022, -1, 0)", "mmap(0, 1 << 30, 3, 0x78040022, -1, 0)"),
    **_called("EPERM", "memfd_create(b'x', 4)", "syscall(447, 0)", "syscall(317, 1, 0, many)",
              "prctl(22, 2, many, 0, 0)", "syscall(321, 0, many, 64)", "prctl(4, 0, 0, 0, 0)", "prctl(36, 1, 0, 0, 0)",
              "prctl(62, 1, 0, 0, 0)",
              "syscall(56, 0x411, 0, 0, 0, 0)", "syscall(154, 1, many, 16)", "personality(0x40000)"),
    **_called("EINVAL", "madvise(0, 4096, 12)", "madvise(0, 4096, 21)"),
    # a class of processes that take seconds to end
    **_tried("EPERM", *(f"os.sched_setscheduler(0, {policy}, os.sched_param(0))" for policy in (5, 0x40000005))),
    **_tried("done", "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); os.nice(5)"),
    # terminals: typing for others, the kernel's line disciplines
    **_tried("EPERM", "fcntl.ioctl(os.openpty()[1], 0x5412, b'x')", "fcntl.ioctl(os.openpty()[1], 0x5423, many)"),
    **_tried("done", "os.sync()", "os.fsync(0)", "os.posix_fadvise(0, 0, 0, 4)"),
}  # fmt: skip
"""Code, and what it prints, by what it does."""
if platform.machine() != "x86_64":
    ATTACKS = {name: attack for name, attack in ATTACKS.items() if "syscall(" not in name}

OTHER_WAYS = {
    "a 32-bit call": (f"{_IMPORTS}{_CODE.format('b814000000cd80c3')}", -31, ""),
    "a call of the x32 kind": (f"{_IMPORTS}{_CODE.format('b8270000400f05c3')}", 0, f"{-38}\n"),
    "a call that is none": (f"{_IMPORTS}{_CODE.format('b8ffffff7f0f05c3')}", 0, f"{-38}\n"),
}
"""Code for x86-64, its return code, and what it prints."""
