"""Removes the shared memory that Fast DDS leaves behind when a process is killed.

A participant has a segment fastrtps_<16 hexadecimal digits> and holds an flock on fastrtps_<...>_el for as long as it
lives; the kernel releases it when the process dies, in any container. Fast DDS 2.14 itself replaces dead ports
(fastrtps_port...), but never removes a dead segment.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
LOCK_NAME = re.compile(r"fastrtps_[0-9a-f]{16}_el")
MIN_AGE_S = 10.0  # a younger lock may belong to a process that has created it but does not hold it yet


@dataclass(frozen=True)
class Removed:
    """Segments that were removed."""

    segments: int = 0
    size_bytes: int = 0

    def __str__(self) -> str:
        plural = "" if self.segments == 1 else "s"
        return (
            f"removed {self.segments} shared-memory segment{plural} of dead processes ({self.size_bytes / 1e6:.0f} MB)"
        )


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> Removed:
    """Remove segments whose lock nobody holds, except those that this user may not remove."""
    sizes = [_remove_if_dead(lock) for lock in sorted(folder.glob("fastrtps_*_el")) if LOCK_NAME.fullmatch(lock.name)]
    removed = [size for size in sizes if size is not None]
    return Removed(len(removed), sum(removed))


def _remove_if_dead(lock: Path) -> int | None:
    """Size in bytes of the removed segment; None if its process lives, or if it cannot be removed."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if time.time() - os.fstat(handle).st_mtime < MIN_AGE_S:
            return None
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if a process holds it
        segment = lock.with_name(lock.name.removesuffix("_el"))
        size = segment.stat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock.unlink()
        return size
    except OSError:
        return None
    finally:
        os.close(handle)
