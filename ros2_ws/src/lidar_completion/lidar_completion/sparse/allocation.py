"""Memory that stays with the process between sweeps, and memory that only its start needed.

The arrays of a completion have megabytes each. By default the C library returns such blocks to the system when they are freed, and
the system clears new pages for the next sweep: 10,000 to 35,000 page faults per sweep.
"""

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Parameters of mallopt(3) in glibc
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
KEPT_BYTES = 1 << 29  # free memory at the end of the heap above this is returned
START_UP_LIBRARIES = re.compile(r"/(libtorch\w*|libllvmlite)\.so$")
MAPPINGS = Path("/proc/self/smaps")
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


def unmap_start_up_code() -> int:
    """Unmap the code of PyTorch and LLVM, most of which runs only at start-up; returns the number of bytes.

    The pages stay in the page cache for as long as the system has memory to spare, and the kernel maps those again that a
    sweep uses. Other libraries stay: where one is being loaded or unloaded, another thread may already have put data.
    """
    madvise, unmapped = _glibc_function("madvise"), 0
    for start, end, resident in list(_unmodified_code(MAPPINGS)) if madvise is not None else ():
        address, length = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
        if madvise(address, length, mmap.MADV_DONTNEED) == 0:  # fails for locked memory
            unmapped += resident
    return unmapped


def _unmodified_code(mappings: Path) -> Iterator[tuple[int, int, int]]:
    """Start, end and resident bytes of code and constants. Pages that were written exist nowhere else, so they are left out."""
    try:
        lines = mappings.read_text().splitlines()
    except OSError:  # not Linux
        return
    start = end = resident = 0
    for name, *values in map(str.split, lines):
        if not name.endswith(":"):  # the next mapping
            is_code = values[0] in ("r-xp", "r--p") and START_UP_LIBRARIES.search(values[-1])
            start, end = (int(each, 16) for each in name.split("-")) if is_code else (0, 0)
        elif name == "Rss:":
            resident = 1024 * int(values[0])
        elif name == "Anonymous:" and values[0] == "0" and start and resident:
            yield start, end, resident


def _glibc_function(name: str):  # type: ignore[no-untyped-def]
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # another C library
        return None
