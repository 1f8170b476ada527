"""SemanticKITTI and KITTI odometry sequences: velodyne/, poses.txt, and optionally calib.txt and labels/.

With calib.txt the poses are those of the left camera, as KITTI publishes them; without it they are those of the LiDAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidar_completion.point_cloud_files import read_points
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep
from lidar_completion_evaluation.drives.folder import cloud_files
from lidar_completion_evaluation.drives.poses import checked_pose, poses_of_sweeps

UNLABELLED_UP_TO = 1  # 0 unlabelled, 1 outlier
MOVING_FROM = 252  # 252 … 259 are the moving counterparts of cars, people and the rest
SEQUENCE_LENGTHS = {
    "00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761, "06": 1101, "07": 1101, "08": 4071, "09": 1591, "10": 1201,
}  # fmt: skip


@dataclass(frozen=True)
class SemanticKittiDrive(Drive):
    """A sequence in SemanticKITTI layout; sweeps have labels and `static` if the folder has labels."""

    files: tuple[Path, ...] = ()
    label_files: tuple[Path, ...] = ()

    def read(self, index: int) -> DriveSweep:
        cloud = read_points(self.files[index])
        if not self.label_files:
            return DriveSweep(cloud.points, cloud.intensity)
        labels = read_labels(self.label_files[index], len(cloud), self.files[index])
        return DriveSweep(cloud.points, cloud.intensity, labels, is_static(labels))


def open_sequence(folder: str | Path, *, labels: bool = True) -> SemanticKittiDrive:
    """Open one sequence folder (…/sequences/08). labels=False ignores labels even where they exist.

    Raises DriveError if poses, sweeps, labels and calibration do not match.
    """
    folder = Path(folder)
    files = cloud_files(folder / "velodyne")
    poses = lidar_poses(folder, files)
    label_files = _label_files(folder / "labels", files) if labels and (folder / "labels").is_dir() else []
    name = tuple(file.stem for file in files)
    return SemanticKittiDrive(folder.name, name, poses, tuple(files), tuple(label_files))


def refuse_other_length(drive: Drive, sequence: str) -> None:
    """Raise DriveError if the drive does not have the number of sweeps of this KITTI sequence."""
    expected = SEQUENCE_LENGTHS[sequence]
    if len(drive) != expected:
        raise DriveError(
            f"{drive.name}: expected the {expected} sweeps of sequence {sequence}, found {len(drive)}; "
            "the download is not complete or the folder holds another sequence"
        )


def lidar_poses(folder: Path, files: Sequence[Path]) -> np.ndarray:
    """T_map_lidar (S, 4, 4); the map frame is the LiDAR frame of the first sweep (or of whatever poses.txt starts in)."""
    poses = poses_of_sweeps(folder / "poses.txt", [file.name for file in files])
    if not (folder / "calib.txt").exists():
        return poses
    T_camera_lidar = read_calibration(folder / "calib.txt")["Tr"]
    return np.linalg.inv(T_camera_lidar) @ poses @ T_camera_lidar


def read_calibration(path: Path, name: str = "Tr") -> dict[str, np.ndarray]:
    """The transform `name` (4, 4) of a KITTI calib.txt, as {name: transform}; DriveError if it is missing or damaged."""
    found: dict[str, np.ndarray] = {}
    for line, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        key, _, values = text.partition(":")
        if key.strip() == name:
            found[name] = _transform(path, line, values)
    if name not in found:
        raise DriveError(
            f"{path}: expected a row '{name}: ' with 12 numbers, found none; take KITTI odometry's calib.txt"
        )
    return found


def _transform(path: Path, line: int, text: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DriveError(f"{path}, line {line}: expected numbers, found {text.strip()[:60]!r}; correct it") from error
    if len(values) != 12:
        raise DriveError(
            f"{path}, line {line}: expected 12 numbers, found {len(values)}; take KITTI odometry's calib.txt"
        )
    matrix = np.eye(4)
    matrix[:3] = values.reshape(3, 4)
    return checked_pose(matrix, f"{path}, line {line}")


def read_labels(path: Path, points: int, sweep: Path) -> np.ndarray:
    """Semantic classes (N,) uint16 of a .label file (the lower half of each uint32); one per point of the sweep."""
    size = path.stat().st_size
    if size != 4 * points:
        raise DriveError(
            f"{path}: expected {points} labels (one uint32 per point of {sweep.name}), found {size / 4:g}; "
            "labels and sweeps are of different sequences, or one of the files is cut off"
        )
    return (np.fromfile(path, dtype="<u4") & 0xFFFF).astype(np.uint16)


def is_static(labels: np.ndarray) -> np.ndarray:
    """Points that have a class and do not move, (N,) bool: the published rule (1 < label < 252)."""
    return (labels > UNLABELLED_UP_TO) & (labels < MOVING_FROM)


def _label_files(folder: Path, files: list[Path]) -> list[Path]:
    wanted = [folder / f"{file.stem}.label" for file in files]
    if missing := [path for path in wanted if not path.exists()]:
        raise DriveError(
            f"{folder}: expected one .label file per sweep, found {len(missing)} missing, first {missing[0].name}; "
            "copy the labels of the same sequence, or open it without labels"
        )
    return wanted
