"""Start the node: `python -m lidar_completion_ros`, the console script `lidar_completion_node`, or the launch file.

Exit codes: 0 after SIGINT, SIGTERM or a shutdown transition; 2 if the node cannot start, for example because of an invalid
model or parameter. After a signal, the current sweep is published if it is done within four seconds, otherwise abandoned.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lidar_completion_ros.installed_files import use_shared_memory_profile
from lidar_completion_ros.shared_memory import remove_dead_segments

if TYPE_CHECKING:
    from lidar_completion_ros.node import CompletionNode

CANNOT_START = 2
SECONDS_TO_STOP = 4.0  # ros2 launch sends SIGTERM after five
DEFAULT_REMAPS = ("-r", "~/points:=velodyne_points/completed")
HELP = """Completes LiDAR sweeps: velodyne_points (sensor_msgs/PointCloud2) -> velodyne_points/completed.
Configures and activates itself unless the parameter autostart is false.
Model, topics and parameters are ROS arguments:
  lidar_completion_node --ros-args -p model:=PATH -r velodyne_points:=/front/points --params-file complete.param.yaml"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the node until SIGINT, SIGTERM or its shutdown transition, then exit the process."""
    stop = _stop_on_signals()
    given = list(sys.argv if arguments is None else arguments)
    _refuse_other_arguments(given)
    use_shared_memory_profile(os.environ)
    removed = remove_dead_segments()
    if removed.segments:
        print(f"lidar_completion_node: {removed}", file=sys.stderr)
    exit_code = _run(given, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # The node has left the network. Python can take seconds to tear down torch and does not handle signals meanwhile, so
    # ros2 launch would kill the process and report a crash.
    os._exit(exit_code)


def _stop_on_signals() -> threading.Event:
    """An event set by SIGINT and SIGTERM. The process ends within `SECONDS_TO_STOP` of the first signal."""
    stop = threading.Event()

    def handle(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            deadline = threading.Timer(SECONDS_TO_STOP, _abandon)
            deadline.daemon = True
            deadline.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop


def _abandon() -> None:
    print(f"lidar_completion_node: sweep abandoned {SECONDS_TO_STOP:.0f} s after the signal", file=sys.stderr)
    sys.stderr.flush()
    os._exit(0)  # there is no other way to interrupt a forward pass


def _refuse_other_arguments(given: Sequence[str]) -> None:
    from rclpy.utilities import remove_ros_args

    parser = argparse.ArgumentParser(
        "lidar_completion_node", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(remove_ros_args(given)[1:])


def _run(given: list[str], stop: threading.Event) -> int:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    # The first matching remap rule wins, so the user's rules come first.
    rclpy.init(args=[*given, "--ros-args", *DEFAULT_REMAPS], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = _start_node()
        if node is None:
            return CANNOT_START
        try:
            return _spin(node, stop)
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def _start_node() -> CompletionNode | None:
    from lidar_completion_ros.node import CompletionNode

    try:
        return CompletionNode()
    except Exception as error:  # a parameter of the wrong type or out of range, an invalid file, ...
        print(f"lidar_completion_node: {error}", file=sys.stderr)
        return None


def _spin(node: CompletionNode, stop: threading.Event) -> int:
    from rclpy.executors import SingleThreadedExecutor

    if node.parameters.autostart and not _autostart(node):
        node.report()
        return CANNOT_START
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set() and node.state != "finalized" and node.context.ok():
        try:
            executor.spin_once(timeout_sec=0.1)  # returns often enough for signals to be handled
        except Exception as error:
            node.callback_failed(error)
    node.close()
    executor.remove_node(node)
    return 0


def _autostart(node: CompletionNode) -> bool:
    from rclpy.lifecycle import TransitionCallbackReturn

    success = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == success and node.trigger_activate() == success


if __name__ == "__main__":
    main()
