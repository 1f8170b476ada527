"""Thinning of completed points to the most confident one per voxel."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lidar_completion.completer import SceneCompleter
from lidar_completion.errors import ModelError
from lidar_completion.model.card import Pipeline
from lidar_completion.output_voxels import most_confident_plain, thinned_to_voxels
from lidar_completion.output_voxels_compiled import most_confident
from lidar_completion.sparse.coordinates import quantise


@pytest.mark.parametrize("count", [1, 2, 300, 20_000])
def test_compiled_and_plain_choice_agree(count: int):
    generator = torch.Generator().manual_seed(count)
    _, voxel = torch.randint(0, count // 3 + 1, (count,), generator=generator).unique(return_inverse=True)
    confidence = torch.randint(0, 5, (count,), generator=generator) / 4  # with ties
    voxels = int(voxel.max()) + 1
    assert torch.equal(most_confident(voxel, confidence, voxels), most_confident_plain(voxel, confidence, voxels))


def test_keeps_the_most_confident_point_of_each_voxel():
    points = torch.tensor([[0.1, 0, 0], [0.2, 0, 0], [5, 0, 0], [0, 0.1, 0], [9, 9, 9]])
    confidence = torch.tensor([0.5, 0.8, 0.1, 0.8, 1.0])
    rows, removed = thinned_to_voxels(points, confidence, torch.tensor([0, 1, 2, 3]), 1.0)
    assert rows.tolist() == [1, 2]
    assert removed == 2
    rows, removed = thinned_to_voxels(points, confidence, torch.tensor([0, 4]), 0.0)
    assert (rows.tolist(), removed) == ([0, 4], 0)


def test_completion_is_thinned_and_measured_points_stay(tiny_model: Path):
    random = np.random.default_rng(0)
    sweep = (random.uniform(-1, 1, (400, 3)) * [20, 20, 2]).astype(np.float32)
    completer = SceneCompleter.load(tiny_model, device="cpu")
    everything, thinned = completer.complete(sweep), completer.complete(sweep, output_voxel_m=1.0)
    measured = len(thinned.measured_rows)
    assert np.array_equal(thinned.points[:measured], everything.points[:measured])
    voxels = quantise(torch.from_numpy(thinned.completed_points), 1.0)
    assert len(voxels) == len(voxels.unique(dim=0))
    assert len(voxels) == len(quantise(torch.from_numpy(everything.completed_points), 1.0).unique(dim=0))
    assert thinned.removed["output_voxel"] == len(everything.points) - len(thinned.points) > 0


def test_rejects_a_tiny_output_voxel():
    with pytest.raises(ModelError, match=r"output_voxel_m is 1e-05; expected 0 or at least 0.001"):
        dataclasses.replace(Pipeline(), output_voxel_m=1e-5)
