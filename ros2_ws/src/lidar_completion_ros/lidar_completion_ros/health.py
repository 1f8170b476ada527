"""Health check from the node's diagnostics: `lidar-completion health`, for Docker, systemd and scripts.

Exit code 0: every node that was heard is active and reports no ERROR. 1: a node reports an ERROR or is not active, or no
diagnostic arrived in time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from lidar_completion_ros.status import NodeReport

LEVELS = ("OK", "WARN", "ERROR", "STALE")


@dataclass(frozen=True)
class Health:
    """The newest diagnostic of each node that was heard, by name."""

    reports: dict[str, NodeReport]

    @property
    def healthy(self) -> bool:
        """Whether a node was heard, and all nodes that were heard are active without an ERROR."""
        return bool(self.reports) and all(
            report.level < LEVELS.index("ERROR") and report.status.state == "active" for report in self.reports.values()
        )


def listen(timeout_s: float, name: str = "", domain_id: int | None = None) -> Health:
    """Wait up to `timeout_s` for a diagnostic of a completion node whose name contains `name`."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    reports: dict[str, NodeReport] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        for report in filter(None, map(NodeReport.of, message.status)):
            if name in report.node:
                reports[report.node] = report

    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("lidar_completion_health", context=context)
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        until_s = time.monotonic() + timeout_s
        while not reports and time.monotonic() < until_s:
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
    return Health(reports)
