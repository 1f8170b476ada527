"""What may change while the node works: budget, model, steps, time; and what it says about every sweep."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSLivelinessPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lidar_completion_ros import node as node_module
from lidar_completion_ros.frames import tf_is_installed
from lidar_completion_ros.motion import Twist
from lidar_completion_ros.node import CompletionNode, load_inference
from lidar_completion_ros.point_cloud_messages import allocate_points, cloud_message, read_sweep

RELIABLE = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}


@pytest.fixture
def start(ros, peer, tiny_model):
    """Starts an active node with the given parameters, in this process, beside the peer whose executor spins both."""
    made = []

    def make(*, activate=True, **parameters):
        values = {"diagnostics_period_s": 0.1, "model": str(tiny_model), **RELIABLE, **parameters}
        node = CompletionNode(
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        peer.executor.add_node(node)
        made.append(node)
        assert node.trigger_configure().name == "SUCCESS", node.configure_error
        if activate:
            assert node.trigger_activate().name == "SUCCESS", node.configure_error
            peer.until_connected()
        return node

    yield make
    for node in made:
        node.close()
        node.destroy_node()


def listen(peer, kind, topic):
    """Messages that come on a topic, once its publisher is seen."""
    heard = []
    subscription = peer.node.create_subscription(kind, topic, heard.append, 10)
    peer.until(lambda: subscription.get_publisher_count() > 0)
    return heard


def call(peer, kind, name, request):
    client = peer.node.create_client(kind, name)
    peer.until(client.service_is_ready)
    answer = client.call_async(request)
    peer.until(answer.done)
    return answer.result()


def copy_of(model, folder, name):
    """The model folder again under another name."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"name": name}))
    return folder


# ---- budget and labels ----


def test_every_sweep_is_labelled_under_its_stamp(start, peer, street, cloud):
    start(steps=2, replication=3)
    labels = listen(peer, DiagnosticArray, "/lidar_completion/debug/sweep")
    sweep = cloud(street(), stamp_ns=10**18 + 7)
    completion = peer.complete(sweep)
    peer.until(lambda: labels)
    label = {pair.key: pair.value for pair in labels[0].status[0].values}
    assert labels[0].header == sweep.header
    assert (label["steps used"], label["replication used"]) == ("2", "3")
    assert int(label["points out"]) == completion.width
    assert 0 < int(label["points completed"]) < completion.width


def test_an_impossible_budget_gets_the_least_work_and_a_warning(start, peer, street, cloud):
    start(steps=3, replication=8, latency_budget_ms=0.01)
    for index in range(3):
        peer.complete(cloud(street(), stamp_ns=10**18 + index))
    status = peer.until_diagnosed(lambda status: "over budget" in status.message)
    values = {pair.key: pair.value for pair in status.values}
    assert status.level == DiagnosticStatus.WARN
    assert "the least work" in status.message
    assert (values["steps used"], values["replication used"]) == ("1", "1")
    assert values["steps most"] == "3"


def test_a_generous_budget_gets_all_the_work(start, peer, street, cloud):
    start(steps=3, replication=8, latency_budget_ms=60_000.0)
    for index in range(3):
        peer.complete(cloud(street(), stamp_ns=10**18 + index))
    values = {pair.key: pair.value for pair in peer.until_diagnosed(lambda status: True).values}
    assert (values["steps used"], values["replication used"]) == ("3", "8")
    assert values["deadline choice"]
    assert values["convolution"] == "cpu"
    assert values["cost denoise"].endswith("per unit")


def test_the_budget_may_change_while_the_node_runs(start, peer, street, cloud):
    node = start(steps=2, replication=4)
    assert node.set_parameters([Parameter("latency_budget_ms", value=0.01)])[0].successful
    peer.complete(cloud(street(), stamp_ns=10**18))
    peer.until_diagnosed(
        lambda status: any((pair.key, pair.value) == ("replication used", "1") for pair in status.values)
    )
    assert node.set_parameters([Parameter("latency_budget_ms", value=0.0)])[0].successful
    peer.complete(cloud(street(), stamp_ns=10**18 + 1))
    peer.until_diagnosed(
        lambda status: any((pair.key, pair.value) == ("replication used", "4") for pair in status.values)
    )


def test_too_little_memory_is_an_error_with_smaller_work_until_it_fits(start, peer, street, cloud):
    node = start(replication=8)
    network = node._inference.completer.networks["denoiser"]

    class Full(torch.nn.Module):
        def forward(self, points, *others):
            if len(points.point_row) > 3000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return network(points, *others)

    node._inference.completer.networks["denoiser"] = Full()
    assert peer.complete(cloud(street(), stamp_ns=1)).width > 0
    status = peer.until_diagnosed(lambda status: status.level == DiagnosticStatus.ERROR)
    assert "out of memory: replication" in status.message
    node._inference.completer.networks["denoiser"] = network
    assert call(peer, Trigger, "lidar_completion/reset", Trigger.Request()).success
    peer.complete(cloud(street(), stamp_ns=2))
    peer.until(lambda: peer.values["memory"] == "all work fits")


