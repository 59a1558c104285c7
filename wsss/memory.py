"""Memory of training and evaluation on a CPU."""

import ctypes
import platform

# Parameters of mallopt(3), from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed() -> None:
    """Have the C library keep what is freed, until the process ends.

    glibc gives a large block back at once, and the next one, of the same size in the next step, comes page by page
    and filled with zeros: time that no operation shows. Only glibc can be asked; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
