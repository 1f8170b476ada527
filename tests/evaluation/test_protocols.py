"""The published protocol gives the figures of the released evaluation script; the default one does not."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon

from lidar_completion.point_cloud_files import read_points
from lidar_completion_evaluation.evaluate_scene import SceneSettings, evaluate_scene
from lidar_completion_evaluation.methods import BaselineMethod, ModelMethod
from lidar_completion_evaluation.protocols import DEFAULT, PUBLISHED
from lidar_completion_evaluation.scenes import Scene
from lidar_completion_evaluation.truth.observed_space import RayRules, observe

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = json.loads((Path(__file__).parent / "golden/metrics.json").read_text())
AS_PUBLISHED = SceneSettings(protocol=PUBLISHED)


def a_scene(truth: np.ndarray) -> Scene:
    return Scene("scene", truth, truth, observe([], [truth], RayRules(voxel_size_m=1.0)))


def clouds_outside_every_limit() -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth; the prediction also has points too high, too low and too far away."""
    random = np.random.default_rng(0)
    truth = random.uniform((-30, -30, -3), (30, 30, 4), (1500, 3))
    high, low = (
        random.uniform((-20, -20, 5), (20, 20, 30), (300, 3)),
        random.uniform((-20, -20, -30), (20, 20, -5), (300, 3)),
    )
    far = random.uniform((55, -5, -2), (80, 5, 2), (200, 3))
    near = truth[:1000] + random.normal(0, 0.1, (1000, 3))
    return np.concatenate([near, high, low, far]).astype(np.float32), truth.astype(np.float32)


def released_figures(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The steps of the released script, written out densely."""
    prediction = prediction[np.linalg.norm(prediction, axis=1) < 50].astype(np.float64)
    table = cdist(prediction, truth.astype(np.float64))
    to_truth, to_prediction = table.min(axis=1), table.min(axis=0)
    counts = [np.histogramdd(points, bins=200, range=[[-50, 50]] * 3)[0] for points in (truth, prediction)]
    from_above = [(each > 0).sum(axis=2).ravel() for each in counts]
    figures = {
        "cd": (to_truth.mean() + to_prediction.mean()) / 2,
        "rmse_as_published": to_truth.mean(),
        "jsd_3d": jensenshannon(counts[0].ravel(), counts[1].ravel()),
        "jsd_bev": jensenshannon(*from_above),
    }
    for voxel in (0.5, 0.2):
        occupied = []
        for points in (truth, prediction):
            index = np.round(points / voxel).astype(int)
            occupied.append(np.histogramdd(index, bins=int(100 / voxel), range=[[-50, 50]] * 3)[0] > 0)
        figures[f"iou_as_published_{voxel}"] = (occupied[0] & occupied[1]).sum() / (occupied[0] | occupied[1]).sum()
    return figures


def test_published_protocol_equals_released_script_outside_every_limit():
    prediction, truth = clouds_outside_every_limit()
    found = evaluate_scene(a_scene(truth), prediction, AS_PUBLISHED).completed
    for name, value in released_figures(prediction, truth).items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    ours = evaluate_scene(a_scene(truth), prediction).completed
    assert ours["cd"] < found["cd"] - 1  # points outside the height limits do not count


@pytest.mark.skipif(not (SHARED / "data/sequences").is_dir(), reason="LIDAR_COMPLETION_SHARED names no data/sequences")
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_published_protocol_equals_golden_figures(name):
    case = GOLDEN[name]
    prediction, truth = (golden_cloud(case[each], case["range_m"]) for each in ("pred", "gt"))
    found = evaluate_scene(a_scene(truth), prediction, AS_PUBLISHED).completed
    for figure, key in (("cd", "chamfer"), ("rmse_as_published", "rmse"), ("jsd_3d", "jsd_3d"), ("jsd_bev", "jsd_bev")):
        assert found[figure] == pytest.approx(case[key], abs=1e-6), figure
    areas = [found[f"{each}_as_published"] for each in ("precision", "recall", "f")]
    assert areas == pytest.approx(case["precision_recall_fscore_auc"], abs=1e-6)
    assert found["emd_as_published"] == pytest.approx(case["emd_as_published"], abs=1e-3)


def golden_cloud(name: str, range_m: list[float]) -> np.ndarray:
    drive, file = name.split("/")
    points = read_points(SHARED / "data/sequences" / drive / "velodyne" / file).points
    distance = np.linalg.norm(points, axis=1)
    return points[(distance > range_m[0]) & (distance < range_m[1])]


def test_published_protocol_runs_models_without_filters(source, tiny_model):
    assert (PUBLISHED.trust.free_space, PUBLISHED.trust.below_ground_m) == (None, None)
    method, scene = ModelMethod(tiny_model, 1, device="cpu"), source.load(0)
    assert len(method.complete(scene, PUBLISHED)) > len(method.complete(scene, DEFAULT))


def test_model_is_warmed_up_before_it_is_timed(source, tiny_model, monkeypatch):
    method, scene, completed = ModelMethod(tiny_model, 1, device="cpu"), source.load(0), []
    monkeypatch.setattr(method, "_complete", lambda scene, protocol, steps: completed.append(steps))
    method.prepare(scene)
    assert completed == [1]
    BaselineMethod("raw").prepare(scene)
