"""How the node ends: signals, failures to start, and the exit codes that tell them apart."""

import signal
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(number, node_process, peer, tiny_model):
    with node_process(model=tiny_model) as process:
        peer.until_connected()
        process.send_signal(number)
        assert process.wait(30) == 0
        peer.until(lambda: peer.values["state"] == "finalized")


def test_a_signal_in_the_middle_of_a_sweep_ends_the_node_cleanly(node_process, peer, tiny_model, street, cloud):
    reliable = {"qos_overrides./velodyne_points.subscription.reliability": "reliable"}
    with node_process(model=tiny_model, steps=8, replication=20, warm_up=False, **reliable) as process:
        peer.until_connected()
        peer.sweeps.publish(cloud(street(rings=32, columns=720)))
        peer.until(lambda: peer.values["sweeps in"] == "1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"steps": 9}, "steps"),
    ],
)
def test_what_prevents_the_start_is_told_with_exit_code_2(parameters, told, node_process, ros, tiny_model):
    with node_process(**{"model": tiny_model, **parameters}) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert told in errors
        assert "Traceback" not in errors


def test_without_autostart_the_node_waits_unconfigured(node_process, peer, tiny_model):
    with node_process(model=tiny_model, autostart="false") as process:
        peer.until(lambda: peer.values.get("state") == "unconfigured")
        time.sleep(0.3)
        assert peer.values["state"] == "unconfigured"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
