"""Training samples from recorded drives: the published rules, and the same sample for the same number."""

import dataclasses
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_wall import TINY
from street_drive import poses_along_x, write_drive
from synthetic_worker import SMALL

from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_synthetic import training_pairs
from lidar_completion_training import stream
from lidar_completion_training.cards import training_data
from lidar_completion_training.configuration import DataRecipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.sweep import PreparedSweep, generator_after, prepare_in_worker
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.stream import samples


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> list[str]:
    """Recipe entries for two drives of 5 and 3 sweeps with maps."""
    folder = tmp_path_factory.mktemp("drives")
    paths = []
    for name, count in (("one", 5), ("two", 3)):
        paths.append(write_drive(folder / name, poses_along_x(count)))
        build_map(open_drive(paths[-1]), folder / f"maps/{name}.npz", progress=False)
    listed = ",".join(map(str, paths))
    return ["data.source=drives", f"data.drives=[{listed}]", f"data.maps={folder / 'maps'}", "data.workers=0"]


def first(count: int, entries: list[str], start: int = 0, step: int = 1):
    return list(islice(samples(load_recipe(None, entries).data, start, step), count))


def test_each_epoch_has_every_sweep_in_new_order(drives):
    firsts = [tuple(sample.sweep[0].tolist()) for sample in first(16, drives)]
    assert len(set(firsts)) == 5  # the second drive is the first part of the first
    assert sorted(firsts[:8]) == sorted(firsts[8:])
    assert firsts[:8] != firsts[8:]


def test_sample_does_not_depend_on_start_processes_or_workers(drives):
    all_samples = first(8, drives)
    later = first(3, drives, start=5)
    second_process = first(3, drives, start=1, step=2)
    for found, expected in ((later, all_samples[5:]), (second_process, all_samples[1:6:2])):
        assert all(torch.equal(a.sweep, b.sweep) for a, b in zip(found, expected, strict=True))
        assert all(torch.equal(a.truth, b.truth) for a, b in zip(found, expected, strict=True))
    workers = first(4, [*drives, "data.workers=2"])
    assert all(torch.equal(a.sweep, b.sweep) for a, b in zip(workers, all_samples, strict=False))


@pytest.mark.parametrize("entries", [[], ["pipeline.downsampling=farthest", "data.augmentation.tilt_rad=0.06"]])
def test_a_sample_prepared_by_a_data_worker_gives_the_same_losses(drives, entries):
    recipe = load_recipe(None, [*TINY, *drives, "data.workers=2", "direct.free_space_weight=1", *entries])
    raw = first(4, drives)
    from_workers = samples(recipe.data, 0, 1, partial(prepare_in_worker, recipe))
    objective, device = objective_of(recipe), torch.device("cpu")
    for number, found in enumerate(islice(from_workers, 4)):
        assert isinstance(found, PreparedSweep)
        one, other = (
            objective.losses(sample, generator_after(sample, recipe, number, device)) for sample in (found, raw[number])
        )
        assert torch.equal(one[0]["model"], other[0]["model"])
        assert one[1] == other[1]


def test_moving_a_prepared_sweep_moves_every_tensor(drives):
    recipe = load_recipe(None, [*TINY, "direct.free_space_weight=1"])
    moved = prepare_in_worker(recipe, 3, first(1, drives)[0]).to("meta")
    tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
    assert moved.clear_space.distance.is_meta
    assert {name for name, value in tensors.items() if not value.is_meta} == {"random_state"}


def test_rejects_the_map_of_another_drive(drives, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    folder = Path(drives[2].removeprefix("data.maps="))
    (maps / "one.npz").write_bytes((folder / "two.npz").read_bytes())
    with pytest.raises(DriveError, match=r"one.npz: expected a map of one with these poses, found one of two"):
        first(1, [*drives, f"data.maps={maps}"])


TRAINER = """
import sys, time
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.sweep import PreparedSweep, generator_after, prepare_in_worker
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.stream import samples
stream = samples(load_recipe(None, sys.argv[1:]).data, 0)
next(stream)
print("started", flush=True)
time.sleep(600)
"""


def test_workers_end_when_trainer_is_killed(drives):
    command = [sys.executable, "-c", TRAINER, *drives, "data.workers=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout.readline() == "started\n"
        workers = descendants(trainer.pid)
        trainer.kill()
    assert len(workers) >= 2  # the server that forks them, and one worker
    end = time.monotonic() + 30.0
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """All child processes of a process, recursively."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    children = [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]
    children = [child for child in children if is_running(child)]  # not ps itself
    return children + [further for child in children for further in descendants(child)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_samples_follow_published_rules(drives):
    for sample in first(4, drives):
        assert sample.sweep.dtype == sample.truth.dtype == torch.float32
        assert sample.sweep.norm(dim=1).min() > 3.5
        assert sample.truth.norm(dim=1).max() < 50
        assert sample.truth[:, 2].min() > -4
        apart = np.linalg.norm(sample.truth[::50, None] - sample.sweep[None], axis=2).min(axis=1)
        assert np.median(apart) < 0.3  # in one frame


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["data.source=tapes"], "data.source is 'tapes'"),
        (["data.source=drives"], "data.drives is empty"),
        (["data.maps=nowhere"], r"nowhere/one\.npz: no such map; build it: lidar-completion map"),
    ],
)
def test_rejects_missing_drives_and_maps(drives, entries, message):
    with pytest.raises(RecipeError, match=message):
        first(1, [*drives, *entries] if "maps" in entries[0] else entries)


@pytest.fixture
def small_worlds(monkeypatch):
    monkeypatch.setattr(stream, "training_pairs", partial(training_pairs, **SMALL))


def test_stream_draws_pairs_from_the_sensor_mix(small_worlds):
    recipe = DataRecipe(sensor="mix", world="varied", sweeps_per_world=1, workers=0)
    first, second = next(samples(recipe, 3)), next(samples(recipe, 3))
    assert torch.equal(first.sweep, second.sweep)
    assert len(first.truth) > 1000
    assert "OS1-64" in training_data(recipe)
    for wrong in ({"sensor": "HDL-65"}, {"sensor": "missing.toml"}, {"world": "mars"}):
        with pytest.raises(RecipeError, match=r"data\.sensor or data\.world: "):
            samples(DataRecipe(workers=0, **wrong), 0)


def test_sweeps_of_a_world_are_used_again_before_the_next_world(small_worlds):
    once = DataRecipe(sensor="VLP-16", sweeps_per_world=2, workers=0)
    twice = dataclasses.replace(once, uses_per_sweep=2)
    sweeps = [sample.sweep for sample in islice(samples(once, 0), 4)]
    number_once = (0, 1, 0, 1, 2, 3, 2)  # which of them each sample of `twice` is
    for skipped in (0, 3):  # a resumed run continues in the middle of a world
        found = islice(samples(twice, skipped), len(number_once) - skipped)
        for sample, number in zip(found, number_once[skipped:], strict=True):
            assert torch.equal(sample.sweep, sweeps[number])
