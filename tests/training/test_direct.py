"""The direct objective, Chamfer distances and augmentation, on a small wall."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from small_wall import SHORT_RUN, wall

from lidar_completion import neighbours_grid
from lidar_completion_training.configuration import AugmentationRecipe
from lidar_completion_training.errors import DivergedError, RecipeError
from lidar_completion_training.objectives import chamfer, objective_of
from lidar_completion_training.objectives.chamfer import (
    clamped_chamfer,
    nearest_rows,
    nearest_rows_plain,
    squared_chamfer,
)
from lidar_completion_training.objectives.sweep import augmentation
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.stream import Sample, sample_of


def wall_sample(seed: int = 0) -> Sample:
    return wall(seed, 4000, (20.0, 20.0, 0.1), (4.0, -10.0, -1.7))


def test_direct_loss_reaches_all_parameters():
    objective = objective_of(load_recipe(None, SHORT_RUN))
    losses, _ = objective.losses(wall_sample(), torch.Generator().manual_seed(1))
    losses["model"].backward()
    parameters = dict(objective.networks.named_parameters())
    without = [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # with one scan, batch norm removes what a gate adds to all voxels; everything else must be reached
    assert len(without) < 0.05 * len(parameters), without


OWN = [
    "architecture.own_channels=[8,8,8,16,16,16,8,8,8]",
    "architecture.local_features=true",
    "architecture.point_confidence=true",
]


def test_network_with_local_features_and_confidence_trains_and_completes():
    objective = objective_of(load_recipe(None, [*SHORT_RUN, *OWN, "direct.second_pass=1"]))
    losses, numbers = objective.losses(wall_sample(), torch.Generator().manual_seed(1))
    losses["model"].backward()
    head = objective.networks["denoiser"].last[2]
    assert bool((head.weight.grad.abs().sum(dim=1) > 0).all())
    assert numbers["confidence_loss"] > 0
    assert objective.preview(wall_sample(), torch.Generator().manual_seed(1)).shape[1] == 3


def test_direct_training_reduces_the_loss():
    uniform = ["pipeline.noise_per_metre=0", "direct.second_pass=0"]
    objective = objective_of(load_recipe(None, [*SHORT_RUN, *uniform]))
    optimiser = torch.optim.Adam(objective.trained["model"].parameters(), lr=0.01)
    losses = []
    for i in range(40):
        loss = objective.losses(wall_sample(i), torch.Generator().manual_seed(i))[0]["model"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), losses


def test_clamped_chamfer_equals_brute_force():
    generator = torch.Generator().manual_seed(3)
    prediction, truth = torch.rand(60, 3, generator=generator) * 5, torch.rand(80, 3, generator=generator) * 5
    recipe = load_recipe(None, ["direct.queries=20000", "direct.clamp_m=0.5"]).direct
    loss, numbers = clamped_chamfer(prediction, None, truth, recipe, generator)
    distances = np.minimum(cdist(prediction, truth), 0.5)
    assert numbers["accuracy_m"] == pytest.approx(distances.min(axis=1).mean(), rel=0.02)  # random points of each
    assert numbers["coverage_m"] == pytest.approx(distances.min(axis=0).mean(), rel=0.02)
    assert loss.item() == pytest.approx(numbers["accuracy_m"] + numbers["coverage_m"], rel=1e-5)


def test_near_weight_counts_short_distances_again():
    generator = torch.Generator().manual_seed(3)
    prediction, truth = torch.rand(60, 3, generator=generator) * 5, torch.rand(80, 3, generator=generator) * 5
    recipe = load_recipe(
        None, ["direct.queries=20000", "direct.near_weight=1.5", "direct.near_m=0.3", "direct.coverage_weight=2"]
    ).direct
    loss, numbers = clamped_chamfer(prediction, None, truth, recipe, generator)
    near = np.minimum(cdist(prediction, truth), 0.3)
    extra = loss.item() - numbers["accuracy_m"] - 2 * numbers["coverage_m"]
    assert extra == pytest.approx(1.5 * (near.min(axis=1).mean() + 2 * near.min(axis=0).mean()), rel=0.02)


def test_confidence_gradient_has_the_sign_of_nearness():
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(80, 3, generator=generator) * 3
    near, far = truth + 0.05, truth + torch.tensor([0.0, 0.0, 9.0])
    points, logit = torch.cat([near, far]), torch.zeros(160, requires_grad=True)
    recipe = load_recipe(None, ["direct.confidence_weight=1"]).direct
    loss, numbers = clamped_chamfer(points, logit, truth, recipe, generator)
    assert numbers["confidence_loss"] == pytest.approx(np.log(2), rel=1e-4)
    loss.backward()
    assert bool((logit.grad[:80] < 0).all())
    assert bool((logit.grad[80:] > 0).all())


def test_squared_chamfer_equals_brute_force():
    generator = torch.Generator().manual_seed(3)
    prediction, truth = torch.rand(60, 3, generator=generator), torch.rand(80, 3, generator=generator)
    squared = cdist(prediction, truth) ** 2
    expected = squared.min(axis=1).mean() + squared.min(axis=0).mean()
    assert squared_chamfer(prediction, truth, 0, generator).item() == pytest.approx(expected, rel=1e-5)
    assert squared_chamfer(prediction, truth, 20000, generator).item() == pytest.approx(expected, rel=0.05)


def test_nearest_rows_equals_plain_implementation_and_brute_force():
    generator = torch.Generator().manual_seed(3)
    points, reference = torch.rand(60, 3, generator=generator), torch.rand(80, 3, generator=generator)
    expected = cdist(points, reference).argmin(axis=1).tolist()
    assert nearest_rows(points, reference).tolist() == nearest_rows_plain(points, reference).tolist() == expected
    points[3, 1] = torch.nan
    with pytest.raises(DivergedError, match="not finite"):
        nearest_rows(points, reference)


def test_chamfer_and_its_gradient_do_not_depend_on_the_search(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    truth, results = 20 * torch.rand(900, 3, generator=generator), []
    prediction = truth[:700] + 0.3 * torch.randn(700, 3, generator=generator)
    monkeypatch.setattr(neighbours_grid, "FEW_PAIRS", 0)
    for search in (nearest_rows, neighbours_grid.nearest_rows, nearest_rows_plain):
        monkeypatch.setattr(chamfer, "nearest_rows", search)
        points = prediction.clone().requires_grad_()
        loss = squared_chamfer(points, truth, 0, generator)
        results.append((loss, *torch.autograd.grad(loss, points)))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


def test_second_pass_uses_timesteps_of_inference():
    recipe = load_recipe(None, [*SHORT_RUN, "direct.second_pass=1", "direct.max_steps=3"])
    objective = objective_of(recipe)
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(objective.timesteps(generator)) for _ in range(60)}
    levels = {t for steps in (2, 3) for t in recipe.schedule.timesteps_by_sigma(steps)[1:]}
    assert all(first == 999 for first, _ in seen)
    assert {second for _, second in seen} == levels


def test_augmentation_without_tilt_keeps_distances_and_heights():
    transform = augmentation(AugmentationRecipe(), torch.Generator().manual_seed(5))
    assert torch.allclose(transform @ transform.T, torch.eye(3), atol=1e-6)
    assert transform[2].tolist() == [0.0, 0.0, 1.0]


def test_published_augmentation_has_the_published_tilt_and_scale():
    generator = torch.Generator().manual_seed(5)
    transforms = torch.stack(
        [augmentation(AugmentationRecipe(tilt_rad=0.06, scale=0.05), generator) for _ in range(200)]
    )
    scales = torch.linalg.det(transforms).abs() ** (1 / 3)
    assert 0.95 <= scales.min() < 0.97
    assert 1.03 < scales.max() <= 1.05
    tilt = torch.acos((transforms[:, 2, 2] / scales).clamp(max=1))  # between the old z axis and the new one
    assert 0.05 < tilt.mean() < 0.1  # two normal angles of 0.06 rad: 0.075 in the mean
    assert tilt.max() < 0.18 * 2**0.5 + 1e-3


def test_truth_is_cut_to_touched_cells():
    sample = sample_of(
        np.array([[5.0, 5.0, 0.0]], np.float32), np.array([[1, 1, 0], [11, 1, 0], [-1, 1, 0]], np.float32), 10.0
    )
    assert sample.truth.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize("entry", ["nonsense=1", "optimiser.learning_rate=fast", "direct.nonsense=2"])
def test_rejects_unknown_or_ill_typed_entry(entry):
    with pytest.raises(RecipeError):
        load_recipe(None, [entry])
