"""The node that a replay plays through: one that is already running, one from a launch file, or one started here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lidar_completion_evaluation.replay.player import Player
from lidar_completion_evaluation.replay.result import ReplayError

NODE_NAME = "lidar_completion"
DISCOVERY_S = 5.0  # time to discover a running node: Fast DDS repeats a lost announcement after 3 s
STOP_S = 20.0


@dataclass(frozen=True)
class NodeOptions:
    """Which node to use. A node that is already running keeps its own model and parameters."""

    model: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    wait: bool = False  # start none; wait for the node of a launch file
    domain_id: int | None = None  # of DDS; None: ROS_DOMAIN_ID

    def __post_init__(self) -> None:
        if self.wait and (self.model or self.parameters):
            raise ReplayError(
                "--wait-for-node: the node has its own model and parameters; remove --model, --device and --steps"
            )


@contextmanager
def running_node(player: Player, topic: str, options: NodeOptions) -> Iterator[None]:
    """Wait until the node is active; a node started here is stopped at the end. Raises ReplayError."""
    if options.wait or _is_running(player):
        if options.model or options.parameters:
            raise ReplayError("a node lidar_completion is already running: stop it, or omit the model and parameters")
        player.wait_until_active(lambda: None)
        yield
        return
    process = _start(topic, options)
    try:
        player.wait_until_active(lambda: _check_alive(process))
        yield
    finally:
        _stop(process)


def _is_running(player: Player) -> bool:
    until_s = time.monotonic() + DISCOVERY_S
    while time.monotonic() < until_s:
        if NODE_NAME in player.get_node_names():
            return True
        time.sleep(0.05)
    return False


def _start(topic: str, options: NodeOptions) -> subprocess.Popen[bytes]:
    model = {"model": str(options.model)} if options.model else {}
    values = {"diagnostics_period_s": 0.2, **options.parameters, **model}
    arguments = ["-r", f"velodyne_points:={topic}", "-r", f"~/points:={topic}/completed"]
    for name, value in values.items():
        arguments += ["-p", f"{name}:={_as_yaml(value)}"]
    domain = {} if options.domain_id is None else {"ROS_DOMAIN_ID": str(options.domain_id)}
    command = [sys.executable, "-m", "lidar_completion_ros", "--ros-args", *arguments]
    return subprocess.Popen(command, env=os.environ | domain)


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise ReplayError(f"the node exited with code {process.returncode} before it was active; see its log above")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
