"""How good a completed scene is: distances, overlaps and transport between two clouds.

Clouds are (N, 3) arrays in metres in one common frame (numpy, or torch on any device); figures are computed in float64
on the CPU. Where the published definition of a figure differs from what its name says, both are here, and the published
one says so in its name. Every function raises MetricError for input that has no figure: nothing returns NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft
from scipy.integrate import simpson
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, jensenshannon

PUBLISHED_IOU_VOXELS_M = (0.5, 0.2, 0.1)
PUBLISHED_HALF_EXTENT_M = 50.0
PUBLISHED_F_THRESHOLDS_M = np.linspace(0.05, 0.1, 100)
TRANSPORT_VOXEL_M = 0.5


class MetricError(ValueError):
    """A figure that does not exist for this input; the message names the figure's input, what was found and the fix."""


# --- nearest distances ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NearestDistances:
    """Unsquared nearest distances in metres, both ways; every distance metric is read off these two arrays.

    prediction_to_truth (N,): for each predicted point the distance to the nearest true point (accuracy).
    truth_to_prediction (M,): for each true point the distance to the nearest predicted point (completeness).
    """

    prediction_to_truth: np.ndarray
    truth_to_prediction: np.ndarray

    @property
    def chamfer(self) -> float:
        """CD as published: the mean of the two mean (unsquared) nearest distances, metres."""
        return (self.mean_to_truth + self.mean_to_prediction) / 2

    @property
    def squared_chamfer(self) -> float:
        """The mean of the two mean *squared* nearest distances, square metres."""
        return float(np.square(self.prediction_to_truth).mean() + np.square(self.truth_to_prediction).mean()) / 2

    def clamped_chamfer(self, limit_m: float = 1.0) -> float:
        """CD with every distance counted as at most limit_m: a street that nobody could see weighs no more than a miss."""
        to_truth = np.minimum(self.prediction_to_truth, limit_m).mean()
        return float(to_truth + np.minimum(self.truth_to_prediction, limit_m).mean()) / 2

    @cached_property
    def mean_to_truth(self) -> float:
        """Mean distance prediction -> truth, metres. The published tables call this RMSE."""
        return float(self.prediction_to_truth.mean())

    @cached_property
    def mean_to_prediction(self) -> float:
        """Mean distance truth -> prediction, metres."""
        return float(self.truth_to_prediction.mean())

    @property
    def root_mean_square_to_truth(self) -> float:
        """What RMSE means: the root of the mean squared distance prediction -> truth, metres."""
        return float(np.sqrt(np.square(self.prediction_to_truth).mean()))

    def precision(self, threshold_m: float) -> float:
        """Share of predicted points closer than the threshold to the truth, in [0, 1] (strict <)."""
        return float((self.prediction_to_truth < threshold_m).mean())

    def recall(self, threshold_m: float) -> float:
        """Share of true points closer than the threshold to the prediction, in [0, 1] (strict <)."""
        return float((self.truth_to_prediction < threshold_m).mean())

    def f_score(self, threshold_m: float) -> float:
        """Harmonic mean of precision and recall, in [0, 1]; 0 where both are 0."""
        return _harmonic(self.precision(threshold_m), self.recall(threshold_m))

    def quantiles_to_truth(self, shares: Sequence[float] = (0.5, 0.9, 0.95, 0.99)) -> dict[float, float]:
        """The distribution of prediction -> truth distances: {share: metres}."""
        return {share: float(np.quantile(self.prediction_to_truth, share)) for share in shares}

    def ghost_rate(self, beyond_m: float = 0.5) -> float:
        """Share of predicted points that are at least this far from any true surface, in [0, 1]."""
        return float((self.prediction_to_truth >= beyond_m).mean())

    def where(self, prediction: np.ndarray | None = None, truth: np.ndarray | None = None) -> NearestDistances:
        """Only the predicted and true points of the boolean masks count; neighbours may lie outside of them."""
        kept = NearestDistances(
            self.prediction_to_truth if prediction is None else self.prediction_to_truth[prediction],
            self.truth_to_prediction if truth is None else self.truth_to_prediction[truth],
        )
        for name, distances in (("prediction", kept.prediction_to_truth), ("truth", kept.truth_to_prediction)):
            if not len(distances):
                raise MetricError(
                    f"{name}: expected points inside the chosen region, found none; judge a larger region"
                )
        return kept


