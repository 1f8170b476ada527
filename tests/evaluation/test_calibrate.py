import numpy as np
import pytest
import torch

from lidar_completion.model.card import ModelCard, load_card, save_card
from lidar_completion_evaluation.calibrate import CompletedPoints, draw_reliability, fit_table, reliability


def a_scene(seed: int, count: int = 20_000) -> CompletedPoints:
    """Points whose chance of being near a surface is 0.95 at the scan and falls with distance and range."""
    random = np.random.default_rng(seed)
    range_m, to_scan = random.uniform(4, 50, count), random.uniform(0, 0.9, count)
    points = torch.from_numpy(np.column_stack([range_m, np.zeros((count, 2))])).float()
    near = random.random(count) < 0.95 - 0.5 * to_scan - 0.008 * (range_m - 4)
    return CompletedPoints(points, torch.from_numpy(to_scan).float(), near, np.zeros(count, np.float32))


def test_table_is_calibrated_on_other_scenes():
    table = fit_table(iter([a_scene(0), a_scene(1)]), 50.0)
    other = a_scene(2)
    found = reliability(other.confidence(table), other.near)
    assert found.expected_calibration_error < 0.02
    assert len(found.weight) >= 7
    assert found.weight.sum() == pytest.approx(1)
    probability = np.array(table["probability"])
    assert probability.shape == (len(table["range_m"]), len(table["distance_m"]))
    assert (np.diff(probability, axis=1) <= 0).all()
    assert probability[0, 0] > 0.9 > 0.3 > probability[-1, -1]


def test_card_stores_the_table(tmp_path):
    table = fit_table(iter([a_scene(0, 2000)]), 50.0)
    save_card(tmp_path, ModelCard(name="calibrated", confidence=table))
    assert load_card(tmp_path).confidence == table


def test_fits_table_without_far_points():
    scene = a_scene(0)
    near = scene.points[:, 0] < 12
    few = CompletedPoints(
        scene.points[near], scene.to_scan[near], scene.near[near.numpy()], scene.predicted[near.numpy()]
    )
    assert np.isfinite(fit_table(iter([few]), 50.0)["probability"]).all()


def test_reliability_of_four_points():
    found = reliability(np.array([0.91, 0.99, 0.15, 1.0]), np.array([True, True, False, False]))
    np.testing.assert_allclose(found.confidence, [0.15, 2.9 / 3])
    np.testing.assert_allclose(found.near, [0, 2 / 3])
    np.testing.assert_allclose(found.weight, [0.25, 0.75])
    assert found.expected_calibration_error == pytest.approx(0.25 * 0.15 + 0.75 * 0.3)
    assert "expected calibration error 0.263" in str(found)


def test_draws_reliability_diagram(tmp_path):
    draw_reliability({"a": reliability(np.array([0.5]), np.array([True]))}, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000
