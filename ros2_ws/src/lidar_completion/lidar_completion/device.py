"""The compute device, and the time that stages take on it."""

import time

import torch


def choose_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"; ValueError with the reason if it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: PyTorch finds no CUDA device; use 'cpu' or 'auto'")
    return chosen


class StageClock:
    """Seconds of each stage; on a GPU it waits for the stage's work to finish."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def stop(self, stage: str) -> None:
        """End the stage that began with the previous call."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._stages[stage] = now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        """Seconds by stage, and their total."""
        return {**self._stages, "total": self._last - self._first}
