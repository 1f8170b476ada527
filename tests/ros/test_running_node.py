"""An active node: latency budget, memory limit, labels, filters, outputs, services and quality of service."""

import json

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray
from fake_completer import FakeCompleter
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSLivelinessPolicy
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from lidar_completion.point_clouds import decode
from lidar_completion_ros.status import SweepLabel


def provenance_of(completion):
    return np.frombuffer(completion.data, np.uint8).reshape(-1, 24)[:, 16]


def label_of(message):
    return SweepLabel.from_status(message.status[0])


# ---- budget and labels ----


def test_every_sweep_has_a_label_with_its_stamp(start_node, peer, street, cloud):
    start_node(steps=2, replication=3)
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")
    sweep = cloud(street(), stamp_ns=10**18 + 7)
    completion = peer.complete(sweep)
    peer.until(lambda: labels)
    label = label_of(labels[0])
    assert labels[0].header == sweep.header
    assert (label.steps, label.replication) == (2, 3)
    assert (label.points_in, label.missing_returns) == (sweep.width, 0)
    assert label.points_out == completion.width
    assert 0 < label.points_completed < completion.width
    assert label.stages_ms["total"] > 0


def test_impossible_budget_gives_the_minimum_workload_and_a_warning(start_node, peer, street, cloud):
    start_node(steps=3, replication=8, latency_budget_ms=0.01)
    for index in range(3):
        peer.complete(cloud(street(), stamp_ns=10**18 + index))
    report = peer.until_reported(lambda report: "over budget" in report.message)
    assert report.level == 1
    assert "minimum workload" in report.message
    assert (report.last_sweep.steps, report.last_sweep.replication) == (1, 1)
    assert report.status.max_steps == 3


def test_generous_budget_gives_the_full_workload(start_node, peer, street, cloud):
    start_node(steps=3, replication=8, latency_budget_ms=60_000.0)
    for index in range(3):
        peer.complete(cloud(street(), stamp_ns=10**18 + index))
    report = peer.until_reported(lambda report: report.counts.completed == 3)
    assert (report.last_sweep.steps, report.last_sweep.replication) == (3, 8)
    assert report.status.convolution == "cpu"
    assert report.values["workload level"]
    assert report.values["cost denoise"].endswith("per unit")


def test_budget_can_change_at_run_time(start_node, peer, street, cloud):
    node = start_node(steps=2, replication=4)
    for stamp_ns, budget_ms, replication in ((10**18, 0.01, 1), (10**18 + 1, 0.0, 4)):
        assert node.set_parameters([Parameter("latency_budget_ms", value=budget_ms)])[0].successful
        peer.complete(cloud(street(), stamp_ns=stamp_ns))
        peer.until_reported(lambda report, wanted=replication: report.last_sweep.replication == wanted)


def test_work_limits_follow_the_parameters(start_node, peer):
    node = start_node(steps=2, replication=4)
    changes = [Parameter("steps", value=3), Parameter("replication", value=5)]
    assert node.set_parameters_atomically(changes).successful
    status = peer.until_reported(lambda report: report.status.max_steps == 3).status
    assert status.max_replication == 5


def test_memory_exhaustion_reduces_the_workload_and_is_an_error(start_node, peer, tiny_model, street, cloud):
    completer = FakeCompleter(tiny_model)

    def exhaust(start_points):
        if start_points > 3 * len(street()):
            raise torch.OutOfMemoryError("CUDA out of memory")

    start_node(replication=8, load_completer=lambda parameters, device: completer)
    completer.before = exhaust
    assert peer.complete(cloud(street(), stamp_ns=1)).width > 0
    report = peer.until_reported(lambda report: report.level == 2)
    assert "out of memory: replication 2 of 8" in report.message
    completer.before = lambda start_points: None
    assert peer.call(Trigger, "reset", Trigger.Request()).success
    peer.complete(cloud(street(), stamp_ns=2))
    peer.until(lambda: not peer.status.memory)


# ---- measured points, filters ----


@pytest.mark.parametrize("missing", [[0.0, 0.0, 0.0], [np.nan, np.nan, np.nan], [np.nan, 1.0, 1.0]])
def test_missing_returns_are_dropped_and_counted(missing, start_node, peer, street, cloud):
    start_node(target_frame="base_link", transforms="parameters", sensor_pose=[1.0, 0.0, 1.8, 0.0, 0.0, 0.0])
    labels = peer.listen(DiagnosticArray, "/lidar_completion/debug/sweep")
    points = street()
    points[::3] = missing
    peer.sweeps.publish(cloud(points))
    peer.until(lambda: labels and peer.completions)
    out = decode(peer.completions[0])
    measured = provenance_of(peer.completions[0]) == 0
    kept = np.arange(len(points)) % 3 != 0
    assert label_of(labels[0]).missing_returns == (~kept).sum()
    np.testing.assert_allclose(out.points[measured], points[kept] + [1.0, 0.0, 1.8], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.intensity[measured], (np.arange(len(points)) % 256)[kept])
    assert peer.completions[0].is_dense