# ---- what is taken out, and what is filled in ----


def test_what_is_taken_out_is_counted_in_the_label_and_in_the_diagnostics(start, peer, street, cloud):
    start(replication=8, max_points=3000, ego_box_m=[-4.0, -4.0, -3.0, 4.0, 4.0, 3.0])
    labels = listen(peer, DiagnosticArray, "/lidar_completion/debug/sweep")
    completion = peer.complete(cloud(street()))
    peer.until(lambda: labels)
    label = {pair.key: pair.value for pair in labels[0].status[0].values}
    points = read_sweep(completion).points
    provenance = np.frombuffer(completion.data, np.uint8).reshape(-1, 24)[:, 16]
    assert completion.width <= 3000
    assert not (np.abs(points[provenance == 1]) <= (4.0, 4.0, 3.0)).all(axis=1).any()
    assert int(label["removed: ego_box"]) > 0
    assert int(label["removed: max_points"]) > 0
    assert "removed: free_space" in label
    peer.until(lambda: peer.values.get("removed: ego_box") == label["removed: ego_box"])


def test_completed_points_have_an_intensity_from_the_nearest_measured_one(start, peer, street, cloud):
    start()
    completion = read_sweep(peer.complete(cloud(street() + 0.0)))
    provenance = np.frombuffer(peer.completions[-1].data, np.uint8).reshape(-1, 24)[:, 16]
    assert (completion.intensity[provenance == 1] > 0).mean() > 0.9


# ---- model ----


def test_another_model_is_taken_while_sweeps_go_on(start, peer, tiny_model, tmp_path, street, cloud):
    node = start()
    other = copy_of(tiny_model, tmp_path / "other", "other")
    assert node.set_parameters([Parameter("model", value=str(other))])[0].successful
    stamp_ns = 10**18
    while peer.values["model"] != "other":
        peer.complete(cloud(street(), stamp_ns=stamp_ns))
        stamp_ns += 1
    peer.complete(cloud(street(), stamp_ns=stamp_ns))
    peer.until(lambda: int(peer.values["completions out"]) == stamp_ns + 1 - 10**18)
    assert (peer.values["sweeps dropped"], peer.values["inference failures"]) == ("0", "0")


@pytest.mark.parametrize("damage", ["no such folder", "truncated weights"])
def test_a_bad_model_leaves_the_old_one_running(damage, start, peer, tiny_model, tmp_path, street, cloud):
    node = start()
    bad = copy_of(tiny_model, tmp_path / "bad", "bad")
    if damage == "no such folder":
        shutil.rmtree(bad)
    else:
        weights = bad / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    assert node.set_parameters([Parameter("model", value=str(bad))])[0].successful
    status = peer.until_diagnosed(lambda status: status.level == DiagnosticStatus.WARN)
    assert "cannot be loaded, tiny goes on" in status.message
    assert str(bad) in status.message
    peer.complete(cloud(street()))
    assert peer.values["model"] == "tiny"
    assert node.set_parameters([Parameter("model", value=str(tiny_model))])[0].successful
    peer.until(lambda: peer.values["model error"] == "")
    peer.complete(cloud(street()))


def test_models_that_are_asked_for_at_once_are_loaded_one_at_a_time(
    start, peer, tiny_model, tmp_path, street, cloud, monkeypatch
):
    """Memory holds the model that runs and one more, however often the parameter is set; the last one wins."""
    node = start()
    models = [copy_of(tiny_model, tmp_path / f"model_{number}", f"model_{number}") for number in range(6)]
    loading, most, loaded = 0, 0, []

    def load(parameters):
        nonlocal loading, most
        loading += 1
        most = max(most, loading)
        loaded.append(parameters.model)
        try:
            return load_inference(parameters)
        finally:
            loading -= 1

    monkeypatch.setattr(node_module, "load_inference", load)
    for model in models:
        assert node.set_parameters([Parameter("model", value=str(model))])[0].successful
    peer.until(lambda: peer.values["model"] == "model_5")
    assert most == 1
    assert loaded[-1] == str(models[-1])
    peer.complete(cloud(street()))


