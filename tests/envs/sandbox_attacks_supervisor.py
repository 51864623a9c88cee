"""Programs that would upset, stall or blind the supervisor that watches them."""

from tests.envs.sandbox_attacks_worlds import IMPORTS

NAMES = f"""{IMPORTS}held = []
for name in (b'\\n', b'x\\n\\n', b'\\r\\r', b'\\na b c d e f g', b'\\nffff: 00000002 00000000 00010000 0001 01 x y'):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind(b'\\0' + name)
time.sleep(0.15)
print('named')
"""
"""Gives sockets names that look like other lines of the kernel's list of sockets."""
LINGERS = f"""{IMPORTS}import struct
listening = socket.create_server(('127.0.0.1', 0))
ours = socket.create_connection(listening.getsockname())
theirs, _ = listening.accept()
ours.setblocking(False)
with contextlib.suppress(BlockingIOError):
    while True: ours.send(bytes(65536))
ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 30))
print(struct.unpack('ii', ours.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
known = (listening.fileno(), ours.fileno(), theirs.fileno())
channel = next(
    socket.socket(fileno=os.dup(int(fd)))
    for fd in os.listdir('/proc/self/fd')
    if os.path.exists(f'/proc/self/fd/{{fd}}') and int(fd) not in known and stat.S_ISSOCK(os.fstat(int(fd)).st_mode)
)
if os.fork() == 0:
    while not os.path.exists('go'): time.sleep(0.0005)
    while True:
        try: socket.send_fds(channel, [b'x'], [ours.fileno()])
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS: raise  # other calls of the user have all in flight for a moment
        else: break
    ours.close()
    open('sent', 'w').close()
    os._exit(0)
ours.close()
""".replace("import struct", "import stat, struct")
"""A cell that, as the next one begins with a file `go`, has the supervisor close a socket that would wait for 30 s."""
LINGERS_ON = "while not os.path.exists('sent'): time.sleep(0.01)\nprint('sent', flush=True)\ntime.sleep(60)"
"""The next cell, which says that it has come to that."""
_CONNECTIONS = f"""{IMPORTS}import struct
libc.connect.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
sending = socket.socket()
sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('qq', 0, 100_000))
number = 0
held = [socket.create_server(('127.0.0.1', 0), backlog=10_000) for _ in range(ROUNDS)]
for listening in held:
    with contextlib.suppress(OSError):
        for _ in range(100):
            sending.connect(listening.getsockname())
            number += 1
            sending.send(bytes(9000))
            libc.connect(sending.fileno(), bytes(16), 16)
    libc.connect(sending.fileno(), bytes(16), 16)
time.sleep(PAUSE)
print(number)
"""
CONNECTIONS, MORE_CONNECTIONS = (
    _CONNECTIONS.replace("ROUNDS", rounds).replace("PAUSE", pause) for rounds, pause in (("1", "0.2"), ("6", "5"))
)
"""Connections that nobody accepts, all made by one socket."""
CLOSED = f"""{IMPORTS}
listening = socket.create_server(('127.0.0.1', 0))
for _ in range(400):
    here = socket.create_connection(listening.getsockname())
    there, _ = listening.accept()
    here.close()
    there.close()
print(open('/proc/net/sockstat').read().split(' tw ')[1].split()[0])
"""
"""Connections that were closed, each of which the kernel remembers for a minute."""
SMALL_MAPPINGS = "import mmap\nheld = []\ntry:\n    while True: held.append(mmap.mmap(-1, 1))\n" + (
    "except OSError as error: print(len(held), error.strerror)"
)
"""Shared memory without a file, a page for each byte that is asked for."""
TEXTS = "import time\nheld = [open('/proc/self/maps') for _ in range(NUMBER)]\nfor each in held: each.read(1)\n" + (
    "time.sleep(0.2 if NUMBER == 50 else 5)\nprint('held')"
)
"""Files of /proc that are held open, each with its text in the kernel's memory."""
DESCRIPTORS = f"""{IMPORTS}
for _ in range(10):
    if os.fork() == 0: break
with contextlib.suppress(OSError):
    while True: os.dup(0)
time.sleep(60)
"""
"""Descriptors enough to make a look at them last."""
EPOLLS = f"""{IMPORTS}import select, threading
watching, events = select.epoll(), [os.eventfd(0) for _ in range(60)]
for slot in range(170, 250):
    for event in events:
        os.dup2(event, slot)
        watching.register(slot, 1)
os.closerange(100, 256)
go_on = threading.Event()
beside = threading.Thread(target=go_on.wait)
beside.start()
fcntl.flock(open('own', 'w'), fcntl.LOCK_EX)
go_on.set()
beside.join()
with contextlib.suppress(OSError):
    while True: os.dup(watching.fileno())
for _ in range(6):
    if os.fork() == 0: break
time.sleep(60)
"""
"""A lock that makes the supervisor look at each descriptor, all of which lead to what takes long to describe."""
HONEST = """
import getpass, os, pwd, resource, socket, struct, threading, time
print(getpass.getuser(), pwd.getpwuid(os.getuid()).pw_dir, socket.gethostbyname(socket.gethostname()))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print(resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/oom_score_adj').read().strip())
with socket.create_server(('localhost', 0)) as listening:
    with socket.create_connection(('localhost', listening.getsockname()[1])) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
counted = threading.Event()
threads = [threading.Thread(target=counted.wait) for _ in range(30)]
for each in threads: each.start()
print(threading.active_count())
counted.set()
"""
HONEST_PRINTS = "sandbox /tmp/work 127.0.0.1\n(1, 1) 1000\n31\n"
LOCKS_OF_THREADS = f"""{IMPORTS}import threading
file = open('own', 'w')
def lock(number, first=0):
    for at in range(first, first + number): fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * at)
go_on = threading.Event()
beside = threading.Thread(target=go_on.wait)
beside.start()
held = 0
try:
    while held < 300:
        lock(1, held)
        held += 1
except OSError as error: print(held, error.strerror)
go_on.set()
beside.join()
file.close()
time.sleep(1.1)
file = open('own', 'w')
done = 0
for _ in range(8):
    lock(100)
    done += 100
    file.close()
    file = open('own', 'w')
print(done)
"""
"""Takes more locks than a program with threads may have, and then many, a few at a time."""
