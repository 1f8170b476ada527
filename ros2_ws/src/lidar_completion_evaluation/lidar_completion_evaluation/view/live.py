"""The running node's completions for the 3-D view, over DDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2

from lidar_completion_evaluation.view.sweeps import ViewedSweep, sweep_of_message

NODE_NAME = "lidar_completion"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
PARTIAL_OUTPUTS = ("points_completed", "points_confident")  # of the node: without the measured points
DISCOVERY_S = 10.0
MIN_INTERVAL_S = 0.2  # between sweeps that are drawn: a completed sweep is several megabytes for the browser


def follow(
    show: Callable[[ViewedSweep], None],
    topic: str | None = None,
    *,
    stop: Callable[[], bool],
    on_wait: Callable[[str], None] = print,
) -> None:
    """Call `show` with every completion of the node, five times a second at most, until `stop()` is true.

    topic: default: the output of the running node; waits for one. on_wait: called once with a message if there is no
    node after 10 s.
    """
    with _node() as (node, executor):
        topic = topic or _find_topic(node, executor, stop, on_wait)
        latest: list[PointCloud2] = []
        if topic:
            node.create_subscription(PointCloud2, topic, latest.append, qos_profile_sensor_data)
        drawn = 0.0
        while not stop():
            executor.spin_once(timeout_sec=0.1)
            if latest and time.monotonic() - drawn >= MIN_INTERVAL_S:
                drawn = time.monotonic()
                stamp = latest[-1].header.stamp
                show(sweep_of_message(latest[-1], f"{topic}, stamp {stamp.sec}.{stamp.nanosec:09d}"))
                latest.clear()
            del latest[:-1]


@contextmanager
def _node() -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node and its executor in their own context, independent of any other in this process."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    try:
        node = rclpy.create_node("lidar_completion_view", context=context)
        executor.add_node(node)
        yield node, executor
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown()
        rclpy.try_shutdown(context=context)


def _find_topic(
    node: Node, executor: SingleThreadedExecutor, stop: Callable[[], bool], on_wait: Callable[[str], None]
) -> str | None:
    """The PointCloud2 topic on which the node publishes completions with the measured points; None if stopped before."""
    started, reported = time.monotonic(), False
    while not stop():
        executor.spin_once(timeout_sec=0.2)
        clouds = [name for name, kinds in node.get_topic_names_and_types() if POINT_CLOUD in kinds]
        for name in clouds:
            publishers = {info.node_name for info in node.get_publishers_info_by_topic(name)}
            if NODE_NAME in publishers and not name.endswith(PARTIAL_OUTPUTS):
                return name
        if not reported and time.monotonic() - started > DISCOVERY_S:
            reported = True
            on_wait(
                f"waiting for a node named {NODE_NAME} (PointCloud2 topics now: {', '.join(clouds) or 'none'}); "
                "--topic chooses a topic of another name"
            )
    return None
