"""Memory of this process that is free, back to the system: several processes of a run share what a machine has."""

import contextlib
import ctypes


def trim_heap() -> None:
    """Give the freed pages of the C library's heap back; a few milliseconds.

    Tensors on the CPU come from that heap, and their sizes differ from step to step, so that gaps stay between them:
    80 MiB each in trainer and engine after sixteen steps of the nano model. Without glibc it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
