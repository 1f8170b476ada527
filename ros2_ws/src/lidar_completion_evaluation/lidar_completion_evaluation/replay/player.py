"""The ROS side of a replay: publishes sweeps, records completions, and follows the node's diagnostics.

Messages are not decoded on the way: the sweep's CDR is published as it is in the bag, the completion's is recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2

from lidar_completion_evaluation.drives.bag import cloud_head
from lidar_completion_evaluation.replay.result import Diagnostic, ReplayError, SweepReplay

TRANSIT_S = 0.5  # a message between two processes has arrived by then, or is lost
SILENCE_S = 15.0  # without diagnostics for this long, the node counts as dead
ACTIVATION_S = 600.0
CONNECTION_S = 20.0
LABELS = ("steps used", "replication used")
DONE = ("completions out", "sweeps dropped", "sweeps skipped, no subscriber", "sweeps refused", "inference failures")

WriteCompletion = Callable[[int, bytes], None]  # (bag time in ns, CDR)
OnDiagnostic = Callable[[Diagnostic], None]


class Player(Node):
    """All ROS entities of one replay. Callbacks run in the executor's thread; files are written by the caller's."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("lidar_completion_bag_replay", context=context)
        self.node_values: dict[str, str] = {}
        self.sweeps: list[SweepReplay] = []
        self.last_answer_s = 0.0
        self._published_s: list[float] = []
        self._index_by_stamp: dict[int, int] = {}  # of the newest sweep, where a bag repeats a stamp
        self._answers = 0
        self._unwritten: deque[tuple[int, bytes]] = deque()
        self._unreported: deque[Diagnostic] = deque()
        self._write: WriteCompletion = lambda time_ns, data: None
        self._on_diagnostic: OnDiagnostic | None = None
        self._record_every = 1
        self._counts_before: dict[str, int] = {}
        self._heard_s = 0.0
        self._changed = threading.Condition()
        self._publisher: Publisher | None = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._receive_diagnostics, 50)

    @property
    def first_sweep_s(self) -> float:
        """Monotonic time at which the first sweep was published."""
        return self._published_s[0]

    def connect(self, write: WriteCompletion, record_every: int = 1, on_diagnostic: OnDiagnostic | None = None) -> None:
        """Join the node's topics and wait until both ends are matched."""
        qos = QoSProfile(depth=10)
        self._write, self._record_every, self._on_diagnostic = write, record_every, on_diagnostic
        self.create_subscription(PointCloud2, self.node_values["output topic"], self._receive, qos, raw=True)
        self.create_subscription(DiagnosticArray, f"/{self.node_values['node']}/debug/sweep", self._receive_label, 50)
        self._publisher = self.create_publisher(PointCloud2, self.node_values["input topic"], qos)
        self._await("the node to match both topics", self._connected, CONNECTION_S)
        self._counts_before = self._counts()

    def play(self, bag_time_ns: int, cdr: bytes) -> int:
        """Publish one sweep and return its index. Raises struct.error for a truncated message."""
        assert self._publisher is not None, "connect first"
        stamp_ns, points = cloud_head(cdr)
        with self._changed:
            now = time.monotonic()
            index = self._index_by_stamp[stamp_ns] = len(self.sweeps)
            self._published_s.append(now)
            self.sweeps.append(SweepReplay(stamp_ns, bag_time_ns, points, sent_s=now - self._published_s[0]))
        self._publisher.publish(cdr)
        return index

    def counts(self) -> dict[str, int]:
        """The node's counters since `connect`."""
        return {name: value - self._counts_before[name] for name, value in self._counts().items()}

    # --- waiting; each writes and reports what has arrived meanwhile ---

    def wait_until_active(self, check: Callable[[], None]) -> None:
        """Wait until a node is active; `check` may raise to end the wait."""
        active = lambda: self.node_values.get("state") == "active"  # noqa: E731
        self._await("the node to become active", active, ACTIVATION_S, check)

    def wait_until(self, due_s: float) -> None:
        """Wait until this time of the monotonic clock."""
        self._await("the time", lambda: time.monotonic() >= due_s)

    def wait_for_answer(self, index: int) -> None:
        """Wait until this sweep is answered, or the node has nothing left to do."""
        self._await("the node to answer", lambda: self.sweeps[index].latency_s is not None or self._settled())

    def wait_until_settled(self) -> None:
        """Wait until every sweep is answered or accounted for, and the node's counters include all of them."""
        self._await("the node to answer", self._settled)
        settled_s = time.monotonic()
        if self._answers < len(self.sweeps):
            self.wait_until(settled_s + TRANSIT_S)  # a counted completion may still be in transit
        self._await("the node's last diagnostic", lambda: self._heard_s > settled_s)

    def _await(
        self,
        what: str,
        condition: Callable[[], bool],
        timeout_s: float = float("inf"),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        began_s = time.monotonic()
        while not self._holds(condition):
            self._flush()
            check()
            now = time.monotonic()
            silent = bool(self.node_values) and now - max(self._heard_s, began_s) > SILENCE_S
            if silent or now - began_s > timeout_s:
                raise ReplayError(
                    f"waited {now - began_s:.0f} s for {what}, without success; the node's last diagnostic: "
                    f"{self.node_values.get('message', 'none')}"
                )
        self._flush()

    def _holds(self, condition: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, 0.02)

    def _flush(self) -> None:
        while self._unwritten:
            self._write(*self._unwritten.popleft())
        while self._unreported and self._on_diagnostic is not None:
            self._on_diagnostic(self._unreported.popleft())

    def _settled(self) -> bool:
        """No sweep is in transit or in work, as far as the last diagnostic shows."""
        if self._answers == len(self.sweeps):
            return True
        counts = self._counts()
        done = sum(counts[name] for name in DONE)
        return self._heard_s > self._published_s[-1] + TRANSIT_S and counts["sweeps in"] == done

    def _connected(self) -> bool:
        values = self.node_values
        ends = int(values["input publishers"]) > 0 and int(values["output subscribers"]) > 0
        return ends and self._publisher is not None and self._publisher.get_subscription_count() > 0

    def _counts(self) -> dict[str, int]:
        return {name: int(self.node_values[name]) for name in ("sweeps in", *DONE)}

    # --- callbacks ---

    def _receive_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.partition(":")[0]
            # of several nodes, the first one that is heard
            if status.hardware_id != "lidar_completion" or self.node_values.get("node", name) != name:
                continue
            with self._changed:
                about = {"message": status.message, "node": name}
                self.node_values = {pair.key: pair.value for pair in status.values} | about
                self._heard_s = time.monotonic()
                if self._on_diagnostic is not None and self._published_s:
                    at_s, level = self._heard_s - self.first_sweep_s, int.from_bytes(status.level, "little")
                    self._unreported.append(Diagnostic(at_s, level, status.message, self.node_values))
                self._changed.notify_all()

    def _receive_label(self, message: DiagnosticArray) -> None:
        """The node's label of one sweep, under the sweep's stamp."""
        index = self._index_by_stamp.get(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
        if index is None or not message.status:
            return
        values = {pair.key: pair.value for pair in message.status[0].values}
        steps, replication = (int(text) if text.isdigit() else None for text in (values.get(key, "") for key in LABELS))
        with self._changed:
            self.sweeps[index] = replace(self.sweeps[index], steps=steps, replication=replication)

    def _receive(self, data: bytes) -> None:
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
            self.last_answer_s = now
            self._changed.notify_all()


@contextmanager
def player_session(domain_id: int | None = None) -> Iterator[Player]:
    """A player in a ROS context of its own, whose callbacks run in their own thread."""
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
