"""Memory that is freed stays in the process."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed() -> None:
    """Stops glibc from handing freed megabytes back to the system; elsewhere does nothing.

    An update frees and takes the same buffers again and again, and each new page of memory costs
    about as much as the arithmetic on it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc accepts
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
