"""Attempts of two calls to meet: by a terminal, a queue, a lock, or by what one leaves on a thing that both have."""

from typing import NamedTuple


class Meeting(NamedTuple):
    """Code of two sessions that are open at the same time, the first one's run before the second one's."""

    first: str
    second: str
    expected: str
    """What the second one prints, just as if there had been no first one."""


IMPORTS = (
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
_KEY = "libc.syscall({}, b'user', b'met', b'x', 1, -3)\n"
_LOCKS = """
import struct
def lock(path, how):
    fd = os.open(path, os.O_RDONLY)
    try:
        if how == 'flock': fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if how == 'lockf': fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if how == 'seen': return fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack('hhqqi4x', 1, 0, 0, 0, 0))
        if how == 'ofd': fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', 0, 0, 0, 0, 0))
        if how == 'lease': fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        if how == 'notice': fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_CREATE)
        return 'held'
    except OSError as error:
        return error.strerror
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
    return Meeting(IMPORTS + first, IMPORTS + second, expected + "\n")


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
    **{
        f"{how} of {path}": _meeting(
            f"{_LOCKS}print(lock({path!r}, {how!r}))", f"{_LOCKS}print(lock({path!r}, {how!r}))", "No locks available"
        )
        for path in ("/usr/bin/env", "/dev/null", "/dev/zero", "/usr/lib", "/", "/proc/version")
        for how in ("flock", "lockf", "seen")
    },
    **{
        how: _meeting(
            f"{_LOCKS}print(lock('/usr/bin', {how!r}))", f"{_LOCKS}print(lock('/usr/bin', {how!r}))", error
        )
        for how, error in (
            ("ofd", "Invalid argument"), ("lease", "Operation not permitted"), ("notice", "Operation not permitted"))
    },
    "a message queue": _meeting(
        "libc.mq_open(b'/met', 0o102, 0o600, 0)",
        "print(libc.mq_open(b'/met', 2), os.strerror(ctypes.get_errno()))",
        "-1 Function not implemented",
    ),
    **{
        f"System V's {kind}": _meeting(
            f"libc.{kind}", f"print(libc.{kind}, os.strerror(ctypes.get_errno()))", "-1 Operation not permitted"
        )
        for kind in ("msgget(4711, 0o1666)", "semget(4711, 1, 0o1666)", "shmget(4711, 4096, 0o1666)")
    },
    **{
        f"a key by call {number}": _meeting(
            _KEY.format(number),
            f"{_KEY.format(number)}print(os.strerror(ctypes.get_errno()))",
            "Operation not permitted",
        )
        for number in (248, 249, 250)
    },
    "lists locks": _meeting(
        "held = open('/tmp/held', 'w')\nfcntl.flock(held, fcntl.LOCK_EX)\n"
        "with contextlib.suppress(OSError): fcntl.fcntl(held, 37, bytes((1, 0)) + bytes(30))",
        "print(repr(open('/proc/locks').read()))",
        "''",
    ),
    "reads the kernel's arguments": _meeting("", "print(repr(open('/proc/cmdline').read()))", "''"),
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

SWAP = (
    IMPORTS
    + """
import threading
own, shared = os.open('own', os.O_CREAT | os.O_RDWR), os.open('/usr/bin/env', os.O_RDONLY)
fd = os.dup(own)
over = time.monotonic() + 8
def is_held(): return 'lock:' in open(f'/proc/self/fdinfo/{shared}').read()
def swap():
    while time.monotonic() < over:
        os.dup2(shared, fd)
        os.dup2(own, fd)
if os.fork() == 0:
    threading.Thread(target=swap, daemon=True).start()
    while time.monotonic() < over and not is_held():
        with contextlib.suppress(OSError): fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    time.sleep(1)
    os._exit(0)
os.wait()
"""
)
"""Gets a lock on a program of the machine, now and then: another thread changes what a descriptor leads to."""
SWAP_AND_DIE = (
    IMPORTS
    + """
import threading
own, shared = os.open('own', os.O_CREAT | os.O_RDWR), os.open('/usr/bin/env', os.O_RDONLY)
fd = os.dup(own)
def is_held(): return 'lock:' in open(f'/proc/self/fdinfo/{shared}').read()
def swap():
    while True:
        os.dup2(shared, fd)
        os.dup2(own, fd)
if os.fork() == 0:
    threading.Thread(target=swap, daemon=True).start()
    over = time.monotonic() + 2
    while time.monotonic() < over and not is_held():
        with contextlib.suppress(OSError): fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os._exit(0)
os.wait()
if is_held():
    time.sleep(0.5)
    print('held')
"""
)
"""Has a lock as `SWAP` and ends, while the file of its parent keeps it."""
SQLITE = (
    IMPORTS
    + """
import sqlite3, subprocess, sys
with sqlite3.connect('kept.db') as connection:
    connection.execute('create table seen (number)')
    connection.execute('insert into seen values (1)')
    other = sqlite3.connect('kept.db', timeout=0.1)
    try: other.execute('insert into seen values (2)')
    except sqlite3.OperationalError as error: print(error)
code = "import sqlite3; c = sqlite3.connect('kept.db'); c.execute('insert into seen values (3)'); c.commit()"
subprocess.run([sys.executable, '-c', code], check=True)
print(sqlite3.connect('kept.db').execute('select number from seen').fetchall())
first, second = open('lock', 'w'), open('lock', 'w')
fcntl.flock(first, fcntl.LOCK_EX)
try: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: print('held')
"""
)
SQLITE_PRINTS = "database is locked\n[(1,), (3,)]\nheld\n"
MANY_LOCKS = (
    IMPORTS
    + """
number, files = 0, [open(f'f{i}', 'w') for i in range(100)]
try:
    while number < 5000:
        fcntl.lockf(files[number % 100], fcntl.LOCK_EX, 1, 2 * number)
        number += 1
except OSError as error:
    fcntl.flock(files[0], fcntl.LOCK_UN)
    print(error.strerror, number)
"""
)
WATCHES = (
    IMPORTS
    + """
import select
polls, number = [select.epoll() for _ in range(40)], 0
try:
    while number < 20000:
        event, seen = os.eventfd(0), []
        for at in range(60, 140):
            os.dup2(event, at)
            for poll in polls:
                poll.register(at, select.EPOLLIN)
                number += 1
except OSError as error: print(error.strerror, number)
"""
)
"""A program that has many watches with few descriptors: each number of one file is another."""
LEFT = {
    "terminals that nobody may open": "os.chmod('/dev/pts/ptmx', 0)",
    "a time of the terminals": "os.utime('/dev/pts/ptmx', (1, 1))",
    "an owner of the terminals": "os.chown('/dev/pts/ptmx', -1, os.getgid())",
    "an open terminal": "ends = os.openpty()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
    "queued signals": f"{_SIGNALS}",
}
"""What a call does that the next one in the same namespaces must not find; by name."""
LEFT = {name: IMPORTS + code for name, code in LEFT.items()}
FIND_LEFT = (
    f"{IMPORTS}seen = os.stat('/dev/pts/ptmx')\nprint(oct(seen.st_mode), seen.st_mtime == 1, os.listdir('/dev/pts'))\n"
    f"{_TERMINALS}print(number)\n{_SIGNALS}print(number)"
)
FOUND = "0o20666 False ['ptmx']\n6\n128\n"
"""What `FIND_LEFT` prints in every call."""
