"""Pose files in KITTI, TUM or 4x4 rows, distinguished by the number of columns, and poses at the stamps of sweeps.

Every pose is T_map_sensor (4, 4) float64, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from lidar_completion_evaluation.drives.drive import DriveError, refuse_jumps

KITTI_COLUMNS, TUM_COLUMNS, MATRIX_COLUMNS = 12, 8, 16
MAX_POSE_GAP_S = 0.5
# The stamp of the last sweep may lie up to half a sweep after the last pose.
POSE_END_SLACK_NS = 50_000_000


@dataclass(frozen=True)
class PoseFile:
    """The rows of one pose file: T_map_sensor (K, 4, 4) float64, and times_ns (K,) int64 if it has TUM rows."""

    path: Path
    T_map_sensor: np.ndarray
    times_ns: np.ndarray | None = None


def read_pose_file(path: str | Path) -> PoseFile:
    """Read rows of 12 (KITTI: 3x4 matrix), 8 (TUM: time x y z qx qy qz qw) or 16 numbers (4x4 matrix); # starts a comment.

    Raises DriveError with file and line for rows that are missing, incomplete or not rigid.
    """
    path = Path(path)
    rows = number_rows(path, (KITTI_COLUMNS, TUM_COLUMNS, MATRIX_COLUMNS))
    if not rows:
        raise DriveError(f"{path}: expected one pose per sweep, found no row; write the poses of the drive into it")
    poses = np.stack([_pose(values, f"{path}, line {line}") for line, values in rows])
    if len(rows[0][1]) != TUM_COLUMNS:
        return PoseFile(path, poses)
    # float64 resolves the seconds since 1970 to a quarter of a microsecond.
    return PoseFile(path, poses, np.array([round(values[0] * 1e9) for _, values in rows], dtype=np.int64))


def read_poses(path: str | Path) -> np.ndarray:
    """The poses (K, 4, 4) of a pose file, in the order of its rows: see read_pose_file."""
    return read_pose_file(path).T_map_sensor


def poses_of_sweeps(path: str | Path, names: Sequence[str], stamps_ns: np.ndarray | None = None) -> np.ndarray:
    """One pose (S, 4, 4) for each of S sweeps, from a pose file of any kind.

    TUM rows are interpolated at stamps_ns (S,) int64 if the sweeps have stamps. Other rows, and TUM rows for sweeps
    without stamps, are matched by order: one row per sweep. Raises DriveError if the rows do not match the sweeps.
    """
    file = read_pose_file(path)
    if file.times_ns is not None and stamps_ns is not None:
        poses = interpolate_poses(stamps_ns, file.times_ns, file.T_map_sensor, str(path))
    else:
        poses = _one_pose_each(file, names)
    refuse_jumps(file.path, poses)
    return poses


def _one_pose_each(file: PoseFile, names: Sequence[str]) -> np.ndarray:
    poses = file.T_map_sensor
    if len(poses) != len(names):
        which = f"the sweep {names[len(poses)]} has none" if len(poses) < len(names) else "there are more poses"
        raise DriveError(
            f"{file.path}: expected {len(names)} poses, one per sweep, found {len(poses)} ({which}); "
            "take poses and sweeps of the same sequence"
        )
    return poses


def write_poses(
    path: str | Path, T_map_sensor: np.ndarray, stamps_ns: np.ndarray | None = None, *, header: str = ""
) -> Path:
    """Write poses (S, 4, 4) as TUM rows if the sweeps have stamps (S,) in nanoseconds, otherwise as KITTI rows.

    header: a comment line, starting with #.
    """
    path = Path(path)
    if stamps_ns is None:
        rows = [" ".join(f"{value:.9g}" for value in pose[:3].ravel()) for pose in T_map_sensor]
    else:
        quaternions = Rotation.from_matrix(T_map_sensor[:, :3, :3]).as_quat()
        rows = [
            f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(f"{v:.9f}" for v in (*pose[:3, 3], *quaternion))
            for stamp, pose, quaternion in zip(map(int, stamps_ns), T_map_sensor, quaternions, strict=True)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return path


# --- interpolation ----------------------------------------------------------------------------------------------


def interpolate_poses(stamps_ns: np.ndarray, times_ns: np.ndarray, poses: np.ndarray, source: str) -> np.ndarray:
    """Poses (S, 4, 4) at the stamps between known ones (K, 4, 4): linear in position, spherical in rotation.

    Raises DriveError for a stamp outside the known poses or in a gap of more than half a second.
    """
    order = np.argsort(times_ns, kind="stable")
    times_ns, poses = times_ns[order], poses[order]
    keep = np.concatenate([[True], np.diff(times_ns) > 0])
    times_ns, poses = times_ns[keep], poses[keep]
    after = np.clip(np.searchsorted(times_ns, stamps_ns), 1, max(len(times_ns) - 1, 1))
    for stamp, right in zip(stamps_ns, after, strict=True):
        _refuse_gap(int(stamp), times_ns, int(right), source)
    if len(times_ns) == 1:
        return np.repeat(poses, len(stamps_ns), axis=0)
    seconds = (times_ns - times_ns[0]) / 1e9
    wanted = np.clip((stamps_ns - times_ns[0]) / 1e9, seconds[0], seconds[-1])
    result = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
    result[:, :3, :3] = Slerp(seconds, Rotation.from_matrix(poses[:, :3, :3]))(wanted).as_matrix()
    for axis in range(3):
        result[:, axis, 3] = np.interp(wanted, seconds, poses[:, axis, 3])
    return result


def _refuse_gap(stamp: int, times_ns: np.ndarray, right: int, source: str) -> None:
    if not times_ns[0] - POSE_END_SLACK_NS <= stamp <= times_ns[-1] + POSE_END_SLACK_NS:
        raise DriveError(
            f"{source}: expected poses at the stamp {stamp / 1e9:.3f} s, found poses from {times_ns[0] / 1e9:.3f} to "
            f"{times_ns[-1] / 1e9:.3f} s; take poses of the same recording and clock, or cut the recording"
        )
    if len(times_ns) > 1:
        gap = (times_ns[right] - times_ns[right - 1]) / 1e9
        if gap > MAX_POSE_GAP_S and times_ns[right - 1] < stamp < times_ns[right]:
            raise DriveError(
                f"{source}: expected poses at least every {MAX_POSE_GAP_S} s, found none for {gap:.2f} s around the stamp "
                f"{stamp / 1e9:.3f} s; complete the poses or cut the recording"
            )


# --- rows -------------------------------------------------------------------------------------------------------


def number_rows(path: Path, columns: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """(line, values) of every row except comments. All rows have the same number of values, one of `columns`."""
    if not path.is_file():
        raise DriveError(f"{path}: expected a file of poses, found nothing there; pass the path of the pose file")
    rows: list[tuple[int, np.ndarray]] = []
    for line, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not text.strip():
            if rows:  # an empty row within the poses would shift every later pose
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
                "the row is incomplete or damaged, write it again"
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


def _pose(values: np.ndarray, where: str) -> np.ndarray:
    if len(values) == TUM_COLUMNS:
        return pose_of_quaternion(values[1:], where)
    pose = np.eye(4)
    pose[:3] = values[:12].reshape(3, 4)
    if len(values) == MATRIX_COLUMNS and not np.allclose(values[12:], (0, 0, 0, 1)):
        raise DriveError(f"{where}: expected 0 0 0 1 as the last row, found {values[12:]}; write 4x4 rows")
    return checked_pose(pose, where)


def pose_of_quaternion(values: np.ndarray, where: str) -> np.ndarray:
    """The pose (4, 4) of x y z qx qy qz qw; DriveError unless they are finite and the quaternion has unit length."""
    norm = np.linalg.norm(values[3:])
    if not np.isfinite(values).all() or abs(norm - 1) > 1e-2:
        raise DriveError(
            f"{where}: expected a finite position and a unit quaternion (x y z qx qy qz qw), found {values.tolist()} "
            f"with quaternion length {norm:.3f}; check the order of the columns or drop the pose"
        )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
    pose[:3, 3] = values[:3]
    return pose


def checked_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """The pose with its rotation made orthonormal to double precision; DriveError unless it is finite and rigid."""
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
