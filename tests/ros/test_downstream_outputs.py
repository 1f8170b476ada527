"""The outputs for planning and mapping: points_confident, occupancy, and the layouts of the cloud."""

import dataclasses

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from sensor_msgs.msg import PointCloud2

from lidar_completion.completer import SceneCompleter
from lidar_completion.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyRules, occupancy_grid
from lidar_completion.output_layouts import XYZIRC
from lidar_completion.point_clouds import allocate_points, decode, dtype_from_fields, scalar_fields
from lidar_completion_ros import publishers
from lidar_completion_ros.point_cloud_messages import cloud_message

CONFIDENT, OCCUPANCY = "/lidar_completion/points_confident", "/lidar_completion/occupancy"
DRIVER = np.dtype([
    ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "u1"), ("return_type", "u1"), ("ring", "<u2"), ("time", "<f4"),
])  # fmt: skip


@pytest.fixture
def driver_sweep(street, cloud):
    """A sweep with ring, time and return type in which every seventh return is missing; and its points (N,) as an array."""
    points = street()
    points[::7] = np.nan
    buffer, array = allocate_points(len(points), DRIVER)
    for axis, name in enumerate("xyz"):
        array[name] = points[:, axis]
    index = np.arange(len(points))
    array["intensity"], array["return_type"], array["ring"] = index % 256, 1 + index % 5, index % 16
    array["time"] = index / len(points) * 0.1
    message = cloud_message(cloud(points).header, buffer, DRIVER)
    return message, array.copy()


@pytest.fixture
def varied_confidence(tiny_model):
    """Loads the tiny model, whose completed points get confidences from 0 to 1."""

    def load(parameters, device):
        completer = SceneCompleter.load(tiny_model, device="cpu")
        complete = completer.complete

        def with_confidence(*given, **options):
            completion = complete(*given, **options)
            confidence = completion.confidence.copy()
            completed = len(completion.completed_points)
            confidence[-completed:] = np.random.default_rng(0).uniform(0, 1, completed)
            return dataclasses.replace(completion, confidence=confidence)

        completer.complete = with_confidence
        return completer

    return load


def points_of(message):
    """The points of an unorganised cloud as a structured array."""
    return np.frombuffer(message.data, dtype_from_fields(message.fields, message.point_step))


def test_confident_points_are_the_completed_ones_above_the_threshold(
    start_node, peer, street, cloud, varied_confidence
):
    node = start_node(load_completer=varied_confidence)
    confident = peer.listen(PointCloud2, CONFIDENT)
    for round_number, threshold in enumerate((0.3, 0.7)):
        assert node.set_parameters([Parameter("marking_min_confidence", value=threshold)])[0].successful
        whole = peer.complete(cloud(street(), stamp_ns=10**18 + round_number))
        peer.until(lambda count=round_number: len(confident) > count)
        fields, message = scalar_fields(whole), confident[round_number]
        rows = (fields["provenance"] == 1) & (fields["confidence"] >= threshold)
        assert 0 < rows.sum() < (fields["provenance"] == 1).sum()
        assert [field.name for field in message.fields] == ["x", "y", "z", "intensity"]
        assert message.header == whole.header
        np.testing.assert_array_equal(decode(message).points, decode(whole).points[rows])
        np.testing.assert_array_equal(decode(message).intensity, decode(whole).intensity[rows])


@pytest.mark.parametrize("pose", [[0.0] * 6, [1.0, -2.0, 1.8, 0.0, 0.1, 1.5]])
def test_occupancy_is_that_of_the_published_points(pose, start_node, peer, street, cloud, varied_confidence):
    frame = {"target_frame": "base_link", "transforms": "parameters", "sensor_pose": pose} if any(pose) else {}
    settings = {"occupancy_size_m": 40.0, "occupancy_resolution_m": 0.5, "marking_min_confidence": 0.4}
    start_node(load_completer=varied_confidence, **settings, **frame)
    grids = peer.listen(OccupancyGrid, OCCUPANCY)
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: grids and peer.completions)
    whole = peer.completions[0]
    fields, points = scalar_fields(whole), decode(whole).points
    measured = fields["provenance"] == 0
    rules = OccupancyRules(resolution_m=0.5, size_m=40.0)
    confident = points[~measured & (fields["confidence"] >= 0.4)]
    expected = occupancy_grid(points[measured], confident, np.array(pose[:3]), rules)
    grid = grids[0]
    assert grid.header == whole.header
    assert (grid.info.width, grid.info.height, grid.info.resolution) == (80, 80, 0.5)
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == pytest.approx(tuple(expected.corner))
    assert grid.info.origin.orientation.w == 1.0
    np.testing.assert_array_equal(np.array(grid.data, np.int8).reshape(80, 80), expected.values)
    assert {UNKNOWN, FREE, OCCUPIED} == set(grid.data)
    assert (expected.values != occupancy_grid(points[measured], confident[:0], np.array(pose[:3]), rules).values).any()


