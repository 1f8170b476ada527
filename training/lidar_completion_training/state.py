"""The saved state of a run: what a run resumes from, and what is exported."""

import copy
import dataclasses
import zlib
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch

from lidar_completion.files import atomic_write
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import TrainingError
from lidar_completion_training.learning_rate import optimiser_of
from lidar_completion_training.objectives import Objective

STATE_NAME = "state.pt"


class TrainingState:
    """Iteration, networks, their average, and optimisers of a run; one file on disk."""

    def __init__(self, objective: Objective, recipe: Recipe, device: torch.device) -> None:
        self.iteration = 0
        self.samples = 0  # sweeps consumed by all processes
        self.decay_iterations = 0  # length of the cosine; 0: not yet decided
        self.variant = ""  # how the run's schedule differs from its recipe
        self.timing = {"steps": 0, "seconds": 0.0, "peak_bytes": 0}
        self.networks = objective.networks
        self.exported = objective.exported
        self.average = copy.deepcopy(objective.exported).requires_grad_(False)
        self.optimisers = {group: optimiser_of(recipe.optimiser, module) for group, module in objective.trained.items()}
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "16-mixed")

    def update_average(self, average_decay: float) -> None:
        """Move the average towards the weights; it follows them faster during the first iterations."""
        decay = min(average_decay, self.iteration / (self.iteration + 10))
        current = self.exported.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])

    def measure(self, seconds: float, device: torch.device) -> None:
        """Record a step's time and the peak memory of this process."""
        cuda = device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(device) if cuda else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
        steps, total = self.timing["steps"] + 1, self.timing["seconds"] + seconds
        self.timing = {"steps": steps, "seconds": total, "peak_bytes": max(peak, self.timing["peak_bytes"])}

    def fingerprint(self) -> int:
        """A checksum of all weights and batch-norm statistics."""
        checksum = 0
        for value in self.networks.state_dict().values():
            if not value.is_floating_point():  # batch-norm counters differ if a process skipped a sweep of one voxel
                continue
            checksum = zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes(), checksum)
        return checksum

    def save(self, folder: Path, recipe: Recipe, processes: int) -> None:
        """Replace the state file of a run's folder atomically."""
        state = {
            "iteration": self.iteration,
            "samples": self.samples,
            "processes": processes,
            "decay_iterations": self.decay_iterations,
            "variant": self.variant,
            "timing": self.timing,
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": {group: optimiser.state_dict() for group, optimiser in self.optimisers.items()},
            "scaler": self.scaler.state_dict(),
            "recipe": dataclasses.asdict(recipe),
        }
        with atomic_write(folder / STATE_NAME, durable=True) as temporary:
            torch.save(state, temporary)

    def restore(self, saved: dict[str, Any], path: Path) -> None:
        """Continue from a saved state; TrainingError if it belongs to other networks."""
        try:
            self.networks.load_state_dict(saved["networks"])
            self.average.load_state_dict(saved["average"])
            for group, optimiser in self.optimisers.items():
                optimiser.load_state_dict(saved["optimisers"][group])
            self.scaler.load_state_dict(saved["scaler"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = f"does not fit this recipe ({str(error).splitlines()[0]})"
            raise TrainingError(f"{path}: {reason}; use another --run folder") from error
        self.iteration = saved["iteration"]
        old_batch = saved["recipe"].get("batch", 1)  # states without a sample count come from a single process
        self.samples = saved.get("samples", self.iteration * old_batch)
        self.decay_iterations = saved.get("decay_iterations", saved["recipe"].get("iterations", 0))
        self.timing = saved.get("timing", self.timing)


def load_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The saved state in a run's folder; None if there is none, TrainingError if it is damaged."""
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not {"iteration", "networks", "average"} <= state.keys():
            raise TypeError("it is not the state of a run")
    except Exception as error:  # unpickling a damaged file can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TrainingError(
            f"{path}: damaged ({reason}); remove it to start again, or use another --run folder"
        ) from error
    return state


def changed_entries(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Entries that two nested dictionaries share and that differ: dotted name -> (before, now)."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changed_entries(old, new, f"{prefix}{name}.")
        elif old != new:
            found[prefix + name] = (old, new)
    return dict(sorted(found.items()))
