"""The direct objective and the trainer, on a street made small."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lidar_completion.checkpoints import load_model
from lidar_completion_training.configuration import RecipeError, load_recipe, model_card
from lidar_completion_training.data.stream import Sample, sample_of
from lidar_completion_training.objectives.direct import DirectCompletion, clamped_chamfer, random_turn
from lidar_completion_training.train import Trainer, TrainingError, learning_rate

SMALL = [
    "iterations=4",
    "save_every=2",
    "architecture.width=0.125",
    "architecture.voxel_size_m=1.0",
    "pipeline.downsample_voxel_m=1.0",
    "pipeline.replication=2",
    "direct.queries=500",
    "data.workers=0",
    "optimiser.warm_up_iterations=2",
]


def wall_sample(seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(4000, 3, generator=generator) * torch.tensor([20.0, 20.0, 0.1]) + torch.tensor(
        [4.0, -10.0, -1.7]
    )
    return Sample(truth[::8].contiguous(), truth)


def test_the_loss_reaches_every_parameter_that_decides_a_point():
    recipe = load_recipe(None, SMALL)
    trainer = Trainer(recipe, folder=None)
    loss, _ = trainer.objective(
        trainer.networks["encoder"], trainer.networks["denoiser"], wall_sample(), torch.Generator().manual_seed(1)
    )
    loss.backward()
    without = [name for name, p in trainer.networks.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # one scan: batch norm takes the mean out of what a gate adds in common, all else must be reached
    assert len(without) < 0.05 * sum(1 for _ in trainer.networks.parameters()), without


def test_training_brings_points_to_a_surface():
    uniform = ["pipeline.noise_per_metre=0", "direct.second_pass=0", "optimiser.learning_rate=0.01"]
    recipe = load_recipe(None, [*SMALL, "iterations=40", *uniform])
    trainer = Trainer(recipe, folder=None)
    trainer._log = lambda numbers: None
    losses = [trainer.step(wall_sample(i))["loss"] for i in range(40)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), losses


def test_clamped_chamfer_agrees_with_brute_force():
    generator = torch.Generator().manual_seed(3)
    prediction, truth = torch.rand(60, 3, generator=generator) * 5, torch.rand(80, 3, generator=generator) * 5
    recipe = load_recipe(None, ["direct.queries=20000", "direct.clamp_m=0.5"]).direct
    accuracy, coverage = clamped_chamfer(prediction, truth, recipe, generator)
    distances = np.minimum(cdist(prediction, truth), 0.5)
    assert accuracy.item() == pytest.approx(distances.min(axis=1).mean(), rel=0.02)  # random points of each
    assert coverage.item() == pytest.approx(distances.min(axis=0).mean(), rel=0.02)


def test_a_second_pass_starts_from_the_models_own_estimate_at_a_level_of_inference():
    card = model_card(load_recipe(None, ["direct.second_pass=1"]))
    objective = DirectCompletion(load_recipe(None, ["direct.second_pass=1", "direct.max_steps=3"]).direct, card)
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(objective._timesteps(generator)) for _ in range(60)}
    levels = {t for steps in (2, 3) for t in card.schedule.timesteps_by_level(steps)[1:]}
    assert all(first == 999 for first, _ in seen)
    assert {second for _, second in seen} == levels


def test_a_turn_keeps_distances_and_heights():
    turn = random_turn(torch.Generator().manual_seed(5))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
    assert turn[2].tolist() == [0.0, 0.0, 1.0]


def test_truth_is_cut_to_the_cells_that_the_sweep_touches():
    sample = sample_of(
        np.array([[5.0, 5.0, 0.0]], np.float32), np.array([[1, 1, 0], [11, 1, 0], [-1, 1, 0]], np.float32), 10.0
    )
    assert sample.truth.tolist() == [[1.0, 1.0, 0.0]]


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = Trainer(load_recipe(None, SMALL), tmp_path / "whole")
    whole.run()
    stopped = Trainer(load_recipe(None, SMALL), tmp_path / "stopped")
    stopped.folder.mkdir()
    stopped.networks.train()
    stream = iter_samples(stopped)
    for _ in range(3):  # dies one iteration after it saved
        stopped.step(next(stream))
        if stopped.iteration == 2:
            stopped.save()
    resumed = Trainer(load_recipe(None, SMALL), tmp_path / "stopped")
    resumed.run()
    for mine, theirs in zip(whole.average.state_dict().values(), resumed.average.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "stopped")


def iter_samples(trainer: Trainer):
    from lidar_completion_training.data.stream import samples

    return samples(trainer.recipe.data, 0)


def read_log(folder) -> list[list[str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.reader(file))


def test_the_exported_model_loads_and_says_what_it_is(tmp_path):
    trainer = Trainer(load_recipe(None, [*SMALL, "name=small"]), tmp_path / "run")
    trainer.export(tmp_path / "model")
    card, networks = load_model(tmp_path / "model")
    assert card.name == "small"
    assert "synthetic" in card.training_data
    assert dataclasses.asdict(card.architecture)["width"] == 0.125
    assert set(networks) == {"encoder", "denoiser"}


def test_a_damaged_state_names_its_file(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match=r"state\.pt"):
        Trainer(load_recipe(None, SMALL), tmp_path).run()


@pytest.mark.parametrize("entry", ["nonsense=1", "optimiser.learning_rate=fast", "direct.nonsense=2"])
def test_an_unknown_or_ill_typed_entry_is_refused(entry):
    with pytest.raises(RecipeError):
        load_recipe(None, [entry])


def test_the_learning_rate_warms_up_and_decays():
    recipe = load_recipe(None, ["iterations=100", "optimiser.warm_up_iterations=10", "optimiser.learning_rate=1.0"])
    rates = [learning_rate(recipe, i) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(recipe.optimiser.final_fraction)
