"""The system-call filter, instruction by instruction, on both kinds of machine: what is let through and what is not."""

import re
from pathlib import Path

import pytest

from tests.envs.bpf_machine import GROUPS, MACHINES, answer, numbers
from trm_envs.sandbox.guest import seccomp, syscalls

# by use: what an interpreter starts with, and what its libraries, a shell and a compiler call
NEEDED = {
    "every process": (
        "read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64 "
        "writev access openat newfstatat readlink readlinkat getrandom exit exit_group execve uname getcwd fcntl "
        "futex set_tid_address set_robust_list rseq arch_prctl prlimit64 getdents64 statx getpid gettid getuid "
        "geteuid getgid getegid clock_gettime clock_nanosleep sysinfo sigaltstack mremap madvise dup dup3"
    ),
    "CPython": (
        "open stat lstat socket bind listen connect getsockname getpeername setsockopt getsockopt sendto recvfrom "
        "sendmsg accept4 recvmsg shutdown socketpair pipe2 epoll_create1 epoll_ctl epoll_wait epoll_pwait poll ppoll "
        "select pselect6 eventfd2 timerfd_create timerfd_settime signalfd4 pidfd_open pidfd_send_signal waitid wait4 "
        "kill tgkill clone vfork fork setsid setpgid getpgid getppid getsid sched_getaffinity sched_setaffinity "
        "sched_yield getrusage times getpriority setpriority setitimer getitimer alarm pause nanosleep "
        "rt_sigtimedwait rt_sigpending sendfile? copy_file_range ftruncate truncate fallocate rename renameat "
        "renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 "
        "chown fchown fchownat lchown utimensat umask chdir fchdir statfs fstatfs getxattr listxattr fsync fdatasync "
        "sync mknod mknodat flock pwrite64 preadv pwritev readv close_range getgroups getresuid getresgid prctl"
    ),
    "numpy, BLAS and OpenMP": (
        "get_mempolicy getcpu sched_getscheduler sched_getparam rt_sigqueueinfo mincore membarrier? mbind?"
    ),
    "bash, coreutils and compilers": (
        "pipe dup2 getpgrp setpgid setuid setgid faccessat faccessat2 getrlimit setrlimit getdents creat vfork wait4 "
        "fadvise64 personality? sync_file_range syncfs setresuid setresgid clone3? setxattr? futimesat utime utimes "
        "time gettimeofday restart_syscall rt_sigsuspend execveat openat2 epoll_pwait2 futex_waitv"
    ),
}
"""Names that end in a question mark are tried, and done without when they fail."""


def headers() -> dict[str, int]:
    """The numbers of x86-64 by this machine's own headers."""
    paths = [Path(f"/usr/include/{folder}asm/unistd_64.h") for folder in ("x86_64-linux-gnu/", "")]
    text = "".join(path.read_text() for path in paths if path.exists())
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def test_each_call_stands_in_the_table_once_with_a_number_of_its_own() -> None:
    names = [name for group in GROUPS for name in group]
    assert len(names) == len(set(names)) > 350
    for machine in MACHINES:
        values = list(numbers(machine).values())
        assert len(values) == len(set(values))
        assert max(values) < 512
    # those that came with Linux 5.1 or later have one number everywhere
    assert all(x86 == arm for group in GROUPS for x86, arm in group.values() if x86 >= 424)


@pytest.mark.skipif(not headers(), reason="needs the kernel's headers (apt-get install linux-libc-dev)")
def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    known = headers()
    assert {name: number for name, number in numbers("x86_64").items() if known.get(name, number) != number} == {}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("use", NEEDED)
def test_what_programs_need_is_let_through(machine: str, use: str) -> None:
    known, everywhere = numbers(machine), set().union(*GROUPS)
    for name in NEEDED[use].split():
        assert name.rstrip("?") in everywhere
        if name.rstrip("?") in known:
            said = answer(machine, name.rstrip("?"), *FIRST.get(name, ()))
            assert said in (("EPERM", "ENOSYS", "ENOTSUP") if name.endswith("?") else ("allow", "ask", "0")), name


FIRST = {
    "ioctl": (1, 0x5401), "fcntl": (1, 3), "prctl": (15,), "arch_prctl": (0x1002,), "socket": (2, 1, 0),
    "socketpair": (1, 1, 0), "setsockopt": (3, 1, 2), "madvise": (0, 0, 4), "clone": (0x1200011,),
}  # fmt: skip
"""Arguments with which they are called."""


