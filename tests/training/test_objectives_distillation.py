"""Score distillation and Distillation-DPO: gradients by hand, who learns from what, and what each switch changes."""

import copy
import dataclasses

import pytest
import torch
from small_wall import TINY, wall

from lidar_completion.model.weights import save_model
from lidar_completion.networks import VoxelisedCloud
from lidar_completion.samplers import SampledPoints
from lidar_completion_training.configuration import RecipeError, load_recipe, model_card
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.noising import noised
from lidar_completion_training.objectives.preference import METRICS, cost
from lidar_completion_training.objectives.preparation import encode, prepare, starting_networks


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, str]:
    """A teacher around the truth, one around the scan with more noise, another of the first kind, and one of larger voxels."""
    folders = {}
    kinds = {
        "truth": "pipeline.noised_around=truth",
        "scan": "pipeline.noised_around=scan pipeline.noise_min=0.3",
        "other": "pipeline.noised_around=truth",
        "coarse": "architecture.voxel_size_m=0.9",
    }
    for seed, (name, entries) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        recipe = load_recipe(None, [*TINY, *entries.split()])
        folders[name] = str(tmp_path_factory.mktemp("models") / name)
        save_model(folders[name], model_card(recipe), starting_networks(recipe))
    return folders


def distillation(folder: str, *entries: str, kind: str = "distillation_dpo"):
    """An objective whose auxiliary models are no longer the teacher, as they are after a few steps."""
    common = ["pipeline.replication=2", "direct.queries=200", f"objective={kind}", f"start_from={folder}"]
    objective = objective_of(load_recipe(None, [*common, *entries]))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name in objective.auxiliary_names():
            for p in objective.networks[name].parameters():
                p.add_(0.05 * p.std() * torch.randn(p.shape, generator=generator) if p.numel() > 1 else 0.01)
    return objective


def numbers_of(objective, seed: int = 1) -> dict[str, float]:
    losses, numbers = objective.losses(wall(), torch.Generator().manual_seed(seed))
    return {name: loss.item() for name, loss in losses.items()} | numbers


def gradients(objective, group: str | None, seed: int = 1) -> dict[str, torch.Tensor]:
    """Gradients of one group's loss, or of the sum, of every network, by full name."""
    objective.networks.zero_grad(set_to_none=True)
    losses, _ = objective.losses(wall(), torch.Generator().manual_seed(seed))
    (sum(losses.values()) if group is None else losses[group]).backward()
    return {name: p.grad.clone() for name, p in objective.networks.named_parameters() if p.grad is not None}


def by_hand(objective, seed: int = 1) -> dict[str, torch.Tensor]:
    """Eq. 18 with 1/omega = 1/3N: (eps_theta - eps_phi) at the noised samples, pulled back through samples alone."""
    recipe, networks = objective.recipe, objective.networks
    generator = torch.Generator().manual_seed(seed)
    prepared = prepare(wall(), recipe, generator)
    condition = encode(networks["encoder"], prepared.scan, recipe)
    samples, _ = objective.samples(prepared, condition, generator)
    t = objective.timestep(generator)
    process = objective.process  # the teacher's
    theirs = encode(networks["teacher_encoder"], prepared.scan, recipe) if "teacher_encoder" in networks else condition
    scale = process.pipeline.noise_scale(prepared.replicated)
    sigma, sigma_start = (float(process.schedule.sigma[i]) for i in (t, process.pipeline.start_timestep))
    points, pulls = [], []
    for one in samples:
        x = one.completed.points.detach()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(one.seed))
        p_t, dp_dx = x + sigma * scale * noise, 1.0
        if process.pipeline.noised_around == "scan":
            way = sigma / sigma_start
            p_t, dp_dx = p_t + way * (prepared.replicated - x), 1.0 - way
        cloud = VoxelisedCloud.from_points(p_t, recipe.architecture.voxel_size_m)
        with torch.no_grad():
            eps_theta = networks["teacher"](cloud, theirs, torch.tensor([t]))
            eps_phi = networks[one.auxiliary](cloud, theirs, torch.tensor([t]))
        points.append(one.completed.points)
        pulls.append(one.weight * dp_dx * (eps_theta - eps_phi) / x.numel())
    parameters = dict(networks["student"].named_parameters())
    grads = torch.autograd.grad(points, list(parameters.values()), pulls, allow_unused=True)
    return {f"student.{name}": g for name, g in zip(parameters, grads, strict=True) if g is not None}


@pytest.mark.parametrize("teacher", ["truth", "scan"])
@pytest.mark.parametrize("start", ["truth", "scan"])
@pytest.mark.parametrize("kind", ["distillation_dpo", "score_distillation"])
def test_the_students_gradient_is_that_of_the_paper_and_not_zero(teachers, kind, start, teacher):
    """Also where the student starts from another noise than the teacher's: scores are of the teacher's process."""
    objective = distillation(teachers[start], f"teacher={teachers[teacher]}", kind=kind)
    expected = by_hand(objective)
    found = {name: g for name, g in gradients(objective, "student").items() if name.startswith("student.")}
    assert found.keys() == expected.keys()
    size = torch.cat([g.flatten() for g in expected.values()]).norm()
    assert size > 1e-6
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * size.item(), msg=name)