def test_the_service_loads_the_model_again_and_says_how_it_went(start, peer, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path / "model", "first")
    start(model=str(model))
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"name": "second"}))
    answer = call(peer, Trigger, "lidar_completion/reload_model", Trigger.Request())
    assert (answer.success, answer.message) == (True, "running second")
    shutil.rmtree(model)
    answer = call(peer, Trigger, "lidar_completion/reload_model", Trigger.Request())
    assert not answer.success
    assert "second goes on" in answer.message


# ---- steps, outputs, quality of service ----


def test_steps_are_set_by_the_service(start, peer):
    node = start(activate=False)

    def answer(*parameters):
        request = SetParametersAtomically.Request(parameters=list(parameters))
        return call(peer, SetParametersAtomically, "lidar_completion/set_steps", request).result

    assert answer(ParameterMessage(value=ParameterValue(type=2, integer_value=4))).successful
    assert node.parameters.steps == node.get_parameter("steps").value == 4
    assert "steps" in answer(ParameterMessage(name="steps", value=ParameterValue(type=2, integer_value=9))).reason
    assert not answer(ParameterMessage(name="seed", value=ParameterValue(type=2, integer_value=1))).successful
    assert not answer(ParameterMessage(name="steps", value=ParameterValue(type=4, string_value="four"))).successful
    assert not answer().successful
    assert node.parameters.steps == 4


def test_completed_points_alone_are_published_on_demand(start, peer, street, cloud):
    start()
    completed = listen(peer, PointCloud2, "/lidar_completion/points_completed")
    whole = peer.complete(cloud(street()))
    peer.until(lambda: completed)
    provenance = np.frombuffer(whole.data, np.uint8).reshape(-1, 24)[:, 16]
    assert completed[0].header == whole.header
    np.testing.assert_array_equal(read_sweep(completed[0]).points, read_sweep(whole).points[provenance == 1])


def test_one_subscriber_of_any_output_is_enough_to_work(start, peer, street, cloud):
    start()
    for subscription in list(peer.node.subscriptions):
        if subscription.topic_name == "/velodyne_points/completed":
            peer.node.destroy_subscription(subscription)
    peer.until(lambda: peer.values["output subscribers"] == "0")
    completed = listen(peer, PointCloud2, "/lidar_completion/points_completed")
    peer.until(lambda: peer.values["output subscribers"] == "1")
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: completed)


