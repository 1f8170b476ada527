"""The temporal prior: points of one completion that the next one starts from."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.temporal import TemporalMemory, recall, remember


def pose(x_m: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[0, 3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix(), x_m
    return T


def completion(measured: int, confidence: list[float]) -> Completion:
    count = measured + len(confidence)
    points = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    trust = np.array([1.0] * measured + confidence, np.float32)
    return Completion(points, np.zeros(count, np.uint8), trust, np.arange(measured), {}, 1)


def test_recalled_points_are_in_the_current_sensor_frame():
    world = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    before, now = pose(100.0, 80.0), pose(101.5, 84.0)
    seen = [(world - T[:3, 3]) @ T[:3, :3] for T in (before, now)]
    prior, reset = recall(TemporalMemory(seen[0].astype(np.float32), before, 10.0), now, 10.1)
    assert reset == ""
    assert prior is not None
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior, seen[1], atol=1e-4)


def test_remembers_only_confident_completed_points():
    done = completion(2, [0.9, 0.1, 0.4])
    memory = remember(done, pose(), 0.0)
    np.testing.assert_array_equal(memory.points, done.points[[2, 4]])


@pytest.mark.parametrize(
    ("now", "stamp_s", "reason"),
    [
        (pose(), 9.0, "time went back by 1.000 s"),
        (pose(), 10.0, "time went back"),
        (pose(), 3610.0, "no sweep for 3600.0 s"),
        (pose(80.0), 10.1, "the pose jumped by 80.0 m"),
        (pose(0, 120), 10.1, "the pose turned by 120 degrees"),
    ],
)
def test_discards_the_memory_after_a_jump(now: np.ndarray, stamp_s: float, reason: str):
    prior, reset = recall(TemporalMemory(np.ones((3, 3), np.float32), pose(), 10.0), now, stamp_s)
    assert prior is None
    assert reason in reset


def test_without_a_memory_there_is_no_prior_and_poses_are_checked():
    assert recall(None, pose(), 0.0) == (None, "")
    with pytest.raises(ValueError, match="T_fixed_sensor"):
        remember(completion(1, []), np.eye(3), 0.0)


def sweep() -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.uniform(-20, 20, (400, 3)) * (1, 1, 0.1)).astype(np.float32)


def test_a_prior_replaces_the_first_step(tiny_model):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    two_steps = dataclasses.replace(completer.card.pipeline, steps=2)
    whole = dataclasses.replace(completer.card, pipeline=two_steps).sampling_timesteps()
    after_prior = completer.card.sampling_timesteps(after_prior=True)
    assert after_prior == whole[1:]
    assert completer.card.start_sigma(after_prior[0]) == pytest.approx(completer.card.start_sigma() / 2, rel=0.01)
    plain = completer.complete(sweep())
    prior = plain.completed_points
    with_prior = completer.complete(sweep(), prior=prior)
    assert with_prior.steps == 1
    assert not np.array_equal(with_prior.points, plain.points)
    np.testing.assert_array_equal(with_prior.points, completer.complete(sweep(), prior=prior).points)


@pytest.mark.parametrize("change", [lambda p: p[:0], lambda p: p + 1000, lambda p: p * np.nan])
def test_a_prior_without_usable_points_is_ignored(tiny_model, change):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    plain = completer.complete(sweep())
    np.testing.assert_array_equal(
        plain.points, completer.complete(sweep(), prior=change(plain.completed_points)).points
    )


@pytest.mark.parametrize("sampler", ["dpm_solver", "ddpm"])
def test_published_samplers_reject_a_prior(sampler):
    card = ModelCard(name="public", pipeline=Pipeline(sampler=sampler))
    with pytest.raises(ValueError, match="prior"):
        card.sampling_timesteps(after_prior=True)
