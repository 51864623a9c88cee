"""The Linux calls that isolate one call: namespaces, private mounts, dropped capabilities, rlimits."""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
import struct

from . import seccomp, wire

WORK = "/tmp/work"
TERMINALS = 6
"""Number of pseudo-terminals of a call; all calls of the machine together have about 3,000."""
DESCRIPTORS = 256
"""Number of descriptors of each process of a call."""
WAITING_CONNECTIONS = b"32"
"""Number of connections that may wait at a listening socket to be accepted."""
CLOSED_CONNECTIONS = b"256"
"""Number of closed connections whose ports are kept from others for a minute."""
QUEUED_SIGNALS = 128
"""Number of signals with contents that may wait for the processes of a call."""
_HIDDEN = ("locks", "keys", "key-users", "cmdline")  # of /proc: the whole machine's, the kernel's own arguments last
_LAST_PID_CAN_BE_SET = os.path.exists("/proc/sys/kernel/ns_last_pid")

_LIBC = ctypes.CDLL(None, use_errno=True)
# holds the interpreter's lock over the clone; raw, for glibc's fork takes no flags
_SYSCALL = ctypes.PyDLL(None, use_errno=True).syscall
_SYSCALL.restype = ctypes.c_long
_SYSCALL.argtypes = [ctypes.c_long] * 6
_PRCTL, _CAPSET, _MOUNT = _LIBC.prctl, _LIBC.capset, _LIBC.mount  # looked up once, in the zygote
_UMOUNT, _UNSHARE = _LIBC.umount2, _LIBC.unshare
_NEW_NAMESPACES = (
    0x10000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x04000000 | 0x40000000
)  # user pid mnt ipc uts net
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_RENEWED = 0x08000000 | 0x04000000  # ipc uts
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)
_RESET_ON_FORK, _TURN_NS = 1, 100_000
_CLOSE_RANGE, _LAST_FD = 436, 0x7FFFFFFF


def checked(result: int, what: str) -> None:
    """Raise an OSError that names the failed call."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def fork_into_namespaces() -> int:
    """Fork a child that is PID 1 of its own user, PID, mount, IPC, host-name and network namespaces, in one clone.

    The interpreter is not told of it: that is sound with a single thread and a child that makes no other, and leaves
    many pages of memory shared.
    """
    pid = _SYSCALL(seccomp.number_of("clone"), _NEW_NAMESPACES | signal.SIGCHLD, 0, 0, 0, 0)
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def refuse_new_privileges() -> None:
    """As PID 1 of the call, before it forks: see to it that no program can gain a privilege."""
    for capability in range(64):
        if _PRCTL(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    checked(_PRCTL(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def ask_for_short_turns() -> None:
    """As PID 1 of the call: be scheduled soon when woken, for short turns, on a kernel that can (Linux 6.12).

    What it starts is scheduled as everybody is.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, 0, _RESET_ON_FORK, nice, 0, _TURN_NS, 0, 0))
    _SYSCALL(seccomp.number_of("sched_setattr"), 0, ctypes.addressof(attributes), 0, 0, 0)


def go_first() -> None:
    """As PID 1 of the call: have a program ended, not the host's process, where the machine runs out of memory."""
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", b"1000")


def map_own_user(uid: int, gid: int) -> None:
    """As PID 1 of the call: be the user `uid` of the zygote in the new user namespace too."""
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", line.encode())


