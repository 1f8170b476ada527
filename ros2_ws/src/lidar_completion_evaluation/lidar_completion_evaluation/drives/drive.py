"""A drive: sweeps in order and, for each, where the sensor was. Any folder of clouds with a pose file.

Poses are T_map_sensor (4, 4) float64: they take points from the sensor frame (metres) to the map frame (metres). What is
broken in a drive is refused with the file, the line and the fix (DriveError), because a wrong pose makes a wrong truth.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from lidar_completion.point_cloud_files import read_points, suffixes

# Ten sweeps a second at 360 km/h: a longer way between two sweeps is a mixed up pose file.
MAX_STEP_M = 10.0


class DriveError(ValueError):
    """A drive that cannot be trusted; the message names file and line, what was expected and found, and the fix."""


@dataclass(frozen=True)
class Sweep:
    """One sweep in the sensor frame, rows in the order of the file.

    points (N, 3) float32 metres; intensity (N,) float32 or None; labels (N,) uint16 semantic classes or None;
    static (N,) bool, False for points on things that move or have no label, or None where nobody labelled;
    sweep_time (N,) float32 in [0, 1], the share of the sweep that had passed when the point was measured, or None.
    """

    points: np.ndarray
    intensity: np.ndarray | None = None
    labels: np.ndarray | None = None
    static: np.ndarray | None = None
    sweep_time: np.ndarray | None = None


@dataclass(frozen=True)
class Drive(ABC):
    """Sweeps that can be read one by one: names (S,), T_map_sensor (S, 4, 4) float64, read(index)."""

    name: str
    names: tuple[str, ...]
    T_map_sensor: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Sweep:
        """The sweep of this index, as measured (no crop). Raises DriveError or PointCloudFileError for a broken file."""


@dataclass(frozen=True)
class FolderDrive(Drive):
    """Clouds of any known format in one folder, in the order of their names."""

    files: tuple[Path, ...] = ()
    bin_columns: int = 4

    def read(self, index: int) -> Sweep:
        cloud = read_points(self.files[index], bin_columns=self.bin_columns)
        return Sweep(cloud.points, cloud.intensity)


def open_folder(folder: str | Path, poses: str | Path | None = None, *, bin_columns: int = 4) -> FolderDrive:
    """Open a folder of .bin/.ply/.pcd/.npy/.npz clouds (or its subfolder velodyne/) with one pose per cloud.

    poses: KITTI rows (12 numbers), TUM rows (time x y z qx qy qz qw) or 4x4 rows (16 numbers), one per cloud in the order
    of the names; default: poses.txt in the folder. The poses are those of the sensor.
    """
    folder = Path(folder)
    files = cloud_files(folder / "velodyne" if (folder / "velodyne").is_dir() else folder)
    poses = Path(poses) if poses else folder / "poses.txt"
    T_map_sensor = one_pose_each(poses, read_poses(poses), files)
    return FolderDrive(folder.name, tuple(file.stem for file in files), T_map_sensor, tuple(files), bin_columns)


def cloud_files(folder: Path) -> list[Path]:
    """The clouds of a folder by name; all of one format, numbered without gaps where they are numbered."""
    if not folder.is_dir():
        raise DriveError(f"{folder}: expected a folder of sweeps, found nothing there; check the path")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes() and file.name[0] != ".")
    if not files:
        raise DriveError(
            f"{folder}: expected sweeps ({', '.join(suffixes())}), found none; check the path or the download"
        )
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise DriveError(f"{folder}: expected sweeps of one format, found {', '.join(kinds)}; keep one of them")
    _refuse_gaps(folder, files)
    return files


def _refuse_gaps(folder: Path, files: Sequence[Path]) -> None:
    if not all(file.stem.isdigit() for file in files):
        return
    for before, after in itertools.pairwise(files):
        if int(after.stem) != int(before.stem) + 1:
            raise DriveError(
                f"{folder}: expected the sweep {int(before.stem) + 1:0{len(before.stem)}d} after {before.name}, "
                f"found {after.name}; copy the missing sweeps (poses are matched by order)"
            )


# --- poses ------------------------------------------------------------------------------------------------------


def read_poses(path: str | Path) -> np.ndarray:
    """Poses (S, 4, 4) float64 from rows of 12 (KITTI), 8 (TUM, time first) or 16 numbers; # starts a comment."""
    path = Path(path)
    poses = [_pose(path, line, values) for line, values in number_rows(path, (12, 8, 16))]
    if not poses:
        raise DriveError(f"{path}: expected one pose per sweep, found no row; write the poses of the drive into it")
    return np.stack(poses)