def nearest_distances(prediction: ArrayLike, truth: ArrayLike, *, workers: int = -1) -> NearestDistances:
    """Nearest distances both ways between (N, 3) and (M, 3) in metres; workers: threads, -1 for every core."""
    prediction, truth = cloud(prediction, "prediction"), cloud(truth, "truth")
    to_truth, _ = cKDTree(truth).query(prediction, workers=workers)
    to_prediction, _ = cKDTree(prediction).query(truth, workers=workers)
    return NearestDistances(to_truth, to_prediction)


def chamfer_distance(prediction: ArrayLike, truth: ArrayLike) -> float:
    """CD as published: mean of the two mean unsquared nearest distances, metres.

    The published tables judge the completed points alone, without the measured points passed through.
    """
    return nearest_distances(prediction, truth).chamfer


def squared_chamfer_distance(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Mean of the two mean squared nearest distances, square metres."""
    return nearest_distances(prediction, truth).squared_chamfer


def rmse_as_published(prediction: ArrayLike, truth: ArrayLike) -> float:
    """What the published tables call RMSE: the *mean* distance prediction -> truth, metres."""
    return nearest_distances(prediction, truth).mean_to_truth


def root_mean_square_distance(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Root of the mean squared distance prediction -> truth, metres."""
    return nearest_distances(prediction, truth).root_mean_square_to_truth


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1] per threshold (K,) in metres."""

    thresholds_m: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f_score: np.ndarray


def precision_recall_curve(distances: NearestDistances, thresholds_m: Sequence[float] | np.ndarray) -> PrecisionRecall:
    """Precision, recall and F-score at each threshold (strict <); thresholds in ascending order, metres."""
    thresholds = np.asarray(thresholds_m, dtype=np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or thresholds[0] <= 0 or (np.diff(thresholds) <= 0).any():
        raise MetricError(
            f"thresholds_m: expected positive ascending metres, found {thresholds_m}; pass for instance [0.1, 0.2]"
        )
    precision = _share_below(distances.prediction_to_truth, thresholds)
    recall = _share_below(distances.truth_to_prediction, thresholds)
    both = precision + recall
    f_score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return PrecisionRecall(thresholds, precision, recall, f_score)


def precision_recall_f_as_published(distances: NearestDistances) -> tuple[float, float, float]:
    """Areas under the three curves over thresholds 0.05 … 0.1 m as percentages (Simpson, normalised by the width)."""
    curve = precision_recall_curve(distances, PUBLISHED_F_THRESHOLDS_M)
    width = curve.thresholds_m[-1] - curve.thresholds_m[0]
    areas = [simpson(values, x=curve.thresholds_m) for values in (curve.precision, curve.recall, curve.f_score)]
    precision, recall, f_score = (float(100 * area / width) for area in areas)
    return precision, recall, f_score


# --- overlap on a grid ------------------------------------------------------------------------------------------


def voxel_iou(
    prediction: ArrayLike, truth: ArrayLike, voxel_size_m: float, *, half_extent_m: float = PUBLISHED_HALF_EXTENT_M
) -> float:
    """Intersection over union of occupied voxels in the cube of ±half_extent_m around the sensor, in [0, 1]."""
    a = np.unique(_grid_keys(prediction, "prediction", voxel_size_m, half_extent_m))
    b = np.unique(_grid_keys(truth, "truth", voxel_size_m, half_extent_m))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def jensen_shannon_3d(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = 0.5,
    half_extent_m: float = PUBLISHED_HALF_EXTENT_M,
) -> float:
    """Jensen-Shannon distance (root of the divergence, natural logarithm) of the histograms of point counts."""
    histograms = (
        np.unique(_grid_keys(points, name, voxel_size_m, half_extent_m), return_counts=True)
        for points, name in ((prediction, "prediction"), (truth, "truth"))
    )
    return _jensen_shannon(*histograms)


def jensen_shannon_birds_eye(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = 0.5,
    half_extent_m: float = PUBLISHED_HALF_EXTENT_M,
) -> float:
    """Jensen-Shannon distance of the histograms of occupied voxels summed over z; most likely the published JSD."""
    cells = _cells_per_axis(voxel_size_m, half_extent_m)
    histograms = (
        np.unique(np.unique(_grid_keys(points, name, voxel_size_m, half_extent_m)) // cells, return_counts=True)
        for points, name in ((prediction, "prediction"), (truth, "truth"))
    )
    return _jensen_shannon(*histograms)


def _jensen_shannon(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    cells = np.union1d(a[0], b[0])
    dense = np.zeros((2, len(cells)))
    for row, (keys, counts) in zip(dense, (a, b), strict=True):
        row[np.searchsorted(cells, keys)] = counts
    return float(jensenshannon(*dense))


def _grid_keys(points: ArrayLike, name: str, voxel_size_m: float, half_extent_m: float) -> np.ndarray:
    """One integer per point inside the cube, z fastest. Edges as in numpy.histogramdd: the last cell is closed."""
    points = cloud(points, name)
    cells = _cells_per_axis(voxel_size_m, half_extent_m)
    inside = points[(np.abs(points) <= half_extent_m).all(axis=1)]
    if not len(inside):
        raise MetricError(
            f"{name}: expected points within ±{half_extent_m:g} m of the origin, found none of {len(points)}; "
            "pass points in the sensor frame"
        )
    index = _cell_of(inside, np.linspace(-half_extent_m, half_extent_m, cells + 1))
    return (index[:, 0] * cells + index[:, 1]) * cells + index[:, 2]


def _cell_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The cell [edge, next edge) of each value by comparison with the evenly spaced edges themselves, the last closed."""
    last = len(edges) - 2
    guess = np.clip(((values - edges[0]) * (len(edges) - 1) / (edges[-1] - edges[0])).astype(np.int64), 0, last)
    guess -= values < edges[guess]
    guess += values >= edges[guess + 1]
    return np.minimum(guess, last)


