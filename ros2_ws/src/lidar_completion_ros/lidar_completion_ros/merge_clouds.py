"""Merges the completions of several LiDARs into one cloud: `lidar_completion_merge`, or python -m.

Each LiDAR has its own completion node, all with the same target_frame, output_fields and output_layout, so that the points can be
concatenated byte by byte. Only clouds with nearly equal stamps are merged; motion between the sweeps is not compensated.
"""

from __future__ import annotations

import array
import signal
import sys
import threading
from functools import partial
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2


class CloudMerger(Node):
    """Publishes `merged` whenever the stamps of the newest clouds of all `topics` are close enough."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("lidar_completion_merge", **arguments)
        about = "Topics of the clouds, which share frame and fields; relative to the namespace unless they start with /"
        topics = self.declare_parameter(
            "topics", ["front/completed", "rear/completed"], ParameterDescriptor(description=about, read_only=True)
        ).value
        self._max_difference_s = self.declare_parameter(
            "max_stamp_difference_s",
            0.06,
            ParameterDescriptor(
                description="Maximum difference of the stamps of merged clouds [s]",
                floating_point_range=[FloatingPointRange(from_value=0.0, to_value=10.0)],
            ),
        ).value
        self._newest: dict[str, PointCloud2 | None] = dict.fromkeys(topics)
        self._merged = self.create_publisher(PointCloud2, "merged", QoSProfile(depth=5))
        for topic in topics:
            self.create_subscription(PointCloud2, topic, partial(self._receive, topic), QoSProfile(depth=2))

    def _receive(self, topic: str, cloud: PointCloud2) -> None:
        self._warn_unmatched(topic)
        self._newest[topic] = cloud
        clouds = [each for each in self._newest.values() if each is not None]
        stamps = [_stamp_s(each) for each in clouds]
        if len(clouds) < len(self._newest) or max(stamps) - min(stamps) > self._max_difference_s:
            return
        try:
            self._merged.publish(merged(clouds))
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
        self._newest = dict.fromkeys(self._newest)

    def _warn_unmatched(self, topic: str) -> None:
        """Warn if the previous cloud of the topic is discarded because no matching clouds arrived on the others."""
        if self._newest[topic] is None:
            return
        others = [each for each in self._newest if each != topic]
        self.get_logger().warning(
            f"a cloud of {topic} was not merged: none within {self._max_difference_s} s of its stamp on one of {others}",
            throttle_duration_sec=5.0,
        )


def merged(clouds: list[PointCloud2]) -> PointCloud2:
    """All points of `clouds` under the newest stamp. Raises ValueError if frames or layouts differ or a cloud is truncated."""
    first = clouds[0]
    for cloud in clouds:
        if not _is_complete(cloud):
            raise ValueError(
                f"{cloud.width} x {cloud.height} points of {cloud.point_step} bytes, rows of {cloud.row_step}: "
                f"expected as many bytes of data, found {len(cloud.data)}"
            )
    for cloud in clouds[1:]:
        if cloud.header.frame_id != first.header.frame_id:
            raise ValueError(
                f"frames differ: {first.header.frame_id!r} and {cloud.header.frame_id!r}; give all nodes one target_frame"
            )
        if (cloud.fields, cloud.point_step, cloud.is_bigendian) != (first.fields, first.point_step, first.is_bigendian):
            raise ValueError(
                f"layouts differ: {[each.name for each in first.fields]} and {[each.name for each in cloud.fields]}; "
                "give all nodes the same output_fields and output_layout"
            )
    newest = max(clouds, key=_stamp_s)
    data = array.array("B")
    for cloud in clouds:
        data.frombytes(_packed(cloud))
    count = len(data) // first.point_step
    return PointCloud2(
        header=newest.header,
        height=1,
        width=count,
        fields=first.fields,
        is_bigendian=first.is_bigendian,
        point_step=first.point_step,
        row_step=count * first.point_step,
        data=data,
        is_dense=all(cloud.is_dense for cloud in clouds),
    )


def _is_complete(cloud: PointCloud2) -> bool:
    rows_fit = cloud.width * cloud.point_step <= cloud.row_step
    return cloud.point_step > 0 and rows_fit and len(cloud.data) >= cloud.row_step * cloud.height


def _packed(cloud: PointCloud2) -> bytes:
    """The points without the padding of the rows."""
    data, row = memoryview(cloud.data).cast("B"), cloud.width * cloud.point_step
    return b"".join(data[start : start + row] for start in range(0, cloud.row_step * cloud.height, cloud.row_step or 1))


def _stamp_s(cloud: PointCloud2) -> float:
    return cloud.header.stamp.sec + cloud.header.stamp.nanosec / 1e9


def main() -> None:
    """Run the merger until SIGINT or SIGTERM."""
    # launch and the terminal both send SIGINT: the second one must not interrupt the shutdown
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    merger, executor = CloudMerger(), SingleThreadedExecutor()
    executor.add_node(merger)
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)  # returns often enough for signals to be handled
    merger.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
