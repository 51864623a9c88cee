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
