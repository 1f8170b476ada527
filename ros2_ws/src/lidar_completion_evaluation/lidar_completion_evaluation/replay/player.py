"""Replay of a rosbag2 through the running node: the sweeps go out over DDS, the completions come back into a new bag.

    bag -> publisher ==DDS==> node ==DDS==> recorder -> bag of completions

The messages are never decoded on the way: what lies in the bag is published, what comes back is written. The node's own
diagnostics tell when it is ready, what it dropped and when it has answered everything. Memory holds a few messages and a
hundred bytes or so a sweep, however long the bag is.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import Reader, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import PointCloud2

from lidar_completion_ros.installed_files import use_shared_memory_profile

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
NODE_NAME = "lidar_completion"
DEFAULT_TOPIC = "/velodyne_points"
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
DISCOVERY_S = 5.0  # after which a node on this machine has been seen: Fast DDS repeats a missed announcement after 3 s
TRANSIT_S = 0.5  # within which a message between two processes arrives or is lost
SILENCE_S = 15.0  # without diagnostics, after which the node counts as gone


class BagError(ValueError):
    """A bag that cannot be replayed: missing, broken, or without the topic."""


class ReplayError(RuntimeError):
    """The node could not be started or stopped answering."""


@dataclass(frozen=True)
class SweepReplay:
    """One sweep that went to the node, and what came back."""

    stamp_ns: int  # of the header
    bag_time_ns: int
    points_in: int
    sent_s: float = 0.0  # since the first sweep was published
    points_out: int | None = None  # None: no completion came back
    latency_s: float | None = None  # from publishing the sweep to receiving its completion
    steps: int | None = None  # that the node used, as it says in its label of the sweep
    replication: int | None = None


@dataclass(frozen=True)
class Diagnostic:
    """What the node told about itself during a replay."""

    at_s: float  # since the first sweep was published
    level: int  # 0 OK, 1 WARN, 2 ERROR
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class ReplayResult:
    """What a replay gave. `completions` is a bag; its messages keep the time at which their sweep lay in the input."""

    sweeps: list[SweepReplay]
    completions: Path
    input_topic: str
    output_topic: str
    duration_s: float  # from the first sweep to the last answer
    node_values: dict[str, str]  # last diagnostic of the node: model, device, steps used, latency per stage, ...
    dropped: int  # replaced by a newer sweep while they waited in the node
    refused: int  # the node could not read or complete them

    @property
    def completed(self) -> int:
        return sum(sweep.latency_s is not None for sweep in self.sweeps)

    @property
    def lost(self) -> int:
        """Sweeps or completions that DDS lost on the way."""
        return max(0, len(self.sweeps) - self.completed - self.dropped - self.refused)

    @property
    def rate_hz(self) -> float:
        return self.completed / self.duration_s if self.duration_s > 0 else 0.0

    def latency_ms(self, percentile: float) -> float:
        """NaN where nothing was completed."""
        latencies = [sweep.latency_s for sweep in self.sweeps if sweep.latency_s is not None]
        return float(np.percentile(latencies, percentile)) * 1e3 if latencies else float("nan")


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
    progress: Callable[[int, int], None] | None = None,
    told: Callable[[Diagnostic], None] | None = None,
) -> ReplayResult:
    """Play `bag` through the node and record its completions to the new bag `output`.

    A node that runs already is used; otherwise one is started with `model` and `parameters` and stopped at the end.
    With `wait_for_node` none is started: the one that is about to come up (of a launch file) is waited for.
    Of every `record_every` sweeps the first one's completion is recorded: an hour of completions fills a disk.
    `topic` is needed where the bag holds several PointCloud2 topics and none is /velodyne_points. `rate` 1 is real
    time, 2 twice as fast; with 0 each sweep waits for the answer to the one before, so that none is dropped.
    `progress` is called with (sweeps played, sweeps in the bag), `told` with every diagnostic from the first sweep on.
    Raises `BagError` and `ReplayError`.
    """
    if rate < 0:
        raise ReplayError(f"rate: expected 0 or more, found {rate}")
    if record_every < 1:
        raise ReplayError(f"record_every: expected 1 or more, found {record_every}")
    if wait_for_node and (model or parameters):
        raise ReplayError("a node that is waited for has its own model and parameters: leave them out")
    source = BagSweeps(Path(bag), topic)
    output = Path(output)
    if output.exists():
        raise BagError(f"{output}: exists already; choose another output or remove it")
    use_shared_memory_profile(os.environ)
    with _dds_session(domain_id) as player, _node(player, source.topic, model, parameters, domain_id, wait_for_node):
        with _recording(output, storage) as writer:
            player.connect(writer, record_every, told)
            _play(player, source, rate, progress)
        return player.result(output)


@contextmanager
def _recording(output: Path, storage: str) -> Iterator[Writer]:
    """The new bag. A disk that is full, or a folder that may not be written, ends the replay with its name."""
    try:
        with Writer(output, version=9, storage_plugin=STORAGES[storage]) as writer:
            yield writer
    except (OSError, sqlite3.Error, WriterError) as error:
        raise ReplayError(
            f"{output}: the completions cannot be recorded ({error}); the bag is not whole: remove it, make room or choose "
            "another --output, and play again"
        ) from error


class BagSweeps:
    """The PointCloud2 messages of one topic of a bag, as raw CDR, in order of time."""

    def __init__(self, path: Path, topic: str | None) -> None:
        self.path = path
        with self._open() as reader:
            topics = {connection.topic: connection for connection in reader.connections}
            clouds = {name: each.msgcount for name, each in topics.items() if each.msgtype == POINT_CLOUD}
            found = ", ".join(f"{name} ({each.msgtype}, {each.msgcount})" for name, each in sorted(topics.items()))
        self.topic = topic or _only_topic(path, clouds, found)
        if self.topic not in clouds:
            raise BagError(f"{path}: no topic {self.topic} of type {POINT_CLOUD}; the bag holds: {found or 'nothing'}")
        self.count = clouds[self.topic]
        if self.count == 0:
            raise BagError(f"{path}: topic {self.topic} has no messages")

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yields (bag time in ns, CDR bytes)."""
        with self._open() as reader:
            wanted = [each for each in reader.connections if each.topic == self.topic]
            for _, time_ns, data in reader.messages(wanted):
                yield time_ns, bytes(data)

    @contextmanager
    def _open(self) -> Iterator[Reader]:
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag; expected a rosbag2 folder or an .mcap or .db3 file")
        try:
            with Reader(self.path) as reader:
                yield reader
        except (BagError, ReplayError):
            raise
        except Exception as error:  # rosbags passes on whatever its storage libraries raise
            raise BagError(
                f"{self.path}: cannot be read as a rosbag2 ({type(error).__name__}: {error}); "
                "`ros2 bag reindex` may repair it"
            ) from error


