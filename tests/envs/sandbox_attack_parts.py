"""Beginnings of programs that fill memory: a block of it, and children that do."""

START = """
import ctypes, mmap, os, select, signal, socket, subprocess, sys, threading, time
MIB = 1 << 20
BLOCK = b'x' * (4 * MIB)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
held = []
def slowly(number=60):
    for at in range(number):
        yield at
        time.sleep(0.004)
def hold():
    time.sleep(0.12)
    print('held')
"""
CHILDREN = """
def fill(*ends):
    held.append(ends)
    for each in ends:
        each.setblocking(False)
        try:
            while True: each.send(BLOCK[:65536])
        except BlockingIOError: pass
def children(work, number=10):
    for _ in range(number):
        if os.fork() == 0:
            work()
            time.sleep(60)
        time.sleep(0.05)
    hold()
def slow_ends(end):
    libc.prctl(41, 1, 0, 0, 0)  # small pages, which take longer
    cpus = sorted(os.sched_getaffinity(0))[:1]
    os.sched_setaffinity(0, cpus)
    for _ in range(2):
        if os.fork() == 0:
            while True: pass
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        pid = os.fork()
        if pid == 0:
            ctypes.memset(libc.mmap(None, 40 * MIB, 3, 0x22, -1, 0), 1, 40 * MIB)
            os.nice(19)
            end()
        while 'RssAnon' in (text := open(f'/proc/{pid}/status').read()) and 'VmExe:\t       0' not in text:
            time.sleep(0.001)
def grow(size=24):
    held.append(bytearray(b'y') * (size * MIB))
"""
