"""The fixtures of the tests that talk to a running node."""

from ros_peer import cloud, make_peer, node_process, peer, ros, street  # noqa: F401 (fixtures)