def _only_topic(path: Path, clouds: Mapping[str, int], found: str) -> str:
    if DEFAULT_TOPIC in clouds:
        return DEFAULT_TOPIC
    if len(clouds) == 1:
        return next(iter(clouds))
    raise BagError(f"{path}: expected one topic of type {POINT_CLOUD}; name one with --topic; the bag holds: {found}")


class Player(Node):
    """Publishes sweeps, records completions, and follows the node's diagnostics. All entities of one replay."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("lidar_completion_bag_replay", context=context)
        self.node_values: dict[str, str] = {}
        self.sweeps: list[SweepReplay] = []
        self._published_s: list[float] = []
        self._index_by_stamp: dict[int, int] = {}  # of the newest sweep, where a bag repeats a stamp
        self._answers = 0
        self._unwritten: deque[tuple[int, bytes]] = deque()  # (bag time, completion): only the main thread writes
        self._untold: deque[Diagnostic] = deque()  # only the main thread tells
        self._write: Callable[[int, bytes], None] = lambda time_ns, data: None
        self._tell: Callable[[Diagnostic], None] | None = None
        self._record_every = 1
        self._counts_before: dict[str, int] = {}
        self._told_s = 0.0
        self._last_answer_s = 0.0
        self._changed = threading.Condition()
        self._publisher = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 50)

    def connect(self, writer: Writer, record_every: int = 1, tell: Callable[[Diagnostic], None] | None = None) -> None:
        """Join the node's topics and wait until both ends have seen each other."""
        typestore = get_typestore(Stores.ROS2_JAZZY)
        qos = QoSProfile(depth=10)
        output_topic = self.node_values["output topic"]
        connection = writer.add_connection(output_topic, POINT_CLOUD, typestore=typestore)
        self._write = lambda time_ns, data: writer.write(connection, time_ns, data)
        self._record_every, self._tell = record_every, tell
        self.create_subscription(PointCloud2, output_topic, self._record, qos, raw=True)
        self.create_subscription(DiagnosticArray, f"/{self.node_values['node']}/debug/sweep", self._hear_label, 50)
        self._publisher = self.create_publisher(PointCloud2, self.node_values["input topic"], qos)
        self._await("the node to see both topics", self._connected, 20.0)
        self._counts_before = self._counts()

    def play(self, bag_time_ns: int, cdr: bytes) -> int:
        """Publish one sweep and return its index."""
        stamp_ns, points = cloud_head(cdr)
        with self._changed:
            now = time.monotonic()
            index = self._index_by_stamp[stamp_ns] = len(self.sweeps)
            self._published_s.append(now)
            self.sweeps.append(SweepReplay(stamp_ns, bag_time_ns, points, sent_s=now - self._published_s[0]))
        self._publisher.publish(cdr)
        return index

    def settled(self) -> bool:
        """Nothing is on its way or in work any more, as far as the diagnostics of the last moment can tell."""
        if self._answers == len(self.sweeps):
            return True
        counts = self._counts()
        done = sum(counts[name] for name in DONE)
        return self._told_s > self._published_s[-1] + TRANSIT_S and counts["sweeps in"] == done

    def wait_until_settled(self) -> None:
        self._await("the node to answer", self.settled)
        settled_s = time.monotonic()
        if self._answers < len(self.sweeps):
            self.wait_until(settled_s + TRANSIT_S)  # the node counts what it published: that may still be on its way
        self._await("the node's last diagnostic", lambda: self._told_s > settled_s)

    def wait_until(self, due_s: float) -> None:
        """Sleep until `due_s` of the monotonic clock, writing what arrives."""
        self._await("the time", lambda: time.monotonic() >= due_s)

    def wait_for_answer(self, index: int) -> None:
        self._await("the node to answer", lambda: self.sweeps[index].latency_s is not None or self.settled())

    def wait_for_node(self, check: Callable[[], None]) -> None:
        """Wait until a node is active; `check` may raise why it never will be."""
        self._await("the node to become active", lambda: self.node_values.get("state") == "active", 600.0, check)

    def result(self, output: Path) -> ReplayResult:
        counts = {name: value - self._counts_before[name] for name, value in self._counts().items()}
        return ReplayResult(
            sweeps=list(self.sweeps),
            completions=output,
            input_topic=self.node_values["input topic"],
            output_topic=self.node_values["output topic"],
            duration_s=max(0.0, self._last_answer_s - self._published_s[0]),
            node_values=dict(self.node_values),
            dropped=counts["sweeps dropped"],
            refused=counts["sweeps refused"] + counts["inference failures"],
        )

    def _connected(self) -> bool:
        values = self.node_values
        ends = int(values["input publishers"]) > 0 and int(values["output subscribers"]) > 0
        return ends and self._publisher.get_subscription_count() > 0

    def _counts(self) -> dict[str, int]:
        return {name: int(self.node_values[name]) for name in ("sweeps in", *DONE)}

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.partition(":")[0]
            if status.hardware_id == "lidar_completion" and self.node_values.get("node", name) == name:
                with self._changed:  # of several nodes the one that was heard first
                    about = {"message": status.message, "node": name}
                    self.node_values = {pair.key: pair.value for pair in status.values} | about
                    self._told_s = time.monotonic()
                    if self._tell is not None and self._published_s:
                        at_s, level = self._told_s - self._published_s[0], int.from_bytes(status.level, "little")
                        self._untold.append(Diagnostic(at_s, level, status.message, self.node_values))
                    self._changed.notify_all()

    def _hear_label(self, message: DiagnosticArray) -> None:
        """What the node says about one sweep, under the sweep's stamp."""
        index = self._index_by_stamp.get(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
        if index is None or not message.status:
            return
        values = {pair.key: pair.value for pair in message.status[0].values}
        steps, replication = (int(text) if text.isdigit() else None for text in (values.get(key, "") for key in LABELS))
        with self._changed:
            self.sweeps[index] = replace(self.sweeps[index], steps=steps, replication=replication)

    def _record(self, data: bytes) -> None:
        now = time.monotonic()
        stamp_ns, points = cloud_head(data)
        index = self._index_by_stamp.get(stamp_ns)
        if index is None:
            return  # the answer to another publisher's sweep
        with self._changed:
            sweep = self.sweeps[index]
            if index % self._record_every == 0:
                self._unwritten.append((sweep.bag_time_ns, data))
            self._answers += sweep.latency_s is None
            self.sweeps[index] = replace(sweep, points_out=points, latency_s=now - self._published_s[index])
            self._last_answer_s = now
            self._changed.notify_all()

    def _write_out(self) -> None:
        while self._unwritten:
            self._write(*self._unwritten.popleft())
        while self._untold and self._tell is not None:
            self._tell(self._untold.popleft())

    def _await(
        self,
        what: str,
        condition: Callable[[], bool],
        timeout_s: float = float("inf"),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        began_s = time.monotonic()
        while not self._holds(condition):
            self._write_out()
            check()
            now = time.monotonic()
            silent = bool(self.node_values) and now - max(self._told_s, began_s) > SILENCE_S
            if silent or now - began_s > timeout_s:
                raise ReplayError(
                    f"waited {now - began_s:.0f} s in vain for {what}; the node's last diagnostic: "
                    f"{self.node_values.get('message', 'none')}"
                )
        self._write_out()

    def _holds(self, condition: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, 0.02)


LABELS = ("steps used", "replication used")
DONE = ("completions out", "sweeps dropped", "sweeps skipped, no subscriber", "sweeps refused", "inference failures")


def cloud_head(cdr: bytes) -> tuple[int, int]:
    """(stamp in ns, number of points) of a serialised PointCloud2, without decoding its data."""
    order = "<" if cdr[1] & 1 else ">"
    seconds, nanoseconds, frame_length = struct.unpack_from(f"{order}iII", cdr, 4)
    position = 16 + frame_length
    height, width = struct.unpack_from(f"{order}II", cdr, position + -position % 4)
    return seconds * 10**9 + nanoseconds, height * width


def _play(player: Player, source: BagSweeps, rate: float, progress: Callable[[int, int], None] | None) -> None:
    began_s, first_ns = time.monotonic(), None
    for played, (bag_time_ns, cdr) in enumerate(source, start=1):
        first_ns = bag_time_ns if first_ns is None else first_ns
        if rate > 0:
            player.wait_until(began_s + (bag_time_ns - first_ns) / 1e9 / rate)
        try:
            index = player.play(bag_time_ns, cdr)
        except struct.error:
            raise BagError(f"{source.path}: message {played} of {source.topic} is cut off: {len(cdr)} bytes") from None
        if rate == 0:
            player.wait_for_answer(index)
        if progress is not None:
            progress(played, source.count)
    player.wait_until_settled()


@contextmanager
def _dds_session(domain_id: int | None) -> Iterator[Player]:
    """A player whose callbacks run in a thread of their own, in a ROS context of its own."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    player = Player(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(player)
    thread = threading.Thread(target=_spin, args=(executor,), daemon=True)
    thread.start()
    try:
        yield player
    finally:
        executor.shutdown(timeout_sec=5.0)
        thread.join(5.0)
        player.destroy_node()
        rclpy.try_shutdown(context=context)


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


@contextmanager
def _node(
    player: Player,
    topic: str,
    model: str | None,
    parameters: Mapping[str, object] | None,
    domain_id: int | None,
    comes_up: bool,
) -> Iterator[None]:
    """Wait for the node that runs already or comes up, or run one for as long as the context lasts."""
    if comes_up or _node_is_there(player):
        if model or parameters:
            raise ReplayError("a node lidar_completion runs already: stop it, or leave out the model and parameters")
        player.wait_for_node(lambda: None)
        yield
        return
    process = _start_node(topic, model, parameters or {}, domain_id)
    try:
        player.wait_for_node(lambda: _check_alive(process))
        yield
    finally:
        _stop(process)


def _node_is_there(player: Player) -> bool:
    until_s = time.monotonic() + DISCOVERY_S
    while time.monotonic() < until_s:
        if NODE_NAME in player.get_node_names():
            return True
        time.sleep(0.05)
    return False


def _start_node(
    topic: str, model: str | None, parameters: Mapping[str, object], domain_id: int | None
) -> subprocess.Popen[bytes]:
    values = {"diagnostics_period_s": 0.2, **parameters} | ({"model": str(model)} if model else {})
    arguments = ["-r", f"velodyne_points:={topic}", "-r", f"~/points:={topic}/completed"]
    for name, value in values.items():
        arguments += ["-p", f"{name}:={_as_yaml(value)}"]
    environment = os.environ | ({} if domain_id is None else {"ROS_DOMAIN_ID": str(domain_id)})
    return subprocess.Popen([sys.executable, "-m", "lidar_completion_ros", "--ros-args", *arguments], env=environment)


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise ReplayError(
            f"the node ended with exit code {process.returncode} before it became active; see its log above"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
