"""The fixtures of the tests that talk to a running node."""

import gc

import pytest
from ros_peer import cloud, make_peer, node_process, peer, ros, street  # noqa: F401 (fixtures)


@pytest.fixture(autouse=True)
def no_nodes_of_earlier_tests():
    """A lifecycle node refers to itself: after destroy_node it stays in the ROS graph until the collector frees it."""
    gc.collect()
