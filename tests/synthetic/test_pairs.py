"""Training and test pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import synthetic_worker
from synthetic_worker import COARSE, SMALL, fingerprint

from lidar_completion_synthetic import (
    TEST_SEED,
    TEST_SETS,
    mounting_of,
    raycast,
    test_pair,
    training_pair,
    training_pairs,
)
from lidar_completion_synthetic.crop_compiled import crop_to_pose
from lidar_completion_synthetic.lidar import tilted
from lidar_completion_synthetic.objects import rotation
from lidar_completion_synthetic.pairs import crop_to_pose_plain


def test_pair_is_in_range_and_in_sensor_frame(pair):
    assert pair.sweep.dtype == pair.truth.dtype == np.float32
    assert np.linalg.norm(pair.truth, axis=1).max() < 50.0
    assert pair.truth[:, 2].min() > -4.0
    assert np.linalg.norm(pair.sweep, axis=1).max() < 50.5
    assert len(pair.sweep) == len(pair.intensity) == len(pair.ring) == len(pair.time) == len(pair.label)
    assert -2.3 < np.median(pair.truth[np.linalg.norm(pair.truth[:, :2], axis=1) < 8, 2]) < -1.2


def test_pair_is_independent_of_thread_count(pair):
    again = training_pair(5, COARSE, threads=2, **SMALL)
    raycast.set_threads(1)
    for name in ("sweep", "intensity", "truth", "ring", "time", "label", "pose"):
        np.testing.assert_array_equal(getattr(pair, name), getattr(again, name))


def test_worlds_are_independent_of_worker_count():
    alone = [p for _, p in zip(range(4), training_pairs(20, 2, COARSE, **SMALL), strict=False)]
    second = next(training_pairs(21, 2, COARSE, seed_step=2, **SMALL))
    np.testing.assert_array_equal(alone[2].sweep, second.sweep)
    np.testing.assert_array_equal(alone[2].truth, second.truth)
    assert not np.array_equal(alone[0].sweep[:100], alone[1].sweep[:100])


@pytest.mark.parametrize("start", [pytest.param("spawn", marks=pytest.mark.slow), "fork", "forkserver"])
def test_worker_processes_generate_identical_scenes(start):
    program = [sys.executable, synthetic_worker.__file__, start, "5", "6", "5"]
    made = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    assert made[0] == made[2] == fingerprint(5)
    assert made[0] != made[1]


def test_cache_returns_identical_pairs(tmp_path):
    def pairs(**options):
        return list(islice(training_pairs(30, 2, COARSE, threads=1, **options, **SMALL), 3))

    plain, first = pairs(), pairs(cache=tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 2
    again = pairs(cache=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    for a, b, c in zip(plain, first, again, strict=True):
        assert a.setup == b.setup == c.setup
        for name in set(vars(a)) - {"setup"}:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    assert next(training_pairs(30, 1, "VLP-16", cache=tmp_path, threads=1, **SMALL)).sensor == "VLP-16"
    damaged = min(files)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged file .*delete it"):
        pairs(cache=tmp_path)


def test_training_rejects_test_seeds():
    with pytest.raises(ValueError, match="reserved"):
        next(training_pairs(TEST_SEED))
    with pytest.raises(ValueError, match="index"):
        test_pair(-1)
    assert test_pair(0, COARSE, **SMALL).seed == TEST_SEED


def test_compiled_crop_matches_plain_implementation(world):
    points = np.random.default_rng(0).uniform(-60, 60, (5000, 3)).astype(np.float32)
    pose = tilted(mounting_of(COARSE), 10.0, 30.0).pose_of(world.pose_at(3.0))
    up = np.array((0.0, 0.0, 1.0))
    expected = crop_to_pose_plain(points, pose, up, 30.0)
    np.testing.assert_allclose(crop_to_pose(points, pose, up, 30.0), expected, atol=1e-4)


def test_pair_of_mix_records_its_setup():
    pair = training_pair(8, "mix", threads=1, recipe="varied", **SMALL)
    again = training_pair(8, "mix", threads=1, recipe="varied", **SMALL)
    np.testing.assert_array_equal(pair.sweep, again.sweep)
    np.testing.assert_array_equal(pair.truth, again.truth)
    setup = pair.setup
    assert setup == again.setup
    assert setup.sensor == pair.sensor
    assert 0.4 <= setup.height_m <= 2.5
    assert 0.0 <= setup.tilt_deg <= 15.0
    assert setup.recipe == "varied"


def test_tilted_truth_is_in_sensor_frame():
    """Rotated back by the tilt, the ground near the sensor is level and at the height of the sensor."""
    pair = test_pair(2, COARSE, tilt_deg=15.0, height_m=1.0, threads=1, **SMALL)
    assert pair.setup.tilt_deg == pytest.approx(15.0)
    upright = rotation(0.0, np.radians(pair.setup.pitch_deg), np.radians(pair.setup.roll_deg))
    near = pair.truth[np.linalg.norm(pair.truth, axis=1) < 4.0] @ upright.T
    assert -1.4 < np.median(near[:, 2]) < -0.7
    normal = np.linalg.svd(near[near[:, 2] < -0.7] - near[near[:, 2] < -0.7].mean(axis=0))[2][2]
    assert abs(normal[2]) > np.cos(np.radians(8.0))


@pytest.mark.parametrize("name", [name for name in TEST_SETS if not name.startswith("sensor")])
def test_test_sets_change_only_what_they_name(name):
    pair = test_pair(1, COARSE, threads=1, **TEST_SETS[name], **SMALL)
    assert pair.seed == TEST_SEED + 1
    for key, value in TEST_SETS[name].items():
        assert getattr(pair.setup, key) == pytest.approx(value)
