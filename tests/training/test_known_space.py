"""Truth that is complete in known space only, and batch norms that keep their statistics."""

import numpy as np
import pytest
import torch
from small_wall import SHORT_RUN, wall

from lidar_completion_evaluation.truth.observed_space import RayRules, observe
from lidar_completion_training.configuration import AugmentationRecipe
from lidar_completion_training.known_space import KnownSpace
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.chamfer import clamped_chamfer
from lidar_completion_training.objectives.sweep import augmentation
from lidar_completion_training.recipe_files import load_recipe

RULES = RayRules(voxel_size_m=0.5)


@pytest.fixture(scope="module")
def known() -> KnownSpace:
    """One ray along x to a point at 20 m, and a surface at (0, 20, 0)."""
    ray = (np.zeros(3), np.array([[20.0, 0.1, 0.1]]))
    return KnownSpace.of(observe([ray], [np.array([[0.1, 20.1, 0.1]])], RULES))


def test_rays_and_surfaces_are_known_and_the_rest_is_not(known):
    points = torch.tensor([[5.0, 0.1, 0.1], [0.1, 20.1, 0.1], [5.0, 3.0, 0.1], [22.0, 0.1, 0.1], [200.0, 0.1, 0.1]])
    assert known.contains(points).tolist() == [True, True, False, False, False]


def test_known_space_follows_the_augmentation(known):
    generator = torch.Generator().manual_seed(2)
    matrix = augmentation(AugmentationRecipe(tilt_rad=0.1, scale=0.05), generator)
    points = torch.rand(2000, 3, generator=generator) * torch.tensor([30.0, 1.0, 1.0])
    inside = known.contains(points)
    assert 0 < int(inside.sum()) < len(points)
    assert torch.equal(known.augmented(matrix).contains(points @ matrix.T), inside)


def test_points_in_unknown_space_do_not_change_accuracy_and_confidence(known):
    """Half of the prediction lies on the truth, half 3 m beside it in unknown space."""
    truth = torch.tensor([[x, 0.1, 0.1] for x in np.arange(1.0, 15.0, 0.1)], dtype=torch.float32)
    prediction = torch.cat([truth, truth + torch.tensor([0.0, 3.0, 0.0])]).requires_grad_()
    logit = torch.full((len(prediction),), 3.0)
    recipe = load_recipe(None, ["direct.queries=2000"]).direct

    def numbers(space):
        return clamped_chamfer(prediction, logit, truth, recipe, torch.Generator().manual_seed(0), known=space)

    loss, found = numbers(known)
    assert found["accuracy_m"] == 0.0
    assert found["confidence_loss"] == pytest.approx(np.log1p(np.exp(-3.0)), rel=1e-4)
    loss.backward()
    assert not prediction.grad[len(truth) :].any()
    assert numbers(None)[1]["accuracy_m"] == pytest.approx(1.0, rel=0.1)  # clamped at 2 m


@pytest.mark.parametrize(("mode", "changed"), [("sweep", True), ("frozen", False)])
def test_frozen_batch_norms_keep_their_statistics(mode, changed):
    objective = objective_of(load_recipe(None, [*SHORT_RUN, f"direct.batch_norm={mode}"]))
    before = {name: value.clone() for name, value in objective.networks.named_buffers()}
    losses, _ = objective.losses(wall(), torch.Generator().manual_seed(1))
    losses["model"].backward()
    after = dict(objective.networks.named_buffers())
    assert any(not torch.equal(before[name], after[name]) for name in before) == changed
    assert any(p.grad is not None and bool(p.grad.any()) for p in objective.networks.parameters())
