"""Replay of a rosbag2 through the running node: sweeps go out over DDS, completions come back into a new bag.

    bag -> Player ==DDS==> node ==DDS==> Player -> bag of completions

The node's diagnostics show when it is ready, what it dropped and when it has answered everything. Memory holds a few
messages and about a hundred bytes per sweep, whatever the length of the bag.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from lidar_completion_evaluation.drives.bag import POINT_CLOUD, TYPES, BagError, BagSweeps
from lidar_completion_evaluation.replay.node_process import NodeOptions, running_node
from lidar_completion_evaluation.replay.player import OnDiagnostic, Player, WriteCompletion, player_session
from lidar_completion_evaluation.replay.result import ReplayError, ReplayResult
from lidar_completion_ros.installed_files import use_shared_memory_profile

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}

OnProgress = Callable[[int, int], None]  # (done, total)


def replay(
    bag: str | Path,
    output: str | Path,
    *,
    topic: str | None = None,
    rate: float = 1.0,
    model: str | None = None,
    parameters: Mapping[str, object] | None = None,
    storage: str = "mcap",
    record_every: int = 1,
    wait_for_node: bool = False,
    domain_id: int | None = None,
    on_progress: OnProgress | None = None,
    on_diagnostic: OnDiagnostic | None = None,
) -> ReplayResult:
    """Play `bag` through the node and record its completions to the new bag `output`.

    A running node is used as it is; otherwise one is started with `model` and `parameters`, and stopped at the end.
    wait_for_node: start none, wait for the node of a launch file.
    topic: needed if the bag has several PointCloud2 topics and none is /velodyne_points.
    rate: 1 is real time, 2 twice as fast; 0 publishes each sweep once the previous one has been answered, so that none is dropped.
    record_every: record only the completion of every n-th sweep; all completions of an hour would fill a disk.
    on_progress: called with (sweeps played, sweeps in the bag); on_diagnostic: with every diagnostic during the replay.
    Raises BagError and ReplayError.
    """
    if rate < 0:
        raise ReplayError(f"rate: expected 0 or more, found {rate}")
    if record_every < 1:
        raise ReplayError(f"record_every: expected 1 or more, found {record_every}")
    node = NodeOptions(model, parameters or {}, wait_for_node, domain_id)
    source, output = BagSweeps(bag, topic), Path(output)
    if output.exists():
        raise BagError(f"{output}: exists already; choose another output or remove it")
    use_shared_memory_profile(os.environ)
    with player_session(domain_id) as player, running_node(player, source.topic, node):
        with _recording(output, storage, player.report.status.output_topic) as write:
            player.connect(write, record_every, on_diagnostic)
            play(player, source, rate, on_progress)
        return _result(player, output)


def play(player: Player, source: BagSweeps, rate: float, on_progress: OnProgress | None = None) -> None:
    """Publish every sweep of the source and wait until the node has answered."""
    began_s, first_ns = time.monotonic(), None
    for played, (bag_time_ns, cdr) in enumerate(source, start=1):
        first_ns = bag_time_ns if first_ns is None else first_ns
        if rate > 0:
            player.wait_until(began_s + (bag_time_ns - first_ns) / 1e9 / rate)
        try:
            index = player.play(bag_time_ns, cdr)
        except struct.error:
            raise BagError(
                f"{source.path}: message {played} of {source.topic} is truncated: {len(cdr)} bytes"
            ) from None
        if rate == 0:
            player.wait_for_answer(index)
        if on_progress is not None:
            on_progress(played, source.count)
    player.wait_until_settled()


@contextmanager
def _recording(output: Path, storage: str, topic: str) -> Iterator[WriteCompletion]:
    """A function that writes completions to the new bag. Raises ReplayError if the bag cannot be written."""
    try:
        with Writer(output, version=9, storage_plugin=STORAGES[storage]) as writer:
            connection = writer.add_connection(topic, POINT_CLOUD, typestore=TYPES)
            yield lambda time_ns, data: writer.write(connection, time_ns, data)
    except (OSError, sqlite3.Error, WriterError) as error:
        raise ReplayError(
            f"{output}: the completions cannot be recorded ({error}); the bag is incomplete: remove it, make room or "
            "choose another --output, and play again"
        ) from error


def _result(player: Player, output: Path) -> ReplayResult:
    report = player.report
    return ReplayResult(
        sweeps=list(player.sweeps),
        completions=output,
        input_topic=report.status.input_topic,
        output_topic=report.status.output_topic,
        duration_s=max(0.0, player.last_answer_s - player.first_sweep_s),
        node=report,
        dropped=player.dropped(),
        refused=player.refused(),
    )
