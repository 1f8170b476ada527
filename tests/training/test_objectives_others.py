"""Teacher, refiner, Diffusion-DPO, and the optional terms of a distillation, on a small wall."""

import math

import numpy as np
import pytest
import torch
from small_wall import TINY, wall

from lidar_completion.model.weights import load_model, save_model
from lidar_completion.samplers import SAMPLERS, Prediction
from lidar_completion_training.cards import model_card
from lidar_completion_training.configuration import FreeSpaceRecipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import OBJECTIVES, objective_of
from lidar_completion_training.objectives.free_space import free_space_violation
from lidar_completion_training.objectives.networks import begin, starting_networks
from lidar_completion_training.objectives.noising import couple, draw_timestep, noised, predict_noise
from lidar_completion_training.objectives.step import Step
from lidar_completion_training.objectives.structural import landmark_term, landmarks, scene_term
from lidar_completion_training.recipe_files import load_recipe


def objective(*entries: str, start_from: str | None = None):
    base = TINY if start_from is None else [f"start_from={start_from}", "pipeline.replication=2"]
    return objective_of(load_recipe(None, [*base, *entries]))


def loss_of(one, seed: int = 1) -> tuple[torch.Tensor, dict[str, float]]:
    losses, numbers = one.losses(wall(), torch.Generator().manual_seed(seed))
    assert set(losses) == {"model"}
    return losses["model"], numbers


def step_of(recipe, seed: int = 2, networks=None) -> Step:
    """A step of the wall, with new networks or these."""
    networks = networks or starting_networks(recipe)
    return begin(torch.nn.ModuleDict(networks), wall(), recipe, torch.Generator().manual_seed(seed))


def noised_wall(recipe, t: int, scan: torch.Tensor | None = None):
    """The wall's truth noised with the random numbers of seed 2."""
    return noised(wall().truth, scan, t, step_of(recipe).seeded(2))


# --- the forward process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["truth", "scan"])
@pytest.mark.parametrize("per_metre", [0.0, 0.02])
def test_clean_points_are_noised_points_minus_noise(around, per_metre):
    recipe = load_recipe(None, [*TINY, f"pipeline.noised_around={around}", f"pipeline.noise_per_metre={per_metre}"])
    clean, scan = wall().truth, wall(1).truth
    for t in (0, 400, 999):
        cloud = noised_wall(recipe, t, scan)
        sigma = float(recipe.schedule.sigma[t])
        torch.testing.assert_close(cloud.points - sigma * cloud.scale * cloud.noise, clean, rtol=0, atol=2e-5)


@pytest.mark.parametrize("start", [999, 500])
def test_noise_around_scan_ends_at_inference_start(start):
    recipe = load_recipe(None, [*TINY, "pipeline.noised_around=scan", f"pipeline.start_timestep={start}"])
    clean, scan = wall().truth, wall(1).truth
    cloud = noised_wall(recipe, start, scan)
    eps = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    sigma = float(recipe.schedule.sigma[start])
    torch.testing.assert_close(cloud.points, scan + sigma * recipe.pipeline.noise_scale(scan) * eps)


def test_deterministic_sampler_integrates_perfect_prediction_to_truth():
    recipe = load_recipe(None, [*TINY, "pipeline.noised_around=scan"])
    truth, scan = wall().truth, wall(1).truth
    scale = recipe.pipeline.noise_scale(scan)
    start = noised_wall(recipe, 999, scan).points

    def perfect(points: torch.Tensor, t: int) -> Prediction:
        return Prediction((points - truth) / (float(recipe.schedule.sigma[t]) * scale))

    timesteps = recipe.schedule.timesteps_by_sigma(8)
    reached = SAMPLERS["deterministic"].sample(perfect, scan, start, timesteps, recipe.schedule, None, scale).points
    torch.testing.assert_close(reached, truth, rtol=0, atol=1e-4)


