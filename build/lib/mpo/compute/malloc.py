"""Keeps freed memory in the process, for faster allocation."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's mallopt(3)."""


def keep_freed() -> None:
    """Stops glibc from returning freed buffers to the system; does nothing without glibc.

    Each update allocates and frees the same buffers, and mapping a new page of memory costs about
    as much as the arithmetic on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # glibc's maximum
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