def test_as_released_the_gradient_would_be_zero(teachers):
    x = torch.rand(50, 3, requires_grad=True)
    recipe = distillation(teachers["truth"]).recipe
    cloud = noised(x, None, 500, x.detach(), recipe, torch.Generator().manual_seed(0))
    difference = torch.rand(50, 3)
    (difference * (cloud.points - x)).mean().backward()
    assert x.grad.abs().max() < 1e-9  # x cancels
    x.grad = None
    (difference * cloud.points).mean().backward()
    torch.testing.assert_close(x.grad, difference / 150)


def test_the_equation_has_the_opposite_sign_of_the_released_code(teachers):
    released = gradients(distillation(teachers["truth"]), "student")
    equation = gradients(distillation(teachers["truth"], "distillation.sign=equation"), "student")
    for name, gradient in released.items():
        torch.testing.assert_close(equation[name], -gradient)


def test_an_auxiliary_model_that_is_the_teacher_gives_no_gradient(teachers):
    objective = distillation(teachers["truth"])
    for name in objective.auxiliary_names():
        objective.networks[name].load_state_dict(objective.networks["teacher"].state_dict())
    assert all(g.abs().max() == 0 for g in gradients(objective, "student").values())


def test_losses_give_gradient_to_their_own_group_alone(teachers):
    objective = distillation(teachers["truth"])
    student, auxiliary = gradients(objective, "student"), gradients(objective, "auxiliary")
    assert {name.split(".")[0] for name in student} == {"student"}
    assert {name.split(".")[0] for name in auxiliary} == {"winner", "loser"}
    both = gradients(objective, None)  # what the trainer does
    for name, gradient in (student | auxiliary).items():
        torch.testing.assert_close(both[name], gradient)
    trained = {id(p) for group in objective.trained.values() for p in group.parameters()}
    frozen = {name.split(".")[0] for name, p in objective.networks.named_parameters() if id(p) not in trained}
    assert frozen == {"encoder", "teacher"}
    assert all(p.requires_grad == (id(p) in trained) for p in objective.networks.parameters())


@pytest.mark.parametrize("shared", ["false", "true"])
def test_an_auxiliary_model_learns_from_its_own_sample_alone(teachers, shared):
    """Another loser changes the loser's gradient and leaves the winner's as it was."""
    entries = [f"distillation.shared_noise={shared}", "distillation.first_score_timestep=500"]
    before = distillation(teachers["truth"], *entries)
    after = copy.deepcopy(before)
    take = type(after).samples

    def with_another_loser(prepared, condition, generator):
        (winner, loser), numbers = take(after, prepared, condition, generator)
        return [
            winner,
            dataclasses.replace(loser, completed=SampledPoints(loser.completed.points + 0.5, None)),
        ], numbers

    after.samples = with_another_loser
    one, other = gradients(before, "auxiliary"), gradients(after, "auxiliary")
    assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("winner"))
    assert any(not torch.equal(one[name], other[name]) for name in one if name.startswith("loser"))


@pytest.mark.parametrize("metric", METRICS)
def test_the_winner_is_the_one_that_the_metric_prefers(teachers, metric):
    objective = distillation(teachers["truth"], f"distillation.metric={metric}", "distillation.second_start_noise=3")
    recipe = objective.recipe
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        prepared = prepare(wall(), recipe, generator)
        condition = encode(objective.networks["encoder"], prepared.scan, recipe)
        with torch.no_grad():
            (winner, loser), numbers = objective.samples(prepared, condition, generator)
        best, worst = (
            cost(metric, one.completed.points, prepared.truth, 0, recipe.direct.clamp_m, generator)
            for one in (winner, loser)
        )
        assert best < worst
        assert (winner.auxiliary, loser.auxiliary) == ("winner", "loser")
        assert numbers["winner_cost"] == pytest.approx(best)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_prefers_points_on_the_truth(metric):
    truth = wall().truth
    generator = torch.Generator().manual_seed(0)
    good = truth + 0.02 * torch.randn(truth.shape, generator=generator)
    bad = truth + torch.randn(truth.shape, generator=generator)
    for queries in (0, 500):
        assert cost(metric, good, truth, queries, 2.0, generator) < cost(metric, bad, truth, queries, 2.0, generator)


def test_a_fixed_seed_gives_the_same_numbers(teachers):
    objective = distillation(teachers["truth"])
    assert numbers_of(objective, 3) == numbers_of(objective, 3)
    assert numbers_of(objective, 3) != numbers_of(objective, 4)


SWITCHES = {
    "distillation.second_start_noise=1.5": "student",
    "distillation.auxiliary_models=1": "student",
    "distillation.score_distillation_weight=0.5": "student",
    "distillation.pair_weight=2.0": "student",
    "distillation.same_start_noise=false": "student",
    "distillation.same_score_noise=false": "student",
    "distillation.shared_noise=true": "auxiliary",
    "distillation.steps=[4]": "passes",
    "distillation.uniform_in_sigma=true": "student",
    "distillation.first_score_timestep=900": "student",
    "distillation.last_score_timestep=100": "student",
    "distillation.metres=true": "auxiliary",
    "distillation.teacher_guidance=3.0": "student",
    "distillation.batch_statistics=true": "auxiliary",
    "distillation.chamfer_weight=0.1": "student",
    "distillation.scene_weight=0.1": "student",
    "distillation.landmark_weight=0.1": "student",
}


