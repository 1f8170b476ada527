"""Endless, reproducible streams of training samples from worker processes: synthetic streets, or recorded drives."""

import os
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, islice
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
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap, check_map
from lidar_completion_evaluation.truth.rules import PUBLISHED_RULES, in_range, in_view_columns, truth_for_sweep
from lidar_completion_synthetic import TrainingPair, check_source, training_pairs
from lidar_completion_training.configuration import DataRecipe, check_choice
from lidar_completion_training.errors import DataWorkerError, RecipeError
from lidar_completion_training.known_space import KnownSpace


@dataclass(frozen=True)
class Sample:
    """One sweep for an objective: sweep (N, 3) and ground truth (M, 3), float32 metres, sensor frame.

    origin (3,): origin of the rays; known: where the truth is complete, None: everywhere.
    """

    sweep: Tensor
    truth: Tensor
    origin: Tensor = field(default_factory=lambda: torch.zeros(3))
    known: KnownSpace | None = None

    def to(self, device: torch.device | str) -> "Sample":
        """The sample on another device."""
        known = self.known and self.known.mapped(lambda tensor: tensor.to(device))
        return Sample(self.sweep.to(device), self.truth.to(device), self.origin.to(device), known)


class SyntheticStream(IterableDataset):
    """Samples number first_sample, first_sample + step, ... of synthetic streets.

    Sample n is always the same sweep for a given number of data workers over all training processes (step x workers), so
    a resumed run sees the same sweeps as an uninterrupted one.
    """

    def __init__(self, recipe: DataRecipe, first_sample: int, step: int = 1) -> None:
        try:
            check_source(recipe.sensor, recipe.world)
        except ValueError as error:
            raise RecipeError(f"data.sensor or data.world: {error}") from error
        self.recipe = recipe
        self.first_sample = first_sample
        self.step = step

    def __iter__(self) -> Iterator[Sample]:
        worker, workers = start_worker()
        series_count = self.step * workers  # no two series share a world; this worker makes one series
        number, series = divmod(self.first_sample + self.step * worker, series_count)
        world, skip = divmod(number, self.recipe.sweeps_per_world * self.recipe.uses_per_sweep)
        pairs = training_pairs(
            self.recipe.first_seed + series + world * series_count,
            self.recipe.sweeps_per_world,
            self.recipe.sensor,
            seed_step=series_count,
            threads=1,
            recipe=self.recipe.world,
        )
        for pair in islice(self._repeated(pairs), skip, None):
            yield sample_of(pair.sweep, pair.truth, self.recipe.view_cell_m, pair.origin)

    def _repeated(self, pairs: Iterator[TrainingPair]) -> Iterator[TrainingPair]:
        while True:
            of_world = []
            for pair in islice(pairs, self.recipe.sweeps_per_world):
                of_world.append(pair)
                yield pair
            for _ in range(1, self.recipe.uses_per_sweep):
                yield from of_world


class DriveStream(IterableDataset):
    """Samples number first_sample, first_sample + step, ... of recorded drives with ground-truth maps.

    Every epoch visits all sweeps in a new random order. Sample n is the same sweep for any number of processes and workers.

    The published rules apply: no moving or unlabelled points, if there are labels; ground truth within 50 m and with
    z > -4 m, cut to the cells that the sweep touches. RecipeError if drives or maps are missing, DriveError if a map was
    built with poses other than its drive's.
    """

    def __init__(self, recipe: DataRecipe, first_sample: int, step: int = 1) -> None:
        if not recipe.drives:
            raise RecipeError("data.drives is empty, but data.source is 'drives'; set data.drives=[folder,folder]")
        self.recipe = recipe
        self.first_sample = first_sample
        self.step = step
        self.rules = replace(PUBLISHED_RULES, view_cell_m=recipe.view_cell_m, max_z_m=np.inf)
        self.drives = [open_drive(folder) for folder in recipe.drives]
        sweeps = sum(map(len, self.drives))
        if recipe.sweeps_per_epoch not in (0, sweeps):
            raise RecipeError(
                f"data.sweeps_per_epoch is {recipe.sweeps_per_epoch}, but the {len(self.drives)} drives have {sweeps} "
                "sweeps; complete them, or set data.sweeps_per_epoch=0"
            )
        self.maps = [_map_of(drive, folder, recipe) for drive, folder in zip(self.drives, recipe.drives, strict=True)]

    def __iter__(self) -> Iterator[Sample]:
        worker, workers = start_worker()
        maps = [
            GroundTruthMap(file) for file in self.maps
        ]  # opened here: a mapped file would be sent to the workers as a copy
        ends = np.cumsum([len(drive) for drive in self.drives])
        order = lru_cache(1)(lambda epoch: np.random.default_rng([self.recipe.first_seed, epoch]).permutation(ends[-1]))
        number = self.first_sample + self.step * worker
        while True:
            epoch, place = divmod(number, int(ends[-1]))
            row = int(order(epoch)[place])
            drive = int(np.searchsorted(ends, row, side="right"))
            yield self._sample(self.drives[drive], maps[drive], row - int(ends[drive]) + len(self.drives[drive]))
            number += self.step * workers

    def _sample(self, drive: Drive, truth_map: GroundTruthMap, index: int) -> Sample:
        pose, measured = drive.T_map_sensor[index], drive.read(index)
        points = measured.points
        if self.recipe.drop_moving and measured.static is not None:
            points = points[measured.static]
        sweep = in_range(points, self.rules)
        around = truth_map.around(pose[:3, 3], self.rules.max_range_m)
        truth = truth_for_sweep(around, pose, self.rules, sweep)
        return Sample(torch.from_numpy(np.ascontiguousarray(sweep, np.float32)), torch.from_numpy(truth))


