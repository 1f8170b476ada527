"""Score distillation and Distillation-DPO: gradients against the equations, groups of parameters, and switches."""

import copy
import dataclasses

import pytest
import torch
from small_wall import TINY, wall

from lidar_completion.model.weights import save_model
from lidar_completion.networks import VoxelisedCloud
from lidar_completion.samplers import SampledPoints
from lidar_completion_training.cards import model_card
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.networks import begin, starting_networks
from lidar_completion_training.objectives.noising import noised
from lidar_completion_training.objectives.preference import METRICS, Preference
from lidar_completion_training.objectives.step import Step, encode
from lidar_completion_training.recipe_files import load_recipe


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, str]:
    """Teachers with noise around the truth, with more noise around the scan, a second one of the first kind, and larger voxels."""
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
    """An objective whose auxiliary models differ from the teacher, as they do after a few steps."""
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


def first_step(objective, seed: int) -> Step:
    """The step of the wall as the objective begins it."""
    return begin(objective.networks, wall(), objective.recipe, torch.Generator().manual_seed(seed))


def by_hand(objective, seed: int = 1) -> dict[str, torch.Tensor]:
    """Eq. 18 with 1/omega = 1/3N: the gradient (eps_theta - eps_phi) at the noised samples, through the samples only."""
    recipe, networks = objective.recipe, objective.networks
    step = first_step(objective, seed)
    samples, _ = objective.samples(step)
    t = objective.score_timestep(step.generator)
    process = objective.teacher_recipe
    has_own_encoder = "teacher_encoder" in networks
    condition = encode(networks["teacher_encoder"], step.scan, recipe) if has_own_encoder else step.condition
    replicated = step.sweep.replicated
    scale = process.pipeline.noise_scale(replicated)
    sigma, sigma_start = (float(process.schedule.sigma[i]) for i in (t, process.pipeline.start_timestep))
    points, pulls = [], []
    for one in samples:
        x = one.completed.points.detach()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(one.seed))
        p_t, dp_dx = x + sigma * scale * noise, 1.0
        if process.pipeline.noised_around == "scan":
            way = sigma / sigma_start
            p_t, dp_dx = p_t + way * (replicated - x), 1.0 - way
        cloud = VoxelisedCloud.from_points(p_t, recipe.architecture.voxel_size_m)
        with torch.no_grad():
            eps_theta = networks["teacher"](cloud, condition, torch.tensor([t]))
            eps_phi = networks[one.auxiliary](cloud, condition, torch.tensor([t]))
        points.append(one.completed.points)
        pulls.append(one.weight * dp_dx * (eps_theta - eps_phi) / x.numel())
    parameters = dict(networks["student"].named_parameters())
    grads = torch.autograd.grad(points, list(parameters.values()), pulls, allow_unused=True)
    return {f"student.{name}": g for name, g in zip(parameters, grads, strict=True) if g is not None}


@pytest.mark.parametrize("teacher", ["truth", "scan"])
@pytest.mark.parametrize("start", ["truth", "scan"])
@pytest.mark.parametrize("kind", ["distillation_dpo", "score_distillation"])
def test_student_gradient_equals_paper_equation(teachers, kind, start, teacher):
    """Scores are taken in the teacher's forward process, also where the student's is another one."""
    objective = distillation(teachers[start], f"teacher={teachers[teacher]}", kind=kind)
    expected = by_hand(objective)
    found = {name: g for name, g in gradients(objective, "student").items() if name.startswith("student.")}
    assert found.keys() == expected.keys()
    size = torch.cat([g.flatten() for g in expected.values()]).norm()
    assert size > 1e-6
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * size.item(), msg=name)


def test_released_student_loss_has_zero_gradient(teachers):
    x = torch.rand(50, 3, requires_grad=True)
    cloud = noised(x, None, 500, first_step(distillation(teachers["truth"]), 0))
    difference = torch.rand(50, 3)
    (difference * (cloud.points - x)).mean().backward()
    assert x.grad.abs().max() < 1e-9  # x cancels
    x.grad = None
    (difference * cloud.points).mean().backward()
    torch.testing.assert_close(x.grad, difference / 150)


def test_sign_of_equation_is_opposite_of_released_code(teachers):
    released = gradients(distillation(teachers["truth"]), "student")
    equation = gradients(distillation(teachers["truth"], "distillation.sign=equation"), "student")
    for name, gradient in released.items():
        torch.testing.assert_close(equation[name], -gradient)