def _cells_per_axis(voxel_size_m: float, half_extent_m: float) -> int:
    cells = round(2 * half_extent_m / voxel_size_m)
    if not 1 <= cells < 2**20:
        raise MetricError(
            f"voxel_size_m: expected up to {2 * half_extent_m:g} m, found {voxel_size_m}; choose 0.1 to 1 m"
        )
    return cells


# --- transport --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transport:
    """Wasserstein-1 distance of two voxelised clouds, metres.

    lower <= true W1 of the voxel measures <= upper (equal when solved exactly); value is upper.
    discretisation_m: W1 of the clouds themselves differs from that of the voxel measures by at most this much.
    """

    lower: float
    upper: float
    discretisation_m: float

    @property
    def value(self) -> float:
        return self.upper


def wasserstein_1(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = TRANSPORT_VOXEL_M,
    max_pairs: int = 50_000_000,
    max_pivots: int = 10**8,
) -> Transport:
    """True earth mover's distance (W1, Euclidean cost) between the normalised point densities on voxels.

    Mass that both measures have in a voxel stays where it is (optimal for a metric cost), the rest is moved by the
    network simplex of POT, exactly. Above max_pairs (voxels with excess times voxels with want) the voxels are merged
    into blocks of twice the edge until the problem fits; the result is then an interval around the fine answer.
    """
    prediction, truth = cloud(prediction, "prediction"), cloud(truth, "truth")
    fine = _signed_density(prediction, truth, voxel_size_m)
    spread = sum(_to_voxel_centre(points, voxel_size_m) for points in (prediction, truth))
    coarse, edge, moved = fine, voxel_size_m, 0.0
    while _pairs(coarse) > max_pairs:
        edge *= 2
        coarse, step = _merge(coarse, edge)
        moved += step
    cost = _transport_cost(*coarse, max_pivots)
    return Transport(max(cost - moved, 0.0), cost + moved, spread)