def make_private_world() -> int:
    """As PID 1 of the call: mount its own /proc, /tmp and terminals, raise the loopback, hide from programs.

    Returns:
        The descriptor of a /proc of PID 1's own, in which no process can hide and the kernel's settings can be written.
    """
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("proc", "/proc", "proc", flags, "hidepid=0")
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)  # the next one lies over it
    _mount("proc", "/proc", "proc", flags, "hidepid=2")  # what PID 1 did for others can be read off it
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    for name in ("tcp_rmem", "tcp_wmem"):  # buffers are memory that no limit counts
        _write(f"/proc/sys/net/ipv4/{name}", b"4096 16384 65536")
    _write("/proc/sys/net/core/somaxconn", WAITING_CONNECTIONS)  # nor is what waits to be accepted
    with contextlib.suppress(OSError):  # nor what is left of a closed connection, of which a kernel may have one number
        _write("/proc/sys/net/ipv4/tcp_max_tw_buckets", CLOSED_CONNECTIONS)
    # read-only for programs: all of them have the scheduling group whose weight stands there
    _mount("/proc", "/proc", None, _MS_BIND, "")
    _mount("proc", "/proc", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags, "")
    _keep_devices_unchanged()
    for name in _HIDDEN:
        if os.path.exists(f"/proc/{name}"):
            _mount("/dev/null", f"/proc/{name}", None, _MS_BIND, "")
    _mount_terminals()
    _mount_tmp()
    checked(_PRCTL(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")
    return proc


def renew_world(proc: int) -> None:
    """As PID 1 between two calls, with every process of the first one gone: remove all traces of it.

    That is its files, its process numbers and what it did to its IPC and host-name namespaces, which are new ones from
    here on. Kernel keys and every setting of the namespaces that stay are out of a program's reach; those in which a
    program has made a socket of the network are not renewed.

    Args:
        proc: the result of `make_private_world`.

    Raises:
        OSError: if something stays; these namespaces must not serve another call then.
    """
    fd = os.open("/proc/net/unix", os.O_RDONLY)
    lines = os.read(fd, 1000).count(b"\n")
    os.close(fd)
    if lines > 1:
        raise OSError("local sockets are left: the kernel collects late those that were sent over each other")
    for target in ("/dev/shm", "/tmp", "/dev/pts"):
        checked(_UMOUNT(target.encode(), 0), f"umount {target}")
    _mount_terminals()
    _mount_tmp()
    checked(_UNSHARE(_RENEWED), "unshare")
    if _LAST_PID_CAN_BE_SET:
        _write("sys/kernel/ns_last_pid", b"1", proc)


def limit_disk(disk_bytes: int, num_files: int) -> None:
    """Give /tmp, and with it /dev/shm, the size that the call may use."""
    flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV
    _mount("tmpfs", "/tmp", None, flags, f"size={disk_bytes},nr_inodes={num_files}")


def limit_process(pid: int, order: wire.Order) -> None:
    """Set the rlimits of the program's process, before it is handed any code."""
    cpu, num = int(-(-order.cpu_s // 1)), order.processes + 1  # + 1: the call's PID 1
    resource.prlimit(pid, resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.prlimit(pid, resource.RLIMIT_AS, (order.memory_bytes, order.memory_bytes))
    resource.prlimit(pid, resource.RLIMIT_STACK, (order.stack_bytes, order.stack_bytes))
    resource.prlimit(pid, resource.RLIMIT_NPROC, (num, num))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (order.file_bytes, order.file_bytes))


def limit_all_processes() -> None:
    """In the zygote: set the rlimits that are the same for all calls."""
    core = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0  # with 0 a crash starts the machine's collector
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    for kind in ("MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"):
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (0, 0))
    # far more than `limit_own` leaves: descriptors in flight between sockets are counted for all programs together, and
    # what a user namespace of a call may hold of signals is what its maker had, all such namespaces together
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_SIGPENDING):
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most, most))


def confine() -> "int | None":
    """As the program's process: give up every capability, and install the system-call filter.

    Returns:
        What `seccomp.install` does.
    """
    checked(_CAPSET(_CAPABILITY_HEADER, bytes(24)), "capset")
    checked(_PRCTL(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")
    return seccomp.install(_SYSCALL)


def limit_own() -> None:
    """As the program's process: limit its descriptors, once it has sent the last one, and its queued signals."""
    for limit, most in ((resource.RLIMIT_NOFILE, DESCRIPTORS), (resource.RLIMIT_SIGPENDING, QUEUED_SIGNALS)):
        hard = resource.getrlimit(limit)[1]
        number = most if hard == resource.RLIM_INFINITY else min(most, hard)  # the machine's may be lower
        resource.setrlimit(limit, (number, number))


def close_other_fds(keep: int) -> None:
    """Close every descriptor above 2 but `keep`."""
    for first, last in ((3, keep - 1), (keep + 1, _LAST_FD)):
        if first <= last and _SYSCALL(_CLOSE_RANGE, first, last, 0, 0, 0) != 0:
            break
    else:
        return
    for name in os.listdir("/proc/self/fd"):  # a kernel without close_range
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _write(path: str, data: bytes, folder: "int | None" = None) -> None:
    fd = os.open(path, os.O_WRONLY, dir_fd=folder)
    os.write(fd, data)
    os.close(fd)


def _keep_devices_unchanged() -> None:
    """Make the device files read-only: they are the machine's, and a time set on one could be read in all calls.

    In the place of /dev/zero lies /dev/full, which reads the same: only the former can be mapped, as shared memory.
    """
    for entry in os.scandir("/dev"):
        if stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode):
            locked = os.statvfs(entry.path).f_flag & (_MS_NOSUID | _MS_NOEXEC)
            _mount("/dev/full" if entry.name == "zero" else entry.path, entry.path, None, _MS_BIND, "")
            _mount("none", entry.path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | locked, "")


def _mount_terminals() -> None:
    options = f"newinstance,ptmxmode=0666,mode=600,max={TERMINALS}"
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, options)


def _mount_tmp() -> None:
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=16,mode=0700")
    os.mkdir(WORK)
    os.mkdir("/tmp/.shm")
    _mount("/tmp/.shm", "/dev/shm", None, _MS_BIND, "")


def _mount(source: str, target: str, kind: "str | None", flags: int, data: str) -> None:
    kind_bytes = kind.encode() if kind else None
    done = _MOUNT(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), data.encode())
    checked(done, f"mount {target}")
