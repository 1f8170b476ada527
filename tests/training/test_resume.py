"""Resuming with more iterations, another batch or other processes, and what processes must agree on."""

import itertools
import os
from pathlib import Path

import pytest
import torch
import two_processes
from small_wall import TINY, floor, wall
from two_processes import run_twice

from lidar_completion.model.weights import save_model
from lidar_completion_training import trainer as training
from lidar_completion_training.cards import model_card
from lidar_completion_training.objectives.networks import starting_networks
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.state import load_state
from lidar_completion_training.trainer import Trainer
from lidar_completion_training.training_log import read_log

SMALL = [
    *TINY,
    "iterations=4",
    "save_every=2",
    "data.workers=0",
    "data.sensor=VLP-16",
    "optimiser.warm_up_iterations=1",
]


@pytest.fixture
def requested(monkeypatch) -> list[int]:
    """Replaces the stream by small walls; collects the number of every sample that a trainer takes."""
    numbers = []

    def samples(recipe, first, step=1, **_):
        for number in itertools.count(first, step):
            numbers.append(number)
            yield wall(number)

    monkeypatch.setattr(training, "samples", samples)
    return numbers


def train(folder: Path, *entries: str) -> Trainer:
    trainer = Trainer(load_recipe(None, [*SMALL, *entries]), folder)
    trainer.run(progress=False)
    return trainer


def test_raising_iterations_on_resume_does_not_raise_the_learning_rate(tmp_path, requested):
    assert train(tmp_path).state.decay_iterations == 4  # the cosine ends with the run
    train(tmp_path, "iterations=8")
    rates = [row["learning_rate"] for row in read_log(tmp_path / "log.csv")]
    assert len(rates) == 8
    assert rates == sorted(rates, reverse=True)
    train(tmp_path, "iterations=9", "optimiser.decay_iterations=100")
    assert read_log(tmp_path / "log.csv")[-1]["learning_rate"] > rates[-1]  # on request


def test_resuming_with_another_batch_repeats_no_sample(tmp_path, requested):
    train(tmp_path)
    train(tmp_path, "iterations=6", "global_batch=3")
    assert requested == list(range(4 + 2 * 3))
    state = load_state(tmp_path)
    assert (state["iteration"], state["samples"], state["processes"]) == (6, 10, 1)


def test_state_has_step_time_and_memory_for_the_plan(tmp_path, requested):
    train(tmp_path)
    timing = load_state(tmp_path)["timing"]
    assert timing["steps"] == 4
    assert timing["seconds"] > 0
    assert timing["peak_bytes"] > 1e6


WITHOUT_STATE = """
import sys
from pathlib import Path
import torch
from lidar_completion_training.errors import TrainingError
from lidar_completion_training.processes import launch_fabric
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.trainer import Trainer

fabric = launch_fabric("cpu")
folder = Path(sys.argv[1])
trainer = Trainer(load_recipe(None, sys.argv[2:]), folder if fabric.global_rank == 0 else folder / "other", fabric)
try:
    trainer.run(progress=False)
except TrainingError as error:
    assert "process 1 has iteration 0, process 0 has 4" in str(error), error
    print("rejected", flush=True)
torch.distributed.destroy_process_group()  # or the exit may abort, with the group's threads alive
"""


def test_rejects_a_process_without_the_state(tmp_path, requested):
    train(tmp_path)
    (tmp_path / "program.py").write_text(WITHOUT_STATE)
    entries = [*SMALL, "iterations=6", "global_batch=2"]
    assert run_twice([str(tmp_path / "program.py"), str(tmp_path), *entries]).count("rejected") == 2


ON_FLOORS = """
import itertools, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from small_wall import floor
from lidar_completion_training import trainer as training
from lidar_completion_training.processes import launch_fabric
from lidar_completion_training.recipe_files import load_recipe

training.samples = lambda recipe, first, step=1, **_: map(floor, itertools.count(first, step))
fabric = launch_fabric("cpu")
for objective in ("teacher", "distillation_dpo"):
    recipe = load_recipe(None, [*sys.argv[3:], f"objective={objective}"])
    training.Trainer(recipe, Path(sys.argv[2], objective), fabric).run(progress=False)
"""


