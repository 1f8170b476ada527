"""An endless, reproducible stream of training pairs from worker processes: synthetic streets, or recorded drives."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import parent_process, set_forkserver_preload
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lidar_completion_evaluation.drives.drive import Drive
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap
from lidar_completion_evaluation.truth.rules import PUBLISHED_RULES, in_range, truth_for_sweep
from lidar_completion_synthetic import check_source, training_pairs
from lidar_completion_training.configuration import DataRecipe, RecipeError


@dataclass(frozen=True)
class Sample:
    """What an objective needs of one sweep: sweep (N, 3) and truth (M, 3), float32 metres, sensor frame.

    origin (3,): where the rays start, between which and the sweep's points the space was seen free.
    """

    sweep: Tensor
    truth: Tensor
    origin: Tensor = field(default_factory=lambda: torch.zeros(3))

    def to(self, device: torch.device | str) -> "Sample":
        """The sample on another device."""
        return Sample(self.sweep.to(device), self.truth.to(device), self.origin.to(device))


class PairStream(IterableDataset):
    """Samples number first_sample, first_sample + step, and so on. Sample n is always the same sweep for a given number of
    worker processes over all training processes (step x workers), so a resumed run sees what it would have seen."""

    def __init__(self, recipe: DataRecipe, first_sample: int, step: int = 1) -> None:
        try:
            check_source(recipe.sensor, recipe.world)
        except ValueError as error:
            raise RecipeError(f"data.sensor or data.world: {error}") from error
        self.recipe = recipe
        self.first_sample = first_sample
        self.step = step

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        if info:  # never in the training process itself: another number of threads rounds sums otherwise
            torch.set_num_threads(1)
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        series = self.step * workers  # of samples, each with worlds of its own; this worker gives one of them
        mine, number = (
            (self.first_sample + self.step * worker) % series,
            (self.first_sample + self.step * worker) // series,
        )
        world, skip = divmod(number, self.recipe.sweeps_per_world)
        pairs = training_pairs(
            self.recipe.first_seed + mine + world * series,
            self.recipe.sweeps_per_world,
            self.recipe.sensor,
            seed_step=series,
            threads=1,
            recipe=self.recipe.world,
        )
        for place, pair in enumerate(pairs):
            if place >= skip:
                yield sample_of(pair.sweep, pair.truth, self.recipe.view_cell_m, pair.origin)


class DriveStream(IterableDataset):
    """Samples number first_sample, first_sample + step, ... of recorded drives with maps: all sweeps in random order, again
    and again. Sample n is the same sweep for any number of processes and workers.

    The reference's rules: no moving or unlabelled points where there are labels, the truth within 50 m and z > -4 m, cut
    to the cells that the sweep touches. Raises RecipeError where drives or maps are missing.
    """

    def __init__(self, recipe: DataRecipe, first_sample: int, step: int = 1) -> None:
        self.recipe = recipe
        self.first_sample = first_sample
        self.step = step
        self.rules = replace(PUBLISHED_RULES, view_cell_m=recipe.view_cell_m, max_z_m=np.inf)
        if not recipe.drives:
            raise RecipeError("data.drives is empty, but data.source is 'drives'; set data.drives=[folder,folder]")
        self.drives = [open_drive(folder) for folder in recipe.drives]
        self.maps = [_map_of(drive, folder, recipe) for drive, folder in zip(self.drives, recipe.drives, strict=True)]

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        if info:
            torch.set_num_threads(1)
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        truth = [GroundTruthMap(file) for file in self.maps]  # a file handle of this worker's own
        ends = np.cumsum([len(drive) for drive in self.drives])
        order = cache(lambda turn: np.random.default_rng([self.recipe.first_seed, turn]).permutation(ends[-1]))
        number = self.first_sample + self.step * worker
        while True:
            turn, place = divmod(number, int(ends[-1]))
            row = int(order(turn)[place])
            which = int(np.searchsorted(ends, row, side="right"))
            yield self._sample(self.drives[which], truth[which], row - int(ends[which]) + len(self.drives[which]))
            number += self.step * workers

    def _sample(self, drive: Drive, truth: GroundTruthMap, index: int) -> Sample:
        pose, measured = drive.T_map_sensor[index], drive.read(index)
        points = measured.points
        if self.recipe.drop_moving and measured.static is not None:
            points = points[measured.static]
        sweep = in_range(points, self.rules)
        around = truth.around(pose[:3, 3], self.rules.max_range_m)
        known = truth_for_sweep(around, pose, self.rules, sweep)
        return Sample(torch.from_numpy(np.ascontiguousarray(sweep, np.float32)), torch.from_numpy(known))


def _map_of(drive: Drive, folder: str, recipe: DataRecipe) -> Path:
    path = Path(recipe.maps) / f"{drive.name}.npz"
    if not path.is_file():
        raise RecipeError(f"{path}: no such map; build it: lidar-completion-train map {folder} --output {path}")
    return path


STREAMS = {"synthetic": PairStream, "drives": DriveStream}


def samples(recipe: DataRecipe, first_sample: int, step: int = 1) -> Iterator[Sample]:
    """Samples number first_sample, first_sample + step, ...: process r of W starts at a multiple of W plus r, with step W."""
    if recipe.source not in STREAMS:
        raise RecipeError(f"data.source is {recipe.source!r}; it can be one of {', '.join(STREAMS)}")
    stream = STREAMS[recipe.source](recipe, first_sample, step)
    if not recipe.workers:
        return iter(stream)
    return iter(DataLoader(stream, None, num_workers=recipe.workers, prefetch_factor=4, **worker_start()))


def worker_start() -> dict[str, Any]:
    """How a DataLoader starts its workers: from a server that has imported this module and done nothing else. Copies of a
    process that has cast rays on several threads are ended by numba (GNU OpenMP), and copies with CUDA or locks may hang."""
    set_forkserver_preload(["lidar_completion_training.stream"])
    return {"multiprocessing_context": "forkserver", "worker_init_fn": _end_with_the_trainer}


def _end_with_the_trainer(worker: int) -> None:
    """A worker of a killed trainer ends too: PyTorch watches the process that forked it, which here is the server."""
    trainer = parent_process()
    if trainer is not None:
        Thread(target=lambda: (wait([trainer.sentinel]), os._exit(1)), daemon=True).start()


def sample_of(
    sweep: np.ndarray, truth: np.ndarray, view_cell_m: float, origin: np.ndarray | tuple[float, ...] = (0.0, 0.0, 0.0)
) -> Sample:
    """Truth cut to the view cells that the sweep touches."""
    cells = np.unique(_cell(sweep, view_cell_m))
    seen = np.isin(_cell(truth, view_cell_m), cells)
    return Sample(torch.from_numpy(sweep), torch.from_numpy(truth[seen]), torch.as_tensor(origin, dtype=torch.float32))


def _cell(points: np.ndarray, size_m: float) -> np.ndarray:
    xy = np.floor(points[:, :2] / size_m).astype(np.int64) + 1000
    return xy[:, 0] * 2000 + xy[:, 1]
