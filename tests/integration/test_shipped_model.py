"""The shipped model: loads, matches its card, and completes a held-out scene better than every learning-free baseline."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import load_card
from lidar_completion.model.onnx_network import MANIFEST_NAME
from lidar_completion.visibility import TrustRules
from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.metrics import chamfer_distance
from lidar_completion_synthetic import test_pair as held_back_pair

MODELS = sorted(path.parent for path in (Path(__file__).parents[2] / "models").glob("*/model.json"))


@pytest.fixture(scope="module")
def scene():
    return held_back_pair(3)


@pytest.fixture(scope="module")
def best_baseline(scene):
    """Chamfer distance of the best learning-free baseline, metres."""
    distance = np.linalg.norm(scene.sweep, axis=1)
    near = scene.sweep[(distance > 3.5) & (distance < 50.0)]
    return min(chamfer_distance(row(near), scene.truth) for row in BASELINES.values())


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_card_says_what_the_model_is(model):
    card = load_card(model)
    assert card.name == model.name
    assert card.licence == "Apache-2.0"
    assert "synthetic" in card.training_data
    assert card.architecture.point_confidence or card.confidence["probability"]
    assert card.metrics["confidence_on_held_back_scenes"]["expected_calibration_error"] < 0.05
    assert (model / card.weights).stat().st_size < 20e6


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
@pytest.mark.parametrize("steps", [1, 2])
def test_it_beats_every_baseline_on_a_held_back_scene(model, steps, scene, best_baseline):
    completed = SceneCompleter.load(model, device="cpu").complete(scene.sweep, steps=steps).completed_points
    assert chamfer_distance(completed, scene.truth) < 0.8 * best_baseline


def test_all_of_them_have_onnx_and_fit_into_45_mebibytes():
    assert [model.name for model in MODELS] == ["drive", "edge"]
    assert all((model / MANIFEST_NAME).is_file() for model in MODELS)
    assert sum(path.stat().st_size for model in MODELS for path in model.iterdir()) < 45 * 2**20


def test_the_refined_one_says_the_same_on_onnxruntime(scene):
    points, confidence = [], []
    for backend in ("torch", "onnx"):
        model = SceneCompleter.load(MODELS[0], device="cpu", backend=backend)
        done = model.complete(
            scene.sweep, steps=1, replication=2, trust=TrustRules(free_space=None, below_ground_m=None)
        )
        points.append(done.completed_points)
        confidence.append(done.confidence[len(done.measured_rows) :])
    assert len(points[0]) == pytest.approx(
        len(points[1]), rel=1e-4
    )  # a point on the border may fall to either side of it
    some = slice(None, None, 20)
    distance, nearest = cKDTree(points[1]).query(points[0][some])
    assert np.quantile(distance, 0.95) < 0.01  # so may one on a voxel's edge
    assert np.quantile(np.abs(confidence[0][some] - confidence[1][nearest]), 0.95) < 0.01
