"""Training samples of an adaptation: sweeps of a drive, mixed with synthetic ones so that the model does not forget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lidar_completion_evaluation.scenes import SceneSource
from lidar_completion_training.configuration import DataRecipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.known_space import KnownSpace
from lidar_completion_training.stream import Sample, SyntheticStream

CACHED_SWEEPS = 32  # about 10 MB each; ray tracing for one sweep of the drive takes as long as a training step


class AdaptationStream(IterableDataset):
    """Samples number first_sample, first_sample + 1, ...; a share drive_share of them are sweeps of the drive.

    Every epoch visits all sweeps of the drive in a new random order. Sample n is always the same sweep, so a run can resume.
    """

    def __init__(
        self, recipe: DataRecipe, first_sample: int, step: int, scenes: SceneSource, drive_share: float
    ) -> None:
        if step != 1 or recipe.workers > 1:
            raise RecipeError("adaptation runs in one process with at most one data worker; set data.workers=1")
        self.recipe, self.first_sample, self.scenes, self.drive_share = recipe, first_sample, scenes, drive_share
        self.synthetic = SyntheticStream(recipe, first_sample - self._of_drive(first_sample))

    def _of_drive(self, number: int) -> int:
        """How many of the samples before this number are sweeps of the drive."""
        return math.floor(number * self.drive_share + 1e-9)

    def __iter__(self) -> Iterator[Sample]:
        synthetic, sweep = iter(self.synthetic), lru_cache(CACHED_SWEEPS)(self._sweep)
        for number in count(self.first_sample):
            place = self._of_drive(number)
            if self._of_drive(number + 1) == place:
                yield next(synthetic)
                continue
            epoch, place = divmod(place, len(self.scenes.names))
            order = np.random.default_rng([self.recipe.first_seed, epoch]).permutation(len(self.scenes.names))
            yield sweep(int(order[place]))

    def _sweep(self, index: int) -> Sample:
        scene = self.scenes.load(index)
        points = np.ascontiguousarray(scene.sweep, np.float32)
        return Sample(torch.from_numpy(points), torch.from_numpy(scene.truth), known=KnownSpace.of(scene.observed))


@dataclass(frozen=True)
class OpenAdaptation:
    """Opens the stream for the trainer; picklable."""

    scenes: SceneSource
    drive_share: float = 0.5

    def __call__(self, recipe: DataRecipe, first_sample: int, step: int) -> AdaptationStream:
        return AdaptationStream(recipe, first_sample, step, self.scenes, self.drive_share)