def test_coupling_uses_nearest_scan_point_uniformly():
    scan = torch.tensor([[0.0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]])
    truth = torch.tensor([[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [10.1, 0, 0], [23.0, 0, 0]])
    clean, start = couple(truth, scan, 400, 2.0, torch.Generator().manual_seed(0))
    assert (clean - start).norm(dim=1).max() < 0.31
    counts = {float(x): int((start[:, 0] == x).sum()) for x in scan[:, 0]}
    assert counts == {0.0: 100, 10.0: 100, 20.0: 0, 30.0: 0}  # 23 m is too far from any scan point
    shares = [(clean[:, 0] == x).sum().item() for x in truth[:3, 0]]
    assert min(shares) > 20


def test_timesteps_are_uniform_in_time_or_noise_level():
    schedule, generator = load_recipe().schedule, torch.Generator().manual_seed(0)
    in_time = [draw_timestep(20, 980, False, schedule, generator) for _ in range(400)]
    by_level = [draw_timestep(20, 980, True, schedule, generator) for _ in range(400)]
    assert min(in_time + by_level) >= 20
    assert max(in_time + by_level) <= 980
    assert np.mean(in_time) == pytest.approx(500, abs=50)
    levels = schedule.sigma[by_level]
    assert levels.mean().item() == pytest.approx(float(schedule.sigma[20] + schedule.sigma[980]) / 2, abs=0.05)


# --- teacher ------------------------------------------------------------------------------------------------------


def test_teacher_loss_equals_published_loss():
    entries = ["objective=teacher", "pipeline.noise_per_metre=0", "noise_prediction.condition_dropout=0"]
    one = objective(*entries)
    loss, numbers = loss_of(one)
    step = one.begin(wall(), torch.Generator().manual_seed(1))
    cloud = one.noised_truth(step)
    prediction = predict_noise(one.networks["denoiser"], cloud, step)
    expected = (prediction - cloud.noise).square().mean()
    moments = prediction.mean() ** 2 + (prediction.std() - 1) ** 2
    assert numbers["error"] == pytest.approx(expected.item(), rel=1e-4)
    assert loss.item() == pytest.approx((expected + 5 * moments).item(), rel=1e-4)
    plain, _ = loss_of(objective(*entries, "noise_prediction.moments_weight=0"))
    assert plain.item() == pytest.approx(expected.item(), rel=1e-4)


def test_clean_estimate_error_is_noise_error_times_level():
    entries = ["objective=teacher", "noise_prediction.moments_weight=0", "noise_prediction.weight_by_noise_scale=true"]
    of_noise, numbers = loss_of(objective(*entries))
    of_point, _ = loss_of(objective(*entries, "noise_prediction.clean_estimate=true"))
    last = float(load_recipe().schedule.sigma[-1])
    assert numbers["sigma"] < 0.99 * last
    assert of_point.item() == pytest.approx((numbers["sigma"] / last) ** 2 * of_noise.item(), rel=1e-4)


def test_condition_dropout_hides_the_scan():
    one = objective("objective=teacher", "noise_prediction.condition_dropout=1")
    seen = []
    one.networks["encoder"].register_forward_hook(lambda network, inputs, out: seen.append(len(out.voxels)))
    loss_of(one)
    assert seen == [1]


@pytest.mark.parametrize(
    "entry",
    [
        "pipeline.noised_around=scan",
        "noise_prediction.weight_by_noise_scale=true",
        "noise_prediction.uniform_in_sigma=true",
        "noise_prediction.condition_dropout=1",
    ],
)
def test_teacher_switch_changes_loss(entry):
    before, _ = loss_of(objective("objective=teacher"))
    after, _ = loss_of(objective("objective=teacher", entry))
    assert after.item() != pytest.approx(before.item(), rel=1e-4)


def test_teacher_with_noise_around_scan_learns():
    uniform = ["pipeline.noise_per_metre=0", "noise_prediction.moments_weight=0"]  # noise larger than a voxel
    one = objective("objective=teacher", "pipeline.noised_around=scan", *uniform)
    optimiser = torch.optim.Adam(one.trained["model"].parameters(), lr=0.01)
    errors = []
    for i in range(30):
        loss = one.losses(wall(i), torch.Generator().manual_seed(i))[0]["model"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5]), errors


# --- refiner ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "loss"), [("jitter", "squared"), ("completion", "squared"), ("completion", "clamped")]
)
def test_refiner_trains_alone_and_is_exported_with_its_model(model, inputs, loss):
    entries = (f"refiner.inputs={inputs}", f"refiner.loss={loss}", "refiner.points=300")
    one = objective("objective=refiner", *entries, start_from=model)
    loss_of(one)[0].backward()
    assert {n.split(".")[0] for n, p in one.networks.named_parameters() if p.grad is not None} == {"refiner"}
    assert set(one.exported) == {"encoder", "denoiser", "refiner"}
    assert one.coarse_cloud(step_of(one.recipe, networks=one.networks)).shape == (300, 3)
    _, before = load_model(model)
    for name, network in before.items():
        assert all(torch.equal(value, one.exported[name].state_dict()[k]) for k, value in network.state_dict().items())


