"""What to do when a sweep does not fit into memory: less work, and back to all of it when the cause is gone. Pure."""

from __future__ import annotations

from dataclasses import replace

from lidar_completion_ros.deadline import Choice

TRIAL_AFTER = 20  # sweeps that fit, before twice as much is tried
LONGEST_TRIAL_AFTER = 640
TEXTS = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch, numpy or onnxruntime says that memory ran out; only the text tells some apart."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(text in str(error).lower() for text in TEXTS)


class MemoryLimit:
    """The most start points that fit into memory, as far as is known; none to begin with."""

    def __init__(self) -> None:
        self.most_starts: float | None = None
        self._fitted = 0
        self._trial_after = TRIAL_AFTER
        self._on_trial = False

    def limited(self, points: int, wanted: Choice) -> Choice:
        """The part of the wanted work that fits."""
        if self.most_starts is None:
            return wanted
        copies = max(1, int(self.most_starts / max(points, 1)))
        return wanted if copies >= wanted.replication else replace(wanted, replication=copies)

    def exhausted(self, points: int, choice: Choice) -> Choice | None:
        """The work to try after `choice` did not fit; None where it is the least there is."""
        if self._on_trial:
            self._trial_after = min(2 * self._trial_after, LONGEST_TRIAL_AFTER)
        self._fitted, self._on_trial = 0, False
        self.most_starts = points * choice.replication / 2
        return None if choice.replication == 1 else replace(choice, replication=max(1, choice.replication // 2))

    def fitted(self, points: int, wanted: Choice) -> None:
        """A sweep was completed. After enough of them twice as much is tried, until all that is wanted fits again."""
        self._on_trial = False
        if self.most_starts is None:
            return
        self._fitted += 1
        if self._fitted < self._trial_after:
            return
        self._fitted, self._on_trial = 0, True
        self.most_starts *= 2
        if self.most_starts >= points * wanted.replication:
            self.most_starts = None
