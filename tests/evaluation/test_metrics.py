import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from lidar_completion.point_cloud_files import read_points
from lidar_completion_evaluation import metrics
from lidar_completion_evaluation.metrics import MetricError
from lidar_completion_evaluation.metrics.published_emd import _weighted_distance_sum
from lidar_completion_evaluation.metrics.published_emd_plain import emd_as_published_plain

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = json.loads((Path(__file__).parent / "golden/metrics.json").read_text())


def two_clouds(seed: int = 0, n: int = 80, m: int = 70) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(-3, 3, (n, 3)), random.uniform(-3, 3, (m, 3))


# --- golden figures of the published code --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(GOLDEN))
def golden(request):
    if not (SHARED / "data/sequences/90").is_dir():
        pytest.skip(
            "LIDAR_COMPLETION_SHARED names no folder with data/sequences/90, the sweeps behind golden/metrics.json"
        )
    case = GOLDEN[request.param]
    prediction, truth = (_sweep(case[name], case["range_m"]) for name in ("pred", "gt"))
    assert (len(prediction), len(truth)) == (case["n_pred"], case["n_gt"])
    return case, prediction, truth


def _sweep(name: str, range_m: list[float]) -> np.ndarray:
    drive, file = name.split("/")
    points = read_points(SHARED / "data/sequences" / drive / "velodyne" / file).points
    distance = np.linalg.norm(points, axis=1)
    return points[(distance > range_m[0]) & (distance < range_m[1])]


def test_golden_distances(golden):
    case, prediction, truth = golden
    distances = metrics.nearest_distances(prediction, truth)
    assert distances.chamfer == pytest.approx(case["chamfer"], abs=1e-6)
    assert distances.mean_to_truth == pytest.approx(case["rmse"], abs=1e-6)
    published = metrics.precision_recall_f_as_published(distances)
    assert published == pytest.approx(tuple(case["precision_recall_fscore_auc"]), abs=1e-6)


def test_golden_overlap(golden):
    case, prediction, truth = golden
    assert metrics.jensen_shannon_3d(prediction, truth) == pytest.approx(case["jsd_3d"], abs=1e-6)
    assert metrics.jensen_shannon_birds_eye(prediction, truth) == pytest.approx(case["jsd_bev"], abs=1e-6)
    for voxel, expected in case["iou"].items():
        assert metrics.voxel_iou(prediction, truth, float(voxel)) == pytest.approx(expected, abs=1e-6)


def test_golden_published_emd(golden):
    case, prediction, truth = golden
    assert metrics.emd_as_published(prediction, truth) == pytest.approx(case["emd_as_published"], abs=1e-3)


# --- brute force ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_distances_agree_with_brute_force(seed):
    prediction, truth = two_clouds(seed)
    table = cdist(prediction, truth)
    to_truth, to_prediction = table.min(axis=1), table.min(axis=0)
    distances = metrics.nearest_distances(prediction, truth)
    np.testing.assert_allclose(distances.prediction_to_truth, to_truth)
    np.testing.assert_allclose(distances.truth_to_prediction, to_prediction)
    assert metrics.chamfer_distance(prediction, truth) == pytest.approx((to_truth.mean() + to_prediction.mean()) / 2)
    squared = ((to_truth**2).mean() + (to_prediction**2).mean()) / 2
    assert distances.squared_chamfer == pytest.approx(squared)
    assert distances.mean_to_truth == pytest.approx(to_truth.mean())
    assert distances.root_mean_square_to_truth == pytest.approx(np.sqrt((to_truth**2).mean()))
    assert distances.precision(0.5) == (to_truth < 0.5).mean()
    assert distances.recall(0.5) == (to_prediction < 0.5).mean()
    assert distances.ghost_rate(0.5) == pytest.approx(1 - distances.precision(0.5))
    curve = metrics.precision_recall_curve(distances, [0.3, 0.5, 1.0])
    np.testing.assert_allclose(curve.precision, [(to_truth < t).mean() for t in (0.3, 0.5, 1.0)])
    np.testing.assert_allclose(curve.recall, [(to_prediction < t).mean() for t in (0.3, 0.5, 1.0)])
    np.testing.assert_allclose(curve.f_score, [distances.f_score(t) for t in (0.3, 0.5, 1.0)])


