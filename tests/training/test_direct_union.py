"""The direct objective with the union network, and its free-space term."""

import pytest
import torch
from small_wall import wall

from lidar_completion.model.weights import load_model, save_model
from lidar_completion.visibility import ClearSpace
from lidar_completion_training.cards import exported_card
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.chamfer import clamped_chamfer
from lidar_completion_training.recipe_files import load_recipe

UNION = [
    "architecture.voxel_size_m=1.0",
    "architecture.own_channels=[8,8,16,8,8]",
    "architecture.local_features=true",
    "architecture.point_offsets=false",
    "architecture.point_confidence=true",
    "architecture.conditioning=union",
    "architecture.ray_features=true",
    "architecture.offsets_per_point=3",
    "architecture.blocks=[1,1,1,1]",
    "architecture.skips=added",
    "pipeline.downsample_voxel_m=1.0",
    "pipeline.replication=2",
    "pipeline.hole_starts=1",
    "direct.queries=500",
    "direct.free_space_weight=0.3",
    "data.workers=0",
]


def floor():
    return wall(0, 4000, (20.0, 20.0, 0.1), (4.0, -10.0, -1.7))


@pytest.mark.parametrize("second_pass", [0, 1])
def test_trains_all_parameters_and_completes(second_pass: int):
    objective = objective_of(load_recipe(None, [*UNION, f"direct.second_pass={second_pass}"]))
    assert list(objective.networks) == ["denoiser"]
    losses, numbers = objective.losses(floor(), torch.Generator().manual_seed(1))
    losses["model"].backward()
    assert all(p.grad is not None for p in objective.networks.parameters())
    assert numbers["passes"] == 1 + second_pass
    assert numbers["free_space_m"] >= 0
    assert objective.preview(floor(), torch.Generator().manual_seed(1)).shape[1] == 3


def test_refiner_starts_as_the_denoiser_and_trains_alone(tmp_path):
    recipe = load_recipe(None, UNION)
    save_model(tmp_path, exported_card(recipe), dict(objective_of(recipe).exported))
    entries = ("objective=refiner", "refiner.inputs=completion", "refiner.points=0", "refiner.loss=clamped")
    objective = objective_of(load_recipe(None, [*UNION, *entries, f"start_from={tmp_path}"]))
    networks = objective.exported
    assert set(networks) == {"denoiser", "refiner"}
    for name, weights in networks["denoiser"].state_dict().items():
        torch.testing.assert_close(networks["refiner"].state_dict()[name], weights)
    losses, numbers = objective.losses(floor(), torch.Generator().manual_seed(1))
    losses["model"].backward()
    assert all(p.grad is not None for p in networks["refiner"].parameters())
    assert all(p.grad is None for p in networks["denoiser"].parameters())
    assert numbers["free_space_m"] > 0
    assert objective.preview(floor(), torch.Generator().manual_seed(1)).shape[1] == 3


def test_refiner_with_another_denoiser_is_exported_with_it(tmp_path):
    recipe = load_recipe(None, UNION)
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_model(tmp_path / str(seed), exported_card(recipe), dict(objective_of(recipe).exported))
    entries = ("objective=refiner", "refiner.inputs=completion", f"refiner.denoiser={tmp_path / '2'}")
    networks = objective_of(load_recipe(None, [*UNION, *entries, f"start_from={tmp_path / '1'}"])).exported
    other = load_model(tmp_path / "2")[1]["denoiser"]
    torch.testing.assert_close(dict(networks["denoiser"].state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def test_other_objectives_reject_the_union_network():
    with pytest.raises(RecipeError, match="can only be trained with 'direct' and 'refiner'"):
        objective_of(load_recipe(None, [*UNION, "objective=teacher"]))


def test_points_in_seen_free_space_are_moved_outwards():
    angle = torch.linspace(-0.3, 0.3, 4000)
    clear_space = ClearSpace.from_returns(torch.stack([20 * angle.cos(), 20 * angle.sin(), 0 * angle], dim=1))
    recipe = load_recipe(None, ["direct.free_space_weight=1", "direct.queries=500"]).direct
    generator, truth = torch.Generator().manual_seed(0), torch.tensor([[10.0, 5.0, 0.0]])

    def free_space_m(x: float) -> tuple[float, float]:
        """The logged depth of a point at (x, 0, 0), and its gradient in x without the clamped Chamfer distance."""
        point = torch.tensor([[x, 0.0, 0.0]]).requires_grad_()
        loss, numbers = clamped_chamfer(point, None, truth, recipe, generator, clear_space)
        loss.backward()
        return numbers["free_space_m"], float(point.grad[0, 0])

    assert free_space_m(10.0) == pytest.approx((1.0, 0.0))  # clamped: too deep for a gradient
    assert free_space_m(19.3) == pytest.approx((0.5, -1.0), abs=0.02)
    assert free_space_m(25.0) == pytest.approx((0.0, 0.0))
