"""The ROS interface of a replay: publishes sweeps, records completions, and follows the node's diagnostics.

Messages stay serialised: sweeps are published, and completions recorded, as CDR.
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
from lidar_completion_ros.status import NodeReport, SweepCounts, SweepLabel

TRANSIT_S = 0.5  # a message that takes longer than this between two processes is lost
SILENCE_S = 15.0  # without diagnostics for this long, a node that was active counts as dead
ACTIVATION_S = 600.0
CONNECTION_S = 20.0
UNKNOWN_NAME = "_NODE_NAME_UNKNOWN_"  # rmw's name of a node that has not been discovered

WriteCompletion = Callable[[int, bytes], None]  # (bag time in ns, CDR)
OnDiagnostic = Callable[[Diagnostic], None]


class Player(Node):
    """All ROS entities of one replay. Callbacks run in the executor's thread; files are written by the caller's."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("lidar_completion_bag_replay", context=context)
        self._report: NodeReport | None = None  # the newest
        self.sweeps: list[SweepReplay] = []
        self.last_answer_s = 0.0
        self._published_s: list[float] = []
        self._unanswered: dict[int, list[int]] = {}  # stamp -> sweeps without a completion; a bag may repeat a stamp
        self._unlabelled: dict[int, list[int]] = {}
        self._answers = 0
        self._unwritten: deque[tuple[int, bytes]] = deque()
        self._unreported: deque[Diagnostic] = deque()
        self._write: WriteCompletion = lambda time_ns, data: None
        self._on_diagnostic: OnDiagnostic | None = None
        self._record_every = 1
        self._counts_before = SweepCounts()
        self._heard_s = 0.0
        self._was_active = False  # the node has been active
        self._changed = threading.Condition()
        self._publisher: Publisher | None = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._receive_diagnostics, 50)

    @property
    def first_sweep_s(self) -> float:
        """Monotonic time at which the first sweep was published."""
        return self._published_s[0]

    @property
    def report(self) -> NodeReport:
        """The node's newest diagnostic, after `wait_for_node`."""
        assert self._report is not None
        return self._report

    def connect(self, write: WriteCompletion, record_every: int = 1, on_diagnostic: OnDiagnostic | None = None) -> None:
        """Publish and subscribe to the node's topics, and wait until DDS has matched both ends.

        Raises ReplayError if another publisher, such as a driver or a second replay, has the node's input topic: the node would
        mix both recordings.
        """
        self._check_publishers(allowed=0)
        qos = QoSProfile(depth=10)
        self._write, self._record_every, self._on_diagnostic = write, record_every, on_diagnostic
        self.create_subscription(PointCloud2, self.report.status.output_topic, self._receive, qos, raw=True)
        self.create_subscription(DiagnosticArray, f"/{self.report.node}/debug/sweep", self._receive_label, 50)
        self._publisher = self.create_publisher(PointCloud2, self.report.status.input_topic, qos)
        self._await("the node to match both topics", self._connected, CONNECTION_S)
        self._check_publishers(allowed=1)
        self._counts_before = self.report.counts

    def _check_publishers(self, allowed: int) -> None:
        topic = self.report.status.input_topic
        if self.report.status.input_publishers <= allowed:
            return
        publishers = self.get_publishers_info_by_topic(topic)  # whose names DDS may not know yet
        known = [each for each in publishers if each.node_name not in (UNKNOWN_NAME, self.get_name())]
        names = {f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in known}
        raise ReplayError(
            f"{topic} has another publisher{': ' * bool(names)}{', '.join(sorted(names))}; the node would mix its sweeps with "
            "those of the bag: stop it, or replay in another domain (export ROS_DOMAIN_ID=42)"
        )

    def play(self, bag_time_ns: int, cdr: bytes) -> int:
        """Publish one sweep and return its index. Raises struct.error for a truncated message."""
        stamp_ns, points = cloud_head(cdr)
        assert self._publisher is not None, "connect first"
        with self._changed:
            now = time.monotonic()
            index = len(self.sweeps)
            for waiting in (self._unanswered, self._unlabelled):
                waiting.setdefault(stamp_ns, []).append(index)
            self._published_s.append(now)
            self.sweeps.append(SweepReplay(stamp_ns, bag_time_ns, points, sent_s=now - self._published_s[0]))
        self._publisher.publish(cdr)
        return index

    def dropped(self) -> int:
        """Sweeps that the node dropped since `connect`."""
        return self.report.counts.dropped - self._counts_before.dropped

    def refused(self) -> int:
        """Sweeps that the node refused or failed to complete since `connect`."""
        now, before = self.report.counts, self._counts_before
        return now.refused + now.failed - before.refused - before.failed

    # --- waiting; each writes and reports what has arrived meanwhile ---

    def wait_until_active(self, check: Callable[[], None]) -> None:
        """Wait until a node is active; `check` may raise to end the wait."""
        active = lambda: self._report is not None and self._report.status.state == "active"  # noqa: E731
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
            # A node that is being activated is silent while it warms up and compiles its loops. Once it has been active, its last
            # diagnostic may say that it has been shut down.
            silent = self._was_active and now - max(self._heard_s, began_s) > SILENCE_S
            if silent or now - began_s > timeout_s:
                raise ReplayError(
                    f"waited {now - began_s:.0f} s for {what} without success; the node's last diagnostic: "
                    f"{self._report.message if self._report else 'none'}"
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
        """No sweep is in transit or being processed, according to the last diagnostic."""
        if self._answers == len(self.sweeps):
            return True
        counts = self.report.counts
        return self._heard_s > self._published_s[-1] + TRANSIT_S and counts.received == counts.finished

    def _connected(self) -> bool:
        status = self.report.status
        ends = status.input_publishers > 0 and status.output_subscribers > 0
        return ends and self._publisher is not None and self._publisher.get_subscription_count() > 0

    # --- callbacks ---

    def _receive_diagnostics(self, message: DiagnosticArray) -> None:
        for report in filter(None, map(NodeReport.of, message.status)):
            if self._report is not None and self._report.node != report.node:
                continue  # of several nodes, the first one is used
            with self._changed:
                self._report, self._heard_s = report, time.monotonic()
                self._was_active |= report.status.state == "active"
                if self._on_diagnostic is not None and self._published_s:
                    self._unreported.append(Diagnostic(self._heard_s - self.first_sweep_s, report))
                self._changed.notify_all()

    def _receive_label(self, message: DiagnosticArray) -> None:
        """The node's label of one sweep, under the sweep's stamp."""
        if not message.status:
            return
        label, stamp = SweepLabel.from_status(message.status[0]), message.header.stamp
        with self._changed:
            index = _take_oldest(self._unlabelled, stamp.sec * 10**9 + stamp.nanosec)
            if index is None:
                return
            self.sweeps[index] = replace(self.sweeps[index], steps=label.steps, replication=label.replication)

    def _receive(self, data: bytes) -> None:
        now = time.monotonic()
        stamp_ns, points = cloud_head(data)
        with self._changed:
            index = _take_oldest(self._unanswered, stamp_ns)
            if index is None:
                return  # the answer to another publisher's sweep
            sweep = self.sweeps[index]
            if index % self._record_every == 0:
                self._unwritten.append((sweep.bag_time_ns, data))
            self._answers += 1
            self.sweeps[index] = replace(sweep, points_out=points, latency_s=now - self._published_s[index])
            self.last_answer_s = now
            self._changed.notify_all()


@contextmanager
def player_session(domain_id: int | None = None) -> Iterator[Player]:
    """A player in its own ROS context, whose callbacks run in their own thread."""
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


def _take_oldest(waiting: dict[int, list[int]], stamp_ns: int) -> int | None:
    """The first of the waiting sweeps with this stamp, which is removed; None if there is none."""
    indices = waiting.get(stamp_ns)
    if indices is None:
        return None
    index = indices.pop(0)
    if not indices:
        del waiting[stamp_ns]
    return index


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()
