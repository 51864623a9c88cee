"""Attempts of two calls to meet: by a terminal, a queue, a lock, or by what one leaves on a thing that both have."""

from typing import NamedTuple


class Meeting(NamedTuple):
    """Code of two sessions that are open at the same time, the first one's run before the second one's."""

    first: str
    second: str
    expected: str
    """What the second one prints, just as if there had been no first one."""


_IMPORTS = (
    "import contextlib, ctypes, errno, fcntl, os, signal, socket, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
)
_TERMINALS = """
number, taken = 0, []
try:
    while True:
        taken.append(os.openpty())
        number += 1
except OSError as error:
    pass
"""
_SIGNALS = """
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
number = 0
while libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(1)) == 0: number += 1
"""
_CHANGED = """
def change(path):
    with contextlib.suppress(OSError): os.utime(path)
    with contextlib.suppress(OSError): os.utime(path, (1, 1))
    with contextlib.suppress(OSError): os.chmod(path, 0o600)
    with contextlib.suppress(OSError): fcntl.fcntl(os.open(path, os.O_RDONLY), 1036, (2).to_bytes(8, 'little'))
def state(path):
    seen = os.stat(path)
    return abs(seen.st_mtime - time.time()) < 30, seen.st_mtime == 1, oct(seen.st_mode)[-3:]
"""


def _meeting(first: str, second: str, expected: str) -> Meeting:
    return Meeting(_IMPORTS + first, _IMPORTS + second, expected + "\n")


def _in_six_processes(code: str) -> str:
    forks = "for _ in range(6):\n    if os.fork() == 0:\n"
    return f"{forks}        exec({code!r})\n        time.sleep(60)\ntime.sleep(0.3)"


MEETINGS = {
    "opens the other's terminal": _meeting(
        "ends = os.openpty()\nos.write(ends[0], b'typed')",
        "try: print(os.open('/dev/pts/0', os.O_RDWR | os.O_NOCTTY))\nexcept OSError as error: print(error.strerror)",
        "No such file or directory",
    ),
    "lists terminals": _meeting("ends = os.openpty()", "print(os.listdir('/dev/pts'))", "['ptmx']"),
    "takes all terminals": _meeting(_TERMINALS, f"{_TERMINALS}print(number)", "6"),
    "takes all terminals in many processes": _meeting(
        _in_six_processes(_TERMINALS),
        f"{_TERMINALS}print(number, os.ttyname(taken[0][1]))",
        "6 /dev/pts/0",
    ),
    "types into the terminal of the same number": _meeting(
        "ends = os.openpty()",
        "ends = os.openpty()\n"
        "with contextlib.suppress(OSError): fcntl.ioctl(ends[1], 0x5412, b'x')\n"
        "os.set_blocking(ends[0], False)\n"
        "try: print(os.read(ends[0], 9))\nexcept OSError as error: print(error.strerror)",
        "Resource temporarily unavailable",
    ),
    "fills the signal queue": _meeting(_SIGNALS, f"{_SIGNALS}print(number)", "128"),
    "fills the signal queues of many processes": _meeting(
        _in_six_processes(_SIGNALS),
        f"{_SIGNALS}print(number)",
        "128",
    ),
    "fills the queue by a thread's signals": _meeting(
        _SIGNALS.replace(
            "sigqueue(os.getpid(),", "pthread_sigqueue(ctypes.c_void_p(__import__('threading').get_ident()),"
        ),
        f"{_SIGNALS}print(number)",
        "128",
    ),
    **{
        f"sets times, mode or hints of {path}": _meeting(
            f"{_CHANGED}change({path!r})", f"{_CHANGED}print(*state({path!r})[1:])", f"False {mode}"
        )
        for path, mode in (("/dev/null", "666"), ("/dev/zero", "666"), ("/dev/full", "666"), ("/dev/urandom", "666"),
                           ("/proc/locks", "666"), ("/usr/bin/env", "755"))
    },
    "lists locks": _meeting(
        "held = open('/tmp/held', 'w')\nfcntl.flock(held, fcntl.LOCK_EX)\n"
        "with contextlib.suppress(OSError): fcntl.fcntl(held, 37, bytes((1, 0)) + bytes(30))",
        "print(repr(open('/proc/locks').read()))",
        "''",
    ),
    "lists keys": _meeting("", "print(repr(open('/proc/keys').read() + open('/proc/key-users').read()))", "''"),
    "finds the other's socket by name": _meeting(
        "server = socket.socket(socket.AF_UNIX)\nserver.bind('\\0met')\nserver.listen()",
        "print(socket.socket(socket.AF_UNIX).connect_ex('\\0met') == errno.ECONNREFUSED)",
        "True",
    ),
    "finds the other's port": _meeting(
        "server = socket.create_server(('127.0.0.1', 4711))",
        "print(socket.socket().connect_ex(('127.0.0.1', 4711)) == errno.ECONNREFUSED)",
        "True",
    ),
    "finds the other's shared memory": _meeting(
        "open('/dev/shm/met', 'w').close()", "print(os.listdir('/dev/shm'))", "[]"
    ),
}  # fmt: skip

LEFT = {
    "terminals that nobody may open": "os.chmod('/dev/pts/ptmx', 0)",
    "a time of the terminals": "os.utime('/dev/pts/ptmx', (1, 1))",
    "an owner of the terminals": "os.chown('/dev/pts/ptmx', -1, os.getgid())",
    "an open terminal": "ends = os.openpty()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
    "queued signals": f"{_SIGNALS}",
}
"""What a call does that the next one in the same namespaces must not find; by name."""
LEFT = {name: _IMPORTS + code for name, code in LEFT.items()}
FIND_LEFT = (
    f"{_IMPORTS}seen = os.stat('/dev/pts/ptmx')\nprint(oct(seen.st_mode), seen.st_mtime == 1, os.listdir('/dev/pts'))\n"
    f"{_TERMINALS}print(number)\n{_SIGNALS}print(number)"
)
FOUND = "0o20666 False ['ptmx']\n6\n128\n"
"""What `FIND_LEFT` prints in every call."""
