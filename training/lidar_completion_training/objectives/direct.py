"""Direct completion: the network is used in training as it is used on the vehicle, and pulled to the truth.

Starts lie around the scan, not around the truth: noise prediction from truth-centred starts learns to project onto the
nearest surface and never to cross a gap, because it has not seen a start that lies in one.
"""

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from lidar_completion.checkpoints import ModelCard
from lidar_completion.diffusion import add_noise, sampling_timesteps
from lidar_completion.networks import ConditionEncoder, Denoiser, VoxelisedCloud
from lidar_completion.scan import crop_range, replicate, voxel_downsample
from lidar_completion_training.configuration import DirectRecipe
from lidar_completion_training.data.stream import Sample


class DirectCompletion:
    """One or two passes of the few-step sampler, the gradient through the last, a clamped Chamfer distance as loss."""

    def __init__(self, recipe: DirectRecipe, card: ModelCard) -> None:
        self.recipe = recipe
        self.card = card

    def __call__(
        self, encoder: ConditionEncoder, denoiser: Denoiser, sample: Sample, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and what to log of one sample."""
        settings, schedule = self.card.pipeline, self.card.schedule
        voxel_size_m = self.card.architecture.voxel_size_m
        turn = random_turn(generator)
        near = crop_range(sample.sweep, settings.min_range_m, settings.max_range_m) @ turn.T
        truth = sample.truth @ turn.T
        scan = voxel_downsample(near, settings.downsample_voxel_m)
        condition = encoder(VoxelisedCloud.of(scan, voxel_size_m))

        points = replicate(scan, settings.replication)
        scale = settings.noise_scale(points)
        timesteps = self._timesteps(generator)
        for t in timesteps:
            sigma = float(schedule.sigma[t])
            points = add_noise(points, scale * torch.randn(points.shape, generator=generator), sigma)
            with torch.set_grad_enabled(t == timesteps[-1]):
                cloud = VoxelisedCloud.of(points, voxel_size_m)
                points = points - sigma * scale * denoiser(cloud, condition, torch.tensor([t]))
        accuracy, coverage = clamped_chamfer(points, truth, self.recipe, generator)
        loss = accuracy + self.recipe.coverage_weight * coverage
        return loss, {"accuracy_m": accuracy.item(), "coverage_m": coverage.item(), "passes": len(timesteps)}

    def _timesteps(self, generator: torch.Generator) -> list[int]:
        """The first timestep alone, or with it any later one of any number of steps: the model then meets every level
        that inference can ask for, always from an estimate of its own."""
        settings = self.card.pipeline
        start = settings.start_timestep
        if torch.rand((), generator=generator) >= self.recipe.second_pass:
            return [start]
        steps = int(torch.randint(2, self.recipe.max_steps + 1, (), generator=generator))
        later = sampling_timesteps(settings.sampler, steps, self.card.schedule, start)[1:]
        return [start, later[int(torch.randint(len(later), (), generator=generator))]]


def clamped_chamfer(
    prediction: Tensor, truth: Tensor, recipe: DirectRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean clamped nearest distances prediction -> truth and truth -> prediction, over random points of each, metres.

    The clamp keeps what the sweep gives no hint of from dragging points into the unknown.
    """
    some = torch.randint(len(prediction), (recipe.queries,), generator=generator)
    nearest = _nearest(truth, prediction[some])
    accuracy = (prediction[some] - truth[nearest]).norm(dim=1).clamp(max=recipe.clamp_m).mean()
    some = torch.randint(len(truth), (recipe.queries,), generator=generator)
    nearest = _nearest(prediction, truth[some])
    coverage = (prediction[nearest] - truth[some]).norm(dim=1).clamp(max=recipe.clamp_m).mean()
    return accuracy, coverage


def _nearest(points: Tensor, queries: Tensor) -> Tensor:
    tree = cKDTree(points.detach().numpy(), balanced_tree=False, compact_nodes=False)
    return torch.from_numpy(tree.query(queries.detach().numpy(), workers=torch.get_num_threads())[1])


def random_turn(generator: torch.Generator) -> Tensor:
    """Augmentation: a matrix (3, 3) that turns about z by any angle and flips y half of the time."""
    angle = torch.rand((), generator=generator) * (2 * torch.pi)
    flip = 1.0 if torch.rand((), generator=generator) < 0.5 else -1.0
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros(()), torch.ones(())
    return torch.stack([c, -flip * s, zero, s, flip * c, zero, zero, zero, one]).view(3, 3)
