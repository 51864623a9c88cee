"""Ways to hold more memory than a call may have: 240 MiB, slowly, so that whoever watches has time to see it."""

from tests.envs.sandbox_attack_parts import CHILDREN, START

GROW = {
    "private": "for _ in slowly(): held.append(bytes(BLOCK) + b'y')",
    "private mappings": "for _ in slowly(): m = mmap.mmap(-1, 4 * MIB, mmap.MAP_PRIVATE); m[:] = BLOCK; held.append(m)",
    "shared, a page kept": """
for _ in slowly():
    at = libc.mmap(None, 4 * MIB, 3, 0x21, -1, 0)
    ctypes.memset(at, 1, 4 * MIB)
    libc.munmap(at + 4096, 4 * MIB - 4096)
""",
    "/dev/zero, a page kept": """
zero = os.open('/dev/zero', os.O_RDWR)
for _ in slowly():
    at = libc.mmap(None, 4 * MIB, 3, 0x01, zero, 0)
    ctypes.memset(at, 1, 4 * MIB)
    libc.munmap(at + 4096, 4 * MIB - 4096)
""",
    "shared, handed from child to child": """
def child(depth):
    m = mmap.mmap(-1, 16 * MIB)
    m[:] = BLOCK * 4
    if depth and os.fork() == 0:
        m.madvise(mmap.MADV_DONTNEED)
        child(depth - 1)
    time.sleep(60)
if os.fork() == 0: child(12)
time.sleep(0.5)
hold()
""",
    "shared, in small pieces": """
for _ in range(3000):
    at = libc.mmap(None, MIB // 8, 3, 0x21, -1, 0)
    if at == ctypes.c_void_p(-1).value: break
    ctypes.memset(at, 1, MIB // 8)
    libc.munmap(at + 4096, MIB // 8 - 4096)
""",
    "pages in sockets": """
def all_of_it():
    file = open(f'f{os.getpid()}', 'wb+')
    try:
        while True:
            pair = socket.socketpair(); held.append(pair)
            pair[0].setblocking(False)
            file.truncate(0); file.truncate(MIB // 2)
            for at in range(0, MIB // 2, 4096): os.pwrite(file.fileno(), BLOCK[:4096], at)
            try:
                for at in range(0, MIB // 2, 4096): os.sendfile(pair[0].fileno(), file.fileno(), at, 1)
            except BlockingIOError: pass
    except OSError: pass
children(all_of_it, 10)
""",
    "pages of emptied files in sockets": """
def all_of_it():
    file = open(f'f{os.getpid()}', 'wb+', 0)
    try:
        while True:
            pair = socket.socketpair(); held.append(pair)
            for each in pair: each.setblocking(False)
            try:
                while True:
                    file.truncate(0)
                    os.pwrite(file.fileno(), BLOCK[:8192], 0)
                    os.sendfile(pair[0].fileno(), file.fileno(), 4095, 2)
            except BlockingIOError: pass
    except OSError: pass
children(all_of_it, 3)
""",
    "memfd": "for _ in slowly(): fd = os.memfd_create('x'); os.write(fd, BLOCK); held.append(fd)",
    "files": "for at in slowly(): open(f'f{at}', 'wb').write(BLOCK)",
    "/dev/shm": "for at in slowly(): open(f'/dev/shm/f{at}', 'wb').write(BLOCK)",
    "deleted files": """
for at in slowly():
    held.append(open('f', 'wb', 0)); held[-1].write(BLOCK); os.unlink('f')
""",
    "a mapped sparse file": """
file = open('f', 'wb+'); file.truncate(3 * MIB)
m = mmap.mmap(file.fileno(), 3 * MIB); m[:] = BLOCK[: 3 * MIB]
for _ in slowly(): p = mmap.mmap(file.fileno(), 3 * MIB, mmap.MAP_PRIVATE); p[:] = m[:]; held.append(p)
""",
    "System V shared memory": """
for _ in slowly():
    key = libc.shmget(0, 4 * MIB, 0o1600)
    assert key >= 0
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memset(libc.shmat(key, None, 0), 1, 4 * MIB)
""",
    "pipes": """
def work():
    while True:
        pipe = os.pipe(); held.append(pipe)
        try: __import__('fcntl').fcntl(pipe[1], 1031, MIB)
        except OSError: pass
        os.set_blocking(pipe[1], False)
        try:
            while True: os.write(pipe[1], BLOCK[:65536])
        except BlockingIOError: pass
def all_of_it():
    try: work()
    except OSError: pass
children(all_of_it, 10)
""",
    "local sockets": """
def all_of_it():
    try:
        while True:
            a, b = socket.socketpair(); fill(a, b)
    except OSError: pass
children(all_of_it, 10)
""",
    "TCP": """
server = socket.create_server(('127.0.0.1', 0))
def all_of_it():
    try:
        while True:
            a = socket.create_connection(server.getsockname()); b = server.accept()[0]; fill(a, b)
    except OSError: pass
children(all_of_it, 4)
""",
    "many processes": "children(grow)",
    "many processes at once": """
waits, go = os.pipe()
for _ in range(30):
    if os.fork() == 0:
        os.close(go); os.read(waits, 1)
        for _ in range(10): held.append(bytearray(b'y') * (4 * MIB))
        time.sleep(60)
os.close(go)
time.sleep(0.5)
""",
    "copies of the parent's": """
held.append(bytearray(b'y') * (24 * MIB))
waits, go = os.pipe()
for _ in range(30):
    if os.fork() == 0:
        os.close(go); os.read(waits, 1)
        for at in range(0, 24 * MIB, 4096): held[0][at] = 1
        time.sleep(60)
os.close(go)
time.sleep(0.5)
""",
    "threads of processes at once": """
waits, go = os.pipe()
threading.stack_size(65536)
def fill_once(at):
    os.read(waits, 1)
    ctypes.memset(at, 1, 8 * MIB)
    time.sleep(60)
for _ in range(6):
    if os.fork() == 0:
        os.close(go)
        for _ in range(4):
            held.append(mmap.mmap(-1, 8 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            at = ctypes.addressof(ctypes.c_char.from_buffer(held[-1]))
            threading.Thread(target=fill_once, args=(at,)).start()
        time.sleep(60)
os.close(go)
time.sleep(0.5)
""",
    "copies as soon as they are there": """
m = mmap.mmap(-1, 36 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
raw = ctypes.PyDLL(None)
fork, memset = raw.fork, raw.memset
memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(30):
    if fork() == 0:
        memset(at, 1, 36 * MIB)
        time.sleep(60)
time.sleep(0.5)
""",
    "unseen processes": "def work():\n    libc.prctl(4, 0, 0, 0, 0)\n    grow()\nchildren(work)",
    "dead leaders": """
def work():
    def live():
        grow()
        time.sleep(60)
    threading.Thread(target=live).start()
    libc.syscall(60, 0)
children(work)
""",
    "unseen dead leaders": """
def work():
    def live():
        libc.prctl(4, 0, 0, 0, 0)
        grow()
        time.sleep(60)
    threading.Thread(target=live).start()
    libc.prctl(4, 0, 0, 0, 0)
    libc.syscall(60, 0)
children(work)
""",
    "stopped processes": "def work():\n    grow()\n    os.kill(os.getpid(), signal.SIGSTOP)\nchildren(work)",
    "sessions of their own": "def work():\n    os.setsid()\n    grow()\nchildren(work)",
    "orphans": "def work():\n    if os.fork(): os._exit(0)\n    os.setsid()\n    grow()\nchildren(work)",
    "shared with a child that ends": """
def work():
    m = mmap.mmap(-1, 24 * MIB)
    if os.fork() == 0:
        m[:] = BLOCK * 6
        os._exit(0)
    os.wait()
children(work)
""",
    "page tables": """
libc.mmap.restype = ctypes.c_void_p
def work():
    for _ in range(8):
        m = mmap.mmap(-1, 28 * MIB, mmap.MAP_PRIVATE | 0x4000)
        for at in range(0, 28 * MIB, 4096): m[at]
        held.append(m)
children(work)
""",
    "page tables of pages far from each other": """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for at in range(1, 30000):
    at = libc.mmap(at << 30, 4096, 1, 0x100022, -1, 0)
    if at and at + 1: ctypes.string_at(at, 1)
""",
    "stacks of threads": """
threading.stack_size(4 * MIB)
def deep():
    block = (ctypes.c_char * (3 * MIB))()
    time.sleep(60)
def work():
    for _ in range(4): threading.Thread(target=deep, daemon=True).start()
children(work)
""",
    "names of files": """
for at in slowly():
    for inner in range(200):
        open('n' * 240 + f'{at}-{inner}', 'w').close()
""",
    "extended attributes": """
for at in slowly():
    open(f'f{at}', 'w').close()
    for inner in range(50): os.setxattr(f'f{at}', f'user.{inner}', BLOCK[:60000])
""",
    "cached files": """
end = time.monotonic() + 0.4
for folder, _, names in os.walk('/usr'):
    for name in names:
        try:
            with open(os.path.join(folder, name), 'rb') as file:
                while file.read(1 << 16): pass
        except OSError: pass
    if time.monotonic() > end: break
""",
    "given back slowly, as a process ends": "slow_ends(lambda: os._exit(0))",
    "children that seem to begin another program": """
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for line in open('/proc/self/maps'):
    start, end = (int(part, 16) for part in line.split()[0].split('-'))
    if 'x' in line.split()[1]: libc.mprotect(start, end - start, 7)
time.sleep(0.2)
children(grow)
""",
    "given back slowly, as another program begins": "slow_ends(lambda: os.execv('/bin/true', ['true']))",
}
_ENDING = "\nhold()\n"
GROW = {name: START + CHILDREN + code + _ENDING for name, code in GROW.items()}
"""Programs by what they fill."""
SHORT_CELL = """
import mmap, os, time
ready, go = os.pipe()
if os.fork() == 0:
    m = mmap.mmap(-1, 56 << 20, mmap.MAP_PRIVATE)
    try: m.madvise(23)  # MADV_POPULATE_WRITE
    except OSError: m[:] = b'y' * (56 << 20)
    os.write(go, b'x')
    while True: time.sleep(60)
os.read(ready, 1)
"""
"""A cell that leaves a process with 56 MiB, made in less than the time between two looks."""
SLOW_TO_LOAD = (
    START
    + """
libc.prctl(41, 1, 0, 0, 0)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
for _ in range(6):
    if os.fork() == 0:
        while True: pass
if os.fork() == 0:
    ctypes.memset(libc.mmap(None, 160 * MIB, 3, 0x22, -1, 0), 1, 160 * MIB)
    os.nice(19)
    os.execv('/bin/true', ['true'])
time.sleep(60)
"""
)
"""A process that takes seconds to give its memory back before it becomes another program: who looks at it may wait."""
