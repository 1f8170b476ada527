"""Health check by diagnostics: `lidar-completion health`, for Docker, systemd and scripts.

Exit code 0: a diagnostic of the node came and is no ERROR. 1: it is an ERROR, or none came in time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

LEVELS = ("OK", "WARN", "ERROR", "STALE")


@dataclass(frozen=True)
class Health:
    """The newest diagnostic of every node that was heard: name -> (level, message)."""

    told: dict[str, tuple[int, str]]

    @property
    def healthy(self) -> bool:
        return bool(self.told) and all(level < LEVELS.index("ERROR") for level, _ in self.told.values())


def listen(timeout_s: float, name: str = "", domain_id: int | None = None) -> Health:
    """Wait for the first diagnostic of a completion node whose name contains `name`, at most `timeout_s`."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    told: dict[str, tuple[int, str]] = {}

    def hear(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == "lidar_completion" and name in status.name:
                told[status.name] = (int.from_bytes(status.level, "little"), status.message)

    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("lidar_completion_health", context=context)
        node.create_subscription(DiagnosticArray, "/diagnostics", hear, 10)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        until_s = time.monotonic() + timeout_s
        while not told and time.monotonic() < until_s:
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
    return Health(told)
