"""Worlds drawn from a seed."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_worker import COARSE, SMALL

from lidar_completion_synthetic import objects, simulate_sweep, street
from lidar_completion_synthetic.world import STREET_KINDS


def test_worlds_differ_between_seeds():
    worlds = [street(seed, **SMALL) for seed in range(4)]
    for i, a in enumerate(worlds):
        for b in worlds[i + 1 :]:
            assert len(a.solids) != len(b.solids) or not np.array_equal(a.solids.to_world, b.solids.to_world)
            assert not np.array_equal(a.ground.height, b.ground.height)


@pytest.mark.parametrize("kind", list(STREET_KINDS))
def test_sweep_in_every_kind_of_street(kind):
    world = street(1, kind=kind, **SMALL)
    sweep = simulate_sweep(world, world.pose_at(5.0), COARSE, np.random.default_rng(0))
    assert np.isfinite(sweep.points).all()
    assert -2.6 < np.median(sweep.points[sweep.label == objects.ROAD, 2]) < -1.0
    assert {objects.ROAD, objects.TERRAIN, objects.SIDEWALK, objects.BUILDING, objects.VEGETATION} & set(
        sweep.label.tolist()
    )


def test_moving_objects_are_optional_in_sweeps():
    busy = street(11, kind="avenue", traffic=4.0, **SMALL)
    quiet = street(11, kind="avenue", traffic=0.0, **SMALL)
    pose = busy.pose_at(0.0)
    with_them = simulate_sweep(busy, pose, COARSE, np.random.default_rng(0))
    without = simulate_sweep(busy, pose, COARSE, np.random.default_rng(0), moving=False)
    assert (with_them.label >= 252).sum() > 20
    assert (without.label >= 252).sum() == 0
    assert len(busy.mover_parts)
    assert not len(quiet.mover_parts)
    assert not np.isin(busy.label, (252, 253, 254, 258, 259)).any()


def test_moving_objects_move_at_their_velocity():
    busy = street(11, kind="avenue", traffic=4.0, **SMALL)
    speed = np.linalg.norm(busy.mover_velocity, axis=1)
    step = busy.movers_at(2.0).to_world[:, :2, 3] - busy.movers_at(0.0).to_world[:, :2, 3]
    np.testing.assert_allclose(np.linalg.norm(step, axis=1), 2.0 * speed, atol=1e-3)
