"""What the node reports and does about the mounting of the sensor and the frame of the sweeps."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from scipy.spatial.transform import Rotation
from std_srvs.srv import Trigger

from lidar_completion.point_clouds import decode
from lidar_completion_ros.status import SweepLabel


@pytest.fixture(scope="module")
def sweep(street):
    return street()


def tilted(points, axis, angle_deg):
    return Rotation.from_euler(axis, angle_deg, degrees=True).apply(points).astype(np.float32)


def measured_points(completion):
    rows = np.frombuffer(completion.data, np.uint8).reshape(-1, 24)[:, 16] == 0
    return decode(completion).points[rows]


def completed_points(completion):
    rows = np.frombuffer(completion.data, np.uint8).reshape(-1, 24)[:, 16] == 1
    return decode(completion).points[rows]


CASES = {
    "roll 10": (lambda p: tilted(p, "x", 10), "tilted by 10° about x"),
    "pitch 10": (lambda p: tilted(p, "y", 10), "tilted by 10° about y"),
    "pitch -20": (lambda p: tilted(p, "y", -20), "tilted by 20° about y"),
    "upside down": (lambda p: tilted(p, "x", 180), "upside down"),
    "optical frame": (lambda p: tilted(p, "x", 90), "optical frame"),
    "base_link": (lambda p: p + np.float32([0, 0, 1.8]), "seems to be in base_link"),
    "0.6 m high": (lambda p: p + np.float32([0, 0, 1.2]), "only 0.6 m above the ground"),
}


def test_unseen_mountings_are_a_warning_and_the_sweep_is_completed(start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0)
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")
    for number, (change, text) in enumerate(CASES.values()):
        assert peer.call(Trigger, "reset", Trigger.Request()).success  # forget the sweeps of the previous case
        for stamp_ns in (10**18 + 2 * number, 10**18 + 2 * number + 1):  # a warning comes with the second sweep
            peer.complete(cloud(change(sweep), stamp_ns=stamp_ns))
        report = peer.until_reported(lambda report, text=text: text in report.message)
        assert report.level == 1
        peer.until(lambda number=number: len(labels) > 2 * number + 1)
        assert text in SweepLabel.from_status(labels[-1].status[0]).mounting_warning


def test_usual_mounting_is_ok_and_its_figures_are_reported(start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0)
    peer.complete(cloud(sweep))
    report = peer.until_reported(lambda report: report.last_sweep is not None)
    label = report.last_sweep
    assert (report.level, report.message) == (0, "completing")
    assert label.mounting_warning == ""
    assert label.ground_height_m == pytest.approx(1.8, abs=0.06)
    assert abs(label.sensor_roll_deg) < 1
    assert abs(label.sensor_pitch_deg) < 1
    assert 0 <= label.outside_percent < 10
    assert not label.levelled


@pytest.mark.parametrize("offset", [(0, 0, 50), (100, 50, 0)])
def test_cloud_in_a_map_frame_is_refused(offset, start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0, max_range_m=500.0)
    peer.until_connected()
    peer.sweeps.publish(cloud(sweep + np.float32(offset)))
    report = peer.until_reported(lambda report: report.counts.refused == 1)
    assert (report.level, report.counts.faults) == (2, {"map frame": 1})
    assert "publish it in the frame of the sensor" in report.message
    assert not peer.completions


def test_single_misjudged_sweep_is_no_warning(start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0)
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")
    for number, angle_deg in enumerate((10, 0, 10, 0)):  # the first, and one among upright ones
        peer.complete(cloud(tilted(sweep, "y", angle_deg), stamp_ns=10**18 + number))
    peer.until(lambda: len(labels) == 4)
    assert not any("tilted" in SweepLabel.from_status(each.status[0]).mounting_warning for each in labels)


def test_frame_named_map_is_a_warning(start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0)
    peer.complete(cloud(sweep, frame="map"))
    assert peer.until_reported(lambda report: "named 'map'" in report.message).level == 1


def test_each_cause_is_logged_once(start_node, peer, cloud, sweep, capfd):
    start_node(sweep_timeout_s=60.0)
    for number in range(3):
        peer.complete(cloud(tilted(sweep, "y", 10), stamp_ns=10**18 + number))
    assert capfd.readouterr().err.count("mounting: the sensor is tilted") == 1


def test_check_can_be_switched_off(start_node, peer, cloud, sweep):
    start_node(sweep_timeout_s=60.0, check_mounting=False)
    peer.complete(cloud(tilted(sweep, "y", 20)))
    report = peer.until_reported(lambda report: report.last_sweep is not None)
    assert (report.level, report.last_sweep.mounting_warning) == (0, "")
    assert np.isnan(report.last_sweep.ground_height_m)


@pytest.mark.parametrize(
    "settings",
    [
        {"level_sweep": "estimate"},
        {"level_sweep": "pose", "sensor_pose": [0.0, 0.0, 1.8, 0.0, float(np.radians(-20)), 0.0]},
        {"level_sweep": "pose", "sensor_pose": [0.0, 0.0, 1.8, 0.0, float(np.radians(-20)), 0.5]},
    ],
)
def test_levelled_sweep_is_completed_without_a_warning(settings, start_node, peer, cloud, sweep):
    """Measured points stay bit-exact, completed points lie on the tilted ground again."""
    start_node(sweep_timeout_s=60.0, **settings)
    points = tilted(sweep, "y", 20)
    completion = peer.complete(cloud(points))
    report = peer.until_reported(lambda report: report.last_sweep is not None)
    assert (report.level, report.message) == (0, "completing")
    assert report.last_sweep.levelled
    assert measured_points(completion).tobytes() == points.tobytes()
    upright = tilted(completed_points(completion), "y", -20)
    assert np.percentile(upright[:, 2], 5) > -2.5


def test_levelling_by_pose_needs_a_source_of_transforms(make_node, tiny_model):
    node = make_node(model=str(tiny_model), level_sweep="pose")
    assert node.trigger_configure().name == "FAILURE"
    assert "sensor_pose" in node.configure_error