def _map_of(drive: Drive, folder: str, recipe: DataRecipe) -> Path:
    path = Path(recipe.maps) / f"{drive.name}.npz"
    if not path.is_file():
        raise RecipeError(f"{path}: no such map; build it: lidar-completion map {folder} --output {path}")
    check_map(path, drive)
    return path


Stream = SyntheticStream | DriveStream
STREAMS: dict[str, type[Stream]] = {"synthetic": SyntheticStream, "drives": DriveStream}
Open = Callable[[DataRecipe, int, int], IterableDataset]  # (recipe, first sample, step) -> stream
Prepare = Callable[[int, Sample], Any]  # (number, sample) -> the sample as an objective takes it


class PreparedStream(IterableDataset):
    """The samples of a stream, each prepared by the data worker that made it."""

    def __init__(self, stream: IterableDataset, first_sample: int, step: int, prepare: Prepare) -> None:
        self.stream, self.first_sample, self.step, self.prepare = stream, first_sample, step, prepare

    def __iter__(self) -> Iterator[Any]:
        worker, workers = start_worker()
        first, step = self.first_sample + self.step * worker, self.step * workers
        for number, sample in zip(count(first, step), self.stream, strict=False):
            yield self.prepare(number, sample)


def samples(
    recipe: DataRecipe,
    first_sample: int,
    step: int = 1,
    prepare: Prepare | None = None,
    pinned: bool = False,
    open_stream: Open | None = None,
) -> Iterator[Any]:
    """Samples number first_sample, first_sample + step, ...; process r of W uses step W and a first_sample of r modulo W.

    prepare: picklable function that the data workers apply to each sample. pinned: put the results into page-locked
    memory, from which they move to a GPU asynchronously. open_stream: default: the stream of data.source.
    DataWorkerError if a worker process dies.
    """
    check_choice("data.source", recipe.source, tuple(STREAMS))
    raw = (open_stream or STREAMS[recipe.source])(recipe, first_sample, step)
    stream: IterableDataset = raw if prepare is None else PreparedStream(raw, first_sample, step, prepare)
    if not recipe.workers:
        return iter(stream)
    loader: DataLoader = DataLoader(
        stream, None, num_workers=recipe.workers, prefetch_factor=4, pin_memory=pinned, **worker_start()
    )
    return from_workers(loader)


def from_workers(loader: DataLoader) -> Iterator[Any]:
    """The loader's samples; DataWorkerError if a worker dies, even during a transfer."""
    try:
        yield from loader
    except (EOFError, ConnectionError) as error:  # its socket closed while a sample was read from it
        raise DataWorkerError(type(error).__name__) from error
    except RuntimeError as error:  # DataLoader got no sample and found that the process is gone
        if isinstance(error.__cause__, queue.Empty | EOFError | OSError):
            raise DataWorkerError(str(error).splitlines()[0]) from error
        raise


def start_worker() -> tuple[int, int]:
    """Index of this data worker and number of workers; (0, 1) in the training process itself."""
    info = get_worker_info()
    if info is None:  # keep the number of threads, because it affects the rounding of sums
        return 0, 1
    torch.set_num_threads(1)
    return info.id, info.num_workers


def worker_start() -> dict[str, Any]:
    """DataLoader arguments: fork workers from a server process that has only imported this module.

    Forks of the trainer are unsafe: numba (GNU OpenMP) aborts forks of a process that has run parallel loops, and forks of
    a process that uses CUDA or holds locks may hang.
    """
    set_forkserver_preload(["lidar_completion_training.stream"])
    return {"multiprocessing_context": "forkserver", "worker_init_fn": _end_with_the_trainer}


def _end_with_the_trainer(worker: int) -> None:
    """End this worker when the trainer is killed. PyTorch only watches the process that forked it, the server."""
    trainer = parent_process()
    if trainer is not None:
        Thread(target=lambda: (wait([trainer.sentinel]), os._exit(1)), daemon=True).start()


def sample_of(
    sweep: np.ndarray, truth: np.ndarray, view_cell_m: float, origin: np.ndarray | tuple[float, ...] = (0.0, 0.0, 0.0)
) -> Sample:
    """A sample whose ground truth is cut to the columns of cells that the sweep touches."""
    visible = in_view_columns(truth, sweep, view_cell_m)
    return Sample(
        torch.from_numpy(sweep), torch.from_numpy(truth[visible]), torch.as_tensor(origin, dtype=torch.float32)
    )
