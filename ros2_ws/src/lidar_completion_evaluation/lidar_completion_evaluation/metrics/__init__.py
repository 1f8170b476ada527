"""Metrics of a completed scene, one module per concept. Clouds are (N, 3) in metres, in one common frame.

    distances.py      Chamfer distance, precision, recall, F-score, quantiles
    occupancy.py      IoU and Jensen-Shannon distance on voxels
    transport.py      Wasserstein-1 (earth mover's distance)
    published_emd.py  what the published tables call EMD
    bands.py          accuracy and completeness by range and height

Clouds may be numpy arrays or torch tensors on any device; figures are computed in float64 on the CPU. If the published
definition differs from the usual one, both exist, and the published one has `as_published` in its name. Every function raises
MetricError if the metric is undefined for the input; none returns NaN. To add a metric, write a function in this folder, export
it here, and call it in evaluate_scene.py.
"""

from lidar_completion_evaluation.metrics.bands import Band, GapBand, by_gap, by_height, by_range
from lidar_completion_evaluation.metrics.clouds import MetricError, cloud, share_of
from lidar_completion_evaluation.metrics.distances import (
    NearestDistances,
    PrecisionRecall,
    chamfer_distance,
    nearest_distances,
    precision_recall_curve,
    precision_recall_f_as_published,
)
from lidar_completion_evaluation.metrics.occupancy import (
    PUBLISHED_IOU_VOXELS_M,
    jensen_shannon_3d,
    jensen_shannon_birds_eye,
    observed_iou,
    voxel_iou,
    voxel_iou_as_published,
)
from lidar_completion_evaluation.metrics.published_emd import emd_as_published
from lidar_completion_evaluation.metrics.transport import Transport, wasserstein_1

__all__ = [
    "PUBLISHED_IOU_VOXELS_M",
    "Band",
    "GapBand",
    "MetricError",
    "NearestDistances",
    "PrecisionRecall",
    "Transport",
    "by_gap",
    "by_height",
    "by_range",
    "chamfer_distance",
    "cloud",
    "emd_as_published",
    "jensen_shannon_3d",
    "jensen_shannon_birds_eye",
    "nearest_distances",
    "observed_iou",
    "precision_recall_curve",
    "precision_recall_f_as_published",
    "share_of",
    "voxel_iou",
    "voxel_iou_as_published",
    "wasserstein_1",
]
