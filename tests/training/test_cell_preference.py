"""Preferences per cell: costs on hand-made cells, and the student's gradient in Distillation-DPO."""

import dataclasses
import itertools

import pytest
import torch
from small_wall import TINY, wall

from lidar_completion.model.weights import save_model
from lidar_completion.visibility import ClearSpace
from lidar_completion_training.cards import model_card
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.cell_preference import CELL_METRICS, rank_cells
from lidar_completion_training.objectives.networks import begin, starting_networks
from lidar_completion_training.objectives.step import Step
from lidar_completion_training.objectives.sweep import prepared
from lidar_completion_training.recipe_files import load_recipe

CELL_M = 4.0


def grid(x: float, y: float, z: float = 0.0, side: int = 5) -> torch.Tensor:
    """side x side points, 0.3 m apart, from (x, y, z)."""
    places = itertools.product(range(side), range(side))
    return torch.tensor([[x + 0.3 * i, y + 0.3 * j, z] for i, j in places])


def step_with(truth: torch.Tensor, clear_space: ClearSpace | None = None) -> Step:
    recipe, generator = load_recipe(None, TINY), torch.Generator().manual_seed(0)
    sweep = dataclasses.replace(prepared(wall(), recipe, generator), truth=truth, clear_space=clear_space)
    return Step(recipe, sweep, sweep.scan, None, generator)


@pytest.mark.parametrize("metric", CELL_METRICS)
def test_each_cell_is_won_by_the_better_completion(metric: str):
    """Four cells: the first completion wins, the second wins, equal, and only one of them has points."""
    truth = torch.cat([grid(x, 8.1) for x in (0.1, 4.1, 8.1, 12.1)])
    good, bad = [grid(x, 8.1, 0.02) for x in (0.1, 4.1, 8.1)], [grid(x, 8.1, 0.9) for x in (0.1, 4.1, 8.1)]
    first = torch.cat([good[0], bad[1], good[2], grid(12.1, 8.1)])
    second = torch.cat([bad[0], good[1], good[2]])
    ranking = rank_cells(first, second, step_with(truth), CELL_M, metric)
    assert ranking.first.view(4, -1).tolist() == [[1] * 25, [-1] * 25, [0] * 25, [0] * 25]
    assert ranking.second.view(3, -1).tolist() == [[-1] * 25, [1] * 25, [0] * 25]


def test_points_in_observed_free_space_are_wrong():
    """Both completions are 0.3 m from the truth; the first lies on the near side, where rays passed."""
    angle = torch.linspace(-0.5, 0.5, 4001)
    returns = torch.stack([10 * angle.cos(), 10 * angle.sin(), 0 * angle], dim=1)
    step = step_with(returns, ClearSpace.from_returns(returns))
    first, second = returns[::100] * 0.96, returns[::100] * 1.03
    ranking = rank_cells(first, second, step, 100.0, "wrong")
    assert set(ranking.first.tolist()) == {-1}
    assert set(ranking.second.tolist()) == {1}
    without = rank_cells(first, second, step_with(returns), 100.0, "wrong")
    assert set(without.first.tolist()) == {0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    torch.manual_seed(0)
    recipe = load_recipe(None, [*TINY, "pipeline.noised_around=truth"])
    folder = str(tmp_path_factory.mktemp("models") / "teacher")
    save_model(folder, model_card(recipe), starting_networks(recipe))
    return folder


def by_cell(teacher: str, *entries: str):
    common = ["objective=distillation_dpo", f"start_from={teacher}", "pipeline.replication=2"]
    objective = objective_of(load_recipe(None, [*common, "distillation.preference_cell_m=2", *entries]))
    with torch.no_grad():
        for offset, name in enumerate(objective.auxiliary_names(), start=1):
            for p in objective.networks[name].parameters():
                p.mul_(1 + 0.02 * offset)
    return objective


def test_winning_points_follow_the_winners_model_and_losing_points_the_losers(teacher: str):
    objective = by_cell(teacher, "distillation.cell_metric=f_score")
    step = begin(objective.networks, wall(), objective.recipe, torch.Generator().manual_seed(1))
    samples, numbers = objective.samples(step)
    assert [(one.auxiliary, one.weight) for one in samples] == [("winner", 1.0), ("loser", -1.0)] * 2
    assert samples[0].completed is samples[1].completed
    assert not bool((samples[0].where & samples[1].where).any())
    assert 0 < numbers["decided"] <= 1
    assert 0 < int(samples[0].where.sum()) < len(samples[0].where)
    points, scoring = samples[0].completed.points, objective.scoring_step(step)
    gradients = []
    for one in samples[:2]:
        score, error, _ = objective.score_and_error(one, 500, scoring)
        gradients.append(torch.autograd.grad(score, points, retain_graph=True)[0])
        assert bool((gradients[-1][one.where] != 0).any())
        assert not bool((gradients[-1][~one.where] != 0).any())
        assert error.item() > 0


def test_all_groups_learn_and_ties_give_a_loss_of_zero(teacher: str):
    objective = by_cell(teacher, "distillation.chamfer_weight=1")
    losses, numbers = objective.losses(wall(), torch.Generator().manual_seed(1))
    sum(losses.values()).backward()
    learning = {name.split(".")[0] for name, p in objective.networks.named_parameters() if p.grad is not None}
    assert learning == {"student", "winner", "loser"}
    assert {"decided", "first_wins", "chamfer"} <= numbers.keys()
    tied = by_cell(teacher, "distillation.second_start_noise=1.0")  # both samples are the same
    losses, numbers = tied.losses(wall(), torch.Generator().manual_seed(1))
    assert numbers["decided"] == 0
    assert losses["student"].item() == losses["auxiliary"].item() == 0
    sum(losses.values()).backward()


def test_rejects_unknown_cell_metrics(teacher: str):
    with pytest.raises(RecipeError, match=r"distillation.cell_metric is 'cd'; it can be one of wrong, f_score, iou"):
        by_cell(teacher, "distillation.cell_metric=cd")