def _signed_density(prediction: np.ndarray, truth: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxel centres (V, 3) and share of the prediction minus share of the truth (V,)."""
    voxels, row = _unique_voxels(np.floor(np.concatenate([prediction, truth]) / edge).astype(np.int64))
    share = np.concatenate([np.full(len(prediction), 1 / len(prediction)), np.full(len(truth), -1 / len(truth))])
    return (voxels + 0.5) * edge, np.bincount(row, weights=share, minlength=len(voxels))


def _to_voxel_centre(points: np.ndarray, edge: float) -> float:
    return float(np.linalg.norm(points - (np.floor(points / edge) + 0.5) * edge, axis=1).mean())


def _pairs(density: tuple[np.ndarray, np.ndarray]) -> int:
    return int((density[1] > 0).sum()) * int((density[1] < 0).sum())


def _merge(density: tuple[np.ndarray, np.ndarray], edge: float) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """The density on voxels of the given edge, and how far (mass times metres) its mass was moved for that."""
    centres, excess = density
    voxels, row = _unique_voxels(np.floor(centres / edge).astype(np.int64))
    merged = (voxels + 0.5) * edge
    moved = float((np.abs(excess) * np.linalg.norm(centres - merged[row], axis=1)).sum())
    return (merged, np.bincount(row, weights=excess, minlength=len(voxels))), moved


def _transport_cost(centres: np.ndarray, excess: np.ndarray, max_pivots: int) -> float:
    ot = _optimal_transport_library()
    rounding = 1e-15
    have, want = excess > rounding, excess < -rounding
    if not have.any() or not want.any():
        return 0.0
    supply, demand = excess[have], -excess[want]
    demand *= supply.sum() / demand.sum()
    cost, log = ot.emd2(supply, demand, cdist(centres[have], centres[want]), numItermax=max_pivots, log=True)
    if log["warning"]:
        raise MetricError(f"wasserstein_1: the network simplex did not end ({log['warning']}); raise max_pivots")
    return float(cost)


def _optimal_transport_library() -> ModuleType:
    try:
        import ot
    except ImportError as error:
        raise MetricError("wasserstein_1: expected the library POT, found none; pip install POT") from error
    return ot


def emd_as_published(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    voxel_size_m: float = TRANSPORT_VOXEL_M,
    tolerance: float = 1e-4,
    max_rounds: int = 3000,
    max_voxels: int = 130_000,
) -> float:
    """What the published tables call EMD, for comparing with them only: no earth mover's distance.

    Sinkhorn between the voxel counts with the kernel exp(-d / 0.001) + 1e-9 and d the distance of voxel centres.
    Between different voxels exp(-d / 0.001) is below 1e-217, so that the kernel is 1e-9 everywhere plus 1 where voxels
    agree: each round is linear in the number of voxels, and the result is the same to the last digits.
    """
    a, share_a = _voxel_shares(cloud(prediction, "prediction"), voxel_size_m)
    b, share_b = _voxel_shares(cloud(truth, "truth"), voxel_size_m)
    if max(len(a), len(b)) > max_voxels:
        raise MetricError(
            f"emd_as_published: expected up to {max_voxels} voxels, found {max(len(a), len(b))}; "
            "the published evaluation leaves such scenes out, leave it out too or raise max_voxels"
        )
    in_a, in_b = _common_rows(a, b)
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(max_rounds):
        before = u
        u = share_a / _floored_kernel(v, len(a), in_b, in_a)
        v = share_b / _floored_kernel(u, len(b), in_a, in_b)
        if np.abs(u - before).sum() < tolerance:
            break
    return 1e-9 * voxel_size_m * _weighted_distance_sum(a, u, b, v)


def _voxel_shares(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    voxels, row = _unique_voxels(np.floor(points / edge).astype(np.int64))
    return voxels, np.bincount(row) / len(points)


def _common_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a and rows of b that hold the same voxel; each voxel stands once in a and once in b."""
    both, row = _unique_voxels(np.concatenate([a, b]))
    where_a, where_b = np.full(len(both), -1), np.full(len(both), -1)
    where_a[row[: len(a)]] = np.arange(len(a))
    where_b[row[len(a) :]] = np.arange(len(b))
    common = (where_a >= 0) & (where_b >= 0)
    return where_a[common], where_b[common]


def _floored_kernel(weights: np.ndarray, rows: int, columns_in: np.ndarray, rows_in: np.ndarray) -> np.ndarray:
    product = np.full(rows, 1e-9 * weights.sum())
    product[rows_in] += weights[columns_in]
    return product


def _weighted_distance_sum(a: np.ndarray, u: np.ndarray, b: np.ndarray, v: np.ndarray) -> float:
    """u^T D v with D the distances between the integer rows of a (N, 3) and b (M, 3), without ever holding D."""
    corner = np.minimum(a.min(axis=0), b.min(axis=0))
    extent = np.maximum(a.max(axis=0), b.max(axis=0)) - corner + 1
    if np.prod(2.0 * extent) < min(50_000_000, len(a) * len(b)):  # a wide grid is too much for few points
        return _distance_sum_by_convolution(a - corner, u, b - corner, v, extent)
    block = 1000
    return float(sum(u[i : i + block] @ (cdist(a[i : i + block], b) @ v) for i in range(0, len(a), block)))


def _distance_sum_by_convolution(
    a: np.ndarray, u: np.ndarray, b: np.ndarray, v: np.ndarray, extent: np.ndarray
) -> float:
    """The same on a grid: D v is the convolution of v with the length of the offset, hundreds of times faster."""
    shape = [fft.next_fast_len(int(2 * cells), real=True) for cells in extent]
    offsets = [np.minimum(np.arange(size), size - np.arange(size)) for size in shape]
    length = np.sqrt(
        sum(np.square(axis.astype(np.float64)) for axis in np.meshgrid(*offsets, indexing="ij", sparse=True))
    )
    grid = np.zeros(shape)
    grid[tuple(b.T)] = v
    spectrum = fft.rfftn(grid, workers=-1) * fft.rfftn(length, workers=-1)
    return float(u @ fft.irfftn(spectrum, s=shape, workers=-1)[tuple(a.T)])


def _unique_voxels(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows (V, 3) of integer voxels (N, 3), and for each input row which of them it is (N,)."""
    corner = index.min(axis=0)
    size = index.max(axis=0) - corner + 1
    if np.prod(size.astype(np.float64)) > 2**62:  # kilometres apart: too many cells to number
        voxels, row = np.unique(index, axis=0, return_inverse=True)
        return voxels, row.ravel()
    keys = ((index[:, 0] - corner[0]) * size[1] + index[:, 1] - corner[1]) * size[2] + index[:, 2] - corner[2]
    keys, row = np.unique(keys, return_inverse=True)
    voxels = np.column_stack([keys // (size[1] * size[2]), keys // size[2] % size[1], keys % size[2]])
    return voxels + corner, row.ravel()


# --- by place ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Quality within one band of range or height [lower, upper) in metres.

    A share or distance is None where the band holds no point to judge (never NaN); the counts say so.
    """

    lower_m: float
    upper_m: float
    predicted: int
    true: int
    accuracy: float | None  # share of the band's predicted points within the threshold of the truth
    completeness: float | None  # share of the band's true points within the threshold of the prediction
    mean_to_truth_m: float | None
    mean_to_prediction_m: float | None


def by_range(
    prediction: ArrayLike,
    truth: ArrayLike,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float = 0.2,
) -> list[Band]:
    """Accuracy and completeness per ring of horizontal range from the sensor; edges ascending, metres."""
    of_prediction, of_truth = (
        np.hypot(points[:, 0], points[:, 1]) for points in (cloud(prediction, "prediction"), cloud(truth, "truth"))
    )
    return _bands(of_prediction, of_truth, distances, edges_m, threshold_m)


def by_height(
    prediction: ArrayLike,
    truth: ArrayLike,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float = 0.2,
) -> list[Band]:
    """Accuracy and completeness per band of z in the sensor frame; edges ascending, metres."""
    of_prediction, of_truth = (points[:, 2] for points in (cloud(prediction, "prediction"), cloud(truth, "truth")))
    return _bands(of_prediction, of_truth, distances, edges_m, threshold_m)


def _bands(
    of_prediction: np.ndarray,
    of_truth: np.ndarray,
    distances: NearestDistances,
    edges_m: Sequence[float],
    threshold_m: float,
) -> list[Band]:
    if len(edges_m) < 2 or not (np.diff(edges_m) > 0).all():
        raise MetricError(
            f"edges_m: expected ascending metres, found {list(edges_m)}; pass for instance [0, 10, 25, 50]"
        )
    bands = []
    for lower, upper in itertools.pairwise(edges_m):
        to_truth = distances.prediction_to_truth[(of_prediction >= lower) & (of_prediction < upper)]
        to_prediction = distances.truth_to_prediction[(of_truth >= lower) & (of_truth < upper)]
        bands.append(
            Band(
                float(lower),
                float(upper),
                len(to_truth),
                len(to_prediction),
                _mean_or_none(to_truth < threshold_m),
                _mean_or_none(to_prediction < threshold_m),
                _mean_or_none(to_truth),
                _mean_or_none(to_prediction),
            )
        )
    return bands


def share_of(mask: ArrayLike, name: str = "mask") -> float:
    """Share of True in a non-empty boolean array, in [0, 1]: the rate of free-space violations, for instance."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 1 or not len(mask):
        raise MetricError(
            f"{name}: expected a non-empty boolean array, found {mask.dtype} {mask.shape}; pass one per point"
        )
    return float(mask.mean())


# --- input ------------------------------------------------------------------------------------------------------


def cloud(points: ArrayLike, name: str) -> np.ndarray:
    """points as a finite, non-empty (N, 3) float64 array, or MetricError with the name of the argument."""
    to_numpy: Callable | None = getattr(points, "detach", None)
    array = np.asarray(to_numpy().cpu().numpy() if to_numpy else points)
    if array.ndim != 2 or array.shape[1] != 3:
        raise MetricError(f"{name}: expected shape (N, 3), found {array.shape}; pass x, y, z columns in metres")
    if not len(array):
        raise MetricError(
            f"{name}: expected at least one point, found none; leave this scene out or count it as failed"
        )
    array = array.astype(np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise MetricError(
            f"{name}: expected finite coordinates, found {array[row].tolist()} in row {row} "
            f"({int((~finite).sum())} of {len(array)} rows); drop them before judging"
        )
    return array


def _share_below(distances: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    below = np.searchsorted(thresholds, distances, side="right")  # thresholds[below:] are greater than the distance
    return np.cumsum(np.bincount(below, minlength=len(thresholds) + 1))[: len(thresholds)] / len(distances)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
