"""The ground plane of one sweep, in any orientation of the sensor. The compiled loop is in ground_plane_compiled.py."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lidar_completion.mounting import ground_plane_compiled

NEAR_M = 20.0  # the plane is fitted to points within this distance of the frame's origin
SELF_M = 0.5  # closer points are returns from the vehicle
VOXEL_M = 0.5  # one point per voxel is used, so that dense rings do not outweigh the rest
THINNED_POINTS, VOXELS, PLANES = 15_000, 900, 600  # maximum numbers used for the estimate
MIN_VOXELS = 60
INLIER_M = 0.15
OFF_PLANE_M = 0.5  # points farther from the plane than this stand on the ground
MIN_SHARE, MAX_BELOW = 0.15, 0.1  # a plane with fewer inliers, or more points below it, is not the ground
PLAUSIBLE_TILT_DEG = 50.0  # other orientations are tried only if no such plane is the ground
MAX_DISTANCE_BESIDE_M = 3.0  # maximum distance of the ground in other orientations
MIN_SIDES = 0.03  # difference between the shares above and below a plane that decides which side is up
ON_GROUND_M, MAX_SENSOR_HEIGHT_M = 0.45, 6.0  # an origin at other heights does not decide which side is up
# Hidden points: directions in bins of azimuth and elevation
AZIMUTH_BINS, ELEVATION_BINS = 360, 360  # 1 deg and 0.5 deg wide
HIDDEN_FACTOR = 1.15  # a point this many times farther away than the nearest one in its direction is hidden


@dataclass(frozen=True)
class GroundPlane:
    """The plane {p: up · p + height_m = 0} in the frame of the sweep."""

    up: np.ndarray  # (3,) float64 unit normal, away from the ground
    height_m: float  # height of the frame's origin above the plane; negative below it
    share: float  # share of the voxels near the origin that lie on the plane


@dataclass(frozen=True)
class SensorView:
    """What one sweep shows about the mounting of its sensor."""

    ground: GroundPlane | None  # None: no plane was found
    hidden_share: float  # share of points behind others, seen from the frame's origin; small in a sensor's own frame

    @classmethod
    def of(cls, points: np.ndarray) -> Self:
        """The view of returns (N, 3) in metres; N may be 0."""
        thinned = points[:: max(1, len(points) // THINNED_POINTS)].astype(np.float64)
        distance = np.sqrt(np.einsum("ij,ij->i", thinned, thinned))
        outside = distance > SELF_M
        thinned, distance = thinned[outside], distance[outside]
        return cls(fit_ground(thinned, distance), hidden_share(thinned, distance))


def fit_ground(points: np.ndarray, distance: np.ndarray) -> GroundPlane | None:
    """The ground of points (N, 3) float64 at distances (N,) from the origin; None if no plane can be the ground.

    Robust fit of a plane to the voxels near the origin, or near the median point if nothing is near the origin.
    """
    near = points[distance < NEAR_M]
    if len(near) < max(MIN_VOXELS, len(points) // 50) and len(points):
        near = points[np.linalg.norm(points - np.median(points, axis=0), axis=1) < NEAR_M]
    voxels = _one_per_voxel(near)
    if len(voxels) < MIN_VOXELS:
        return None
    planes = candidates(voxels)
    planes *= np.where(planes[:, 2:3] < 0, -1.0, 1.0)
    upright = planes[:, 2] > np.cos(np.radians(PLAUSIBLE_TILT_DEG))
    # Planes below the sensor come first: indoors, a ceiling can be larger than the floor.
    below = (planes[:, 3] > ON_GROUND_M) & (planes[:, 3] < MAX_SENSOR_HEIGHT_M)
    usual = _best(voxels, planes[upright & below])
    if usual is not None:
        return usual
    distance = np.abs(planes[:, 3])
    beside = (distance > ON_GROUND_M) & (distance < MAX_DISTANCE_BESIDE_M)  # farther ones are walls
    others = (_best(voxels, planes[upright]), _best(voxels, planes[beside]))
    return max((each for each in others if each is not None), key=lambda each: each.share, default=None)


def _best(voxels: np.ndarray, planes: np.ndarray) -> GroundPlane | None:
    """The plane (of P, 4) with most voxels (V, 3) on it, fitted to them; None if it cannot be the ground."""
    if not len(planes):
        return None
    votes = ground_plane_compiled.votes(voxels, planes, INLIER_M)
    plane = _oriented(voxels, _refined(voxels, planes[votes.argmax()]))
    height = voxels @ plane[:3] + plane[3]
    share, below = np.mean(np.abs(height) < INLIER_M), np.mean(height < -OFF_PLANE_M)
    if share < MIN_SHARE or below > MAX_BELOW:
        return None
    return GroundPlane(plane[:3], float(plane[3]), float(share))


def hidden_share(points: np.ndarray, distance: np.ndarray) -> float:
    """Share of points (N, 3) that lie clearly behind another point in the same direction; 0 for N = 0.

    A sensor has one return, or few, per direction. In another frame, points lie behind each other.
    """
    if not len(points):
        return 0.0
    azimuth = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5
    elevation = np.arcsin(points[:, 2] / distance) / np.pi + 0.5
    column = np.minimum((azimuth * AZIMUTH_BINS).astype(np.int64), AZIMUTH_BINS - 1)
    row = np.minimum((elevation * ELEVATION_BINS).astype(np.int64), ELEVATION_BINS - 1)
    direction = row * AZIMUTH_BINS + column
    nearest = np.full(AZIMUTH_BINS * ELEVATION_BINS, np.inf)
    np.minimum.at(nearest, direction, distance)
    return float(np.mean(distance > HIDDEN_FACTOR * nearest[direction]))


def candidates(voxels: np.ndarray) -> np.ndarray:
    """Planes (P, 4), unit normal and offset, through random triples of points (V, 3), with a fixed seed."""
    generator = np.random.default_rng(0)
    a, b, c = voxels[generator.integers(0, len(voxels), (3, PLANES))]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    wide = length > 4.0  # square metres: narrow triangles give a poor normal
    normal = normal[wide] / length[wide, None]
    return np.column_stack([normal, -np.einsum("ij,ij->i", normal, a[wide])])


def votes_plain(voxels: np.ndarray, planes: np.ndarray, inlier_m: float) -> np.ndarray:
    """The plain implementation: number (P,) int64 of points (V, 3) within inlier_m of each plane (P, 4)."""
    return (np.abs(voxels @ planes[:, :3].T + planes[:, 3]) < inlier_m).sum(axis=0)


def _one_per_voxel(points: np.ndarray) -> np.ndarray:
    """One point in each voxel, at most VOXELS, in random order with a fixed seed."""
    if not len(points):
        return points
    voxel = np.floor((points - points.min(axis=0)) / VOXEL_M).astype(np.int64)
    size = voxel.max(axis=0) + 1
    _, rows = np.unique((voxel[:, 0] * size[1] + voxel[:, 1]) * size[2] + voxel[:, 2], return_index=True)
    chosen = np.random.default_rng(0).permutation(len(rows))[:VOXELS]
    return np.ascontiguousarray(points[rows[chosen]])


def _refined(voxels: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The plane (4,) fitted by least squares to its inliers."""
    for tolerance in (2 * INLIER_M, INLIER_M):
        inliers = voxels[np.abs(voxels @ plane[:3] + plane[3]) < tolerance]
        middle = inliers.mean(axis=0)
        normal = np.linalg.eigh((inliers - middle).T @ (inliers - middle))[1][:, 0]
        plane = np.append(normal, -normal @ middle)
    return plane


def _oriented(voxels: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The plane (4,) with its normal away from the ground: towards what stands on it, else towards the origin."""
    height = voxels @ plane[:3] + plane[3]
    above, below = np.mean(height > OFF_PLANE_M), np.mean(height < -OFF_PLANE_M)
    if abs(above - below) > MIN_SIDES:
        return plane if above > below else -plane
    if ON_GROUND_M < abs(plane[3]) < MAX_SENSOR_HEIGHT_M:
        return plane if plane[3] > 0 else -plane
    return plane if plane[2] > 0 else -plane