@pytest.fixture(scope="module")
def published_numbers(teachers) -> dict[str, float]:
    return numbers_of(distillation(teachers["truth"], "distillation.stop_early=false"))


@pytest.mark.parametrize("entry", SWITCHES)
def test_a_switch_changes_what_it_should(teachers, published_numbers, entry):
    after = numbers_of(distillation(teachers["truth"], "distillation.stop_early=false", entry))
    assert after[SWITCHES[entry]] != pytest.approx(published_numbers[SWITCHES[entry]], rel=1e-4)


def test_plain_score_distillation_beside_a_pair_weighs_both_samples(teachers):
    assert distillation(teachers["truth"], "distillation.score_distillation_weight=0.25").weights() == (1.25, -0.75)
    released = distillation(teachers["truth"], "distillation.pair_weight=0", "distillation.score_distillation_weight=1")
    assert released.weights() == (1.0, 1.0)


def test_student_samples_stop_after_any_step(teachers):
    objective = distillation(teachers["truth"], "distillation.steps=[1,4]")
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(objective.timesteps(generator)) for _ in range(80)}
    whole = objective.recipe.schedule.timesteps_by_sigma(4)
    assert seen == {tuple(whole[:n]) for n in (1, 2, 3, 4)}


def test_only_the_last_pass_of_a_sample_carries_gradient(teachers):
    objective = distillation(teachers["truth"], "distillation.steps=[4]", "distillation.stop_early=false")
    passes = []
    objective.networks["student"].register_forward_hook(lambda network, inputs, out: passes.append(out.requires_grad))
    gradients(objective, "student")
    assert passes == 2 * [False, False, False, True]


def test_another_teacher_gives_scores_and_starts_the_auxiliary_models(teachers):
    objective = objective_of(
        load_recipe(
            None,
            ["objective=distillation_dpo", f"start_from={teachers['truth']}", f"teacher={teachers['other']}"],
        )
    )
    state = {name: network.state_dict() for name, network in objective.networks.items()}
    same = {
        (a, b)
        for a, b in (("student", "teacher"), ("winner", "teacher"), ("loser", "teacher"))
        if all(torch.equal(v, state[b][k]) for k, v in state[a].items())
    }
    assert same == {("winner", "teacher"), ("loser", "teacher")}
    assert "teacher_encoder" in state
    assert set(objective.exported) == {"encoder", "denoiser"}
    assert objective.exported["denoiser"] is objective.networks["student"]


def test_an_encoder_that_is_trained_leaves_the_teachers_alone(teachers):
    objective = distillation(teachers["truth"], "distillation.train_encoder=true", "distillation.chamfer_weight=1")
    assert {name.split(".")[0] for name in gradients(objective, "student")} == {"student", "encoder"}
    assert {name.split(".")[0] for name in gradients(objective, "auxiliary")} == {"winner", "loser"}


def test_a_preview_is_a_completion(teachers):
    objective = distillation(teachers["truth"])
    modes = [module.training for module in objective.networks.modules()]
    points = objective.preview(wall(), torch.Generator().manual_seed(0))
    assert points.shape[1] == 3
    assert len(points) > 100
    assert modes == [module.training for module in objective.networks.modules()]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["start_from=null"], "start_from is missing"),
        (["start_from=null", "teacher={truth}"], "start_from is missing"),
        (["teacher={coarse}"], "architecture.voxel_size_m is"),
        (["distillation.metric=beauty"], "distillation.metric is 'beauty'"),
        (["distillation.sign=minus"], "distillation.sign is 'minus'"),
        (["distillation.auxiliary_models=3"], "auxiliary_models is 3"),
        (["architecture.width=0.25"], "leave architecture out"),
        (["objective=magic"], "objective is 'magic'"),
    ],
)
def test_a_recipe_that_cannot_be_distilled_is_refused(teachers, entries, message):
    entries = [entry.format(**teachers) for entry in entries]
    with pytest.raises(RecipeError, match=message):
        objective_of(load_recipe(None, ["objective=distillation_dpo", f"start_from={teachers['truth']}", *entries]))


def test_networks_that_see_the_scan_and_judge_their_points_can_be_distilled(tmp_path):
    own = [
        *TINY,
        "architecture.own_channels=[8,8,8,16,16,16,8,8,8]",
        "architecture.local_features=true",
        "architecture.point_confidence=true",
        "pipeline.noised_around=scan",
    ]
    recipe = load_recipe(None, own)
    save_model(tmp_path, model_card(recipe), starting_networks(recipe))
    objective = distillation(tmp_path, "distillation.chamfer_weight=1")
    found = gradients(objective, "student")
    assert bool((found["student.last.2.weight"].abs().sum(dim=1) > 0).all())
