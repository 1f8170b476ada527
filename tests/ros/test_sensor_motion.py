"""Target frame, deskewing, temporal mode and jumps in time, with an active node."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from lidar_completion.point_clouds import allocate_points, decode
from lidar_completion_ros.motion.frames import tf_is_installed
from lidar_completion_ros.point_cloud_messages import cloud_message
from lidar_completion_ros.status import SweepLabel


def stamped_cloud(points, stamp, times=None):
    """A PointCloud2 of points (N, 3), with per-point times if given."""
    fields = ["x", "y", "z"] + ([] if times is None else ["time"])
    layout = np.dtype([(name, "<f4") for name in fields])
    buffer, rows = allocate_points(len(points), layout)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    if times is not None:
        rows["time"] = times
    return cloud_message(Header(stamp=stamp, frame_id="velodyne"), buffer, layout)


def test_output_is_in_the_target_frame(start_node, peer, street, cloud):
    start_node(target_frame="base_link", transforms="parameters", sensor_pose=[1.0, 0.0, 1.8, 0.0, 0.0, np.pi / 2])
    sweep = cloud(street(), stamp_ns=10**18 + 5)
    peer.sweeps.publish(sweep)
    peer.until(lambda: peer.completions)
    out, measured = decode(peer.completions[-1]).points, decode(sweep).points
    assert peer.completions[-1].header.frame_id == "base_link"
    assert peer.completions[-1].header.stamp == sweep.header.stamp
    expected = np.stack([1 - measured[:, 1], measured[:, 0], measured[:, 2] + 1.8], axis=1)
    np.testing.assert_allclose(out[: len(measured)], expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(tf_is_installed(), reason="tf2_ros is installed")
def test_target_frame_without_a_source_of_transforms_fails_configure(make_node, tiny_model):
    node = make_node(model=str(tiny_model), target_frame="base_link", transforms="auto")
    assert node.trigger_configure().name == "FAILURE"
    assert "sensor_pose" in node.configure_error


@pytest.mark.parametrize("motion", ["twist", "odometry"])
def test_sweep_with_per_point_times_is_deskewed(motion, start_node, peer, street):
    """At 10 m/s a point measured 0.1 s after the stamp lies 1 m farther ahead in the sensor frame at the stamp."""
    if motion == "twist":
        kind, message = TwistStamped, TwistStamped()
        message.header.frame_id, twist = "velodyne", message.twist
    else:
        kind = pytest.importorskip("nav_msgs.msg", reason="needs nav_msgs").Odometry
        message = kind(child_frame_id="velodyne")
        twist = message.twist.twist
    twist.linear.x, message.header.stamp.sec = 10.0, 10**9
    start_node(motion=motion)
    points, times = street(), np.zeros(len(street()), np.float32)
    times[::2] = 0.1
    sweep = stamped_cloud(points, message.header.stamp, times)
    twists = peer.node.create_publisher(kind, motion, 10)
    peer.until(lambda: twists.get_subscription_count() > 0)
    twists.publish(message)
    while not (peer.reports[-1].last_sweep and peer.reports[-1].last_sweep.deskewed):  # the twist may arrive later
        peer.complete(sweep)
        peer.until_reported(lambda report: True)
    out = decode(peer.completions[-1]).points[: len(points)]
    np.testing.assert_allclose(out[:, 0] - points[:, 0], times * 10, rtol=0, atol=1e-4)


def test_temporal_mode_uses_the_previous_completion_until_time_jumps(start_node, peer, street):
    start_node(motion="twist", temporal=True)
    twists = peer.node.create_publisher(TwistStamped, "twist", 10)
    peer.until(lambda: twists.get_subscription_count() > 0)
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")

    def temporal_status(nanoseconds: int) -> str:
        stamp = Time(sec=10**9, nanosec=nanoseconds)
        twists.publish(TwistStamped(header=Header(stamp=stamp, frame_id="velodyne")))
        peer.complete(stamped_cloud(street(), stamp))
        peer.until(lambda: labels and labels[-1].header.stamp == stamp)
        return SweepLabel.from_status(labels[-1].status[0]).temporal

    stamps = iter(range(0, 10**9, 10**8))
    while (found := temporal_status(next(stamps))) == "no motion":  # the twist may arrive after the sweep
        pass
    assert found == "started"
    assert temporal_status(next(stamps)) == "used"
    assert "0.5" in temporal_status(999_999_999)  # the gap is longer
    assert temporal_status(0) in ("started", "no motion")  # time went back: everything is forgotten


def test_clock_jumping_back_clears_recent_figures(start_node, peer, street, cloud):
    node = start_node(use_sim_time=True)
    clock = peer.node.create_publisher(Clock, "/clock", QoSProfile(depth=1))

    def set_clock(seconds):
        def heard():
            clock.publish(Clock(clock=Time(sec=seconds)))
            return abs(node.get_clock().now().nanoseconds / 1e9 - seconds) < 1

        peer.until(heard)

    set_clock(100_000)
    peer.complete(cloud(street(), stamp_ns=100_000 * 10**9))
    peer.until(lambda: peer.status.latency_p99_ms > 0)
    set_clock(96_400)
    peer.until(lambda: np.isnan(peer.status.latency_p99_ms))
    assert peer.counts.completed == 1
    peer.complete(cloud(street(), stamp_ns=96_400 * 10**9))
    peer.until(lambda: (peer.counts.stamp_jumps, peer.counts.completed) == (1, 2))


def test_zero_stamps_are_reported(start_node, peer, street, cloud):
    start_node()
    peer.complete(cloud(street(), stamp_ns=0))
    peer.until(lambda: any("stamp is zero" in report.message for report in peer.reports))
