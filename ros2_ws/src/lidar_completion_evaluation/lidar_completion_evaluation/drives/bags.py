"""A drive from a rosbag2 (mcap or sqlite3) without ROS: a PointCloud2 topic, and poses from a file or an odometry topic."""

from __future__ import annotations

import struct
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from lidar_completion_evaluation.drives.drive import Drive, DriveError, Sweep, identity_poses, refuse_jumps
from lidar_completion_evaluation.drives.poses import interpolate_poses, pose_of_quaternion, poses_of_sweeps

CLOUD, ODOMETRY = "sensor_msgs/msg/PointCloud2", "nav_msgs/msg/Odometry"
POSE_TYPES = (ODOMETRY, "geometry_msgs/msg/PoseStamped")
TIME_FIELDS = ("time", "t", "timestamp", "time_stamp", "offset_time")
# PointField.datatype
NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


@dataclass(frozen=True)
class BagDrive(Drive):
    """Sweeps of a bag, read one by one by their place in it; names are their stamps in nanoseconds."""

    bag: Path = Path()
    topic: str = ""
    received_ns: tuple[int, ...] = ()
    _open: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def stamps_ns(self) -> np.ndarray:
        return np.array(self.names, dtype=np.int64)

    def read(self, index: int) -> Sweep:
        return sweep_of_message(self.message(index), f"{self.bag}, {self.topic}, stamp {self.names[index]}")

    def message(self, index: int):
        """The PointCloud2 of this index, as rosbags decodes it."""
        reader = self._reader()
        connections = [connection for connection in reader.connections if connection.topic == self.topic]
        at = self.received_ns[index]
        for connection, _, raw in reader.messages(connections, start=at, stop=at + 1):
            message = reader.deserialize(raw, connection.msgtype)
            if _stamp_ns(message) == int(self.names[index]):
                return message
        raise DriveError(
            f"{self.bag}: expected the sweep {self.names[index]}, found none; the bag has changed, open it again"
        )

    def _reader(self):
        if "reader" not in self._open:
            self._open["reader"] = _opened(self.bag)
        return self._open["reader"]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # an open bag does not travel to a worker


def open_bag(
    bag: str | Path,
    *,
    topic: str | None = None,
    poses: str | Path | None = None,
    odometry_topic: str | None = None,
    T_base_sensor: np.ndarray | None = None,
) -> BagDrive:
    """Open a rosbag2 as a drive with poses from a pose file or from an odometry or pose topic.

    poses: a TUM file, interpolated at the stamps of the sweeps, or a KITTI or 4x4 file with one row per sweep.
    topic: default the only PointCloud2 topic. T_base_sensor (4, 4): pose of the sensor in the frame whose poses are
    given; default: the poses are those of the sensor.
    """
    drive = sweeps_of_bag(bag, topic=topic)
    if poses is not None:
        T_map_base = poses_of_sweeps(poses, drive.names, drive.stamps_ns)
    else:
        with closing(_opened(drive.bag)) as reader:
            source, times, matrices = _odometry(reader, drive.bag, odometry_topic)
        T_map_base = interpolate_poses(drive.stamps_ns, times, matrices, source)
    T_map_sensor = T_map_base if T_base_sensor is None else T_map_base @ T_base_sensor
    refuse_jumps(Path(poses or drive.bag), T_map_sensor)
    return replace(drive, T_map_sensor=T_map_sensor)


def sweeps_of_bag(bag: str | Path, *, topic: str | None = None) -> BagDrive:
    """The sweeps of a rosbag2 as a drive whose poses are all the identity."""
    bag = Path(bag)
    with closing(_opened(bag)) as reader:
        topic = _topic(reader, bag, topic, (CLOUD,))
        stamps, received = _stamps(reader, bag, topic)
    return BagDrive(bag.stem, tuple(map(str, stamps)), identity_poses(len(stamps)), bag, topic, tuple(received))


def sweep_of_message(message, where: str) -> Sweep:
    """Points, intensity and time of a PointCloud2 of any layout with x, y, z; DriveError for a broken message."""
    fields = {point_field.name: point_field for point_field in message.fields}
    if missing := [axis for axis in "xyz" if axis not in fields]:
        raise DriveError(f"{where}: expected the fields x, y, z, found {', '.join(fields) or 'none'} (no {missing[0]})")
    order = ">" if message.is_bigendian else "<"
    known = {name: item for name, item in fields.items() if item.datatype in NUMPY_TYPES}
    layout = np.dtype(
        {
            "names": list(known),
            "formats": [order + NUMPY_TYPES[item.datatype] for item in known.values()],
            "offsets": [item.offset for item in known.values()],
            "itemsize": message.point_step,
        }
    )
    rows = _rows(message, layout, where)
    points = np.column_stack([rows[axis] for axis in "xyz"]).astype(np.float32)
    intensity = rows["intensity"].astype(np.float32) if "intensity" in known else None
    time_field = next((name for name in TIME_FIELDS if name in known), None)
    if time_field is None:
        return Sweep(points, intensity)
    return Sweep(
        points, intensity, sweep_time=_share_of_sweep(rows[time_field]), duration_s=_duration_s(rows[time_field])
    )


