import numpy as np
import pytest
import torch

from lidar_completion.model.card import ModelCard, load_card, save_card
from lidar_completion_evaluation.calibrate import Judged, draw_reliability, fit_table, reliability


def judged(seed: int, count: int = 20_000) -> Judged:
    """Points whose chance of being near a surface is 0.95 at the scan and falls with distance and range."""
    random = np.random.default_rng(seed)
    range_m, to_scan = random.uniform(4, 50, count), random.uniform(0, 0.9, count)
    points = torch.from_numpy(np.column_stack([range_m, np.zeros((count, 2))])).float()
    near = random.random(count) < 0.95 - 0.5 * to_scan - 0.008 * (range_m - 4)
    return Judged(points, torch.from_numpy(to_scan).float(), near, np.zeros(count, np.float32))


def test_the_table_tells_other_scenes_true():
    table = fit_table(iter([judged(0), judged(1)]), 50.0)
    other = judged(2)
    found = reliability(other.confidence(table), other.near)
    assert found.expected_calibration_error < 0.02
    assert len(found.weight) >= 7
    assert found.weight.sum() == pytest.approx(1)
    probability = np.array(table["probability"])
    assert probability.shape == (len(table["range_m"]), len(table["distance_m"]))
    assert (np.diff(probability, axis=1) <= 0).all()
    assert probability[0, 0] > 0.9 > 0.3 > probability[-1, -1]


def test_a_card_takes_the_table(tmp_path):
    table = fit_table(iter([judged(0, 2000)]), 50.0)
    save_card(tmp_path, ModelCard(name="calibrated", confidence=table))
    assert load_card(tmp_path).confidence == table


def test_scenes_without_far_points_still_make_a_table():
    scene = judged(0)
    near = scene.points[:, 0] < 12
    few = Judged(scene.points[near], scene.to_scan[near], scene.near[near.numpy()], scene.said[near.numpy()])
    assert np.isfinite(fit_table(iter([few]), 50.0)["probability"]).all()


def test_reliability_by_hand():
    found = reliability(np.array([0.91, 0.99, 0.15, 1.0]), np.array([True, True, False, False]))
    np.testing.assert_allclose(found.confidence, [0.15, 2.9 / 3])
    np.testing.assert_allclose(found.near, [0, 2 / 3])
    np.testing.assert_allclose(found.weight, [0.25, 0.75])
    assert found.expected_calibration_error == pytest.approx(0.25 * 0.15 + 0.75 * 0.3)
    assert "expected calibration error 0.263" in str(found)


def test_the_diagram_is_drawn(tmp_path):
    draw_reliability({"a": reliability(np.array([0.5]), np.array([True]))}, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000
