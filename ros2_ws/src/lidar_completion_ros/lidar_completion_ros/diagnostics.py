"""Counts and latencies of the sweeps, and the level and message of the diagnostic derived from them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from lidar_completion_ros.status import SweepCounts, SweepLabel

LATENCY_WINDOW = 100  # sweeps
STUCK_FACTOR = 5  # a sweep that takes this many times the p99 latency counts as stuck


@dataclass
class SweepLog:
    """Counts and latencies since the node was configured. Thread-safe: the executor and the worker both write."""

    received: int = 0
    completed: int = 0
    dropped: int = 0
    shed: int = 0
    skipped: int = 0
    stamp_jumps: int = 0
    zero_stamps: int = 0
    deadlines_missed: int = 0  # of the output's QoS deadline
    failed: int = 0  # inference raised an exception
    callbacks_failed: int = 0  # a callback of the executor raised an exception
    faults: Counter[str] = field(default_factory=Counter)  # refused sweeps by fault
    last_fault: str = ""  # text of the newest refusal or failure
    recovered: bool = True  # False after a refusal or failure, until the next completion
    last: SweepLabel | None = None
    last_arrival_s: float | None = None  # time.monotonic()
    cycle_s: float | None = None  # between the two newest completions
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))
    _started_s: float | None = None  # time.monotonic(); None: no sweep is being processed
    _last_completion_s: float | None = None
    _last_stamp_ns: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sweep_arrived(self, stamp_ns: int) -> bool:
        """Count a message. True if its stamp is earlier than that of the previous one."""
        with self._lock:
            self.received += 1
            self.last_arrival_s = time.monotonic()
            jumped = self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns
            self.stamp_jumps += jumped
            self.zero_stamps += stamp_ns == 0
            self._last_stamp_ns = stamp_ns
            return jumped

    def sweep_started(self) -> None:
        """The worker has taken a sweep; one of the methods below records how it ends."""
        with self._lock:
            self._started_s = time.monotonic()

    def working_s(self) -> float:
        """Seconds since the current sweep was started; 0 if there is none."""
        with self._lock:
            return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    def sweep_replaced(self) -> None:
        with self._lock:
            self.dropped += 1

    def sweep_shed(self) -> None:
        with self._lock:
            self.dropped += 1
            self.shed += 1
            self._started_s = None

    def sweep_skipped(self) -> None:
        """Count a sweep that is skipped because nobody subscribes to an output."""
        with self._lock:
            self.skipped += 1

    def sweep_refused(self, fault: str, detail: str) -> None:
        """Count a message that cannot be decoded or holds nothing to complete."""
        with self._lock:
            self.faults[fault] += 1
            self.last_fault, self.recovered, self._started_s = detail, False, None

    def inference_failed(self, detail: str) -> None:
        with self._lock:
            self.failed += 1
            self.last_fault, self.recovered, self._started_s = detail, False, None

    def sweep_completed(self, label: SweepLabel) -> None:
        with self._lock:
            now = time.monotonic()
            self.cycle_s = None if self._last_completion_s is None else now - self._last_completion_s
            self._last_completion_s = now
            self.completed += 1
            self.last, self.recovered, self._started_s = label, True, None
            self.latencies_s.append(label.latency_ms / 1e3)

    def callback_failed(self) -> None:
        with self._lock:
            self.callbacks_failed += 1

    def missed_deadlines(self, count: int) -> None:
        with self._lock:
            self.deadlines_missed += count

    def forget_recent(self) -> None:
        """Clear latencies and the state of the newest sweeps, after a jump in time. The counts are kept."""
        with self._lock:
            self.latencies_s.clear()
            self.last, self.cycle_s, self._last_completion_s = None, None, None
            self.recovered, self.last_fault = True, ""

    def troubles(self) -> Counter[str]:
        """Counts that a report mentions if they have increased since the previous report."""
        with self._lock:
            found = {
                "inference failed": self.failed,
                "callback failed": self.callbacks_failed,
                "stamp went backwards": self.stamp_jumps,
                "stamp is zero": self.zero_stamps,
            }
            return Counter({**self.faults, **{name: count for name, count in found.items() if count}})

    def latency_ms(self, percentile: float) -> float:
        """Percentile of the newest latencies; NaN if there are none."""
        with self._lock:
            return float(np.percentile(self.latencies_s, percentile)) * 1e3 if self.latencies_s else math.nan

    def counts(self) -> SweepCounts:
        """All counts at one moment."""
        with self._lock:
            return SweepCounts(
                received=self.received,
                completed=self.completed,
                dropped=self.dropped,
                shed=self.shed,
                skipped=self.skipped,
                refused=sum(self.faults.values()),
                failed=self.failed,
                callbacks_failed=self.callbacks_failed,
                stamp_jumps=self.stamp_jumps,
                deadlines_missed=self.deadlines_missed,
                faults=dict(sorted(self.faults.items())),
            )


@dataclass(frozen=True)
class Situation:
    """The state of the node at the time of a report, apart from its sweeps."""

    state: str  # label of the lifecycle state
    configure_error: str  # why the last configure or activate failed; empty if it succeeded
    input_topic: str
    publishers: int  # on the input topic
    subscribers: int  # of the outputs
    sweep_timeout_s: float
    latency_budget_ms: float  # 0: none
    active_for_s: float  # since the node was activated
    model_error: str = ""  # why the newest requested model is not in use
    memory_error: str = ""  # empty: the full workload fits into memory
    can_meet_budget: bool = True  # with the minimum workload
    name_conflict: str = ""  # other nodes that publish to the output; empty: none


def classify_status(log: SweepLog, new_troubles: Mapping[str, int], now: Situation) -> tuple[bytes, str]:
    """Level and one-line message of the most severe condition. `new_troubles`: counts since the previous report."""
    if now.configure_error:
        return DiagnosticStatus.ERROR, now.configure_error
    if now.state != "active":
        return DiagnosticStatus.OK, now.state
    error = _error(log, now)
    if error:
        return DiagnosticStatus.ERROR, error
    warning = _warning(log, new_troubles, now)
    if warning:
        return DiagnosticStatus.WARN, warning
    if now.subscribers == 0 and log.skipped:
        return DiagnosticStatus.OK, "idle: no subscriber"
    return DiagnosticStatus.OK, "completing"


def _error(log: SweepLog, now: Situation) -> str:
    stuck = _stuck(log, now)
    if stuck:
        return stuck
    if not log.recovered:
        return f"failing: {log.last_fault}"
    return now.memory_error


def _warning(log: SweepLog, new_troubles: Mapping[str, int], now: Situation) -> str:
    if new_troubles:
        counts = ", ".join(f"{name} ({count}x)" for name, count in sorted(new_troubles.items()))
        return f"since the last report: {counts}"
    waiting = now.model_error or now.name_conflict or _waiting(log, now)
    return waiting or _nothing_completed(log) or _mounting(log) or _late(log, now)


def _stuck(log: SweepLog, now: Situation) -> str:
    """Message if a sweep takes much longer than the previous ones: the device hangs, or the worker thread has died."""
    working_s, p99_ms = log.working_s(), log.latency_ms(99)
    if math.isnan(p99_ms) or working_s < max(now.sweep_timeout_s, STUCK_FACTOR * p99_ms / 1e3):
        return ""
    return f"stuck: the current sweep has taken {working_s:.1f} s so far; p99 latency before it: {p99_ms:.0f} ms"


def _waiting(log: SweepLog, now: Situation) -> str:
    since_arrival = math.inf if log.last_arrival_s is None else time.monotonic() - log.last_arrival_s
    silence_s = min(since_arrival, now.active_for_s)
    if silence_s < now.sweep_timeout_s:
        return ""
    publishers = f"{now.publishers} publisher{'' if now.publishers == 1 else 's'}"
    waiting = f"waiting for sweeps: none for {silence_s:.1f} s on {now.input_topic} ({publishers})"
    if now.publishers and log.received == 0:
        waiting += "; if the driver is running, check its QoS and its Fast DDS profile (config/fast_dds_profile.xml)"
    return waiting


def _nothing_completed(log: SweepLog) -> str:
    """Message if the newest sweep has no completed points: only flat ground, or the filters removed all of them."""
    last = log.last
    if last is None or last.points_completed:
        return ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in last.removed.items() if count)
    return f"the newest sweep has no completed points; removed: {reasons or 'none'}"


def _mounting(log: SweepLog) -> str:
    """Message if the sensor is mounted in a way that the model has not seen in training."""
    return log.last.mounting_warning if log.last is not None else ""


def _late(log: SweepLog, now: Situation) -> str:
    latency_ms = log.latency_ms(99)
    if not 0 < now.latency_budget_ms < latency_ms:  # also if there is no latency yet: NaN
        return ""
    minimum = "" if now.can_meet_budget else "; even the minimum workload exceeds it"
    return f"over budget: p99 latency {latency_ms:.0f} ms, budget {now.latency_budget_ms:.0f} ms{minimum}"
