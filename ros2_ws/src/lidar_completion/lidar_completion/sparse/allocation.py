"""Memory that stays with the process between sweeps.

The arrays of a completion have megabytes each. By default the C library returns such blocks to the system when they are freed, and
the system clears new pages for the next sweep: 10,000 to 35,000 page faults per sweep.
"""

import ctypes
import os
from functools import cache

# Parameters of mallopt(3) in glibc
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
KEPT_BYTES = 1 << 29  # free memory at the end of the heap above this is returned
SWITCH = "LIDAR_COMPLETION_KEEP_MEMORY"  # 0: leave the allocator as it is


@cache
def keep_memory() -> bool:
    """Let the process's allocator reuse large blocks; False if that is switched off or the C library is not glibc."""
    if os.environ.get(SWITCH, "1") == "0":
        return False
    mallopt = _glibc_function("mallopt")
    # one arena: those of other threads cannot hold blocks of more than 64 MB
    settings = ((TRIM_THRESHOLD, KEPT_BYTES), (MMAP_MAX, 0), (ARENA_MAX, 1))
    return mallopt is not None and all([mallopt(parameter, value) for parameter, value in settings])


def release_memory() -> None:
    """Return free memory to the system, after loading or warm-up; the next sweep allocates it again."""
    malloc_trim = _glibc_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc_function(name: str):  # type: ignore[no-untyped-def]
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # another C library
        return None
