"""A drive from a rosbag2 without ROS: a PointCloud2 topic, and poses from a file or an odometry topic."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lidar_completion.point_clouds import PointCloudError, decode, time_column
from lidar_completion_evaluation.drives.bag import DEFAULT_TOPIC, POINT_CLOUD, Bag, header_stamp_ns
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep, identity_poses, refuse_jumps
from lidar_completion_evaluation.drives.poses import interpolate_poses, pose_of_quaternion, poses_of_sweeps

ODOMETRY, POSE_STAMPED = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped"


@dataclass(frozen=True)
class BagDrive(Drive):
    """Sweeps of a bag, read one by one by their bag time; names are their header stamps in nanoseconds."""

    bag: Path = Path()
    topic: str = ""
    received_ns: tuple[int, ...] = ()
    _open: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def stamps_ns(self) -> np.ndarray:
        return np.array(self.names, dtype=np.int64)

    def read(self, index: int) -> DriveSweep:
        return sweep_of_message(self.message(index), f"{self.bag}, {self.topic}, stamp {self.names[index]}")

    def message(self, index: int) -> Any:
        """The PointCloud2 of this index as a dataclass of rosbags."""
        bag = self._open["bag"] = self._open.get("bag") or Bag(self.bag)
        at = self.received_ns[index]
        for _, data in bag.messages(self.topic, at, at + 1):
            if header_stamp_ns(data) == int(self.names[index]):
                return bag.decode(self.topic, data)
        raise DriveError(
            f"{self.bag}: expected the sweep {self.names[index]}, found none; the bag has changed, reopen it"
        )

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # an open bag cannot be pickled


def open_bag(
    bag: str | Path,
    *,
    topic: str | None = None,
    poses: str | Path | None = None,
    odometry_topic: str | None = None,
    T_base_sensor: np.ndarray | None = None,
) -> BagDrive:
    """Open a rosbag2 as a drive with poses from a pose file or from an odometry or pose topic. Raises DriveError.

    topic: default: /velodyne_points, or the only PointCloud2 topic.
    poses: a TUM file, interpolated at the stamps of the sweeps, or a KITTI or 4x4 file with one row per sweep.
    T_base_sensor (4, 4): pose of the sensor in the frame whose poses are given; default: the poses are the sensor's.
    """
    drive = sweeps_of_bag(bag, topic=topic)
    if poses is not None:
        T_map_base = poses_of_sweeps(poses, drive.names, drive.stamps_ns)
    else:
        with Bag(bag) as opened:
            source, times, matrices = _odometry(opened, odometry_topic)
        T_map_base = interpolate_poses(drive.stamps_ns, times, matrices, source)
    T_map_sensor = T_map_base if T_base_sensor is None else T_map_base @ T_base_sensor
    refuse_jumps(Path(poses or drive.bag), T_map_sensor)
    return replace(drive, T_map_sensor=T_map_sensor)


def sweeps_of_bag(path: str | Path, *, topic: str | None = None) -> BagDrive:
    """The sweeps of a rosbag2 as a drive whose poses are all the identity."""
    path = Path(path)
    with Bag(path) as bag:
        topic = bag.find_topic(topic, (POINT_CLOUD,), "topic=...", DEFAULT_TOPIC)
        stamps, received = _stamps(bag, topic)
    return BagDrive(path.stem, tuple(map(str, stamps)), identity_poses(len(stamps)), path, topic, tuple(received))


def _stamps(bag: Bag, topic: str) -> tuple[np.ndarray, list[int]]:
    """Header stamps (S,) in ns and bag times of the messages of a topic."""
    pairs = [(header_stamp_ns(data), at) for at, data in bag.messages(topic)]
    for number, (before, after) in enumerate(pairwise(pairs), start=2):
        if after[0] <= before[0]:
            raise DriveError(
                f"{bag.path}, {topic}, message {number}: expected a stamp after {before[0]}, found {after[0]}; "
                "the clock jumps back: cut the bag there"
            )
    return np.array([stamp for stamp, _ in pairs], dtype=np.int64), [at for _, at in pairs]


def _odometry(bag: Bag, wanted: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Name of the source, times (K,) in ns and poses (K, 4, 4) of an odometry or pose topic."""
    topic = bag.find_topic(wanted, (ODOMETRY, POSE_STAMPED), "odometry_topic=... or poses=POSE_FILE")
    times, poses = [], []
    for _, data in bag.messages(topic):
        message = bag.decode(topic, data)
        pose = message.pose.pose if bag.topics[topic][0] == ODOMETRY else message.pose
        p, q = pose.position, pose.orientation
        times.append(header_stamp_ns(data))
        values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
        poses.append(pose_of_quaternion(values, f"{bag.path}, {topic}, message {len(times)}"))
    return f"{bag.path}, {topic}", np.array(times, dtype=np.int64), np.stack(poses)


def sweep_of_message(message: Any, where: str) -> DriveSweep:
    """Points, intensity and time of a PointCloud2 of any layout with x, y, z; raises DriveError if it is damaged."""
    try:
        cloud = decode(message)
    except PointCloudError as error:
        raise DriveError(f"{where}: {error}") from error
    points, times = np.array(cloud.points), time_column(message)  # a copy: a view would keep the message in memory
    if times is None:
        return DriveSweep(points, cloud.intensity)
    return DriveSweep(points, cloud.intensity, sweep_time=_share_of_sweep(times), duration_s=_duration_s(times))


def _share_of_sweep(times: np.ndarray) -> np.ndarray | None:
    times = times.astype(np.float64)
    finite = times[np.isfinite(times)]
    if not len(finite) or finite.max() == finite.min():
        return None
    return np.nan_to_num((times - finite.min()) / (finite.max() - finite.min()), nan=0.5).astype(np.float32)


def _duration_s(times: np.ndarray) -> float | None:
    """Seconds from the first to the last time; None if all are equal. Integers and large floats are nanoseconds."""
    finite = times[np.isfinite(times)]
    span = float(finite.max()) - float(finite.min()) if len(finite) else 0.0
    nanoseconds = times.dtype.kind in "iu" or span > 1e6  # a sweep never lasts a million seconds
    return (span * 1e-9 if nanoseconds else span) or None
