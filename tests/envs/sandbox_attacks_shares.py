"""Programs that would have more of the processor than others."""

_START = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 1.1
"""
ONE = _START + "while time.monotonic() < end: pass"
"""A program that takes what it is given."""
GREEDY = {
    "processes that lead sessions and ask for more weight": """
for _ in range(30):
    if os.fork() == 0:
        for attempt in (os.setsid, lambda: os.nice(-20), lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
                        lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
                        lambda: open('/proc/self/autogroup', 'w').write('-20')):
            try: attempt()
            except OSError: pass
        while True: pass
time.sleep(1.1)
""",
    "ever new children": """
while time.monotonic() < end:
    try:
        for _ in range(30):
            if os.fork() == 0:
                short = time.monotonic() + 0.04
                while time.monotonic() < short: pass
                os._exit(0)
    except OSError: pass
    time.sleep(0.005)
""",
}
GREEDY = {name: _START + code for name, code in GREEDY.items()}
"""Programs by their means; each goes on for a second."""
