"""Pictures during training: one held-out synthetic scene, completed by the current networks."""

from functools import cached_property, partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from lidar_completion_training.configuration import DataRecipe
from lidar_completion_training.objectives import Objective
from lidar_completion_training.stream import Sample, sample_of, worker_start

PICTURES_NAME = "pictures"
SCENE = 0  # number of the held-out synthetic scene
HEIGHTS_M = (-2.5, 3.0)  # z range of the colour scale


class Preview:
    """Draws bird's-eye views of sweep, completion and ground truth of the scene into a run's folder."""

    def __init__(self, folder: Path, recipe: DataRecipe, device: torch.device) -> None:
        self.folder, self.recipe, self.device = folder / PICTURES_NAME, recipe, device

    @cached_property
    def sample(self) -> Sample:
        """The scene, generated in a worker process (see worker_start)."""
        make = partial(_test_sample, self.recipe)
        scene: DataLoader = DataLoader([SCENE], None, num_workers=1, collate_fn=make, **worker_start())  # type: ignore[arg-type]
        return next(iter(scene)).to(self.device)

    def draw(self, objective: Objective, iteration: int) -> None:
        """Write pictures/<iteration>.png."""
        from lidar_completion_evaluation.pictures import Panel, birds_eye

        completed = objective.preview(self.sample, torch.Generator(self.device).manual_seed(0))
        clouds = {"sweep": self.sample.sweep, f"iteration {iteration}": completed, "truth": self.sample.truth}
        panels = [Panel(title, cloud.float().cpu().numpy(), limits=HEIGHTS_M) for title, cloud in clouds.items()]
        self.folder.mkdir(parents=True, exist_ok=True)
        birds_eye(panels, self.folder / f"{iteration:06d}.png", size_inch=4.0)


def _test_sample(recipe: DataRecipe, scene: int) -> Sample:
    from lidar_completion_synthetic import test_pair

    pair = test_pair(scene, recipe.sensor, threads=1, recipe=recipe.world)
    return sample_of(pair.sweep, pair.truth, recipe.view_cell_m, pair.origin)
