"""Fixtures of the tests that talk to a node."""

from ros_peer import cloud, make_node, make_peer, node_process, peer, ros, start_node, street  # noqa: F401 (fixtures)
