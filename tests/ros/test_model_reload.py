"""Replacing the model of a running node."""

import json
import shutil

import pytest
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from lidar_completion_ros.model_loader import load_completer


def copied_model(model, folder, name):
    """A copy of the model folder under another name."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"name": name}))
    return folder


def set_model(node, folder):
    assert node.set_parameters([Parameter("model", value=str(folder))])[0].successful


def test_new_model_replaces_the_old_one_without_losing_sweeps(start_node, peer, tiny_model, tmp_path, street, cloud):
    node = start_node()
    set_model(node, copied_model(tiny_model, tmp_path / "other", "other"))
    stamp_ns = 10**18
    while peer.status.model != "other":
        peer.complete(cloud(street(), stamp_ns=stamp_ns))
        stamp_ns += 1
    peer.complete(cloud(street(), stamp_ns=stamp_ns))
    peer.until(lambda: peer.counts.completed == stamp_ns + 1 - 10**18)
    assert (peer.counts.dropped, peer.counts.failed) == (0, 0)


@pytest.mark.parametrize("damage", ["no such folder", "truncated weights"])
def test_bad_model_leaves_the_old_one_in_use(damage, start_node, peer, tiny_model, tmp_path, street, cloud):
    node = start_node()
    bad = copied_model(tiny_model, tmp_path / "bad", "bad")
    if damage == "no such folder":
        shutil.rmtree(bad)
    else:
        weights = bad / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    set_model(node, bad)
    message = peer.until_reported(lambda report: report.level == 1).message
    assert "cannot load the model" in message
    assert "tiny stays in use" in message
    assert str(bad) in message
    peer.complete(cloud(street()))
    assert peer.status.model == "tiny"
    set_model(node, tiny_model)
    peer.until(lambda: peer.status.model_error == "")
    peer.complete(cloud(street()))


def test_concurrent_requests_load_one_model_at_a_time(start_node, peer, tiny_model, tmp_path, street, cloud):
    """Memory holds at most two models, however often the parameter is set. The last request wins."""
    models = [copied_model(tiny_model, tmp_path / f"model_{number}", f"model_{number}") for number in range(6)]
    loading, most, loaded = 0, 0, []

    def load(parameters, device):
        nonlocal loading, most
        loading += 1
        most = max(most, loading)
        loaded.append(parameters.model)
        try:
            return load_completer(parameters, device)
        finally:
            loading -= 1

    node = start_node(load_completer=load)
    for model in models:
        set_model(node, model)
    peer.until(lambda: peer.status.model == "model_5")
    assert most == 1
    assert loaded[-1] == str(models[-1])
    peer.complete(cloud(street()))


def test_reload_service_reports_the_outcome(start_node, peer, tiny_model, tmp_path):
    model = copied_model(tiny_model, tmp_path / "model", "first")
    start_node(model=str(model))
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"name": "second"}))
    answer = peer.call(Trigger, "reload_model", Trigger.Request())
    assert (answer.success, answer.message) == (True, "model second is in use")
    shutil.rmtree(model)
    answer = peer.call(Trigger, "reload_model", Trigger.Request())
    assert not answer.success
    assert "second stays in use" in answer.message


def test_reload_service_of_an_unconfigured_node(make_node, peer, tiny_model):
    make_node(model=str(tiny_model))
    answer = peer.call(Trigger, "reload_model", Trigger.Request())
    assert not answer.success
    assert "unconfigured" in answer.message


def test_work_limits_set_during_a_reload_apply_to_the_new_model(start_node, peer, tiny_model, tmp_path):
    node = start_node(replication=2)
    set_model(node, copied_model(tiny_model, tmp_path / "other", "other"))
    assert node.set_parameters([Parameter("replication", value=7)])[0].successful
    peer.until(lambda: peer.status.model == "other")
    assert peer.until_reported(lambda report: True).status.max_replication == 7
