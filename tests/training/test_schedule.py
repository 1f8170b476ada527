"""Epochs, global batch and processes: lengths of the paper recipes, impossible process counts, variants, and --plan."""

import pytest
import torch
from typer.testing import CliRunner

from lidar_completion_training.command_line import app
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.plan import plan_text
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.runs import RECIPES
from lidar_completion_training.schedule import schedule_of

WITHOUT_MODELS = ["start_from=null", "teacher=null"]


def paper(name: str, *entries: str):
    return load_recipe(RECIPES / f"paper/{name}.yaml", [*WITHOUT_MODELS, *entries])


@pytest.mark.parametrize(
    ("name", "processes", "accumulation", "iterations", "step_iterations"),
    [
        ("1_teacher", 1, 2, 191_300, 47_825),
        ("1_teacher", 2, 1, 191_300, 47_825),
        ("2_refiner", 8, 1, 11_960, 11_960),
        ("2_refiner", 2, 4, 11_960, 11_960),
        ("4_score_distillation", 2, 1, 95_650, 9_565),
        ("5_distillation_dpo", 1, 2, 95_650, 9_565),
    ],
)
def test_paper_recipes_have_published_length(name, processes, accumulation, iterations, step_iterations):
    """20, 5 and 10 epochs of 19,130 sweeps in global batches of 2, 8 and 2, for any number of processes."""
    schedule = schedule_of(paper(name), processes)
    assert (schedule.accumulation, schedule.iterations) == (accumulation, iterations)
    assert schedule.optimiser.step_iterations == step_iterations
    assert schedule.optimiser.learning_rate == paper(name).optimiser.learning_rate
    assert schedule.variant == ""


@pytest.mark.parametrize(("name", "possible"), [("1_teacher", "1, 2"), ("2_refiner", "1, 2, 4, 8")])
def test_rejects_processes_that_cannot_share_the_batch(name, possible):
    with pytest.raises(RecipeError, match=f"3 processes cannot share equally; possible are {possible} processes"):
        schedule_of(paper(name), 3)


@pytest.mark.parametrize(("name", "factor"), [("1_teacher", 2.0), ("5_distillation_dpo", 4.0)])
def test_scaled_variant_is_labelled_as_not_published(name, factor):
    """The square root rule for Adam, the linear rule for SGD; the number of epochs stays."""
    recipe = paper(name, "batch_scaling=proportional")
    schedule = schedule_of(recipe, 8)
    assert (schedule.global_batch, schedule.accumulation) == (8, 1)
    assert schedule.optimiser.learning_rate == pytest.approx(factor * recipe.optimiser.learning_rate)
    assert schedule.iterations == recipe.epochs * 2392
    assert schedule.variant == f"global batch 8 instead of 2, learning rate x {factor:g}; not published"
    assert schedule_of(recipe, 2).variant == ""


def test_students_of_the_paper_start_from_plain_lidiff():
    """Tables 1, 3, 4, 6, 7 and 8; LiDiff* is the variant of Table 5."""
    for name in ("4_score_distillation", "5_distillation_dpo"):
        entries = (RECIPES / f"paper/{name}.yaml").read_text().splitlines()
        assert "start_from: teacher" in entries
        assert not any(line.startswith("teacher:") for line in entries)


def test_refiner_of_the_paper_has_published_sizes():
    refiner = paper("2_refiner").refiner
    assert (refiner.points, refiner.target_points, refiner.queries) == (180_000, 360_000, 0)


def test_epochs_need_a_number_of_sweeps():
    with pytest.raises(RecipeError, match=r"epochs needs data\.sweeps_per_epoch"):
        schedule_of(load_recipe(None, ["epochs=2"]), 1)


def test_plan_prints_the_schedule_without_training(tmp_path):
    command = [
        "teacher",
        "--recipe",
        "paper/1_teacher.yaml",
        "--plan",
        "--processes",
        "2",
        "--run",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    for text in ("20 epochs of 19,130: 382,600", "191,300", "0.5 every 47,825 steps", "unknown; train a few steps"):
        assert text in result.output
    assert not (tmp_path / "run").exists()


def test_plan_prints_measured_hours_and_memory(tmp_path):
    timing = {"steps": 4, "seconds": 8.0, "peak_bytes": 3 * 2**30}
    torch.save({"iteration": 4, "networks": {}, "average": {}, "timing": timing}, tmp_path / "state.pt")
    text = plan_text(paper("1_teacher"), 2, tmp_path)
    assert "106.28 at 2 s per step" in text  # 191,300 steps
    assert "3.00 GiB per process at most" in text


def test_deprecated_batch_counts_sweeps_per_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(FutureWarning, match="batch is deprecated; use global_batch"):
        assert load_recipe(None, ["batch=3"]).global_batch == 6