def test_the_threshold_is_strict():
    distances = metrics.nearest_distances([[0.0, 0, 0]], [[0.5, 0, 0]])
    assert distances.precision(0.5) == 0.0
    assert distances.ghost_rate(0.5) == 1.0
    assert metrics.precision_recall_curve(distances, [0.5]).precision[0] == 0.0
    assert distances.f_score(0.5) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_overlap_agrees_with_dense_histograms(seed):
    from scipy.spatial.distance import jensenshannon

    prediction, truth = two_clouds(seed, 400, 300)
    truth[0] = (5.0, 5.0, 5.0)  # on the outer edge, which belongs to the last cell
    truth[1] = (9.0, 0.0, 0.0)  # outside
    dense = [np.histogramdd(points, bins=[20] * 3, range=[[-5, 5]] * 3)[0] for points in (prediction, truth)]
    occupied = [histogram > 0 for histogram in dense]
    iou = (occupied[0] & occupied[1]).sum() / (occupied[0] | occupied[1]).sum()
    assert metrics.voxel_iou(prediction, truth, 0.5, half_extent_m=5) == pytest.approx(iou)
    expected = jensenshannon(dense[0].ravel(), dense[1].ravel())
    assert metrics.jensen_shannon_3d(prediction, truth, half_extent_m=5) == pytest.approx(expected)
    birds_eye = [histogram.sum(axis=2).ravel() for histogram in occupied]
    expected = jensenshannon(*birds_eye)
    assert metrics.jensen_shannon_birds_eye(prediction, truth, half_extent_m=5) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_w1_agrees_with_linear_program(seed):
    prediction, truth = two_clouds(seed, 30, 25)
    transport = metrics.wasserstein_1(prediction, truth)
    a, b = (np.floor(points / 0.5) for points in (prediction, truth))
    assert transport.lower == transport.upper == pytest.approx(_linear_program(a * 0.5, b * 0.5), rel=1e-6)
    of_points = _linear_program(prediction, truth)
    assert abs(transport.value - of_points) <= transport.discretisation_m + 1e-9


def _linear_program(a: np.ndarray, b: np.ndarray) -> float:
    n, m = len(a), len(b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cdist(a, b).ravel(), A_eq=np.vstack([rows, columns]), b_eq=marginals, method="highs").fun


def test_w1_of_shifted_cloud_equals_the_shift():
    prediction, _ = two_clouds()
    assert metrics.wasserstein_1(prediction, prediction + np.array([0, 0, 4.0])).value == pytest.approx(4.0)
    assert metrics.wasserstein_1(prediction, prediction[::-1]).value == 0.0


def test_coarse_w1_interval_contains_exact_value():
    prediction, truth = two_clouds(1, 300, 300)
    exact = metrics.wasserstein_1(prediction, truth)
    coarse = metrics.wasserstein_1(prediction, truth, max_pairs=2_000)
    assert exact.lower == exact.upper
    assert coarse.lower <= exact.value <= coarse.upper
    assert coarse.lower < coarse.upper


@pytest.mark.parametrize("seed", range(3))
def test_published_emd_agrees_with_plain_implementation(seed):
    prediction, truth = two_clouds(seed, 200, 150)
    expected = emd_as_published_plain(prediction, truth)
    assert metrics.emd_as_published(prediction, truth) == pytest.approx(expected, rel=1e-9)
    far = np.array([[3000.0, 3000.0, 900.0]])  # the convolution grid would be too large
    assert metrics.emd_as_published(prediction, far) == pytest.approx(
        np.linalg.norm(np.floor(prediction / 0.5) * 0.5 - far, axis=1).mean(), rel=1e-6
    )


@pytest.mark.parametrize("n", [200, 10])  # many pairs use the FFT, few are summed directly
def test_weighted_distance_sum_agrees_with_all_pairs(n):
    random = np.random.default_rng(0)
    a, b = (np.unique(random.integers(0, 12, (n, 3)), axis=0) for _ in range(2))
    u, v = random.random(len(a)), random.random(len(b))
    assert _weighted_distance_sum(a, u, b, v) == pytest.approx(u @ cdist(a, b) @ v, rel=1e-9)


# --- bands and masks --------------------------------------------------------------------------------------------


def test_bands_sum_to_the_whole_and_empty_bands_are_none():
    prediction, truth = two_clouds(2)
    distances = metrics.nearest_distances(prediction, truth)
    rings = metrics.by_range(prediction, truth, distances, [0, 2, 10, 20], threshold_m=0.5)
    assert sum(ring.predicted for ring in rings) == len(prediction)
    weighted = sum(ring.accuracy * ring.predicted for ring in rings[:2]) / len(prediction)
    assert weighted == pytest.approx(distances.precision(0.5))
    assert rings[2].predicted == 0
    assert rings[2].accuracy is None
    assert rings[2].completeness is None
    heights = metrics.by_height(prediction, truth, distances, [-3, 0, 3], threshold_m=0.5)
    weighted = sum(band.completeness * band.true for band in heights) / len(truth)
    assert weighted == pytest.approx(distances.recall(0.5))


def test_truth_is_grouped_by_its_distance_from_the_sweep():
    to_sweep, to_prediction = np.array([0.1, 0.3, 0.4, 5.0]), np.array([0.0, 0.1, 0.3, 2.0])
    near, middle, empty, far = metrics.by_gap(to_sweep, to_prediction, [0.0, 0.2, 0.5, 1.0])
    assert (near.true, middle.true, empty.true, far.true) == (1, 2, 0, 1)
    assert middle.mean_to_prediction_m == pytest.approx(0.2)
    assert empty.mean_to_prediction_m is None
    assert (far.upper_m, far.mean_to_prediction_m) == (None, 2.0)