def test_removed_points_are_counted_by_reason(start_node, peer, street, cloud):
    start_node(replication=8, max_points=3000, ego_box_m=[-4.0, -4.0, -3.0, 4.0, 4.0, 3.0])
    completion = peer.complete(cloud(street()))
    removed = peer.until_reported(lambda report: report.last_sweep is not None).last_sweep.removed
    completed = decode(completion).points[provenance_of(completion) == 1]
    assert completion.width <= 3000
    assert not (np.abs(completed) <= (4.0, 4.0, 3.0)).all(axis=1).any()
    assert removed["ego_box"] > 0
    assert removed["max_points"] > 0
    assert "free_space" in removed


def test_completed_points_have_the_intensity_of_the_nearest_measured_point(start_node, peer, street, cloud):
    start_node()
    completion = peer.complete(cloud(street()))
    assert (decode(completion).intensity[provenance_of(completion) == 1] > 0).mean() > 0.9


# ---- outputs and quality of service ----


def test_completed_points_have_a_topic_of_their_own(start_node, peer, street, cloud):
    start_node()
    completed = peer.listen(PointCloud2, "/lidar_completion/points_completed")
    whole = peer.complete(cloud(street()))
    peer.until(lambda: completed)
    assert completed[0].header == whole.header
    np.testing.assert_array_equal(decode(completed[0]).points, decode(whole).points[provenance_of(whole) == 1])


def test_a_subscriber_of_either_output_is_enough(start_node, peer, street, cloud):
    start_node()
    peer.stop_listening_to_completions()
    completed = peer.listen(PointCloud2, "/lidar_completion/points_completed")
    peer.until(lambda: peer.status.output_subscribers == 1)
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: completed)


def test_qos_overrides_are_applied(start_node, peer, street, cloud):
    prefix = "qos_overrides./velodyne_points/completed.publisher"
    lease_ns = 3 * 10**9
    start_node(**{
        f"{prefix}.durability": "transient_local",
        f"{prefix}.deadline": 50 * 10**6,
        f"{prefix}.liveliness": "automatic",
        f"{prefix}.liveliness_lease_duration": lease_ns,
    })  # fmt: skip
    (offered,) = peer.node.get_publishers_info_by_topic("/velodyne_points/completed")
    assert offered.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    assert offered.qos_profile.deadline.nanoseconds == 50 * 10**6
    assert offered.qos_profile.liveliness == QoSLivelinessPolicy.AUTOMATIC
    assert offered.qos_profile.liveliness_lease_duration.nanoseconds == lease_ns
    peer.complete(cloud(street()))
    peer.until(lambda: peer.counts.deadlines_missed > 0)  # nothing follows the first completion


# ---- services ----


def test_steps_service(make_node, peer, tiny_model):
    node = make_node(model=str(tiny_model))

    def answer(*parameters):
        return peer.call(SetParametersAtomically, "set_steps", request(*parameters)).result

    def request(*parameters):
        return SetParametersAtomically.Request(parameters=list(parameters))

    assert answer(ParameterMessage(value=ParameterValue(type=2, integer_value=4))).successful
    assert node.parameters.steps == node.get_parameter("steps").value == 4
    assert "steps" in answer(ParameterMessage(name="steps", value=ParameterValue(type=2, integer_value=9))).reason
    assert not answer(ParameterMessage(name="seed", value=ParameterValue(type=2, integer_value=1))).successful
    assert not answer(ParameterMessage(name="steps", value=ParameterValue(type=4, string_value="four"))).successful
    assert not answer().successful
    assert node.parameters.steps == 4


def test_key_values_of_the_diagnostic_are_the_typed_records(start_node, peer, street, cloud):
    """What receivers parse is what the node wrote: nothing is lost between record and text."""
    start_node()
    peer.complete(cloud(street()))
    report = peer.until_reported(lambda report: report.counts.completed == 1)
    records = (report.status, report.counts, report.last_sweep)
    pairs = {key: value for record in records for key, value in record.to_key_values().items()}
    assert pairs == {key: report.values[key] for key in pairs}
    json.dumps(pairs)
