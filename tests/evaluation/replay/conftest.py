"""The fixtures of the tests that talk to a running node."""

import gc

import pytest
from ros_peer import cloud, make_peer, node_process, peer, ros, street  # noqa: F401 (fixtures)

from lidar_completion_evaluation.replay import node_process as replay_node


@pytest.fixture(autouse=True)
def no_nodes_of_earlier_tests():
    """A lifecycle node refers to itself: after destroy_node it stays in the ROS graph until the collector frees it."""
    gc.collect()


@pytest.fixture
def no_running_node(monkeypatch):
    """No node runs that a replay could use: it need not wait for one to be discovered."""
    monkeypatch.setattr(replay_node, "DISCOVERY_S", 0.5)
