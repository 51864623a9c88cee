"""Programs with many mappings, which are memory of the kernel's that is in no process's size."""

_START = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def mapped(number, touched):
    at = libc.mmap(None, number << 12, 3, 0x22, -1, 0)
    if touched: ctypes.memset(at, 1, number << 12)
    for page in range(0, number, 2): libc.mprotect(at + (page << 12), 4096, 1)
"""
OF_DESCENDANTS = (
    _START
    + """
mapped(7000, True)
for _ in range(30):
    if os.fork(): time.sleep(60)
time.sleep(0.12)
"""
)
"""Each descendant's mapping holds a piece of memory for each of its ancestors."""
OF_ONE_AND_OF_TWO = (
    _START
    + """
mapped(20_000, False)
time.sleep(0.2)
print('alone', flush=True)
if os.fork() == 0: time.sleep(60)
time.sleep(5)
print('held')
"""
)
"""20,000 mappings of one process, and then as many of its child."""
OF_ENDED_LEADERS = (
    _START
    + """
import threading
def hold():
    time.sleep(0.05)
    mapped(9000, False)
    time.sleep(60)
for _ in range(3):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        libc.syscall(60, 0)
time.sleep(3)
print('held')
"""
)
"""9,000 mappings of each of three processes whose first threads have ended."""
OF_A_THREAD_OF_A_CHILD_OF_AN_ENDED_LEADER = (
    _START
    + """
import threading
def go_on():
    time.sleep(0.05)
    mapped(9000, False)
    if os.fork() == 0: mapped(2, False)
    threading.Thread(target=time.sleep, args=(60,)).start()
    time.sleep(0.3)
    libc.syscall(60, 0)
if os.fork() == 0:
    threading.Thread(target=go_on).start()
    libc.syscall(60, 0)
time.sleep(3)
print('held')
"""
)
"""9,000 mappings of a process of which only its third thread is left, and of its child, which has its first."""
OF_A_PARENT_THAT_ENDS = (
    _START
    + """
mapped(9000, False)
if os.fork() == 0:
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(3)
print('held')
"""
)
"""9,000 mappings of a process and of its grandchild, whose parent has ended."""
FROM_MANY_SIDES = {
    "ended leaders": OF_ENDED_LEADERS,
    "a thread of an ended leader": OF_A_THREAD_OF_A_CHILD_OF_AN_ENDED_LEADER,
    "a parent that ends": OF_A_PARENT_THAT_ENDS,
}
IN_ONE_MEMORY = (
    _START
    + """
mapped(12_000, False)
stack = ctypes.create_string_buffer(1 << 16)
top = (ctypes.addressof(stack) + (1 << 16)) & ~15
for _ in range(2):
    pid = libc.clone(ctypes.cast(libc.usleep, ctypes.c_void_p), ctypes.c_void_p(top), 0x4100 | 17, 300_000)
    print('waited for' if os.waitpid(pid, 0)[0] == pid else 'lost')
"""
)
"""12,000 mappings of a process that waits for one in its memory, as `subprocess` does until the new program begins."""