def test_quality_of_service_is_overridden_by_parameters(start, peer, street, cloud):
    prefix = "qos_overrides./velodyne_points/completed.publisher"
    lease_ns = 3 * 10**9
    start(**{
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
    peer.until(lambda: int(peer.values["output deadlines missed"]) > 0)  # nothing comes after the first


def test_an_impossible_override_is_told(ros, peer, tiny_model):
    node = CompletionNode(
        parameter_overrides=[
            Parameter("model", value=str(tiny_model)),
            Parameter("qos_overrides./velodyne_points/completed.publisher.reliability", value="sometimes"),
        ]
    )
    assert node.trigger_configure().name == "FAILURE"
    assert "reliability" in node.configure_error
    node.close()
    node.destroy_node()


# ---- frames and time ----


def test_the_output_comes_in_the_target_frame(start, peer, street, cloud):
    pytest.importorskip("transforms3d", reason="rotations need transforms3d or tf_transformations")
    start(target_frame="base_link", transforms="parameters", sensor_pose=[1.0, 0.0, 1.8, 0.0, 0.0, np.pi / 2])
    sweep = cloud(street(), stamp_ns=10**18 + 5)
    peer.sweeps.publish(sweep)
    peer.until(lambda: peer.completions)
    out, measured = read_sweep(peer.completions[-1]).points, read_sweep(sweep).points
    assert peer.completions[-1].header.frame_id == "base_link"
    assert peer.completions[-1].header.stamp == sweep.header.stamp
    expected = np.stack([1 - measured[:, 1], measured[:, 0], measured[:, 2] + 1.8], axis=1)
    np.testing.assert_allclose(out[: len(measured)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("motion", ["twist", "odometry"])
def test_a_sweep_with_times_is_freed_of_the_motion(motion, start, peer, street):
    """At 10 m/s a point that was measured 0.1 s after the stamp lies 1 m farther ahead in the sensor's frame of the stamp."""
    if motion == "twist":
        kind, message = TwistStamped, TwistStamped()
        message.header.frame_id, twist = "velodyne", message.twist
    else:
        kind = pytest.importorskip("nav_msgs.msg", reason="needs nav_msgs").Odometry
        message = kind(child_frame_id="velodyne")
        twist = message.twist.twist
    twist.linear.x, message.header.stamp.sec = 10.0, 10**9
    start(motion=motion)
    layout = np.dtype([(name, "<f4") for name in ("x", "y", "z", "time")])
    buffer, points = allocate_points(len(street()), layout)
    for axis, name in enumerate("xyz"):
        points[name] = street()[:, axis]
    points["time"][::2] = 0.1
    sweep = cloud_message(Header(stamp=message.header.stamp, frame_id="velodyne"), buffer, layout)
    speed = peer.node.create_publisher(kind, motion, 10)
    peer.until(lambda: speed.get_subscription_count() > 0)
    speed.publish(message)
    while peer.values.get("deskewed") != "yes":  # the twist and the sweep come by different ways
        peer.complete(sweep)
        peer.until_diagnosed(lambda status: True)
    out = read_sweep(peer.completions[-1]).points[: len(points)]
    np.testing.assert_allclose(out[:, 0] - points["x"], points["time"] * 10, rtol=0, atol=1e-4)


def test_a_completion_begins_with_the_one_before_until_time_jumps(start, peer, street):
    start(motion="twist", temporal=True)
    speed = peer.node.create_publisher(TwistStamped, "twist", 10)
    peer.until(lambda: speed.get_subscription_count() > 0)
    layout = np.dtype([(name, "<f4") for name in ("x", "y", "z")])
    labels = listen(peer, DiagnosticArray, "/lidar_completion/debug/sweep")
    buffer, points = allocate_points(len(street()), layout)
    for axis, name in enumerate("xyz"):
        points[name] = street()[:, axis]

    def label(nanoseconds: int) -> str:
        stamp = Time(sec=10**9, nanosec=nanoseconds)
        standing = TwistStamped(header=Header(stamp=stamp, frame_id="velodyne"))
        speed.publish(standing)
        peer.complete(cloud_message(Header(stamp=stamp, frame_id="velodyne"), buffer, layout))
        peer.until(lambda: labels and labels[-1].header.stamp == stamp)
        return {pair.key: pair.value for pair in labels[-1].status[0].values}["temporal"]

    stamps = iter(range(0, 10**9, 10**8))
    while (found := label(next(stamps))) == "no motion":  # twist and sweep come by different ways
        pass
    assert found == "started"
    assert label(next(stamps)) == "used"
    assert "more than 0.5" in label(999_999_999)
    assert label(0) in ("started", "no motion")  # time went back: all is forgotten


def test_a_twist_moves_a_frame_along_a_circle():
    quarter = Twist(0, np.array([np.pi / 2, 0.0, 0.0]), np.array([0.0, 0.0, np.pi / 2]), "velodyne").over(1.0)
    np.testing.assert_allclose(quarter[:3, 3], [1.0, 1.0, 0.0], atol=1e-9)  # radius 1, a quarter turn to the left
    np.testing.assert_allclose(quarter[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-9)


def test_a_target_frame_without_a_transform_is_told_at_configure(ros, tiny_model):
    node = CompletionNode(
        parameter_overrides=[
            Parameter("model", value=str(tiny_model)),
            Parameter("target_frame", value="base_link"),
            Parameter("transforms", value="auto"),
        ]
    )
    if not tf_is_installed():
        assert node.trigger_configure().name == "FAILURE"
        assert "sensor_pose" in node.configure_error
    node.close()
    node.destroy_node()


def test_a_clock_that_jumps_back_an_hour_leaves_no_stale_figures(start, peer, street, cloud):
    node = start(use_sim_time=True)
    clock = peer.node.create_publisher(Clock, "/clock", QoSProfile(depth=1))

    def set_clock(seconds):
        def heard():
            clock.publish(Clock(clock=Time(sec=seconds)))
            return abs(node.get_clock().now().nanoseconds / 1e9 - seconds) < 1

        peer.until(heard)

    set_clock(100_000)
    peer.complete(cloud(street(), stamp_ns=100_000 * 10**9))
    peer.until(lambda: peer.values["latency p99 ms"])
    set_clock(96_400)
    peer.until(lambda: peer.values["latency p99 ms"] == "")
    assert peer.values["completions out"] == "1"
    peer.complete(cloud(street(), stamp_ns=96_400 * 10**9))
    peer.until(lambda: peer.values["stamps gone backwards"] == "1" and peer.values["completions out"] == "2")


# ---- many cycles ----


def test_50_activate_and_deactivate_cycles_leave_nothing_behind(start, peer, street, cloud):
    node = start(warm_up=False)
    threads, subscriptions = threading.active_count(), len(list(node.subscriptions))
    for cycle in range(50):
        assert node.trigger_deactivate().name == "SUCCESS"
        assert node.trigger_activate().name == "SUCCESS"
        if cycle % 25 == 24:
            peer.until_connected()
            peer.complete(cloud(street(), stamp_ns=10**18 + cycle))
    assert threading.active_count() <= threads + 1
    assert len(list(node.subscriptions)) == subscriptions
