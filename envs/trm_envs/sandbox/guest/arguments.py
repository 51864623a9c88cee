"""The filter's checks of arguments, by call; each is a list of steps that ends in an answer.

Numbers that a later kernel gives a meaning to are answered as by one that knows none.
"""

import errno

from .bpf import ABOVE, AND, RETURN, argument, if_among, if_any_bit, if_equal, step

_ERRNO = 0x00050000
ALLOW, ASK, KILL = step(RETURN, 0x7FFF0000), step(RETURN, 0x7FC00000), step(RETURN, 0x80000000)
NOTHING, REFUSE, ABSENT = (step(RETURN, _ERRNO | number) for number in (0, errno.EPERM, errno.ENOSYS))
UNSUPPORTED, _NO_OPTION = (step(RETURN, _ERRNO | number) for number in (errno.EOPNOTSUPP, errno.ENOPROTOOPT))
_NO_MEMORY, _INVALID, _NO_TERMINAL = (step(RETURN, _ERRNO | n) for n in (errno.ENOMEM, errno.EINVAL, errno.ENOTTY))

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_FILES, _CLONE_THREAD, _SIGCONT = 0x400, 0x10000, 18
_MAP_SHARED_ANONYMOUS, _MAP_HUGETLB, _MS_SYNC = 0x21, 0x40000, 4
_UNIX, _NETLINK, _INET = 1, 16, (2, 10)
_STREAM_OR_DATAGRAM, _TCP_OR_UDP, _ROUTE = (1, 2), ((0, 0), (6, 6), (17, 17)), 0
_SOL_SOCKET, _SOL_TCP = 1, 6
_TCP_ZEROCOPY_RECEIVE = 35
# sizes of buffers, and waiting as a socket is closed: whoever closes it last would wait, PID 1 or the kernel
_IDLE_OPTIONS = ((7, 8), (13, 13))  # SO_SNDBUF, SO_RCVBUF, SO_LINGER
# level -> options: what Python's socket module and its users set; no filters, no encryption, no firewall's tables, and
# no groups: the kernel walks through all of a call for each that is joined or left, also once the program is killed
_OPTIONS = {
    _SOL_SOCKET: ((2, 2), (5, 6), (9, 10), (12, 12), (14, 16), (18, 21), (29, 29), (35, 35), (40, 40), (42, 42),
                  (49, 49), (66, 67), (76, 76)),
    0: ((1, 2), (6, 15), (32, 34), (49, 50)),  # IPPROTO_IP
    6: ((1, 10), (12, 13), (18, 18), (23, 23), (25, 25)),  # IPPROTO_TCP
    17: ((1, 1),),  # IPPROTO_UDP
    41: ((16, 19), (23, 23), (25, 26), (49, 51), (66, 67)),  # IPPROTO_IPV6
}  # fmt: skip
_FCNTL_PLAIN = (
    (0, 4),
    (9, 9),
    (11, 11),
    (16, 16),
    (1025, 1025),
    (1027, 1028),
    (1030, 1030),
    (1032, 1032),
    (1034, 1034),
)
_FCNTL_LOCKS = ((5, 7),)  # F_GETLK, F_SETLK, F_SETLKW
_F_SETPIPE_SZ, _PIPE_BYTES = 1031, 65536
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_ADD_SEALS
_FCNTL_REFUSED = ((8, 8), (10, 10), (15, 15), (1024, 1024), (1026, 1026), (1033, 1033))
_PRCTL = ((2, 3), (15, 16), (21, 21), (23, 23), (27, 27), (29, 30), (38, 39), (41, 42), (51, 51), (56, 56),
          (0x41555856, 0x41555856))  # fmt: skip
_ARCH_PRCTL = ((0x1001, 0x1004),)  # the bases of the segments FS and GS
_MADVISE = ((0, 4), (8, 11), (14, 19), (22, 23))
# of terminals, of all descriptors, reading ones of network interfaces
_IOCTL = ((0x5401, 0x5404), (0x5409, 0x5411), (0x5413, 0x5415), (0x541B, 0x541B), (0x5420, 0x5422), (0x5424, 0x5425),
          (0x5429, 0x5429), (0x5441, 0x5441), (0x5450, 0x5451), (0x8905, 0x8907), (0x8910, 0x8910), (0x8912, 0x8913),
          (0x8915, 0x8915), (0x8919, 0x8919), (0x891B, 0x891B), (0x8921, 0x8921), (0x8927, 0x8927), (0x8933, 0x8933),
          (0x40045431, 0x40045431), (0x40045436, 0x40045436), (0x402C542B, 0x402C542D), (0x80045430, 0x80045430),
          (0x80045438, 0x80045439), (0x802C542A, 0x802C542A))  # fmt: skip
# TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD: they type for others, or load code into the kernel
_IOCTL_REFUSED = ((0x5412, 0x5412), (0x541C, 0x541D), (0x5423, 0x5423))
_PRIO_USER, _QUERY = 2, 0xFFFFFFFF
_EPOLL_CTL_ADD = 1
# SCHED_OTHER and SCHED_BATCH, reset at a fork or not; not SCHED_IDLE, whose processes take seconds to give back memory
_POLICIES = ((0, 0), (3, 3), (0x40000000, 0x40000000), (0x40000003, 0x40000003))
_CORE, _ALL = 4, 0xFFFFFFFF  # RLIMIT_CORE; all bits of half an argument
_UNLESS_PID_1 = [argument(0), *if_equal(1, [REFUSE]), ALLOW]