@pytest.mark.parametrize("loss", ["squared", "clamped"])
def test_refiner_confidence_has_gradient_for_every_offset(tmp_path, loss):
    recipe = load_recipe(None, [*TINY, "architecture.point_confidence=true"])
    save_model(tmp_path, model_card(recipe), starting_networks(recipe))
    gradients = []
    for weight in (0.0, 1.0):
        entries = (f"refiner.loss={loss}", "refiner.inputs=completion", f"direct.confidence_weight={weight}")
        one = objective("objective=refiner", "refiner.points=0", *entries, start_from=str(tmp_path))
        step = step_of(one.recipe, networks=one.networks)
        assert len(one.coarse_cloud(step)) == len(step.sweep.replicated)
        loss_of(one)[0].backward()
        gradients.append(one.networks["refiner"].last[2].bias.grad.view(6, 4))
    without, with_confidence = gradients
    assert not without[:, 3].any()
    assert (with_confidence[:, 3] != 0).all()
    assert torch.allclose(with_confidence[:, :3], without[:, :3])  # the confidence loss moves no point


def test_rejects_unknown_refiner_loss(model):
    with pytest.raises(RecipeError, match=r"refiner.loss is 'l1'; it can be one of squared, clamped"):
        objective("objective=refiner", "refiner.loss=l1", start_from=model)


def test_refiner_jitter_is_clipped(model):
    one = objective("objective=refiner", "refiner.points=2000", "refiner.jitter_m=0.2", start_from=model)
    step = step_of(one.recipe, networks=one.networks)
    truth = step.sweep.truth
    rows = torch.randint(len(truth), (2000,), generator=torch.Generator().manual_seed(3))
    moved = one.coarse_cloud(step.seeded(3)) - truth[rows]
    assert moved.abs().max() <= 0.3 + 1e-5
    assert moved.std() == pytest.approx(0.18, abs=0.02)  # 0.2 without its tails


def running_statistics(network: torch.nn.Module) -> list[torch.Tensor]:
    return [b.clone() for b in network.buffers() if b.is_floating_point()]


def same_statistics(network: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(running_statistics(network), before, strict=True))


def test_refiner_trains_in_train_mode_beside_frozen_networks(model):
    one = objective("objective=refiner", "refiner.points=300", "refiner.inputs=completion", start_from=model)
    before = {name: running_statistics(network) for name, network in one.networks.items()}
    loss_of(one)
    assert not same_statistics(one.networks["refiner"], before["refiner"])
    assert same_statistics(one.networks["encoder"], before["encoder"])
    assert same_statistics(one.networks["denoiser"], before["denoiser"])


def test_refiner_compares_with_random_target_points(model):
    """With as many target points as there are, the loss is the one without a limit; with fewer it is another one."""
    entries = ("objective=refiner", "refiner.points=300", "direct.confidence_weight=0")
    every, same, fewer = (
        loss_of(objective(*entries, f"refiner.target_points={n}", start_from=model))[0].item() for n in (0, 1500, 100)
    )
    assert same == every
    assert fewer != pytest.approx(every, rel=1e-3)


# --- Diffusion-DPO ------------------------------------------------------------------------------------------------

DPO = ["objective=diffusion_dpo", "diffusion_dpo.pair_steps=2", "diffusion_dpo.draws=2"]


def test_diffusion_dpo_starts_at_log_two_with_gradient_of_error_difference(model):
    """While model and reference are equal, the gradient is beta / 2 times that of (error of winner - error of loser)."""
    one = objective(*DPO, "diffusion_dpo.beta=10", "diffusion_dpo.draws=1", start_from=model)
    loss, _ = loss_of(one)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    found = {n: p.grad.clone() for n, p in one.networks.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in found} == {"denoiser"}
    one.networks.zero_grad(set_to_none=True)
    step = step_of(one.recipe, seed=1, networks=one.networks)
    winner, loser, ranking = one.pair(step)
    assert ranking.winner_cost < ranking.loser_cost
    (10 / 2 * -one.margin(winner, loser, step)).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, one.networks.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