@pytest.mark.parametrize("machine", MACHINES)
def test_a_number_that_is_not_known_is_absent(machine: str) -> None:
    known = set(numbers(machine).values())
    unknown = [*range(600), 0x40000000, 0x40000001, 0x400001FF, 0x7FFFFFFF, 0x80000000, -1]
    assert {answer(machine, number) for number in unknown if number not in known} == {"ENOSYS"}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_is_answered_as_the_table_says(machine: str) -> None:
    for group, said in (
        (syscalls.ALLOWED, "allow"), (syscalls.IDLE, "0"), (syscalls.UNSUPPORTED, "ENOTSUP"),
        (syscalls.ABSENT, "ENOSYS"), (syscalls.REFUSED, "EPERM"),
    ):  # fmt: skip
        for name in group.keys() & numbers(machine).keys():
            assert answer(machine, name, *[(1 << 64) - 1] * 6) == said, name


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_by_another_machines_way_end_the_program(machine: str) -> None:
    for audit in (0x40000003, 0x40000028, 0):  # i386, arm
        assert answer(machine, "read", audit=audit) == "kill"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("clone", (0x3D0F00,), "allow"),  # a thread
        ("clone", (0x4111,), "allow"),  # as posix_spawn
        ("clone", (0x10000011,), "EPERM"),
        ("clone", (0x02000011,), "EPERM"),
        ("clone", (18,), "EPERM"),
        ("clone", (0x10F00 | 18,), "EPERM"),
        ("clone", (0x10B00,), "EPERM"),  # a thread with descriptors of its own
        ("clone", (0x411,), "EPERM"),  # a process with the descriptors of this one
        ("socket", (1, 2, 0), "ask"),
        ("socket", (2, 0x80801, 6), "ask"),
        ("socket", (10, 2, 17), "ask"),
        ("socket", (2, 1, 262), "EPERM"),
        ("socket", (2, 3, 1), "EPERM"),
        ("socket", (2, 5, 132), "EPERM"),
        ("socket", (16, 3, 0), "ask"),
        *(("socket", (16, 3, protocol), "EPERM") for protocol in (1, 2, 4, 6, 9, 12, 16, 20)),
        *(("socket", (family, 2, 0), "EPERM") for family in (0, 3, 17, 29, 31, 38, 40, 44)),
        ("socketpair", (1, 1, 0), "ask"),
        ("socketpair", (30, 1, 0), "EPERM"),
        ("setsockopt", (3, 1, 2), "allow"),
        ("setsockopt", (3, 6, 1), "allow"),
        *(("setsockopt", (3, 1, option), "0") for option in (7, 8, 13)),  # sizes of buffers, lingering
        *(("setsockopt", (3, level, option), "ENOPROTOOPT") for level, option in (
            (1, 26), (1, 32), (1, 33), (1, 50), (1, 51), (1, 60), (0, 64), (0, 41), (6, 31), (6, 14), (17, 100),
            (41, 64), (41, 57), (255, 1), (270, 1), (282, 1))),
        *(("setsockopt", (3, 0, option), "ENOPROTOOPT") for option in range(35, 49)),  # multicast groups
        *(("setsockopt", (3, 41, option), "ENOPROTOOPT") for option in (20, 21, 27, 28, *range(42, 49))),
        *(("setsockopt", (3, *option), "allow") for option in ((0, 32), (0, 34), (41, 16), (41, 19), (41, 26))),
        *(("getsockopt", (3, *option), "allow") for option in ((1, 35), (6, 11), (0, 35))),
        ("getsockopt", (3, 6, 35), "ENOPROTOOPT"),  # maps what has been received
        ("getsockopt", (3, (1 << 32) + 6, (1 << 32) + 35), "ENOPROTOOPT"),
        ("fcntl", (1, 1030, 3), "allow"),
        *(("fcntl", (1, lock), "ask") for lock in (5, 6, 7)),
        *(("fcntl", (1, lock), "EINVAL") for lock in (36, 37, 38, 1029, 1036, 1038, 1039, 4096)),
        *(("fcntl", (1, refused), "EPERM") for refused in (8, 10, 15, 1024, 1026, 1033)),
        ("fcntl", (1, 1031, 65536), "allow"),
        ("fcntl", (1, 1031, 65537), "EPERM"),
        ("fcntl", (1, 1031, (1 << 32) + 4096), "EPERM"),
        ("fcntl", ((7 << 32) + 1, (9 << 32) + 1031, 1 << 20), "EPERM"),  # the kernel reads the lower halves
        ("flock", (3, 2), "ask"),
        ("flock", (3, 8), "ask"),
        *(("ioctl", (0, known), "allow") for known in (0x5401, 0x5413, 0x541B, 0x5421, 0x5441, 0x80045430, 0x8933)),
        *(("ioctl", (0, refused), "EPERM") for refused in (0x5412, 0x541C, 0x541D, 0x5423)),
        *(("ioctl", (0, unknown), "ENOTTY") for unknown in (0x40049409, 0xC0502100, 0xFF01, 0xB701, 0x8914, 0x5437)),
        ("ioctl", (0, (1 << 32) + 0x5412), "EPERM"),
        ("mmap", (0, 4096, 3, 0x22), "allow"),
        ("mmap", (0, 4096, 3, 0x40022), "ENOMEM"),
        ("mmap", (0, 4096, 3, 0x40021), "ENOMEM"),
        ("mmap", (0, 4096, 3, 0x21), "ask, or ENOMEM"),
        ("mmap", (0, 4096, 3, 0x20021), "ask, or ENOMEM"),
        ("mmap", (0, 4096, 3, 0x01), "allow"),
        ("setsid", (), "ask, or EPERM"),
        ("epoll_ctl", (3, 1, 4), "ask"),
        ("epoll_ctl", (3, (7 << 32) + 1, 4), "ask"),
        *(("epoll_ctl", (3, change, 4), "allow") for change in (2, 3)),
        ("mmap", (0, 4096, 3, 0x54040022), "ENOMEM"),
        ("madvise", (0, 0, 4), "allow"),
        *(("madvise", (0, 0, advice), "EINVAL") for advice in (12, 20, 21, 25, 100, 101)),
        ("msync", (0, 0, 1), "allow"),
        ("msync", (0, 0, 4), "0"),
        ("personality", (0xFFFFFFFF,), "allow"),
        ("personality", (0x40000,), "EPERM"),
        *(("prctl", (option,), "allow") for option in (3, 15, 16, 38, 39)),
        *(("prctl", (option,), "EPERM") for option in (1, 4, 22, 24, 35, 36, 47, 53, 62, 0x59616D61)),
        ("prlimit64", (0, 7), "allow"),
        ("prlimit64", (1, 7), "EPERM"),
        ("prlimit64", (0, 4, 0, 1), "allow"),
        ("prlimit64", (0, 4, 1, 0), "0"),
        ("prlimit64", (0, 4, 1 << 32, 0), "0"),
        ("prlimit64", (0, 4, 1, 1 << 32), "EPERM"),
        ("prlimit64", (0, 7, 1, 1), "allow"),
        ("setrlimit", (4, 1), "0"),
        ("setrlimit", (7, 1), "allow"),
        ("prlimit64", ((1 << 32) + 1, 7), "EPERM"),
        ("setpriority", (0, 0, 5), "allow"),
        ("setpriority", (2, 0, 5), "EPERM"),
        ("setpriority", (0, 1, 5), "EPERM"),
        ("sched_setaffinity", (0,), "allow"),
        ("sched_setaffinity", (1,), "EPERM"),
        ("sched_setscheduler", (1,), "EPERM"),
        *(("sched_setscheduler", (0, policy), "allow") for policy in (0, 3, 0x40000000, 0x40000003, 1 << 32)),
        *(("sched_setscheduler", (0, policy), "EPERM") for policy in (1, 2, 5, 6, 7, 0x40000005, (1 << 32) + 5)),
    ],
)  # fmt: skip
def test_arguments_decide(machine: str, call: str, arguments: tuple[int, ...], said: str) -> None:
    assert answer(machine, call, *arguments) == said.partition(",")[0]
    assert answer(machine, call, *arguments, asks=False) == said.rpartition(" or ")[2].replace("ask", "allow")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_is_short(machine: str) -> None:
    # each call's program is given it anew; the kernel takes 4,096 instructions
    assert len(seccomp.program(machine, True)) // 8 < 700


@pytest.mark.parametrize("machine", MACHINES)
def test_who_makes_a_thread_asks_where_they_are_counted(machine: str) -> None:
    thread = 0x3D0F00
    assert answer(machine, "clone", thread, counts=True) == "ask"
    assert answer(machine, "clone", thread) == answer(machine, "clone", thread, asks=False, counts=True) == "allow"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("call", "flags"), [("clone", 0x1200011), ("clone", 0x4111), ("fork", 0), ("vfork", 0)])
def test_nobody_asks_for_a_process_since_a_signal_would_fail_it(machine: str, call: str, flags: int) -> None:
    if call in numbers(machine):
        assert answer(machine, call, flags, counts=True) == "allow"