def checks(asks: bool, counts: bool) -> "dict[str, list[bytes]]":
    """Return the checks of the calls in `syscalls.CHECKED`.

    Args:
        asks: whether PID 1 can be asked: for sockets, locks and watches, which are allowed if not, and for shared
            memory and sessions, which are not.
        counts: whether it is to be asked for threads, too: libraries make these with all signals blocked. A process is
            never asked for, since a signal that comes meanwhile would fail the `fork` of a shell.
    """
    asked = ASK if asks else ALLOW
    shared = ASK if asks else _NO_MEMORY
    return {
        "arch_prctl": [argument(0), *if_among(_ARCH_PRCTL, ALLOW), _INVALID],
        "clone": _clone(ASK if asks and counts else ALLOW),
        "epoll_ctl": [argument(1), *if_equal(_EPOLL_CTL_ADD, [asked]), ALLOW],
        "fcntl": _fcntl(asked),
        "flock": [asked],
        "getsockopt": _getsockopt(),
        "ioctl": [argument(1), *if_among(_IOCTL, ALLOW), *if_among(_IOCTL_REFUSED, REFUSE), _NO_TERMINAL],
        "madvise": [argument(2), *if_among(_MADVISE, ALLOW), _INVALID],
        "mmap": _mmap(shared),
        "msync": [argument(2), *if_any_bit(_MS_SYNC, [NOTHING]), ALLOW],
        "personality": [argument(0), *if_equal(_QUERY, [ALLOW]), REFUSE],
        "prctl": [argument(0), *if_among(_PRCTL, ALLOW), REFUSE],
        "prlimit64": [argument(0), *if_equal(1, [REFUSE]), argument(1), *if_equal(_CORE, _limit_of_cores()), ALLOW],
        "sched_setaffinity": _UNLESS_PID_1,
        "sched_setparam": _UNLESS_PID_1,
        "sched_setscheduler": [argument(0), *if_equal(1, [REFUSE]), argument(1), *if_among(_POLICIES, ALLOW), REFUSE],
        "setrlimit": [argument(0), *if_equal(_CORE, [NOTHING]), ALLOW],
        "setsid": [ASK if asks else REFUSE],
        "setpriority": [argument(0), *if_equal(_PRIO_USER, [REFUSE]), argument(1), *if_equal(1, [REFUSE]), ALLOW],
        "setsockopt": _setsockopt(),
        "socket": _socket(asked),
        "socketpair": [argument(0), *if_equal(_UNIX, [asked]), REFUSE],
    }


def _limit_of_cores() -> "list[bytes]":
    """Do nothing for a new limit: with 0 in the place of 1, a crash starts the machine's collector of cores."""
    wants_old = [*if_any_bit(_ALL, [REFUSE]), argument(3, upper=True), *if_any_bit(_ALL, [REFUSE]), NOTHING]
    sets = [argument(3), *wants_old]
    return [argument(2), *if_any_bit(_ALL, sets), argument(2, upper=True), *if_any_bit(_ALL, sets), ALLOW]


def _mmap(shared: bytes) -> "list[bytes]":
    """Refuse the machine's huge pages, which are in no process's resident size, nor are shared ones once unmapped."""
    is_shared = [step(AND, _MAP_SHARED_ANONYMOUS), *if_equal(_MAP_SHARED_ANONYMOUS, [shared]), ALLOW]
    return [argument(3), *if_any_bit(_MAP_HUGETLB, [_NO_MEMORY]), *is_shared]


def _clone(thread: bytes) -> "list[bytes]":
    """Refuse namespaces, descriptors that not all threads of one process share, and a signal that wakes a session."""
    signal = [step(AND, 0xFF), *if_equal(_SIGCONT, [REFUSE])]
    of_thread = [*if_any_bit(_CLONE_FILES, [*signal, thread]), REFUSE]
    of_process = [*if_any_bit(_CLONE_FILES, [REFUSE]), *signal, ALLOW]
    return [argument(0), *if_any_bit(_NEW_NAMESPACES, [REFUSE]), *if_any_bit(_CLONE_THREAD, of_thread), *of_process]


def _fcntl(asked: bytes) -> "list[bytes]":
    size = [argument(2, upper=True), step(ABOVE, 0, 2, 0), argument(2), step(ABOVE, _PIPE_BYTES, 0, 1), REFUSE, ALLOW]
    return [
        argument(1),
        *if_among(_FCNTL_PLAIN, ALLOW),
        *if_among(_FCNTL_LOCKS, asked),
        *if_equal(_F_SETPIPE_SZ, size),
        *if_among(_FCNTL_REFUSED, REFUSE),
        _INVALID,
    ]


def _socket(asked: bytes) -> "list[bytes]":
    protocols = [argument(2), *if_among(_TCP_OR_UDP, asked), REFUSE]
    kinds = [each for kind in _STREAM_OR_DATAGRAM for each in if_equal(kind, protocols)]
    of_inet = [argument(1), step(AND, 0xF), *kinds, REFUSE]
    of_netlink = [argument(2), *if_equal(_ROUTE, [asked]), REFUSE]
    inet = [each for family in _INET for each in if_equal(family, of_inet)]
    return [argument(0), *if_equal(_UNIX, [asked]), *inet, *if_equal(_NETLINK, of_netlink), REFUSE]


def _getsockopt() -> "list[bytes]":
    """Refuse to map what has been received: the kernel counts it as pages of a file, without a bound."""
    of_tcp = [argument(2), *if_equal(_TCP_ZEROCOPY_RECEIVE, [_NO_OPTION]), ALLOW]
    return [argument(1), *if_equal(_SOL_TCP, of_tcp), ALLOW]


def _setsockopt() -> "list[bytes]":
    steps = [argument(1)]
    for level, options in _OPTIONS.items():
        idle = if_among(_IDLE_OPTIONS, NOTHING) if level == _SOL_SOCKET else []
        steps += if_equal(level, [argument(2), *if_among(options, ALLOW), *idle, _NO_OPTION])
    return [*steps, _NO_OPTION]
