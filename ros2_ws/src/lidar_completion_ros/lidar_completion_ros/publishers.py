"""The node's publishers: completed clouds, the label of each sweep, and debug values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, Header

from lidar_completion.completer import Completion
from lidar_completion_ros import qos
from lidar_completion_ros.motion import frames
from lidar_completion_ros.occupancy_message import confident_rows, occupancy_message, occupancy_of
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.point_cloud_messages import completion_columns, completion_message, stamp_ns
from lidar_completion_ros.status import SweepLabel, diagnostic_status

if TYPE_CHECKING:
    from scipy.spatial.transform import RigidTransform

OUTPUT_TOPIC = "~/points"
COMPLETED_TOPIC = "~/points_completed"
CONFIDENT_TOPIC = "~/points_confident"
OCCUPANCY_TOPIC = "~/occupancy"
SWEEP_TOPIC = "~/debug/sweep"
STAGES = ("preprocess", "denoise", "postprocess", "total")


class Publishers:
    """Publishers of one configured node. They exist from configure to cleanup."""

    def __init__(self, node: LifecycleNode, on_missed_deadlines: Callable[[int], None]) -> None:
        """on_missed_deadlines: called with the number of missed QoS deadlines of the output. Raises for invalid QoS overrides."""
        self._node = node

        def on_deadline(event: Any) -> None:
            on_missed_deadlines(event.total_count_change)

        deadline = PublisherEventCallbacks(deadline=on_deadline)
        self._completions = self._output(PointCloud2, OUTPUT_TOPIC, deadline)
        self._completed_only = self._output(PointCloud2, COMPLETED_TOPIC)
        self._confident = self._output(PointCloud2, CONFIDENT_TOPIC)
        self._occupancy = self._output(OccupancyGrid, OCCUPANCY_TOPIC)
        self._outputs = (self._completions, self._completed_only, self._confident, self._occupancy)
        self._labels = node.create_lifecycle_publisher(DiagnosticArray, SWEEP_TOPIC, 10)
        values = [f"processing_time/{stage}_ms" for stage in STAGES] + ["pipeline_latency_ms", "cyclic_time_ms"]
        self._debug = {
            value: node.create_lifecycle_publisher(Float64, f"~/debug/{value}", qos_profile_sensor_data)
            for value in values
        }

    @property
    def output_topic(self) -> str:
        """Resolved name of the topic of the completions."""
        return str(self._completions.topic_name)

    def subscribers(self) -> int:
        """Number of subscribers of all outputs."""
        return sum(int(each.get_subscription_count()) for each in self._outputs)

    def publish_completion(
        self,
        header: Header,
        completion: Completion,
        T_target_sensor: RigidTransform | None,
        parameters: Parameters,
        sweep: Mapping[str, np.ndarray],
    ) -> None:
        """Publish the cloud, measured points first, and what somebody subscribes to of the other outputs.

        T_target_sensor: None if the output is in the sweep's frame. sweep (n,): columns of the measured points that output_layout passes on.
        """
        measured, points = len(completion.measured_rows), frames.apply(T_target_sensor, completion.points)
        columns, layout = completion_columns(completion), (parameters.output_fields, parameters.output_layout)
        if self._completions.get_subscription_count() or not parameters.lazy:
            self._completions.publish(completion_message(header, points, columns, *layout, sweep))
        columns, completed = {name: column[measured:] for name, column in columns.items()}, points[measured:]
        if self._completed_only.get_subscription_count():
            empty = {name: column[:0] for name, column in sweep.items()}
            self._completed_only.publish(completion_message(header, completed, columns, *layout, empty))
        if self._confident.get_subscription_count():
            rows = confident_rows(completion, parameters.marking_min_confidence)
            chosen, intensity = completed.take(rows, axis=0), {"intensity": columns["intensity"].take(rows)}
            self._confident.publish(completion_message(header, chosen, intensity, ("intensity",)))
        if self._occupancy.get_subscription_count():
            self._occupancy.publish(occupancy_message(header, occupancy_of(completion, T_target_sensor, parameters)))

    def publish_label(self, header: Header, label: SweepLabel) -> None:
        """Publish how a sweep was completed, under the sweep's stamp."""
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: sweep"
        status = diagnostic_status(name, DiagnosticStatus.OK, "completed", label.to_key_values())
        self._labels.publish(DiagnosticArray(header=header, status=[status]))

    def publish_debug_values(self, header: Header, label: SweepLabel, cycle_s: float | None) -> None:
        """Publish processing times, the age of the completion, and the time since the previous completion."""
        values = {f"processing_time/{stage}_ms": milliseconds for stage, milliseconds in label.stages_ms.items()}
        values["pipeline_latency_ms"] = (self._node.get_clock().now().nanoseconds - stamp_ns(header)) / 1e6
        if cycle_s is not None:
            values["cyclic_time_ms"] = cycle_s * 1e3
        for topic, value in values.items():
            publisher = self._debug.get(topic)
            if publisher is not None and publisher.get_subscription_count():
                publisher.publish(Float64(data=value))

    def destroy(self) -> None:
        for publisher in (*self._outputs, self._labels, *self._debug.values()):
            self._node.destroy_lifecycle_publisher(publisher)

    def _output(self, kind: Any, topic: str, events: PublisherEventCallbacks | None = None) -> Publisher:
        return self._node.create_lifecycle_publisher(
            kind, topic, qos.output_qos(), qos_overriding_options=qos.overrides(), event_callbacks=events
        )
