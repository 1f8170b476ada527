"""Worlds drawn from a seed."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_worker import COARSE, SMALL

from lidar_completion_synthetic import objects, simulate_sweep, street
from lidar_completion_synthetic.objects.materials import OTHER_STRUCTURE, POLE, VEGETATION
from lidar_completion_synthetic.world import RECIPES, STREET_KINDS
from lidar_completion_synthetic.world.placements import ROWS, SINGLE, STRETCHES
from lidar_completion_synthetic.world.recipe import COLUMNS, RATES, TREES


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


@pytest.mark.parametrize("kind", list(RECIPES["varied"].kinds))
def test_sweep_in_every_kind_of_street_of_varied_recipe(kind):
    world = street(2, recipe="varied", kind=kind, **SMALL)
    sweep = simulate_sweep(world, world.pose_at(3.0), COARSE, np.random.default_rng(0))
    assert len(sweep.points) > 2000
    assert np.isfinite(sweep.points).all()
    assert {POLE, VEGETATION} & set(world.label.tolist())


def test_varied_recipe_names_known_kinds_and_objects():
    assert set(RECIPES["varied"].kinds) == set(COLUMNS)
    assert all(len(row) == len(COLUMNS) for row in RATES.values())
    assert {*SINGLE, *ROWS, *STRETCHES, "tree", "parked row", "large vehicle"} == set(RATES)
    assert sum(k.probability for k in RECIPES["varied"].kinds.values()) == pytest.approx(1.0)
    assert sum(TREES.values()) == pytest.approx(1.0)


def test_varied_worlds_have_bridges_and_steeper_ground():
    slopes = {}
    for recipe in ("town", "varied"):
        worlds = [street(seed, recipe=recipe, **SMALL) for seed in range(8)]
        slopes[recipe] = np.max([np.ptp(w.path[:, 2]) / w.drive_length_m for w in worlds])
        over = [w for w in worlds if bridge_over_path(w)]
        assert bool(over) == (recipe == "varied")
    assert slopes["varied"] > slopes["town"]


def bridge_over_path(world) -> bool:
    """Whether a solid lies 3-8 m above the path."""
    centre = world.solids.to_world[world.label == OTHER_STRUCTURE][:, :, 3]
    if not len(centre):
        return False
    away = np.linalg.norm(centre[:, None, :2] - world.path[None, ::4, :2], axis=2)
    above = centre[:, 2] - world.path[::4][away.argmin(axis=1), 2]
    return bool(((away.min(axis=1) < 3) & (above > 3) & (above < 8)).any())


def test_rejects_unknown_recipe():
    with pytest.raises(ValueError, match="varied"):
        street(0, recipe="mars")
