"""Publishes the node's state on /diagnostics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from lidar_completion.sparse.convolution import backend_of
from lidar_completion_ros.diagnostics import Situation, SweepLog, classify_status
from lidar_completion_ros.inference import Inference
from lidar_completion_ros.model_loader import ModelLoader
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.publishers import Publishers
from lidar_completion_ros.status import NodeStatus, diagnostic_status

LAST_DIAGNOSTIC_S = 0.5  # time to deliver the last diagnostic before the node ends


@dataclass(frozen=True)
class NodeState:
    """The parts of the node that a diagnostic describes."""

    lifecycle_state: str
    configure_error: str  # why the last configure or activate failed; empty if it succeeded
    active_since_s: float  # time.monotonic()
    input_topic: str
    input_publishers: int
    parameters: Parameters
    loader: ModelLoader
    log: SweepLog
    outputs: Publishers | None  # None: the node is not configured


class StatusReporter:
    """Publishes a diagnostic of the node periodically, in every lifecycle state."""

    def __init__(self, node: Node, snapshot: Callable[[], NodeState], period_s: float) -> None:
        self._node = node
        self._snapshot = snapshot
        self._reported_troubles: Counter[str] = Counter()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: diagnostics continue while a simulated clock stands still.
        self._timer = node.create_timer(period_s, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def report(self) -> None:
        """Publish one diagnostic."""
        state = self._snapshot()
        status, troubles, log = node_status(state), state.log.troubles(), state.log
        conflict = _name_conflict(self._node, status.output_topic)
        level, message = classify_status(log, troubles - self._reported_troubles, situation(state, status, conflict))
        self._reported_troubles = troubles
        values = status.to_key_values() | log.counts().to_key_values()
        if state.loader.inference is not None:
            values |= state.loader.inference.values()
        if log.last is not None:
            values |= log.last.to_key_values()
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: completion"
        array = DiagnosticArray(status=[diagnostic_status(name, level, message, values)])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def report_last(self) -> None:
        """Publish a diagnostic and wait until it has been delivered."""
        self.report()
        self._publisher.wait_for_all_acked(Duration(seconds=LAST_DIAGNOSTIC_S))


def node_status(state: NodeState) -> NodeStatus:
    """The state of the node as it is published."""
    inference, parameters, outputs, log = state.loader.inference, state.parameters, state.outputs, state.log
    completer = inference.completer if inference else None
    limits = inference.limits.max if inference else None
    return NodeStatus(
        state=state.lifecycle_state,
        model=state.loader.name or parameters.model or "default",
        model_error=state.loader.error,
        device=str(inference.device) if inference else parameters.device,
        backend=completer.backend if completer else parameters.backend,
        convolution=_convolution(inference) if inference else "",
        precision=completer.precision if completer else parameters.precision,
        input_topic=state.input_topic,
        input_publishers=state.input_publishers,
        output_topic=outputs.output_topic if outputs else "",
        output_subscribers=outputs.subscribers() if outputs else 0,
        latency_budget_ms=parameters.latency_budget_ms,
        max_steps=limits.steps if limits else parameters.steps,
        max_replication=limits.replication if limits else parameters.replication,
        memory=inference.memory_error if inference else "",
        last_fault=log.last_fault,
        latency_p50_ms=log.latency_ms(50),
        latency_p95_ms=log.latency_ms(95),
        latency_p99_ms=log.latency_ms(99),
    )


def situation(state: NodeState, status: NodeStatus, name_conflict: str) -> Situation:
    """The input of `classify_status` besides the sweeps."""
    inference, last = state.loader.inference, state.log.last
    return Situation(
        state=status.state,
        configure_error=state.configure_error,
        input_topic=status.input_topic,
        publishers=status.input_publishers,
        subscribers=status.output_subscribers,
        sweep_timeout_s=state.parameters.sweep_timeout_s,
        latency_budget_ms=status.latency_budget_ms,
        active_for_s=time.monotonic() - state.active_since_s,
        model_error=status.model_error,
        memory_error=status.memory,
        can_meet_budget=inference is None or last is None or inference.can_meet_budget(last.points_in),
        name_conflict=name_conflict,
    )


def _name_conflict(node: Node, output_topic: str) -> str:
    """Another publisher of the output, such as a second node of the same name; empty if there is none."""
    publishers = node.get_publishers_info_by_topic(output_topic) if output_topic else []
    if len(publishers) < 2:
        return ""
    names = sorted({f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in publishers})
    return f"{len(publishers)} publishers on {output_topic}, of the nodes {', '.join(names)}: stop all but one"


def _convolution(inference: Inference) -> str:
    """The implementation of the convolution: onnxruntime, or the sparse one chosen for the model's device."""
    return "onnxruntime" if inference.completer.backend == "onnx" else backend_of(inference.device)