def test_iou_counts_wrong_voxels_in_observed_space_only():
    truth = np.array([[1.1, 0.1, 0.1], [2.1, 0.1, 0.1]])
    prediction = np.array([[1.15, 0.15, 0.1], [3.1, 0.1, 0.1], [4.1, 0.1, 0.1], [-1.0, 0.0, 0.0]])
    iou = metrics.observed_iou(prediction, truth, lambda centres: centres[:, 0] < 4)
    assert iou == pytest.approx(
        1 / 3
    )  # one hit, one truth voxel missed, one observed wrong voxel; the others do not count
    assert metrics.observed_iou(truth, truth, lambda centres: centres[:, 0] < 4) == 1.0
    with pytest.raises(MetricError, match="grid of SSCBench"):
        metrics.observed_iou(truth, prediction[3:], lambda centres: centres[:, 0] < 4)


def test_mask_selects_points_but_not_their_neighbours():
    prediction, truth = two_clouds(3)
    distances = metrics.nearest_distances(prediction, truth)
    kept = distances.where(prediction=prediction[:, 0] > 0)
    np.testing.assert_array_equal(kept.prediction_to_truth, distances.prediction_to_truth[prediction[:, 0] > 0])
    assert kept.mean_to_prediction == distances.mean_to_prediction
    with pytest.raises(MetricError, match="prediction: expected points inside"):
        distances.where(prediction=np.zeros(len(prediction), bool))


# --- invariants -------------------------------------------------------------------------------------------------

CLOUDS = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-40, 40, width=32))


@settings(max_examples=60, deadline=None)
@given(CLOUDS, CLOUDS)
def test_metrics_are_finite_symmetric_and_zero_for_equal_clouds(a, b):
    for figure in (
        metrics.chamfer_distance,
        metrics.jensen_shannon_3d,
        metrics.jensen_shannon_birds_eye,
        lambda x, y: metrics.wasserstein_1(x, y).value,
    ):
        assert np.isfinite(figure(a, b))
        assert figure(a, b) >= 0
        assert figure(a, b) == pytest.approx(figure(b, a), abs=1e-9)
        assert figure(a, a) == pytest.approx(0, abs=1e-7)
    assert 0 <= metrics.voxel_iou(a, b, 0.5) <= 1
    assert metrics.voxel_iou(a, a, 0.5) == 1
    assert np.isfinite(metrics.emd_as_published(a, b))


def test_accepts_torch_tensors():
    prediction, truth = two_clouds()
    tensors = torch.tensor(prediction, requires_grad=True), torch.tensor(truth)
    assert metrics.chamfer_distance(*tensors) == metrics.chamfer_distance(prediction, truth)


# --- invalid input -------------------------------------------------------------------------------------

FIGURES = [
    metrics.chamfer_distance,
    metrics.jensen_shannon_3d,
    metrics.jensen_shannon_birds_eye,
    metrics.wasserstein_1,
    metrics.emd_as_published,
    lambda prediction, truth: metrics.voxel_iou(prediction, truth, 0.5),
]


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (np.zeros((0, 3)), "at least one point, found none"),
        (np.array([[0.0, 0, 0], [1, np.nan, 2]]), r"finite coordinates, found .* in row 1"),
        (np.array([[np.inf, 0, 0]]), r"finite coordinates, found .* in row 0"),
        (np.zeros((4, 2)), r"shape \(N, 3\), found \(4, 2\)"),
    ],
)
def test_rejects_degenerate_input_by_argument_name(figure, bad, expected):
    good, _ = two_clouds()
    with pytest.raises(MetricError, match=f"prediction: expected {expected}"):
        figure(bad, good)
    with pytest.raises(MetricError, match=f"truth: expected {expected}"):
        figure(good, bad)


def test_rejects_clouds_outside_the_grid():
    good, _ = two_clouds()
    for figure in (metrics.jensen_shannon_3d, metrics.jensen_shannon_birds_eye):
        with pytest.raises(MetricError, match="truth: expected points within ±50 m"):
            figure(good, good + 500)


def test_one_point_is_enough_for_every_metric():
    for figure in FIGURES:
        result = figure(np.zeros((1, 3)), np.ones((1, 3)))
        assert np.isfinite(result.value if isinstance(result, metrics.Transport) else result)


def test_published_emd_rejects_too_many_voxels():
    prediction, truth = two_clouds()
    with pytest.raises(MetricError, match="skips such scenes"):
        metrics.emd_as_published(prediction, truth, max_voxels=10)


def test_rejects_bad_thresholds_edges_and_masks():
    prediction, truth = two_clouds()
    distances = metrics.nearest_distances(prediction, truth)
    with pytest.raises(MetricError, match="thresholds_m"):
        metrics.precision_recall_curve(distances, [-1.0])
    with pytest.raises(MetricError, match="edges_m"):
        metrics.by_range(prediction, truth, distances, [10, 5])
    with pytest.raises(MetricError, match="violations"):
        metrics.share_of(np.zeros(0, bool), "violations")
    assert metrics.share_of(np.array([True, False, False, False])) == 0.25