def test_two_processes_take_the_step_of_one(tmp_path, monkeypatch):
    """Each has two sweeps. None without condition: its single voxel is normalised by running statistics, which differ."""
    recipe = load_recipe(None, TINY)
    save_model(tmp_path / "model", model_card(recipe), starting_networks(recipe))
    entries = [f"start_from={tmp_path / 'model'}", "iterations=1", "data.workers=0", "global_batch=4"]
    entries += ["optimiser.kind=sgd", "optimiser.warm_up_iterations=0", "noise_prediction.condition_dropout=0"]
    (tmp_path / "program.py").write_text(ON_FLOORS)
    fixtures = str(Path(two_processes.__file__).parent)
    run_twice([str(tmp_path / "program.py"), fixtures, str(tmp_path / "two"), *entries])
    for objective in ("teacher", "distillation_dpo"):
        state = load_state(tmp_path / "two" / objective)
        alone = Trainer(load_recipe(None, [*entries, f"objective={objective}"]), tmp_path / "one" / objective)
        monkeypatch.setattr(
            training, "samples", lambda recipe, first, step=1, **_: map(floor, itertools.count(first, step))
        )
        before = {name: p.clone() for name, p in alone.objective.networks.named_parameters()}
        alone.run(progress=False)
        assert (state["iteration"], state["samples"]) == (1, 4)
        for name, p in alone.objective.networks.named_parameters():
            moved = (p - before[name]).norm()
            assert (state["networks"][name] - p).norm() <= 1e-6 + 1e-3 * moved, (objective, name)
        assert any(not torch.equal(p, before[name]) for name, p in alone.objective.networks.named_parameters())


@pytest.mark.slow  # 15 s of processor time: part of `make smoke`
def test_chain_in_two_processes_exports_once(tmp_path):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "1_teacher.yaml").write_text("objective: teacher\n")
    (recipes / "2_tuned.yaml").write_text("objective: teacher\nstart_from: teacher\n")
    entries = [*SMALL[1:], "iterations=1", "global_batch=2"]
    chain = ["chain", str(recipes), "--runs", str(tmp_path / "runs"), "--scenes", "0", *entries]
    out = run_twice(["-m", "lidar_completion_training", *chain, TINY[0]])
    assert out.count(f"{tmp_path / 'runs' / 'model'}: ") == 1
    assert out.count("[2/2] tuned") == 1
    for run in ("teacher", "tuned"):
        assert load_state(tmp_path / "runs" / run)["processes"] == 2


# --- one step ------------------------------------------------------------------------------------------------------


def test_average_moves_towards_the_weights(tmp_path):
    trainer = Trainer(load_recipe(None, SMALL), tmp_path)
    state = trainer.state
    before = {name: p.clone() for name, p in state.average.named_parameters()}
    with torch.no_grad():
        for p in state.exported.parameters():
            p.add_(1.0)
    state.iteration = 1_000_000
    state.update_average(0.9)
    for name, p in state.average.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1)
    state.iteration = 10  # early on it follows faster: decay 10 / 20
    state.update_average(0.9)
    for name, p in state.average.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1 + 0.5 * 0.9)


def test_gradients_are_clipped(tmp_path):
    entries = ["optimiser.kind=sgd", "optimiser.learning_rate=1", "optimiser.warm_up_iterations=0"]
    trainer = Trainer(load_recipe(None, [*SMALL, *entries, "optimiser.gradient_clip=0.001"]), tmp_path)
    before = [p.clone() for p in trainer.objective.networks.parameters()]
    numbers = trainer.step([wall()])
    moved = [p - q for p, q in zip(trainer.objective.networks.parameters(), before, strict=True)]
    assert numbers["model_gradient"] > 0.01
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.001, rel=0.01)


def test_group_factors_scale_the_learning_rate(tmp_path, requested):
    model = tmp_path / "model"
    recipe = load_recipe(None, TINY)
    save_model(model, model_card(recipe), starting_networks(recipe))
    entries = ["objective=score_distillation", f"start_from={model}", "data.workers=0", "direct.queries=200"]
    trainer = Trainer(load_recipe(None, [*entries, "optimiser.group_factors={auxiliary: 3.0}"]), tmp_path / "run")
    rate = trainer.step([wall()])["learning_rate"]
    rates = {group: o.param_groups[0]["lr"] for group, o in trainer.state.optimisers.items()}
    assert rates == pytest.approx({"student": rate, "auxiliary": 3 * rate})


@pytest.fixture
def restore_determinism():
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_recipe_uses_deterministic_operators(tmp_path, requested, restore_determinism, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    train(tmp_path / "usual", "iterations=1")
    assert not torch.are_deterministic_algorithms_enabled()
    train(tmp_path / "deterministic", "iterations=1", "deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