def test_winner_and_loser_have_opposite_weights(teachers):
    for sign, expected in (("released", [1.0, -1.0]), ("equation", [-1.0, 1.0])):
        objective = distillation(teachers["truth"], f"distillation.sign={sign}")
        samples, _ = objective.samples(first_step(objective, 0))
        assert [(one.auxiliary, one.weight) for one in samples] == list(zip(("winner", "loser"), expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "expected"), [("distillation_dpo", [1.0, 1.25]), ("score_distillation", [1.0])], ids=["dpo", "score"]
)
def test_samples_start_with_their_share_of_the_noise(teachers, monkeypatch, kind, expected):
    objective = distillation(teachers["truth"], "distillation.second_start_noise=1.25", kind=kind)
    sample, found = objective.student_sample, []

    def recorded(step, timesteps, start_noise, seed):
        found.append(start_noise)
        return sample(step, timesteps, start_noise, seed)

    monkeypatch.setattr(objective, "student_sample", recorded)
    objective.samples(first_step(objective, 0))
    assert found == expected


def test_gradient_is_zero_when_auxiliary_equals_teacher(teachers):
    objective = distillation(teachers["truth"])
    for name in objective.auxiliary_names():
        objective.networks[name].load_state_dict(objective.networks["teacher"].state_dict())
    assert all(g.abs().max() == 0 for g in gradients(objective, "student").values())


def test_losses_give_gradient_to_own_group_only(teachers):
    objective = distillation(teachers["truth"])
    student, auxiliary = gradients(objective, "student"), gradients(objective, "auxiliary")
    assert {name.split(".")[0] for name in student} == {"student"}
    assert {name.split(".")[0] for name in auxiliary} == {"winner", "loser"}
    both = gradients(objective, None)  # as in the trainer
    for name, gradient in (student | auxiliary).items():
        torch.testing.assert_close(both[name], gradient)
    trained = {id(p) for group in objective.trained.values() for p in group.parameters()}
    frozen = {name.split(".")[0] for name, p in objective.networks.named_parameters() if id(p) not in trained}
    assert frozen == {"encoder", "teacher"}
    assert all(p.requires_grad == (id(p) in trained) for p in objective.networks.parameters())


@pytest.mark.parametrize("shared", ["false", "true"])
def test_auxiliary_model_learns_on_own_sample_only(teachers, shared):
    """A different loser changes the gradient of the loser's auxiliary model only."""
    entries = [f"distillation.shared_noise={shared}", "distillation.first_score_timestep=500"]
    before = distillation(teachers["truth"], *entries)
    after = copy.deepcopy(before)
    take = type(after).samples

    def with_another_loser(step):
        (winner, loser), numbers = take(after, step)
        return [
            winner,
            dataclasses.replace(loser, completed=SampledPoints(loser.completed.points + 0.5, None)),
        ], numbers

    after.samples = with_another_loser
    one, other = gradients(before, "auxiliary"), gradients(after, "auxiliary")
    assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("winner"))
    assert any(not torch.equal(one[name], other[name]) for name in one if name.startswith("loser"))


@pytest.mark.parametrize("metric", METRICS)
def test_winner_has_lower_cost(teachers, metric):
    objective = distillation(teachers["truth"], f"distillation.metric={metric}", "distillation.second_start_noise=3")
    for seed in range(2):
        step = first_step(objective, seed)
        with torch.no_grad():
            (winner, loser), numbers = objective.samples(step)
        best, worst = (objective.preference.cost(one.completed.points, step) for one in (winner, loser))
        assert best < worst
        assert (winner.auxiliary, loser.auxiliary) == ("winner", "loser")
        assert numbers["winner_cost"] == pytest.approx(best)


@pytest.fixture(scope="module")
def step(teachers) -> Step:
    return first_step(distillation(teachers["truth"]), 0)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_prefer_points_near_truth(step, metric):
    truth, generator = step.sweep.truth, torch.Generator().manual_seed(0)
    good = truth + 0.02 * torch.randn(truth.shape, generator=generator)
    bad = truth + torch.randn(truth.shape, generator=generator)
    for metric_points in (0, 500):
        preference = Preference(metric, metric_points, "distillation")
        assert preference.cost(good, step) < preference.cost(bad, step)
        assert (preference.rank(good, bad, step).winner, preference.rank(bad, good, step).winner) == (0, 1)


