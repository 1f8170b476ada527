"""The node's lifecycle, in this process: each transition ends in a defined state, and failures state the reason."""

import shutil
import threading

import pytest
from fake_completer import FakeCompleter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from lidar_completion_ros import sweep_worker
from lidar_completion_ros.node import CompletionNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def test_activate_deactivate_cycles(make_node, peer, tiny_model, street, cloud):
    node = make_node(model=str(tiny_model))
    assert node.trigger_configure() == SUCCESS
    for cycle in range(3):
        assert node.trigger_activate() == SUCCESS
        peer.until_connected()
        peer.complete(cloud(street(), stamp_ns=10**18 + cycle))
        assert node.trigger_deactivate() == SUCCESS
        assert node.state == "inactive"
    assert node.trigger_cleanup() == SUCCESS
    assert node.state == "unconfigured"
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


def test_50_cycles_leak_no_threads_or_subscriptions(start_node, peer, street, cloud):
    node = start_node(warm_up=False)
    threads, subscriptions = threading.active_count(), len(list(node.subscriptions))
    for cycle in range(50):
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        if cycle % 25 == 24:
            peer.until_connected()
            peer.complete(cloud(street(), stamp_ns=10**18 + cycle))
    assert threading.active_count() <= threads + 1
    assert len(list(node.subscriptions)) == subscriptions


def test_shutdown_while_active(make_node, peer, tiny_model):
    node = make_node(model=str(tiny_model))
    node.trigger_configure()
    node.trigger_activate()
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


def test_missing_model_fails_configure(make_node, peer, tiny_model, tmp_path):
    node = make_node(model=str(tmp_path / "model"))
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    assert str(tmp_path / "model") in peer.until_reported(lambda report: report.level == 2).message
    shutil.copytree(tiny_model, tmp_path / "model")
    assert node.trigger_configure() == SUCCESS
    assert peer.until_reported(lambda report: report.level == 0).message == "inactive"


def test_invalid_qos_override_fails_configure(make_node, tiny_model):
    reliability = "qos_overrides./velodyne_points/completed.publisher.reliability"
    node = make_node(model=str(tiny_model), **{reliability: "sometimes"})
    assert node.trigger_configure() == FAILURE
    assert "reliability" in node.configure_error


def test_service_refuses_impossible_transitions(make_node, peer, tiny_model):
    node = make_node(model=str(tiny_model))
    for transition in (Transition(id=Transition.TRANSITION_ACTIVATE), Transition(label="activate"), Transition(id=250)):
        assert not peer.call(ChangeState, "change_state", ChangeState.Request(transition=transition)).success
        assert node.state == "unconfigured"


def test_failed_inference_is_an_error_until_the_next_completion(start_node, peer, tiny_model, street, cloud):
    completer = FakeCompleter(tiny_model)
    start_node(load_completer=lambda parameters, device: completer)

    def fail(start_points):
        raise RuntimeError("device lost")

    completer.before = fail
    peer.sweeps.publish(cloud(street(), stamp_ns=1))
    assert "device lost" in peer.until_reported(lambda report: report.level == 2).message
    completer.before = lambda start_points: None
    peer.complete(cloud(street(), stamp_ns=2))
    assert peer.counts.failed == 1


def start_blocked(start_node, peer, model, sweep):
    """A node whose completion of a sweep waits for an event, and that event."""
    entered, finish = threading.Event(), threading.Event()

    def block(start_points):
        entered.set()
        finish.wait(60)

    completer = FakeCompleter(model)
    node = start_node(load_completer=lambda parameters, device: completer)
    completer.before = block
    peer.sweeps.publish(sweep)
    peer.until(entered.is_set)
    return node, finish


def test_deactivation_counts_every_sweep(start_node, peer, tiny_model, street, cloud, monkeypatch):
    """One sweep is being processed and does not finish in time, another one waits. The node cannot be activated meanwhile."""
    node, finish = start_blocked(start_node, peer, tiny_model, cloud(street(), stamp_ns=1))
    peer.sweeps.publish(cloud(street(), stamp_ns=2))
    peer.until(lambda: peer.counts.received == 2)
    monkeypatch.setattr(sweep_worker.SweepWorker.stop, "__defaults__", (0.1,))
    assert node.trigger_deactivate() == SUCCESS
    assert node.log.counts().dropped == 1
    assert node.trigger_activate() == FAILURE
    assert "still being processed" in node.configure_error
    finish.set()
    peer.until(lambda: node.log.counts().completed == 1)
    peer.until(lambda: node.trigger_activate() == SUCCESS)
    peer.until_connected()
    peer.complete(cloud(street(), stamp_ns=3))
    counts = node.log.counts()
    assert (counts.received, counts.finished) == (3, 3)


def test_cleanup_while_a_sweep_is_in_work(start_node, peer, tiny_model, street, cloud, monkeypatch):
    node, finish = start_blocked(start_node, peer, tiny_model, cloud(street(), stamp_ns=1))
    monkeypatch.setattr(sweep_worker.SweepWorker.stop, "__defaults__", (0.1,))
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert node.trigger_configure() == FAILURE
    assert "still being processed" in node.configure_error
    finish.set()
    peer.until(lambda: node.trigger_configure() == SUCCESS)


def test_lazy_node_skips_sweeps_without_subscribers(start_node, peer, street, cloud):
    start_node()
    peer.stop_listening_to_completions()
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: peer.counts.skipped == 1)
    assert peer.counts.completed == 0
    assert "idle" in peer.reports[-1].message


def test_two_nodes_in_namespaces_are_independent(ros, make_peer, tiny_model, street, cloud):
    with make_peer("/front") as front, make_peer("/rear") as rear:
        overrides = [Parameter("model", value=str(tiny_model)), Parameter("diagnostics_period_s", value=0.1)]
        nodes = [CompletionNode(namespace=name, parameter_overrides=overrides) for name in ("/front", "/rear")]
        for node, peer in zip(nodes, (front, rear), strict=True):
            peer.executor.add_node(node)
            node.trigger_configure()
            node.trigger_activate()
        for peer, frame in ((front, "front"), (rear, "rear")):
            peer.until_connected()
            assert peer.complete(cloud(street(), frame=frame)).header.frame_id == frame
        for node in nodes:
            node.close()
            node.destroy_node()


def test_second_node_with_the_same_output_is_reported(start_node, make_node, peer, tiny_model):
    start_node()
    second = make_node(model=str(tiny_model))
    second.trigger_configure()
    report = peer.until_reported(lambda report: "publishers on" in report.message)
    assert report.level == 1
    assert "2 publishers on /velodyne_points/completed" in report.message


@pytest.mark.parametrize("lifecycle_state", ["unconfigured", "inactive"])
def test_reset_service_works_in_every_state(lifecycle_state, make_node, peer, tiny_model):
    from std_srvs.srv import Trigger

    node = make_node(model=str(tiny_model))
    if lifecycle_state == "inactive":
        node.trigger_configure()
    assert peer.call(Trigger, "reset", Trigger.Request()).success
