"""The tiny drives of street_drive.py as rosbag2, with clouds as Velodyne's driver packs them and odometry."""

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation
from street_drive import a_street

from lidar_completion_training.data.drives import transform

TYPES = get_typestore(Stores.ROS2_JAZZY)
RATE_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def header(stamp_ns: int):
    stamp = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id="velodyne")


def cloud_message(points: np.ndarray, stamp_ns: int):
    """PointXYZIRT as Velodyne's driver packs it: 22 bytes a point, not aligned."""
    layout = np.dtype(
        [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")]
    )
    rows = np.zeros(len(points), layout)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    rows["intensity"], rows["time"] = 7, np.linspace(-0.1, 0, len(points))
    kinds = {"<f4": 7, "<u2": 4}
    fields = [
        TYPES.types["sensor_msgs/msg/PointField"](
            name=name, offset=layout.fields[name][1], datatype=kinds[layout[name].str], count=1
        )
        for name in layout.names
    ]
    return TYPES.types["sensor_msgs/msg/PointCloud2"](
        header=header(stamp_ns),
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=layout.itemsize,
        row_step=rows.nbytes,
        data=rows.view(np.uint8),
        is_dense=True,
    )


def odometry_message(pose: np.ndarray, stamp_ns: int):
    made = TYPES.types
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    vector = made["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    return made["nav_msgs/msg/Odometry"](
        header=header(stamp_ns),
        child_frame_id="base",
        pose=made["geometry_msgs/msg/PoseWithCovariance"](
            made["geometry_msgs/msg/Pose"](
                made["geometry_msgs/msg/Point"](*map(float, pose[:3, 3])),
                made["geometry_msgs/msg/Quaternion"](x, y, z, w),
            ),
            np.zeros(36),
        ),
        twist=made["geometry_msgs/msg/TwistWithCovariance"](
            made["geometry_msgs/msg/Twist"](vector, vector), np.zeros(36)
        ),
    )


def write_bag(path: Path, poses: np.ndarray, storage=StoragePlugin.MCAP, odometry: bool = True, stamps=None) -> Path:
    stamps = stamps or [START_NS + index * RATE_NS for index in range(len(poses))]
    with Writer(path, version=9, storage_plugin=storage) as writer:
        clouds = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=TYPES)
        odometry_topic = (
            writer.add_connection("/odometry", "nav_msgs/msg/Odometry", typestore=TYPES) if odometry else None
        )
        for index, (pose, stamp) in enumerate(zip(poses, stamps, strict=True)):
            received = START_NS + index * RATE_NS + 5_000_000
            message = cloud_message(transform(np.linalg.inv(pose), a_street()), stamp)
            writer.write(clouds, received, TYPES.serialize_cdr(message, message.__msgtype__))
            if odometry_topic:
                message = odometry_message(pose, stamp)
                writer.write(odometry_topic, received, TYPES.serialize_cdr(message, message.__msgtype__))
    return path