def test_losses_depend_only_on_seed(teachers):
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
    "distillation.weight_by_noise_scale=true": "auxiliary",
    "distillation.teacher_guidance=3.0": "student",
    "distillation.batch_norm=sweep": "auxiliary",
    "distillation.batch_norm=released": "auxiliary",
    "distillation.chamfer_weight=0.1": "student",
    "distillation.scene_weight=0.1": "student",
    "distillation.landmark_weight=0.1": "student",
}


@pytest.fixture(scope="module")
def published_numbers(teachers) -> dict[str, float]:
    return numbers_of(distillation(teachers["truth"], "distillation.stop_early=false"))


@pytest.mark.parametrize("entry", SWITCHES)
def test_switch_changes_its_number(teachers, published_numbers, entry):
    after = numbers_of(distillation(teachers["truth"], "distillation.stop_early=false", entry))
    assert after[SWITCHES[entry]] != pytest.approx(published_numbers[SWITCHES[entry]], rel=1e-4)


EXPECTED_MODES = {  # train mode of: student in its samples; auxiliary models in scores and in their own errors; teacher
    "frozen": (False, False, False, False),
    "sweep": (True, True, True, True),
    "released": (True, False, True, False),
}


@pytest.mark.parametrize("batch_norm", EXPECTED_MODES)
def test_batch_norm_modes(teachers, batch_norm):
    """As released: student and auxiliary models are in train mode for their own updates and in eval mode otherwise."""
    objective = distillation(teachers["truth"], f"distillation.batch_norm={batch_norm}")
    modes = {name: [] for name in ("student", "teacher", "winner", "loser")}
    for name, seen in modes.items():
        objective.networks[name].register_forward_pre_hook(
            lambda network, inputs, seen=seen: seen.append(network.training)
        )
    numbers_of(objective)
    student, in_score, in_error, teacher = EXPECTED_MODES[batch_norm]
    assert modes["winner"] == modes["loser"] == [in_score, in_error]
    assert set(modes["student"]) == {student}
    assert set(modes["teacher"]) == {teacher}


def test_score_distillation_weight_adds_to_both_samples(teachers):
    assert distillation(teachers["truth"], "distillation.score_distillation_weight=0.25").weights() == (1.25, -0.75)
    released = distillation(teachers["truth"], "distillation.pair_weight=0", "distillation.score_distillation_weight=1")
    assert released.weights() == (1.0, 1.0)


def test_student_samples_stop_after_any_step(teachers):
    objective = distillation(teachers["truth"], "distillation.steps=[1,4]")
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(objective.timesteps(generator)) for _ in range(80)}
    all_steps = objective.recipe.schedule.timesteps_by_sigma(4)
    assert seen == {tuple(all_steps[:n]) for n in (1, 2, 3, 4)}


def test_only_last_pass_has_gradient(teachers):
    objective = distillation(teachers["truth"], "distillation.steps=[4]", "distillation.stop_early=false")
    passes = []
    objective.networks["student"].register_forward_hook(lambda network, inputs, out: passes.append(out.requires_grad))
    gradients(objective, "student")
    assert passes == 2 * [False, False, False, True]


def test_auxiliary_models_start_from_the_teacher(teachers):
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


def test_trained_encoder_does_not_change_the_teachers(teachers):
    objective = distillation(teachers["truth"], "distillation.train_encoder=true", "distillation.chamfer_weight=1")
    assert {name.split(".")[0] for name in gradients(objective, "student")} == {"student", "encoder"}
    assert {name.split(".")[0] for name in gradients(objective, "auxiliary")} == {"winner", "loser"}


def test_preview_keeps_network_modes(teachers):
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
        (["distillation.batch_norm=released", "distillation.shared_noise=true"], "set distillation.shared_noise=false"),
        (["architecture.own_channels=[]"], "leave architecture out"),
        (["objective=magic"], "objective is 'magic'"),
    ],
)
def test_rejects_invalid_distillation_recipe(teachers, entries, message):
    entries = [entry.format(**teachers) for entry in entries]
    with pytest.raises(RecipeError, match=message):
        objective_of(load_recipe(None, ["objective=distillation_dpo", f"start_from={teachers['truth']}", *entries]))


def test_distils_network_with_local_features_and_confidence(tmp_path):
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
