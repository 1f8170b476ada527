import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lidar_completion.completer import Completion, SceneCompleter, anchor, start_level
from lidar_completion.model.checkpoints import ModelCard, Pipeline
from lidar_completion.temporal import Memory, prior_of, remember


def pose(x_m: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[0, 3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix(), x_m
    return T


def completion(measured: int, confidence: list[float]) -> Completion:
    count = measured + len(confidence)
    points = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    trust = np.array([1.0] * measured + confidence, np.float32)
    return Completion(points, np.zeros(count, np.uint8), trust, np.arange(measured), {}, 1)


def test_what_stands_still_in_the_world_moves_in_the_sensors_frame():
    world = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    before, now = pose(100.0, 80.0), pose(101.5, 84.0)
    seen = [(world - T[:3, 3]) @ T[:3, :3] for T in (before, now)]
    prior, reset = prior_of(Memory(seen[0].astype(np.float32), before, 10.0), now, 10.1)
    assert reset == ""
    assert prior is not None
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior, seen[1], atol=1e-4)


def test_measured_and_doubtful_points_are_not_handed_on():
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
def test_jumps_reset(now: np.ndarray, stamp_s: float, reason: str):
    prior, reset = prior_of(Memory(np.ones((3, 3), np.float32), pose(), 10.0), now, stamp_s)
    assert prior is None
    assert reason in reset


def test_nothing_is_known_at_the_start_and_poses_are_checked():
    assert prior_of(None, pose(), 0.0) == (None, "")
    with pytest.raises(ValueError, match="T_fixed_sensor"):
        remember(completion(1, []), np.eye(3), 0.0)


def sweep() -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.uniform(-20, 20, (400, 3)) * (1, 1, 0.1)).astype(np.float32)


def test_half_of_the_start_is_the_prior():
    scan, prior = torch.rand(10, 3) + 5, torch.rand(500, 3) + 10
    anchors, source = anchor(scan, 8, prior, 1.0, 50.0)
    assert source.tolist() == [*range(10)] * 4 + [-1] * 40
    assert torch.equal(anchors[:40], scan.repeat(4, 1))
    assert len(anchors) == 80
    assert (anchors[40:] > 9).all()
    for nothing in (None, prior[:0], prior + 1000, prior * torch.nan):
        anchors, source = anchor(scan, 8, nothing, 1.0, 50.0)
        assert source.tolist() == [*range(10)] * 8
        assert torch.equal(anchors, scan.repeat(8, 1))


def test_a_prior_stands_for_the_first_step(tiny_model):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    assert completer.timesteps(1, known=True) == completer.timesteps(2)[1:]
    lower = start_level(completer.card, completer.timesteps(1, known=True)[0])
    assert lower == pytest.approx(start_level(completer.card) / 2, rel=0.01)
    plain = completer.complete(sweep())
    prior = plain.completed_points
    with_prior = completer.complete(sweep(), prior=prior)
    assert with_prior.steps == 1
    assert not np.array_equal(with_prior.points, plain.points)
    np.testing.assert_array_equal(with_prior.points, completer.complete(sweep(), prior=prior).points)
    np.testing.assert_array_equal(plain.points, completer.complete(sweep(), prior=prior[:0]).points)


def test_the_published_sampler_has_no_prior(tiny_model):
    completer = SceneCompleter.load(tiny_model, device="cpu")
    published = ModelCard(name="public", pipeline=Pipeline(sampler="dpm_solver"))
    with pytest.raises(ValueError, match="prior"):
        SceneCompleter(published, completer.networks, completer.device).timesteps(1, known=True)
