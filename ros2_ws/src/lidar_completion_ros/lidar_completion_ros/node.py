"""The lifecycle node `lidar_completion`: sweeps in, dense scenes with provenance out.

    subscription -> mailbox (latest sweep wins) -> inference thread -> read_sweep -> SceneCompleter -> publisher

The executor's thread only receives messages, answers services and reports diagnostics, so that it stays responsive
while a sweep is being completed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion.errors import SweepError
from lidar_completion_ros.diagnostics import Situation, SweepLog, SweepRecord, judge, status
from lidar_completion_ros.installed_files import model_folder
from lidar_completion_ros.mailbox import Mailbox
from lidar_completion_ros.parameters import (
    ParameterError,
    Parameters,
    changed_parameters,
    declare_parameters,
    read_only_while_configured,
    read_parameters,
)
from lidar_completion_ros.point_cloud_messages import MessageError, Sweep, completion_message, read_sweep

NODE_NAME = "lidar_completion"
INPUT_TOPIC = "velodyne_points"  # relative: a namespace gives every LiDAR its own
OUTPUT_TOPIC = "~/points"
STAGES = ("preprocess", "denoise", "postprocess", "total")
SECONDS_TO_FINISH_A_SWEEP = 10.0


@dataclass(frozen=True)
class Arrival:
    """A message and the time at which it came."""

    message: PointCloud2
    arrived_s: float  # time.monotonic()


class CompletionNode(LifecycleNode):
    """Completes the newest sweep of its input topic and publishes it under the same header."""

    def __init__(self, node_name: str = NODE_NAME, **arguments: object) -> None:
        super().__init__(node_name, **arguments)
        self._refuse_impossible_transitions()
        self.parameters: Parameters = declare_parameters(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._adopt_parameters)
        self._completer: SceneCompleter | None = None
        self._inference: threading.Thread | None = None
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._log = SweepLog()
        self._reported_troubles: Counter[str] = Counter()
        self._configure_error = ""
        self._active_since_s = 0.0
        self._subscription = None
        self._completions = None
        self._debug_publishers: dict[str, object] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: the reports go on while a simulated clock stands still.
        self._diagnostics_timer = self.create_timer(
            self.parameters.diagnostics_period_s, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    # ---- lifecycle ----

    @property
    def state(self) -> str:
        """Label of the lifecycle state: unconfigured, inactive, active, finalized, or that of a transition."""
        return self._state_machine.current_state[1]

    @property
    def configure_error(self) -> str:
        """Why the last configure or activate failed; empty if it did not."""
        return self._configure_error

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.parameters = read_parameters(self)
            self._completer = SceneCompleter.load(
                model_folder(self.parameters.model), device=self.parameters.device, backend=self.parameters.backend
            )
        except Exception as error:  # a missing or damaged model, an unusable device, no memory for it, ...
            return self._fail("cannot load the model", error)
        self._log, self._reported_troubles = SweepLog(), Counter()
        try:
            self._create_publishers()
        except Exception as error:  # an impossible QoS override
            return self._fail("cannot create the publishers", error)
        self._configure_error = ""
        self.get_logger().info(
            f"model {self._model_name()} on {self._completer.device} ({self._completer.backend}): "
            f"{self.resolve_topic_name(INPUT_TOPIC)} -> {self._completions.topic_name}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._warm_up()
            self._subscription = self._subscribe()
        except Exception as error:  # whatever the backend raises (out of memory, ...), or an impossible QoS override
            return self._fail("cannot activate", error)
        self._configure_error = ""
        self._active_since_s = time.monotonic()
        outcome = super().on_activate(state)
        self._mailbox = Mailbox()
        self._inference = threading.Thread(target=self._complete_sweeps, name="inference", daemon=True)
        self._inference.start()
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_inference()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_inference()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Any transition that raised ends unconfigured, from where the node can be configured again."""
        self._stop_inference()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Shut the node down from any state, with a last diagnostic."""
        if self.state in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()
        self.report()
        self._diagnostics.wait_for_all_acked(Duration(seconds=0.5))

    def _fail(self, what: str, error: Exception) -> TransitionCallbackReturn:
        self._configure_error = f"{what}: {error}"
        self.get_logger().error(self._configure_error)
        return TransitionCallbackReturn.FAILURE

    def _refuse_impossible_transitions(self) -> None:
        """Answer a transition that the state does not allow with success=False; rclpy would raise and end the node."""
        change_state = self._service_change_state.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            allowed = {transition[0] for transition in self._state_machine.available_transitions}
            labels = {transition[1] for transition in self._state_machine.available_transitions}
            wanted = request.transition
            if wanted.label not in labels if wanted.label else wanted.id not in allowed:
                self.get_logger().warning(f"transition {wanted.label or wanted.id} is impossible while {self.state}")
                response.success = False
                return response
            return change_state(request, response)

        self._service_change_state.callback = answer

    def _warm_up(self) -> None:
        """Complete one artificial sweep, so that the first real one does not pay for lazy initialisation."""
        assert self._completer is not None
        try:
            self._completer.complete(_warm_up_sweep(), **self.parameters.completion_options())
        except SweepError as error:  # the range limits leave nothing of the artificial sweep
            self.get_logger().info(f"no warm-up: {error}")

    def _stop_inference(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._mailbox.close()
        if self._inference is not None and self._inference.is_alive():
            self._inference.join(SECONDS_TO_FINISH_A_SWEEP)

    def _release(self) -> None:
        for publisher in (self._completions, *self._debug_publishers.values()):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._completions, self._debug_publishers = None, {}
        self._completer = None

    def _subscribe(self) -> Subscription:
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        overrides = QoSOverridingOptions.with_default_policies()
        return self.create_subscription(PointCloud2, INPUT_TOPIC, self._receive, qos, qos_overriding_options=overrides)

    def _create_publishers(self) -> None:
        # Reliable serves both kinds of subscribers: RViz asks for reliable, most consumers of clouds for best effort.
        qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
        overrides = QoSOverridingOptions.with_default_policies()
        self._completions = self.create_lifecycle_publisher(
            PointCloud2, OUTPUT_TOPIC, qos, qos_overriding_options=overrides
        )
        topics = [f"processing_time/{stage}_ms" for stage in STAGES] + ["pipeline_latency_ms", "cyclic_time_ms"]
        self._debug_publishers = {
            topic: self.create_lifecycle_publisher(Float64, f"~/debug/{topic}", qos_profile_sensor_data)
            for topic in topics
        }

    # ---- parameters ----

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        fixed = read_only_while_configured(changes)
        if fixed and self.state != "unconfigured":
            reason = f"{', '.join(fixed)}: read-only while the node is {self.state}; deactivate and clean it up first"
            return SetParametersResult(successful=False, reason=reason)
        try:
            changed_parameters(self.parameters, changes)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _adopt_parameters(self, changes: list[Parameter]) -> None:
        self.parameters = changed_parameters(self.parameters, changes)

    # ---- sweeps ----

    def _receive(self, message: PointCloud2) -> None:
        """In the executor's thread: as short as can be."""
        if self._log.arrived(_stamp_ns(message)):
            self.get_logger().warning("the stamp went backwards; the sweep is completed all the same")
        if self.parameters.lazy and self._completions.get_subscription_count() == 0:
            self._log.skipped_unwatched()
        elif self._mailbox.put(Arrival(message, time.monotonic())):
            self._log.replaced()

    def _complete_sweeps(self) -> None:
        """The inference thread. A sweep that cannot be completed is counted, and the next one gets its chance."""
        mailbox = self._mailbox
        while (arrival := mailbox.take()) is not None:
            try:
                self._complete(arrival)
            except (MessageError, SweepError) as error:
                self._refuse(error)
            except Exception as error:  # the vehicle needs the next sweep, whatever this one did
                self._log.inference_failed(f"{type(error).__name__}: {error}")
                self.get_logger().error(f"inference failed: {type(error).__name__}: {error}")

    def _complete(self, arrival: Arrival) -> None:
        parameters = self.parameters
        assert self._completer is not None
        assert self._completions is not None
        sweep = read_sweep(arrival.message, parameters.max_input_points)
        completion = self._completer.complete(sweep.points, **parameters.completion_options())
        self._completions.publish(_output(arrival.message, sweep, completion, parameters.output_fields))
        latency_s = time.monotonic() - arrival.arrived_s
        record = SweepRecord(
            completion.timings,
            latency_s,
            completion.steps,
            points_in=len(sweep.points),
            points_out=len(completion.points),
        )
        self._log.completed_sweep(record)
        self._publish_debug(record, arrival.message)

    def _refuse(self, error: MessageError | SweepError) -> None:
        fault = error.fault if isinstance(error, MessageError) else "nothing to complete"
        self._log.refused(fault, str(error))
        self.get_logger().warning(f"sweep refused: {error}", throttle_duration_sec=1.0)

    def _publish_debug(self, record: SweepRecord, message: PointCloud2) -> None:
        age_ns = self.get_clock().now().nanoseconds - _stamp_ns(message)
        values = {f"processing_time/{stage}_ms": seconds * 1e3 for stage, seconds in record.timings_s.items()}
        values["pipeline_latency_ms"] = age_ns / 1e6
        if self._log.cycle_s is not None:
            values["cyclic_time_ms"] = self._log.cycle_s * 1e3
        for topic, value in values.items():
            publisher = self._debug_publishers.get(topic)
            if publisher is not None and publisher.get_subscription_count():
                publisher.publish(Float64(data=value))

    # ---- diagnostics ----

    def report(self) -> None:
        """Publish one diagnostic."""
        now = self._situation()
        troubles = self._log.troubles()
        level, message = judge(self._log, troubles - self._reported_troubles, now)
        self._reported_troubles = troubles
        self._publish_status(level, message, now)

    def _situation(self) -> Situation:
        return Situation(
            state=self.state,
            configure_error=self._configure_error,
            input_topic=self.resolve_topic_name(INPUT_TOPIC),
            publishers=0 if self._subscription is None else self._subscription.get_publisher_count(),
            subscribers=0 if self._completions is None else self._completions.get_subscription_count(),
            sweep_timeout_s=self.parameters.sweep_timeout_s,
            latency_budget_ms=self.parameters.latency_budget_ms,
            active_for_s=time.monotonic() - self._active_since_s,
        )

    def _publish_status(self, level: bytes, message: str, now: Situation) -> None:
        values = {
            "state": now.state,
            "model": self._model_name(),
            "device": str(self._completer.device) if self._completer else self.parameters.device,
            "backend": self._completer.backend if self._completer else self.parameters.backend,
            "input topic": now.input_topic,
            "input publishers": str(now.publishers),
            "output topic": self._output_topic(),
            "output subscribers": str(now.subscribers),
        }
        name = f"{self.get_fully_qualified_name().lstrip('/')}: completion"
        array = DiagnosticArray(status=[status(name, level, message, values | self._log.values())])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _output_topic(self) -> str:
        return self._completions.topic_name if self._completions is not None else ""

    def _model_name(self) -> str:
        name = getattr(self._completer.card, "name", "") if self._completer else ""
        return name or self.parameters.model or "default"


def _stamp_ns(message: PointCloud2) -> int:
    """Nanoseconds of the header's stamp. Not by rclpy's Time, which raises where a broken stamp is negative."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _output(message: PointCloud2, sweep: Sweep, completion: Completion, fields: tuple[str, ...]) -> PointCloud2:
    """The completion under the header of its input. Completed points have intensity 0: nobody measured one."""
    intensity = np.zeros(len(completion.points), np.float32)
    if sweep.intensity is not None:
        intensity[: len(completion.measured_rows)] = sweep.intensity[completion.measured_rows]
    return completion_message(
        message.header,
        completion.points,
        intensity=intensity,
        provenance=completion.provenance,
        confidence=completion.confidence,
        output_fields=fields,
    )


def _warm_up_sweep() -> np.ndarray:
    """(N, 3) float32: 32 rings on a flat ground 1.8 m below the sensor and a wall around it at 20 m."""
    azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 512), np.radians(np.linspace(-25.0, 3.0, 32)))
    horizontal = np.minimum(20.0, 1.8 / np.maximum(np.tan(-elevation), 1e-3))
    rays = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), horizontal * np.tan(elevation))
    return np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)
