"""Programs that take of what a user has in all calls together: descriptors sent and not received, pages of pipes."""

from tests.envs.sandbox_attacks_worlds import IMPORTS

_SEND = (
    IMPORTS
    + """
def send(here, *fds):
    while True:
        try: return socket.send_fds(here, [b'x'], fds)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS: return
        time.sleep(0.002)
"""
)
"""Waits for room: other calls of the user, as of tests that run beside, may have all in flight for a moment."""
FLIGHTS = {
    "descriptors": "pairs = [socket.socketpair() for _ in range(3)]\n"
    "for here, _ in pairs:\n    for _ in range(80): send(here, 0)",
    "descriptors in sockets in flight": "top = socket.socketpair()\nfor _ in range(15):\n"
    "    here, there = socket.socketpair()\n    for _ in range(15): send(here, 0)\n"
    "    send(top[0], there.fileno()); here.close(); there.close()",
    "descriptors behind sockets with long names": "named = [socket.socket(socket.AF_UNIX) for _ in range(50)]\n"
    "for i, one in enumerate(named): one.bind('\\0' + f'{i:03}' * 30)\n"
    "here, there = socket.socketpair()\nfor _ in range(60): send(here, 0)",
    "descriptors of many processes": "for _ in range(5):\n    if os.fork() == 0:\n        pair = socket.socketpair()\n"
    "        for _ in range(50): send(pair[0], 0)\n        time.sleep(60)\ntime.sleep(0.3)",
}
FLIGHTS = {name: f"{_SEND}{code}" for name, code in FLIGHTS.items()}
"""Take of the descriptors that a user may have sent and not received in all calls."""
BURSTS = (
    IMPORTS
    + """
inbox, filler = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
inbox.bind('inbox')
for each in (inbox, filler): each.setblocking(False)
fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(230)]
def fill():
    with contextlib.suppress(OSError):
        while True: filler.sendto(b'x', 'inbox')
fill()
for _ in range(9):
    if os.fork() == 0:
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.connect('inbox')
        while True:
            try: socket.send_fds(sender, [b'y'], fds)
            except OSError: time.sleep(0.003)
os.closerange(fds[0], fds[-1] + 1)
end = time.monotonic() + 1.2
while time.monotonic() < end:
    with contextlib.suppress(OSError):
        while inbox.recv(9, socket.MSG_PEEK) == b'x': inbox.recv(9)
    time.sleep(0.008)
    with contextlib.suppress(OSError):
        while True:
            for fd in socket.recv_fds(inbox, 9, 250)[1]: os.close(fd)
    fill()
    time.sleep(0.03)
"""
)
"""Has 2,000 descriptors in flight for a moment again and again: senders that wait for room are counted later."""
FEW_IN_FLIGHT = (
    f"{_SEND}pairs = [socket.socketpair() for _ in range(20)]\n"
    "for here, there in pairs: send(here, 0, 1)\ntime.sleep(0.3)\n"
    "print(sum(len(socket.recv_fds(there, 1, 2)[1]) for here, there in pairs))"
)
PIPES = {
    "pipes": "ends = [os.pipe() for _ in range(120)]",
    "named pipes": "names = [f'{os.getpid()}-{i}' for i in range(15)]\n"
    "ends = [os.mkfifo(name) or os.open(name, os.O_RDWR) for name in names]",
    "pipes of one end": "ends = [os.pipe()[0] for _ in range(120)]",
    "pipes of a thread that outlives the first one": "import threading\nends = [os.pipe() for _ in range(120)]\n"
    "threading.Thread(target=time.sleep, args=(60,)).start()\nif number: libc.syscall(60, 0)",
}
PIPES = {
    name: f"{IMPORTS}for number in range(9, -1, -1):\n    if number and os.fork() == 0: break\n{code}\ntime.sleep(60)"
    for name, code in PIPES.items()
}
"""Take of the pages that a user has for pipes in all calls."""
FEW_PIPES = (
    IMPORTS
    + """
over = time.monotonic() + 8
while True:
    ends = [os.pipe() for _ in range(100)]
    size = fcntl.fcntl(ends[-1][0], 1032)
    if size == 65536 or time.monotonic() > over: break
    for fd in sum(ends, ()): os.close(fd)
    time.sleep(0.02)
time.sleep(0.2)
print(size)
"""
)
"""Waits for room: other calls of the user, as of tests that run beside, may have all pages for a moment."""
