"""The node's lifecycle, in this process: every transition ends in a clear state, and failures say why."""

import shutil
import threading

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from lidar_completion_ros import node as node_module
from lidar_completion_ros.node import CompletionNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def make_node(ros):
    """Makes a node with the given parameters, beside a peer whose executor spins both."""
    made = []

    def make(peer, **parameters):
        values = {"diagnostics_period_s": 0.1, **parameters}
        node = CompletionNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
        peer.executor.add_node(node)
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()
        node.destroy_node()


def test_activate_and_deactivate_cycles_complete_every_time(make_node, peer, tiny_model, street, cloud):
    node = make_node(peer, model=str(tiny_model))
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


def test_shutdown_while_active_ends_finalized(make_node, peer, tiny_model):
    node = make_node(peer, model=str(tiny_model))
    node.trigger_configure()
    node.trigger_activate()
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


def test_a_missing_model_is_told_and_configure_works_once_it_is_there(make_node, peer, tiny_model, tmp_path):
    node = make_node(peer, model=str(tmp_path / "model"))
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    status = peer.until_diagnosed(lambda status: status.level == DiagnosticStatus.ERROR)
    assert str(tmp_path / "model") in status.message
    shutil.copytree(tiny_model, tmp_path / "model")
    assert node.trigger_configure() == SUCCESS
    assert peer.until_diagnosed(lambda status: status.level == DiagnosticStatus.OK).message == "inactive"


def test_an_impossible_transition_is_refused_by_the_service(make_node, peer, tiny_model):
    node = make_node(peer, model=str(tiny_model))
    client = peer.node.create_client(ChangeState, "lidar_completion/change_state")
    assert client.wait_for_service(10)
    for transition in (Transition(id=Transition.TRANSITION_ACTIVATE), Transition(label="activate"), Transition(id=250)):
        answer = client.call_async(ChangeState.Request(transition=transition))
        peer.until(answer.done)
        assert not answer.result().success
        assert node.state == "unconfigured"


def test_a_failing_inference_is_an_error_and_the_next_sweep_is_completed(make_node, peer, tiny_model, street, cloud):
    class Broken(torch.nn.Module):
        def forward(self, *_):
            raise RuntimeError("no memory left")

    node = make_node(peer, model=str(tiny_model))
    node.trigger_configure()
    node.trigger_activate()
    peer.until_connected()
    networks = node._inference.completer.networks
    denoiser, networks["denoiser"] = networks["denoiser"], Broken()
    peer.sweeps.publish(cloud(street(), stamp_ns=1))
    status = peer.until_diagnosed(lambda status: status.level == DiagnosticStatus.ERROR)
    assert "no memory left" in status.message
    networks["denoiser"] = denoiser
    peer.complete(cloud(street(), stamp_ns=2))
    assert {pair.key: pair.value for pair in peer.diagnostics[-1].values}["inference failures"] == "1"


COUNTS = ("completions out", "sweeps dropped", "sweeps skipped, no subscriber", "sweeps refused", "inference failures")


def test_no_sweep_is_lost_in_silence_when_the_node_is_deactivated(make_node, peer, tiny_model, street, cloud):
    """One in work that does not end in time, one that waits: both are counted, and nothing works beside the first."""

    class Slow(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.entered, self.go_on = network, threading.Event(), threading.Event()

        def forward(self, *inputs, **options):
            self.entered.set()
            self.go_on.wait(60)
            return self.network(*inputs, **options)

    node = make_node(peer, model=str(tiny_model))
    node.trigger_configure()
    node.trigger_activate()
    peer.until_connected()
    networks = node._inference.completer.networks
    slow = networks["denoiser"] = Slow(networks["denoiser"])
    node._receive(cloud(street(), stamp_ns=1))
    assert slow.entered.wait(60)
    node._receive(cloud(street(), stamp_ns=2))
    old, node_module.SECONDS_TO_FINISH_A_SWEEP = node_module.SECONDS_TO_FINISH_A_SWEEP, 0.1
    try:
        assert node.trigger_deactivate() == SUCCESS
    finally:
        node_module.SECONDS_TO_FINISH_A_SWEEP = old
    assert node._log.dropped == 1
    assert node.trigger_activate() == FAILURE
    assert "still in work" in node.configure_error
    slow.go_on.set()
    node._thread.join(60)
    assert node.trigger_activate() == SUCCESS
    peer.until_connected()
    peer.complete(cloud(street(), stamp_ns=3))
    values = node._log.values()
    assert int(values["sweeps in"]) == sum(int(values[name]) for name in COUNTS) == 3


def test_nothing_is_computed_while_nobody_subscribes(make_node, ros, peer, tiny_model, street, cloud):
    node = make_node(peer, model=str(tiny_model))
    node.trigger_configure()
    node.trigger_activate()
    peer.until_connected()
    for subscription in list(peer.node.subscriptions):
        if subscription.topic_name == "/velodyne_points/completed":
            peer.node.destroy_subscription(subscription)
    peer.until(lambda: peer.values["output subscribers"] == "0")
    peer.sweeps.publish(cloud(street()))
    peer.until(lambda: peer.values["sweeps skipped, no subscriber"] == "1")
    assert peer.values["completions out"] == "0"
    assert "idle" in peer.diagnostics[-1].message


def test_two_nodes_in_namespaces_keep_apart(ros, make_peer, tiny_model, street, cloud):
    executor = SingleThreadedExecutor()
    with make_peer("/front") as front, make_peer("/rear") as rear:
        overrides = [Parameter("model", value=str(tiny_model)), Parameter("diagnostics_period_s", value=0.1)]
        nodes = [
            CompletionNode(
                namespace=name,
                parameter_overrides=overrides,
            )
            for name in ("/front", "/rear")
        ]
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
    executor.shutdown()
