"""Writes a folder of cloud files as a rosbag2, with its poses as odometry, for `drives/bags.py` and any ROS 2 tool."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from lidar_completion.point_clouds import fields_of
from lidar_completion_evaluation.drives.bag import POINT_CLOUD
from lidar_completion_evaluation.drives.bags import ODOMETRY
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep
from lidar_completion_evaluation.drives.folder import sweeps_of_folder
from lidar_completion_evaluation.drives.poses import poses_of_sweeps, read_pose_file

NANOSECONDS = 1_000_000_000
LAYOUT = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")])
POSES_NAME, TIMES_NAME = "poses.txt", "times.txt"


def folder_to_bag(
    folder: str | Path,
    output: str | Path,
    *,
    times: str | Path | None = None,
    poses: str | Path | None = None,
    rate_hz: float = 10.0,
    topic: str = "/velodyne_points",
    odometry_topic: str = "/odometry",
    frame: str = "velodyne",
    bin_columns: int = 4,
    progress: bool = True,
) -> Path:
    """Write the clouds of a folder to the new bag `output` (mcap): PointCloud2 with x, y, z, intensity, one per file.

    times: one row per cloud, seconds or date and time; default: times.txt in the folder, the times of TUM poses with one
    row per cloud, or a constant rate. poses: KITTI, TUM or 4x4 rows; default: poses.txt in the folder, if there is one.
    Each pose becomes a nav_msgs/Odometry from "map" to `frame` at the stamp of its sweep. Further fields of the files, such
    as ring and time, are not written. Raises DriveError; a bag that could not be completed is removed.
    """
    folder, output = Path(folder), Path(output)
    if output.exists():
        raise DriveError(f"{output}: exists already; choose another output or remove it")
    drive = sweeps_of_folder(folder, bin_columns=bin_columns)
    pose_file = _given_or_beside(poses, folder / POSES_NAME)
    times_ns = _times_ns(drive, _given_or_beside(times, folder / TIMES_NAME), pose_file, rate_hz)
    T_map_sensor = None if pose_file is None else poses_of_sweeps(pose_file, drive.names, times_ns)
    # In ROS, a zero stamp means "not set".
    stamps_ns = times_ns + (NANOSECONDS if times_ns[0] == 0 else 0)
    try:
        _write(output, drive, stamps_ns, T_map_sensor, (topic, odometry_topic, frame), progress)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return output


def read_times(path: str | Path, count: int) -> np.ndarray:
    """Times (count,) int64 in nanoseconds, one row per sweep: seconds (KITTI's times.txt) or date and time (KITTI raw)."""
    path = Path(path)
    if not path.is_file():
        raise DriveError(f"{path}: expected a file of times, found nothing there; check the path")
    rows = [row for row in path.read_text(errors="replace").splitlines() if row.strip() and row[0] != "#"]
    if len(rows) != count:
        raise DriveError(
            f"{path}: expected {count} times, one per sweep, found {len(rows)}; take the times of this drive"
        )
    times = np.array([_time_ns(row, f"{path}, time {number}") for number, row in enumerate(rows, start=1)], np.int64)
    if count > 1 and np.diff(times).min() <= 0:
        late = int(np.argmin(np.diff(times))) + 2
        raise DriveError(f"{path}, time {late}: expected a later time than in the row before; sort sweeps and times")
    return times


def _time_ns(row: str, where: str) -> int:
    """Nanoseconds of "12.345" seconds or "2011-09-26 13:02:25.964389445" (UTC), without rounding through a float."""
    text = row.strip()
    date, _, clock = text.replace("T", " ").partition(" ")
    try:
        if clock:
            seconds, _, fraction = clock.partition(".")
            moment = datetime.fromisoformat(f"{date} {seconds}").replace(tzinfo=UTC)
            return int(moment.timestamp()) * NANOSECONDS + int(f"{fraction:0<9}"[:9])
        if re.fullmatch(r"\d+(\.\d*)?", text):
            seconds, _, fraction = text.partition(".")
            return int(seconds) * NANOSECONDS + int(f"{fraction:0<9}"[:9])
        value = float(text)
    except ValueError as error:
        raise DriveError(
            f"{where}: expected seconds or a date and time, found {text[:60]!r}; correct the row"
        ) from error
    if not 0 <= value < 1e11:
        raise DriveError(f"{where}: expected seconds of 0 or more, found {text[:60]!r}; correct the row")
    return round(value * NANOSECONDS)


def _given_or_beside(given: str | Path | None, beside: Path) -> Path | None:
    return Path(given) if given is not None else beside if beside.is_file() else None


def _times_ns(drive: Drive, times: Path | None, poses: Path | None, rate_hz: float) -> np.ndarray:
    if times is not None:
        return read_times(times, len(drive))
    of_poses = None if poses is None else read_pose_file(poses).times_ns
    if of_poses is not None and len(of_poses) == len(drive):
        return of_poses
    return np.rint(np.arange(len(drive)) * NANOSECONDS / rate_hz).astype(np.int64)


def _write(
    output: Path,
    drive: Drive,
    stamps_ns: np.ndarray,
    T_map_sensor: np.ndarray | None,
    names: tuple[str, str, str],
    progress: bool,
) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    topic, odometry_topic, frame = names
    store = get_typestore(Stores.ROS2_JAZZY)
    output.parent.mkdir(parents=True, exist_ok=True)
    with Writer(output, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        clouds = writer.add_connection(topic, POINT_CLOUD, typestore=store)
        odometry = (
            writer.add_connection(odometry_topic, ODOMETRY, typestore=store) if T_map_sensor is not None else None
        )
        for index in tqdm(range(len(drive)), unit="sweep", desc=output.name, disable=not progress):
            stamp = int(stamps_ns[index])
            message = _cloud(store.types, drive.read(index), _header(store.types, stamp, frame))
            writer.write(clouds, stamp, store.serialize_cdr(message, POINT_CLOUD))
            if odometry is not None and T_map_sensor is not None:
                message = _odometry(store.types, T_map_sensor[index], _header(store.types, stamp, "map"), frame)
                writer.write(odometry, stamp, store.serialize_cdr(message, ODOMETRY))


def _header(types: Any, stamp_ns: int, frame: str) -> Any:
    stamp = types["builtin_interfaces/msg/Time"](stamp_ns // NANOSECONDS, stamp_ns % NANOSECONDS)
    return types["std_msgs/msg/Header"](stamp, frame)


def _cloud(types: Any, sweep: DriveSweep, header: Any) -> Any:
    count = len(sweep.points)
    rows = np.zeros((count, 4), "<f4")
    rows[:, :3] = sweep.points
    if sweep.intensity is not None:
        rows[:, 3] = sweep.intensity
    field = types["sensor_msgs/msg/PointField"]
    return types[POINT_CLOUD](
        header=header,
        height=1,
        width=count,
        fields=[field(*each) for each in fields_of(LAYOUT)],
        is_bigendian=False,
        point_step=LAYOUT.itemsize,
        row_step=LAYOUT.itemsize * count,
        data=rows.reshape(-1).view(np.uint8),
        is_dense=bool(np.isfinite(sweep.points).all()),
    )


def _odometry(types: Any, T_map_sensor: np.ndarray, header: Any, child_frame: str) -> Any:
    x, y, z, w = map(float, Rotation.from_matrix(T_map_sensor[:3, :3]).as_quat())
    position = types["geometry_msgs/msg/Point"](*map(float, T_map_sensor[:3, 3]))
    pose = types["geometry_msgs/msg/Pose"](position, types["geometry_msgs/msg/Quaternion"](x, y, z, w))
    zero = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    unknown = np.zeros(36)
    return types[ODOMETRY](
        header=header,
        child_frame_id=child_frame,
        pose=types["geometry_msgs/msg/PoseWithCovariance"](pose, unknown),
        twist=types["geometry_msgs/msg/TwistWithCovariance"](types["geometry_msgs/msg/Twist"](zero, zero), unknown),
    )
