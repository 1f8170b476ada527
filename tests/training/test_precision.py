"""Mixed precision: geometry, losses and distances stay float32, and only products of wide layers are rounded."""

import dataclasses

import pytest
import torch
from small_wall import TINY, wall

from lidar_completion.sparse import convolution
from lidar_completion_training.objectives import OBJECTIVES, objective_of
from lidar_completion_training.objectives.networks import begin, starting_networks
from lidar_completion_training.objectives.noising import noised, predict_noise
from lidar_completion_training.objectives.precision import is_wide_kernel
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.stream import Sample


def sweep_of_50_m() -> Sample:
    """Ground points up to 50 m away, where bfloat16 coordinates move in steps of 0.25 m."""
    return wall(0, 4000, (90.0, 40.0, 0.1), (-45.0, -20.0, -1.7))


def losses_and_gradients(name: str, model: str, autocast: bool, *more_entries: str) -> dict[str, torch.Tensor]:
    entries = [f"objective={name}", f"start_from={model}", "pipeline.replication=2", "direct.queries=500"]
    more = ["refiner.points=500", "diffusion_dpo.pair_steps=1", "distillation.chamfer_weight=1"]
    objective = objective_of(load_recipe(None, [*entries, *more, *more_entries]))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():  # auxiliary models and reference that differ from the teacher
        for part in ("auxiliary", "winner", "loser", "reference"):
            for p in objective.networks[part].parameters() if part in objective.networks else ():
                p.mul_(1 + 0.05 * torch.randn(p.shape, generator=generator))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses, _ = objective.losses(sweep_of_50_m(), torch.Generator().manual_seed(1))
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in objective.networks.named_parameters() if p.grad is not None}
    return {**losses, **gradients, **dict(objective.networks.named_buffers())}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_under_autocast_equal_float32(model, name):
    expected = losses_and_gradients(name, model, autocast=False)
    found = losses_and_gradients(name, model, autocast=True)
    assert expected.keys() == found.keys()
    for entry, value in expected.items():
        assert found[entry].dtype == value.dtype != torch.bfloat16
        torch.testing.assert_close(found[entry], value, rtol=1e-6, atol=1e-8, msg=entry)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_activation_checkpointing_changes_no_loss_gradient_or_statistic(model, name):
    batch_norm = "distillation.batch_norm=released"  # train mode in the forward pass alone
    expected = losses_and_gradients(name, model, False, batch_norm)
    found = losses_and_gradients(name, model, False, batch_norm, "activation_checkpointing=true")
    assert expected.keys() == found.keys()
    for entry, value in expected.items():
        torch.testing.assert_close(found[entry], value, rtol=1e-6, atol=1e-8, msg=entry)


def test_checkpointed_stages_keep_no_activations_inside():
    recipe = load_recipe(None, [*TINY, "objective=teacher"])
    saved = {}
    for checkpointing in (False, True):
        objective = objective_of(dataclasses.replace(recipe, activation_checkpointing=checkpointing))
        kept: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.__setitem__(x.data_ptr(), x.nbytes) or x, lambda x: x
        ):
            objective.losses(sweep_of_50_m(), torch.Generator().manual_seed(1))
        saved[checkpointing] = sum(kept.values())
    assert saved[True] < 0.5 * saved[False]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_rounds_products_of_wide_layers_only(monkeypatch, precision):
    # the compiled CPU backend differentiates float32 kernels only; the trainer rejects mixed precision on CPUs
    monkeypatch.setattr(convolution, "backend_of", lambda device: "torch")
    entries = ["architecture.width=0.25", "architecture.voxel_size_m=1.0", "pipeline.replication=2"]
    results = []
    torch.manual_seed(0)
    # eval mode: batch norms over a handful of coarse voxels would amplify the rounding
    networks = {name: network.eval() for name, network in starting_networks(load_recipe(None, entries)).items()}
    for each in ("32-true", precision):
        step = begin(
            torch.nn.ModuleDict(networks),
            sweep_of_50_m(),
            load_recipe(None, [*entries, f"precision={each}"]),
            torch.Generator().manual_seed(1),
        )
        cloud = noised(step.sweep.truth, None, 300, step)
        prediction = predict_noise(networks["denoiser"], cloud, step)
        networks["denoiser"].zero_grad()
        (prediction - cloud.noise).square().mean().backward()
        gradients = [p.grad.clone() for p in networks["denoiser"].parameters()]
        results.append((cloud.points, prediction.detach(), torch.cat([g.flatten() for g in gradients])))
    assert any(is_wide_kernel(name, value) for name, value in networks["denoiser"].named_parameters())
    (points, exact, gradient), (same_points, rounded, rounded_gradient) = results
    assert torch.equal(points, same_points)
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).norm() < 1e-3 * exact.norm()
    assert (rounded_gradient - gradient).norm() < 0.01 * gradient.norm()
    assert {value.dtype for value in (rounded, rounded_gradient)} == {torch.float32}
