"""Smoke test of the installed package for `colcon test`; the full tests are in tests/ of the repository."""

import torch

from lidar_completion.downsample import voxel_downsample


def test_the_package_downsamples_a_sweep():
    sweep = torch.rand(500, 3) * 40 - 20
    assert 0 < len(voxel_downsample(sweep, 5.0)) <= 8**3
