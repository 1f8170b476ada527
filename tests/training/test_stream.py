"""Training samples from recorded drives: the reference's rules, and the same sample for the same number."""

from itertools import islice

import numpy as np
import pytest
import torch
from street_drive import poses_along_x, write_drive

from lidar_completion_training.configuration import RecipeError, load_recipe
from lidar_completion_training.data.open import open_drive
from lidar_completion_training.data.stream import samples
from lidar_completion_training.ground_truth_map import build_map


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> list[str]:
    """Entries of a recipe for two drives of 5 and 3 sweeps with maps."""
    folder = tmp_path_factory.mktemp("drives")
    paths = []
    for name, count in (("one", 5), ("two", 3)):
        paths.append(write_drive(folder / name, poses_along_x(count)))
        build_map(open_drive(paths[-1]), folder / f"maps/{name}.npz", progress=False)
    listed = ",".join(map(str, paths))
    return ["data.source=drives", f"data.drives=[{listed}]", f"data.maps={folder / 'maps'}", "data.workers=0"]


def first(count: int, entries: list[str], start: int = 0, step: int = 1):
    return list(islice(samples(load_recipe(None, entries).data, start, step), count))


def test_every_sweep_comes_once_a_turn_in_another_order(drives):
    firsts = [tuple(sample.sweep[0].tolist()) for sample in first(16, drives)]
    assert len(set(firsts)) == 5  # the second drive is the first part of the first
    assert sorted(firsts[:8]) == sorted(firsts[8:])
    assert firsts[:8] != firsts[8:]


def test_a_sample_is_the_same_from_any_start_for_any_number_of_processes(drives):
    whole = first(8, drives)
    later = first(3, drives, start=5)
    second_process = first(3, drives, start=1, step=2)
    for found, expected in ((later, whole[5:]), (second_process, whole[1:6:2])):
        assert all(torch.equal(a.sweep, b.sweep) for a, b in zip(found, expected, strict=True))
        assert all(torch.equal(a.truth, b.truth) for a, b in zip(found, expected, strict=True))
    workers = first(4, [*drives, "data.workers=2"])
    assert all(torch.equal(a.sweep, b.sweep) for a, b in zip(workers, whole, strict=False))


def test_truth_lies_around_the_sweep_by_the_references_rules(drives):
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
        (["data.maps=nowhere"], r"nowhere/one\.npz: no such map; build it: lidar-completion-train map"),
    ],
)
def test_what_is_missing_is_named(drives, entries, message):
    with pytest.raises(RecipeError, match=message):
        first(1, [*drives, *entries] if "maps" in entries[0] else entries)
