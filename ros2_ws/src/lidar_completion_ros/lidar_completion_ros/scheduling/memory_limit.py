"""Reaction to memory exhaustion: a smaller workload, and a gradual return to the full one. No ROS and no clock."""

from __future__ import annotations

from dataclasses import replace

from lidar_completion_ros.scheduling.workload import Workload

RETRY_AFTER = 20  # completed sweeps before twice as many start points are tried
MAX_RETRY_AFTER = 640
TEXTS = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch, NumPy or ONNX Runtime means that memory ran out; some differ only in their text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(text in str(error).lower() for text in TEXTS)


class MemoryLimit:
    """The number of start points that is known to fit into memory; unlimited at first."""

    def __init__(self, retry_after: int = RETRY_AFTER) -> None:
        self.max_starts: float | None = None
        self._retry_after = retry_after
        self._completed = 0
        self._retrying = False

    def limited(self, points: int, wanted: Workload) -> Workload:
        """The part of the wanted workload that fits."""
        if self.max_starts is None:
            return wanted
        replication = max(1, int(self.max_starts / max(points, 1)))
        return wanted if replication >= wanted.replication else replace(wanted, replication=replication)

    def exhausted(self, points: int, failed: Workload) -> Workload | None:
        """The workload to try after `failed` did not fit; None if that was the minimum."""
        if self._retrying:
            self._retry_after = min(2 * self._retry_after, MAX_RETRY_AFTER)
        self._completed, self._retrying = 0, False
        self.max_starts = points * failed.replication / 2
        return None if failed.replication == 1 else replace(failed, replication=max(1, failed.replication // 2))

    def fitted(self, points: int, wanted: Workload) -> None:
        """Count a completed sweep. After enough of them the limit is doubled, until the wanted workload fits again."""
        self._retrying = False
        if self.max_starts is None:
            return
        self._completed += 1
        if self._completed < self._retry_after:
            return
        self._completed, self._retrying = 0, True
        self.max_starts *= 2
        if self.max_starts >= points * wanted.replication:
            self.max_starts = None