def number_rows(path: Path, columns: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """(line, values) of every row that is no comment; every row has one of the numbers of columns, the same throughout."""
    if not path.is_file():
        raise DriveError(f"{path}: expected a file of poses, found nothing there; pass the path of the pose file")
    rows: list[tuple[int, np.ndarray]] = []
    for line, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not text.strip():
            if rows:  # poses are matched by order: a hole in the rows shifts every later pose
                rows.append((line, np.zeros(0)))
            continue
        if not text.lstrip().startswith("#"):
            rows.append((line, _numbers(path, line, text)))
    while rows and not len(rows[-1][1]):
        rows.pop()
    allowed = (len(rows[0][1]),) if rows and len(rows[0][1]) in columns else columns
    for line, values in rows:
        if len(values) not in allowed:
            raise DriveError(
                f"{path}, line {line}: expected {' or '.join(map(str, allowed))} numbers, found {len(values)}; "
                "the row is missing or damaged, write it again"
            )
    return rows


def _numbers(path: Path, line: int, text: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError as error:
        raise DriveError(
            f"{path}, line {line}: expected numbers, found {text.strip()[:60]!r}; correct the row"
        ) from error
    if not np.isfinite(values).all():
        raise DriveError(
            f"{path}, line {line}: expected finite numbers, found {values[~np.isfinite(values)][0]}; "
            "drop this sweep or compute its pose again"
        )
    return values


def _pose(path: Path, line: int, values: np.ndarray) -> np.ndarray:
    if len(values) == 8:
        return _pose_of_quaternion(path, line, values[1:])
    pose = np.eye(4)
    pose[:3] = values[:12].reshape(3, 4)
    if len(values) == 16 and not np.allclose(values[12:], (0, 0, 0, 1)):
        raise DriveError(f"{path}, line {line}: expected 0 0 0 1 as the last row, found {values[12:]}; write 4x4 rows")
    return checked_pose(pose, f"{path}, line {line}")


def _pose_of_quaternion(path: Path, line: int, values: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(values[3:])
    if abs(norm - 1) > 1e-2:
        raise DriveError(
            f"{path}, line {line}: expected a unit quaternion (qx qy qz qw), found the length {norm:.3f}; "
            "check the order of the columns: time x y z qx qy qz qw"
        )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
    pose[:3, 3] = values[:3]
    return pose


def checked_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """The pose, if it is finite and rigid, with its rotation made orthonormal to double precision."""
    rotation = pose[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max() if np.isfinite(pose).all() else np.inf
    if error > 1e-3 or np.linalg.det(rotation) < 0:
        raise DriveError(
            f"{where}: expected a rigid pose (rows of [R t]), found a rotation that is off by {error:.3g}; "
            "the row belongs to another file or its numbers are cut off"
        )
    rigid = pose.copy()
    u, _, v = np.linalg.svd(rotation)
    rigid[:3, :3] = u @ v
    return rigid


def one_pose_each(path: Path, poses: np.ndarray, files: Sequence[Path]) -> np.ndarray:
    """The poses, if there is one per sweep and the way between neighbours can have been driven."""
    if len(poses) != len(files):
        which = f"the sweep {files[len(poses)].name} has none" if len(poses) < len(files) else "there are more poses"
        raise DriveError(
            f"{path}: expected {len(files)} poses, one per sweep in {files[0].parent}, found {len(poses)} ({which}); "
            "take poses and sweeps of the same sequence"
        )
    refuse_jumps(path, poses)
    return poses


def refuse_jumps(path: Path, poses: np.ndarray) -> None:
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    if (steps > MAX_STEP_M).any():
        row = int(np.argmax(steps > MAX_STEP_M))
        raise DriveError(
            f"{path}, pose {row + 2}: expected a step of less than {MAX_STEP_M:g} m from the pose before, "
            f"found {steps[row]:.1f} m; the sequence is mixed up: sort sweeps and poses by time"
        )


def refuse_foreign_poses(drive: Drive, apart: int = 10, pairs: int = 5) -> None:
    """Raise DriveError where the poses fit the sweeps worse than standing still would: poses of another sequence.

    Looks at a few pairs of sweeps that are `apart` sweeps apart and at least 2 m of way.
    """
    step = min(apart, len(drive) - 1)
    if step < 1:
        return
    worse = []
    for index in np.unique(np.linspace(0, len(drive) - 1 - step, pairs).astype(int)):
        a, b = drive.T_map_sensor[index], drive.T_map_sensor[index + step]
        if np.linalg.norm(a[:3, 3] - b[:3, 3]) >= 2.0:
            moved, still = _misfit(drive, index, index + step)
            worse.append(moved > still)
    if worse and np.mean(worse) > 0.5:
        raise DriveError(
            f"{drive.name}: expected sweeps that lie on each other by their poses, found that they fit better unmoved; "
            "the poses belong to another sequence, to another sensor, or are inverted (they must take sensor to map)"
        )


def _misfit(drive: Drive, first: int, second: int, sample: int = 4000) -> tuple[float, float]:
    """Median nearest distance between two sweeps, moved by the poses and left as they are, metres."""
    random = np.random.default_rng(0)
    clouds = []
    for index in (first, second):
        points = drive.read(index).points
        points = points[np.isfinite(points).all(axis=1)].astype(np.float64)
        # The ground fits itself at any shift, so only what stands above it can tell; near things, as they are dense.
        near = (np.hypot(points[:, 0], points[:, 1]) < 30) & (points[:, 2] > np.median(points[:, 2]) + 0.5)
        clouds.append(points[near] if near.sum() > 100 else points)
    tree = cKDTree(clouds[0])
    chosen = clouds[1][random.choice(len(clouds[1]), min(sample, len(clouds[1])), replace=False)]
    T_first_second = np.linalg.inv(drive.T_map_sensor[first]) @ drive.T_map_sensor[second]
    moved = float(np.median(tree.query(transform(T_first_second, chosen))[0]))
    return moved, float(np.median(tree.query(chosen)[0]))


def transform(T_target_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) from the source frame to the target frame, float64."""
    return points.astype(np.float64) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
