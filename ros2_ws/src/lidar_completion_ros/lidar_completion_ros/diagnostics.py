"""What the node tells about itself: counts and latencies of its sweeps, and the DiagnosticStatus made of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

LATENCY_WINDOW = 100  # sweeps
PERCENTILES = (50, 95, 99)
STUCK_AFTER = 5  # times the 99th percentile of the latencies before


@dataclass
class SweepRecord:
    """One completed sweep, as diagnostics and debug topics see it."""

    timings_s: dict[str, float]  # preprocess, denoise, postprocess, total
    latency_s: float  # from the arrival of the message to the publication of its completion
    steps: int
    points_in: int
    points_out: int
    points_completed: int  # of points_out
    replication: int = 0
    age_s: float = 0.0  # from the arrival of the message to the begin of the work
    deskewed: bool = False
    temporal: str = "off"  # off, started, used, or why the completion before was forgotten
    removed: dict[str, int] = field(default_factory=dict)  # completed points that were taken away, by the reason

    def values(self) -> dict[str, str]:
        """Key-value pairs: what labels a sweep."""
        values = {
            "steps used": str(self.steps),
            "replication used": str(self.replication),
            "points in": str(self.points_in),
            "points out": str(self.points_out),
            "points completed": str(self.points_completed),
            "deskewed": "yes" if self.deskewed else "no",
            "temporal": self.temporal,
            "waited ms": f"{self.age_s * 1e3:.1f}",
            "latency ms": f"{self.latency_s * 1e3:.1f}",
        }
        values |= {f"removed: {reason}": str(count) for reason, count in self.removed.items()}
        return values | {f"{stage} ms": f"{seconds * 1e3:.1f}" for stage, seconds in self.timings_s.items()}


@dataclass
class SweepLog:
    """Counts and latencies since the node was configured. Safe to use from the executor and the inference thread."""

    received: int = 0
    completed: int = 0
    dropped: int = 0  # never begun: replaced by a newer sweep, or too old
    shed: int = 0  # of these the ones that were too old for their deadline
    skipped: int = 0  # nobody subscribed to the completions
    stamp_jumps: int = 0  # stamps that were earlier than the one before
    deadlines_missed: int = 0  # of the output's QoS deadline
    failed: int = 0  # the inference raised
    callbacks_failed: int = 0  # the executor raised: bytes that are no message, a service call, ...
    faults: Counter[str] = field(default_factory=Counter)  # refused sweeps by the name of the fault
    last_fault: str = ""  # full text of the newest refusal or failure
    recovered: bool = True  # the newest sweep that the inference took was completed
    last: SweepRecord | None = None
    last_arrival_s: float | None = None  # time.monotonic()
    cycle_s: float | None = None  # between the two newest completions
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))
    _began_s: float | None = None  # time.monotonic(); None: nothing is in work
    _last_completion_s: float | None = None
    _last_stamp_ns: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arrived(self, stamp_ns: int) -> bool:
        """Count a message. True if its stamp is earlier than that of the message before."""
        with self._lock:
            self.received += 1
            self.last_arrival_s = time.monotonic()
            jumped = self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns
            self.stamp_jumps += jumped
            self._last_stamp_ns = stamp_ns
            return jumped

    def began(self) -> None:
        """The inference takes a sweep; how it ends is told by one of the methods below."""
        with self._lock:
            self._began_s = time.monotonic()

    def working_s(self) -> float:
        """How long the sweep in work takes already; 0 where none is."""
        with self._lock:
            return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def replaced(self) -> None:
        with self._lock:
            self.dropped += 1

    def shed_stale(self) -> None:
        with self._lock:
            self.dropped += 1
            self.shed += 1
            self._began_s = None

    def missed_deadlines(self, count: int) -> None:
        with self._lock:
            self.deadlines_missed += count

    def forget_recent(self) -> None:
        """Time jumped: what the newest sweeps were says nothing any more. The counts go on."""
        with self._lock:
            self.latencies_s.clear()
            self.last, self.cycle_s, self._last_completion_s = None, None, None
            self.recovered, self.last_fault = True, ""

    def skipped_unwatched(self) -> None:
        with self._lock:
            self.skipped += 1

    def refused(self, fault: str, detail: str) -> None:
        """The sweep itself is at fault: a message that cannot be read, or nothing in it to complete."""
        with self._lock:
            self.faults[fault] += 1
            self.last_fault, self.recovered, self._began_s = detail, False, None

    def inference_failed(self, detail: str) -> None:
        with self._lock:
            self.failed += 1
            self.last_fault, self.recovered, self._began_s = detail, False, None

    def callback_failed(self) -> None:
        with self._lock:
            self.callbacks_failed += 1

    def completed_sweep(self, record: SweepRecord) -> None:
        with self._lock:
            now = time.monotonic()
            self.cycle_s = None if self._last_completion_s is None else now - self._last_completion_s
            self._last_completion_s = now
            self.completed += 1
            self.last, self.recovered, self._began_s = record, True, None
            self.latencies_s.append(record.latency_s)

    def troubles(self) -> Counter[str]:
        """Everything that a report should mention when it grew since the report before."""
        with self._lock:
            stamps = {"stamp went backwards": self.stamp_jumps} if self.stamp_jumps else {}
            failures = {"inference failed": self.failed} if self.failed else {}
            callbacks = {"callback failed": self.callbacks_failed} if self.callbacks_failed else {}
            return Counter({**self.faults, **failures, **callbacks, **stamps})

    def latency_ms(self, percentile: float) -> float | None:
        with self._lock:
            return float(np.percentile(self.latencies_s, percentile)) * 1e3 if self.latencies_s else None

    def values(self) -> dict[str, str]:
        """The key-value pairs of the diagnostic."""
        with self._lock:  # counts of one moment, which add up
            values = {
                "sweeps in": str(self.received),
                "completions out": str(self.completed),
                "sweeps dropped": str(self.dropped),
                "sweeps shed, too old": str(self.shed),
                "sweeps skipped, no subscriber": str(self.skipped),
                "sweeps refused": str(sum(self.faults.values())),
                "inference failures": str(self.failed),
                "callbacks failed": str(self.callbacks_failed),
                "stamps gone backwards": str(self.stamp_jumps),
                "output deadlines missed": str(self.deadlines_missed),
                "last fault": self.last_fault,
            }
            values |= {f"refused: {fault}": str(count) for fault, count in sorted(self.faults.items())}
        for percentile in PERCENTILES:
            latency = self.latency_ms(percentile)
            values[f"latency p{percentile} ms"] = "" if latency is None else f"{latency:.1f}"
        last = self.last
        return values if last is None else values | last.values()


@dataclass(frozen=True)
class Situation:
    """What surrounds the sweeps at the time of a report."""

    state: str  # label of the lifecycle state
    configure_error: str  # why the last configure or activate failed, empty if it did not
    input_topic: str
    publishers: int  # on the input topic
    subscribers: int  # of the completed points
    sweep_timeout_s: float
    latency_budget_ms: float  # 0: none
    active_for_s: float  # since the node became active
    reload_error: str = ""  # why the newest model that was asked for does not run, empty if it does
    memory_trouble: str = ""  # what memory does not hold, empty when all work fits
    can_meet_budget: bool = True  # the least work is expected to fit


def judge(log: SweepLog, new_troubles: Mapping[str, int], now: Situation) -> tuple[bytes, str]:
    """Level and one-line message: the worst thing that is true. `new_troubles`: counts since the report before."""
    if now.configure_error:
        return DiagnosticStatus.ERROR, now.configure_error
    if now.state != "active":
        return DiagnosticStatus.OK, now.state
    stuck = _stuck(log, now)
    if stuck:
        return DiagnosticStatus.ERROR, stuck
    if not log.recovered:
        return DiagnosticStatus.ERROR, f"failing: {log.last_fault}"
    if now.memory_trouble:
        return DiagnosticStatus.ERROR, now.memory_trouble
    if new_troubles:
        counts = ", ".join(f"{name} ({count}x)" for name, count in sorted(new_troubles.items()))
        return DiagnosticStatus.WARN, f"since the last report: {counts}"
    if now.reload_error:
        return DiagnosticStatus.WARN, now.reload_error
    waiting = _waiting(log, now)
    if waiting:
        return DiagnosticStatus.WARN, waiting
    nothing = _nothing_completed(log)
    if nothing:
        return DiagnosticStatus.WARN, nothing
    if now.subscribers == 0 and log.skipped:
        return DiagnosticStatus.OK, "idle: nobody subscribes to the completed points"
    latency = log.latency_ms(99)
    if latency is not None and 0 < now.latency_budget_ms < latency:
        least = "" if now.can_meet_budget else "; the least work does not fit it"
        return (
            DiagnosticStatus.WARN,
            f"over budget: latency p99 {latency:.0f} ms, budget {now.latency_budget_ms:.0f} ms{least}",
        )
    return DiagnosticStatus.OK, "completing"


def _stuck(log: SweepLog, now: Situation) -> str:
    """A sweep takes much longer than those before it: a device that hangs, or an inference thread that is gone."""
    working_s, typical_ms = log.working_s(), log.latency_ms(99)
    if typical_ms is None or working_s < max(now.sweep_timeout_s, STUCK_AFTER * typical_ms / 1e3):
        return ""
    return f"stuck: the sweep in work takes {working_s:.1f} s already, those before it took {typical_ms:.0f} ms (p99)"


def _nothing_completed(log: SweepLog) -> str:
    """The newest sweep went out as it came in: a flat ground alone, or rules that no completed point passes."""
    last = log.last
    if last is None or last.points_completed:
        return ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in last.removed.items() if count)
    return f"the newest sweep has no completed point left; taken out: {reasons or 'none'}"


def _waiting(log: SweepLog, now: Situation) -> str:
    since_arrival = float("inf") if log.last_arrival_s is None else time.monotonic() - log.last_arrival_s
    silence_s = min(since_arrival, now.active_for_s)
    if silence_s < now.sweep_timeout_s:
        return ""
    publishers = f"{now.publishers} publisher{'' if now.publishers == 1 else 's'}"
    return f"waiting for sweeps: none for {silence_s:.1f} s on {now.input_topic} ({publishers})"


def status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, hardware_id="lidar_completion", values=pairs)