def _rows(message, layout: np.dtype, where: str) -> np.ndarray:
    data = np.asarray(message.data, dtype=np.uint8)
    needed = message.height * message.row_step
    if len(data) < needed or message.row_step < message.width * message.point_step:
        raise DriveError(
            f"{where}: expected {needed} bytes ({message.height} rows of {message.row_step}), found {len(data)}; "
            "the message is cut off"
        )
    lines = data[:needed].reshape(message.height, message.row_step)[:, : message.width * message.point_step]
    return np.ascontiguousarray(lines).reshape(-1).view(layout)


def _share_of_sweep(times: np.ndarray) -> np.ndarray | None:
    times = times.astype(np.float64)
    finite = times[np.isfinite(times)]
    if not len(finite) or finite.max() == finite.min():
        return None
    return np.nan_to_num((times - finite.min()) / (finite.max() - finite.min()), nan=0.5).astype(np.float32)


def _duration_s(times: np.ndarray) -> float | None:
    """Seconds from the first to the last time; None where all are equal. Integers are nanoseconds, large floats too."""
    finite = times[np.isfinite(times)]
    span = float(finite.max()) - float(finite.min()) if len(finite) else 0.0
    nanoseconds = times.dtype.kind in "iu" or span > 1e6  # no sweep lasts a million seconds
    return (span * 1e-9 if nanoseconds else span) or None


def _opened(bag: Path):
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    if not bag.exists():
        raise DriveError(f"{bag}: expected a rosbag2 folder, found nothing there; check the path")
    try:
        reader = AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # rosbags raises several kinds; the reader of the message needs the bag's name
        raise DriveError(
            f"{bag}: expected a rosbag2, found a damaged or foreign one ({error}); copy it again"
        ) from error
    return reader


def _topic(reader, bag: Path, wanted: str | None, kinds: tuple[str, ...], fix: str = "pass topic=...") -> str:
    found = sorted({connection.topic for connection in reader.connections if connection.msgtype in kinds})
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted not in found:
        raise DriveError(
            f"{bag}: expected {'one topic' if wanted is None else wanted} of {' or '.join(kinds)}, "
            f"found {', '.join(found) or 'none'}; {fix}"
        )
    return wanted


def _stamps(reader, bag: Path, topic: str) -> tuple[np.ndarray, list[int]]:
    connections = [connection for connection in reader.connections if connection.topic == topic]
    pairs = [(_header_stamp_ns(raw), at) for _, at, raw in reader.messages(connections)]
    if not pairs:
        raise DriveError(f"{bag}: expected messages on {topic}, found none; record the topic")
    for number, (before, after) in enumerate(pairwise(pairs), start=2):
        if after[0] <= before[0]:
            raise DriveError(
                f"{bag}, {topic}, message {number}: expected a stamp after {before[0]}, found {after[0]}; "
                "the recording is mixed up: cut the bag where the clock jumps"
            )
    return np.array([stamp for stamp, _ in pairs], dtype=np.int64), [at for _, at in pairs]


def _odometry(reader, bag: Path, wanted: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    topic = _topic(reader, bag, wanted, POSE_TYPES, "pass odometry_topic=... or poses=POSE_FILE")
    connections = [connection for connection in reader.connections if connection.topic == topic]
    times, poses = [], []
    for connection, _, raw in reader.messages(connections):
        message = reader.deserialize(raw, connection.msgtype)
        pose = message.pose.pose if connection.msgtype == ODOMETRY else message.pose
        p, q = pose.position, pose.orientation
        times.append(_stamp_ns(message))
        poses.append(
            pose_of_quaternion(np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w]), f"{bag}, {topic}, message {len(times)}")
        )
    if not times:
        raise DriveError(f"{bag}: expected messages on {topic}, found none; pass poses=POSE_FILE")
    return f"{bag}, {topic}", np.array(times, dtype=np.int64), np.stack(poses)


def _stamp_ns(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def _header_stamp_ns(raw: bytes) -> int:
    """The stamp of a message that starts with a header, without decoding megabytes of points: CDR puts it first."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return seconds * 1_000_000_000 + nanoseconds
