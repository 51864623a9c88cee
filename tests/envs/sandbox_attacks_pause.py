"""What cells leave behind so as to run on while their session is paused, or to meet who writes its files."""

_START = """
import ctypes, os, signal, subprocess, threading, time
libc = ctypes.CDLL(None)
def spin():
    while True: pass
def leave_session():
    try: os.setsid()
    except OSError: os.setpgid(0, 0)
def hide():
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
"""
# the kernel wakes a stopped process if its group is orphaned within its session: the parents take long to end
_ORPHANS = """
def orphan(work, delay, waits, go):
    if os.fork() == 0:
        leave_session()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.close(go)
        if os.fork() == 0:
            os.setpgid(0, 0)
            hide()
            work()
        block = bytearray(b'x') * (40 << 20)
        os.read(waits, 1)
        time.sleep(delay)
        os._exit(0)
def doze():
    while True: time.sleep(0.0001)
def orphans(work):
    waits, go = os.pipe()
    for number in range(3): orphan(work, number * 0.004, waits, go)
    time.sleep(0.2)
    os.close(go)
    time.sleep(0.01)
"""
RUN_ON = {
    "a thread": "threading.Thread(target=spin, daemon=True).start()",
    "orphans": _ORPHANS + "orphans(spin)",
    "orphans that doze": _ORPHANS + "orphans(doze)",
    "forks": "if os.fork() == 0:\n    hide()\n    while True:\n        try:\n            if os.fork(): os._exit(0)\n"
    "        except OSError: pass",
    "a dead leader": "if os.fork() == 0:\n    hide()\n"
    "    threading.Thread(target=spin).start()\n    libc.syscall(60, 0)",
    "children in the making": "def make():\n    while True: subprocess.run(['/bin/true'])\n"
    "for _ in range(3): threading.Thread(target=make, daemon=True).start()\ntime.sleep(0.05)",
    "a timer": "signal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)",
}
RUN_ON = {name: _START + code for name, code in RUN_ON.items()}
"""Cells by what goes on after them."""
MEET_THE_CLERK = {
    "kills": "def work():\n    while True:\n        for pid in range(9, 99):\n"
    "            try: os.kill(pid, signal.SIGKILL)\n            except OSError: pass",
    "stops": "def work():\n    while True:\n        for pid in range(9, 99):\n"
    "            try: os.kill(pid, signal.SIGSTOP)\n            except OSError: pass",
}
MEET_THE_CLERK = {name: _START + _ORPHANS + f"{code}\norphans(work)" for name, code in MEET_THE_CLERK.items()}
"""Cells that leave processes, which have the first eight numbers, and do that to all later ones if they are woken."""
BUSY = (
    _START
    + """
import fcntl, socket
def ask():
    while True:
        for each in socket.socketpair(): each.close()
def lock():
    with open('lock', 'w') as file:
        while True:
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_UN)
def start():
    while True: subprocess.run(['/bin/true'])
def change():
    while True:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
for work in (ask, lock, start, change): threading.Thread(target=work, daemon=True).start()
"""
)
"""A cell that leaves threads in the middle of everything, and is honest."""
