"""Worlds and pairs that the tests of the synthetic data share."""

from __future__ import annotations

import pytest
from synthetic_worker import COARSE, SMALL

from lidar_completion_synthetic import raycast, street, training_pair
from lidar_completion_synthetic.ground_truth import visible_surface


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One numba thread: several spin while they wait, which is slow on a busy machine."""
    raycast.set_threads(1)


@pytest.fixture(scope="session")
def world():
    return street(3, kind="terraces", **SMALL)


@pytest.fixture(scope="session")
def truth(world):
    return visible_surface(world, COARSE, least_angle_sr=0.0)


@pytest.fixture(scope="session")
def pair():
    return training_pair(5, COARSE, **SMALL)