def test_diffusion_dpo_keeps_batch_norms_in_eval_mode(model):
    one = objective(*DPO, start_from=model)
    before = {name: running_statistics(network) for name, network in one.networks.items()}
    loss_of(one)
    assert not any(module.training for module in one.networks.modules())
    assert all(same_statistics(network, before[name]) for name, network in one.networks.items())


def test_diffusion_dpo_step_prefers_winner(model):
    one = objective(*DPO, "diffusion_dpo.beta=100", start_from=model)
    optimiser = torch.optim.SGD(one.trained["model"].parameters(), lr=1e-4)
    before, _ = loss_of(one)
    before.backward()
    optimiser.step()
    after, numbers = loss_of(one)
    assert after.item() < before.item()
    assert numbers["margin"] > 0


# --- terms --------------------------------------------------------------------------------------------------------


def test_free_space_penalty_moves_points_outwards():
    sweep = torch.tensor([[10.0, 0, 0], [0, 10.0, 0]])
    completed = torch.tensor([[4.0, 0, 0], [12.0, 0, 0], [9.9, 0, 0], [3.0, 3.0, 0]], requires_grad=True)
    recipe = FreeSpaceRecipe(within_deg=1.0, margin_m=0.2, clamp_m=10.0, queries=4000)
    value = free_space_violation(completed, sweep, torch.zeros(3), recipe, torch.Generator().manual_seed(0))
    assert value.item() == pytest.approx(5.8 / 4, rel=0.1)  # only the first point; a quarter of the draws
    value.backward()
    assert completed.grad[0, 0] < 0  # descending moves it away from the sensor
    assert completed.grad[1:].abs().sum() == 0
    clamped = FreeSpaceRecipe(within_deg=1.0, margin_m=0.2, clamp_m=1.0, queries=4000)
    less = free_space_violation(completed, sweep, torch.zeros(3), clamped, torch.Generator().manual_seed(0))
    assert less.item() == pytest.approx(0.25, rel=0.1)


def test_structural_terms_are_zero_on_truth():
    truth = wall().truth
    generator = torch.Generator().manual_seed(0)
    shifted = truth + 0.3 * torch.randn(truth.shape, generator=generator)
    assert scene_term(truth, truth, 500, generator).item() == pytest.approx(0, abs=1e-9)
    assert landmark_term(truth, truth, generator).item() == pytest.approx(0, abs=1e-7)
    completed = shifted.requires_grad_()
    (scene_term(completed, truth, 500, generator) + landmark_term(completed, truth, generator)).backward()
    assert completed.grad.abs().sum() > 0


def test_landmarks_have_highest_curvature():
    generator = torch.Generator().manual_seed(0)
    floor = torch.rand(1000, 3, generator=generator) * torch.tensor([10.0, 5.0, 0.0])
    facade = torch.rand(500, 3, generator=generator) * torch.tensor([10.0, 0.0, 5.0])
    marks = landmarks(torch.cat([floor, facade]), generator)
    near_edge = (marks[:, 1] < 1.0) & (marks[:, 2] < 1.0)
    assert len(marks) == 500
    assert near_edge[: len(marks) // 3].float().mean() > 0.9  # highest curvature first


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in ("direct", "teacher")])
def test_rejects_missing_start_model(name):
    with pytest.raises(RecipeError, match="start_from"):
        objective(f"objective={name}")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_is_reproducible_and_previews(model, name):
    entries = [f"objective={name}", "refiner.points=200", "diffusion_dpo.pair_steps=1"]
    one = objective(*entries, start_from=model)
    again = objective(*entries, start_from=model)
    first, second = (o.losses(wall(), torch.Generator().manual_seed(3)) for o in (one, again))
    assert {k: v.item() for k, v in first[0].items()} == {k: v.item() for k, v in second[0].items()}
    assert first[1] == second[1]
    assert set(first[0]) == set(one.trained)
    sum(first[0].values()).backward()
    trained = {id(p) for group in one.trained.values() for p in group.parameters()}
    assert all(id(p) in trained for p in one.networks.parameters() if p.grad is not None)
    previews = [one.preview(wall(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert len(previews[0]) > 100
    assert torch.equal(previews[0], previews[1])
    assert not torch.equal(previews[0], previews[2])