def test_measured_points_in_the_ego_box_do_not_occupy(start_node, peer, street, cloud):
    node = start_node(occupancy_size_m=20.0, occupancy_resolution_m=0.5)
    grids = peer.listen(OccupancyGrid, OCCUPANCY)
    vehicle = np.random.default_rng(0).uniform([-2, -1, -1.2], [2, 1, 0.1], (500, 3)).astype(np.float32)
    occupied = []
    for round_number, box in enumerate(([0.0] * 6, [-2.1, -1.1, -2.0, 2.1, 1.1, 0.3])):
        assert node.set_parameters([Parameter("ego_box_m", value=box)])[0].successful
        peer.complete(cloud(np.concatenate([street(), vehicle]), stamp_ns=10**18 + round_number))
        peer.until(lambda count=round_number: len(grids) > count)
        middle = np.array(grids[-1].data, np.int8).reshape(40, 40)[18:22, 16:24]
        occupied.append((middle == OCCUPIED).sum())
    assert occupied[0] > 20
    assert occupied[1] == 0


@pytest.mark.parametrize(("kind", "topic"), [(PointCloud2, CONFIDENT), (OccupancyGrid, OCCUPANCY)])
def test_a_subscriber_of_any_output_is_enough(kind, topic, start_node, peer, street, cloud):
    start_node()
    peer.stop_listening_to_completions()
    heard = peer.listen(kind, topic)
    peer.until(lambda: peer.status.output_subscribers == 1)
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: heard)


def test_outputs_without_subscribers_are_not_computed(start_node, peer, street, cloud, monkeypatch):
    computed = []
    for name in ("occupancy_of", "confident_rows"):
        original = getattr(publishers, name)
        monkeypatch.setattr(
            publishers, name, lambda *given, name=name, original=original: computed.append(name) or original(*given)
        )
    start_node()
    peer.complete(cloud(street(), stamp_ns=1))
    assert computed == []
    grids = peer.listen(OccupancyGrid, OCCUPANCY)
    peer.complete(cloud(street(), stamp_ns=2))
    peer.until(lambda: grids)
    assert computed == ["occupancy_of"]


def test_outputs_exist_from_configure_to_cleanup(start_node, peer):
    node = start_node()
    offered = {topic: peer.node.get_publishers_info_by_topic(topic) for topic in (CONFIDENT, OCCUPANCY)}
    (usual,) = peer.node.get_publishers_info_by_topic("/velodyne_points/completed")
    for publishers_of_topic in offered.values():
        (publisher,) = publishers_of_topic
        assert publisher.qos_profile.reliability == usual.qos_profile.reliability
        assert publisher.qos_profile.durability == usual.qos_profile.durability
    node.trigger_deactivate()
    node.trigger_cleanup()
    peer.until(lambda: not any(peer.node.count_publishers(topic) for topic in offered))


def test_driver_fields_of_measured_points_are_passed_on(start_node, peer, driver_sweep):
    sweep, given = driver_sweep
    start_node(output_layout="pass_through")
    completion = peer.complete(sweep)
    points = points_of(completion)
    kept = given[np.isfinite(given["x"])]
    assert set(points.dtype.names) == {
        "x",
        "y",
        "z",
        "intensity",
        "provenance",
        "confidence",
        "return_type",
        "ring",
        "time",
    }
    measured = points[points["provenance"] == 0]
    for name in ("x", "y", "z", "return_type", "ring", "time"):
        assert points.dtype[name] == given.dtype[name]
        assert measured[name].tobytes() == kept[name].tobytes()
    completed = points[points["provenance"] == 1]
    assert len(completed)
    assert not any(completed[name].any() for name in ("return_type", "ring", "time"))


def test_xyzirc_layout_is_that_of_autoware(start_node, peer, driver_sweep):
    sweep, given = driver_sweep
    start_node(output_layout="xyzirc")
    alone = peer.listen(PointCloud2, "/lidar_completion/points_completed")
    completion = peer.complete(sweep)
    peer.until(lambda: alone)
    assert [(field.name, field.offset, field.datatype, field.count) for field in completion.fields] == [
        ("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("intensity", 12, 2, 1), ("return_type", 13, 2, 1), ("channel", 14, 4, 1),
    ]  # fmt: skip
    assert completion.point_step == 16
    points, kept = points_of(completion).astype(XYZIRC), given[np.isfinite(given["x"])]
    for name, source in (
        ("x", "x"),
        ("y", "y"),
        ("z", "z"),
        ("intensity", "intensity"),
        ("return_type", "return_type"),
    ):
        assert points[name][: len(kept)].tobytes() == kept[source].tobytes()
    np.testing.assert_array_equal(points["channel"][: len(kept)], kept["ring"])
    assert len(points) > len(kept)
    assert not points["return_type"][len(kept) :].any()
    assert bytes(alone[0].data) == points[len(kept) :].tobytes()


def test_sweep_without_driver_fields_has_the_usual_layout(start_node, peer, street, cloud):
    start_node(output_layout="pass_through")
    completion = peer.complete(cloud(street()))
    assert completion.point_step == 24
    assert [field.name for field in completion.fields] == ["x", "y", "z", "intensity", "provenance", "confidence"]
