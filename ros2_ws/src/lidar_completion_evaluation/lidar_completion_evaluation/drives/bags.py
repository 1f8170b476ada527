"""A drive from a rosbag2 (mcap or sqlite3) without ROS: a PointCloud2 topic, and poses from a TUM file or an odometry topic."""

from __future__ import annotations

import struct
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from lidar_completion_evaluation.drives.drive import Drive, DriveError, Sweep, number_rows, refuse_jumps

CLOUD, ODOMETRY = "sensor_msgs/msg/PointCloud2", "nav_msgs/msg/Odometry"
POSE_TYPES = (ODOMETRY, "geometry_msgs/msg/PoseStamped")
TIME_FIELDS = ("time", "t", "timestamp", "time_stamp", "offset_time")
# PointField.datatype
NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
MAX_POSE_GAP_S = 0.5


@dataclass(frozen=True)
class BagDrive(Drive):
    """Sweeps of a bag, read one by one by their place in it; names are their stamps in nanoseconds."""

    bag: Path = Path()
    topic: str = ""
    received_ns: tuple[int, ...] = ()
    _open: dict = field(default_factory=dict, compare=False, repr=False)

    def read(self, index: int) -> Sweep:
        reader = self._reader()
        connections = [connection for connection in reader.connections if connection.topic == self.topic]
        at = self.received_ns[index]
        for connection, _, raw in reader.messages(connections, start=at, stop=at + 1):
            message = reader.deserialize(raw, connection.msgtype)
            if _stamp_ns(message) == int(self.names[index]):
                return sweep_of_message(message, f"{self.bag}, {self.topic}, stamp {self.names[index]}")
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
    """Open a rosbag2 as a drive. Poses: a TUM file (time x y z qx qy qz qw) or an odometry or pose topic, interpolated at
    the stamps of the sweeps. topic: default the only PointCloud2 topic. T_base_sensor (4, 4): where the sensor sits in the
    frame that the poses are of; default: the poses are the sensor's.
    """
    bag = Path(bag)
    reader = _opened(bag)
    with closing(reader):
        topic = _topic(reader, bag, topic, (CLOUD,))
        stamps, received = _stamps(reader, bag, topic)
        if poses is not None:
            source, times, matrices = str(poses), *_tum(Path(poses))
        else:
            source, times, matrices = _odometry(reader, bag, odometry_topic)
    T_map_base = interpolate_poses(stamps, times, matrices, source)
    T_map_sensor = T_map_base if T_base_sensor is None else T_map_base @ T_base_sensor
    refuse_jumps(Path(source), T_map_sensor)
    return BagDrive(bag.stem, tuple(map(str, stamps)), T_map_sensor, bag, topic, tuple(received))


def interpolate_poses(stamps_ns: np.ndarray, times_ns: np.ndarray, poses: np.ndarray, source: str) -> np.ndarray:
    """Poses (S, 4, 4) at the stamps, between the known ones (K, 4, 4): straight in position, on the arc in rotation.

    Raises DriveError where a stamp lies outside of the poses or in a hole of more than half a second.
    """
    order = np.argsort(times_ns, kind="stable")
    times_ns, poses = times_ns[order], poses[order]
    keep = np.concatenate([[True], np.diff(times_ns) > 0])
    times_ns, poses = times_ns[keep], poses[keep]
    after = np.clip(np.searchsorted(times_ns, stamps_ns), 1, max(len(times_ns) - 1, 1))
    for stamp, right in zip(stamps_ns, after, strict=True):
        _refuse_hole(int(stamp), times_ns, int(right), source)
    if len(times_ns) == 1:
        return np.repeat(poses, len(stamps_ns), axis=0)
    seconds = (times_ns - times_ns[0]) / 1e9
    wanted = np.clip((stamps_ns - times_ns[0]) / 1e9, seconds[0], seconds[-1])
    result = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
    result[:, :3, :3] = Slerp(seconds, Rotation.from_matrix(poses[:, :3, :3]))(wanted).as_matrix()
    for axis in range(3):
        result[:, axis, 3] = np.interp(wanted, seconds, poses[:, axis, 3])
    return result


def _refuse_hole(stamp: int, times_ns: np.ndarray, right: int, source: str) -> None:
    slack = 50_000_000  # a pose that ends half a sweep before the last stamp still is the pose of that sweep
    if not times_ns[0] - slack <= stamp <= times_ns[-1] + slack:
        raise DriveError(
            f"{source}: expected poses at the stamp {stamp / 1e9:.3f} s, found poses from {times_ns[0] / 1e9:.3f} to "
            f"{times_ns[-1] / 1e9:.3f} s; take poses of the same recording and clock, or cut the bag"
        )
    if len(times_ns) > 1:
        gap = (times_ns[right] - times_ns[right - 1]) / 1e9
        if gap > MAX_POSE_GAP_S and times_ns[right - 1] < stamp < times_ns[right]:
            raise DriveError(
                f"{source}: expected poses at least every {MAX_POSE_GAP_S} s, found none for {gap:.2f} s around the stamp "
                f"{stamp / 1e9:.3f} s; complete the poses or cut the bag"
            )


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
    return Sweep(points, intensity, sweep_time=None if time_field is None else _share_of_sweep(rows[time_field]))


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
    topic = _topic(reader, bag, wanted, POSE_TYPES, "pass odometry_topic=... or poses=TUM_FILE")
    connections = [connection for connection in reader.connections if connection.topic == topic]
    times, poses = [], []
    for connection, _, raw in reader.messages(connections):
        message = reader.deserialize(raw, connection.msgtype)
        pose = message.pose.pose if connection.msgtype == ODOMETRY else message.pose
        p, q = pose.position, pose.orientation
        times.append(_stamp_ns(message))
        poses.append(_matrix(np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w]), f"{bag}, {topic}, message {len(times)}"))
    if not times:
        raise DriveError(f"{bag}: expected messages on {topic}, found none; pass poses=TUM_FILE")
    return f"{bag}, {topic}", np.array(times, dtype=np.int64), np.stack(poses)


def _tum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = number_rows(path, (8,))
    if not rows:
        raise DriveError(f"{path}: expected rows of time x y z qx qy qz qw, found none; write the poses into it")
    # float64 holds today's seconds to a quarter of a microsecond, which is enough between poses
    times = np.array([round(values[0] * 1e9) for _, values in rows], dtype=np.int64)
    return times, np.stack([_matrix(values[1:], f"{path}, line {line}") for line, values in rows])


def _matrix(values: np.ndarray, where: str) -> np.ndarray:
    norm = np.linalg.norm(values[3:])
    if not np.isfinite(values).all() or abs(norm - 1) > 1e-2:
        raise DriveError(
            f"{where}: expected a finite position and a unit quaternion, found {values.tolist()}; drop the pose"
        )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
    pose[:3, 3] = values[:3]
    return pose


def _stamp_ns(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def _header_stamp_ns(raw: bytes) -> int:
    """The stamp of a message that starts with a header, without decoding megabytes of points: CDR puts it first."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return seconds * 1_000_000_000 + nanoseconds
