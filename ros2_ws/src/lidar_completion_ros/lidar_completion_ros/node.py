"""The lifecycle node `lidar_completion`: completes LiDAR sweeps and publishes dense clouds with provenance.

    subscription -> SweepWorker (mailbox, thread) -> Publishers
                        |           |
                   SensorMotion  ModelLoader -> Inference (deadline, memory limit) -> SceneCompleter

The executor's thread receives messages, answers services and reports diagnostics; it never waits for a completion.
"""

from __future__ import annotations

import time
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2

from lidar_completion_ros import qos
from lidar_completion_ros.diagnostics import SweepLog
from lidar_completion_ros.lifecycle import state_label
from lidar_completion_ros.model_loader import LoadCompleter, ModelLoader, load_completer
from lidar_completion_ros.parameters import (
    ParameterError,
    Parameters,
    changed_parameters,
    declare_parameters,
    integers_as_floats,
    read_only_while_configured,
    read_parameters,
    unknown_parameters,
)
from lidar_completion_ros.publishers import Publishers
from lidar_completion_ros.sensor_motion import SensorMotion
from lidar_completion_ros.services import Services
from lidar_completion_ros.status_reporter import NodeState, StatusReporter, node_status
from lidar_completion_ros.sweep_worker import SweepWorker

NODE_NAME = "lidar_completion"
INPUT_TOPIC = "velodyne_points"  # relative, so that each LiDAR can have a namespace


class CompletionNode(LifecycleNode):
    """Lifecycle and wiring. A model and its `SweepWorker` exist from configure to cleanup."""

    def __init__(
        self, node_name: str = NODE_NAME, *, load_completer: LoadCompleter = load_completer, **arguments: Any
    ) -> None:
        super().__init__(node_name, **arguments)
        self.parameters: Parameters = declare_parameters(self)
        self.add_pre_set_parameters_callback(integers_as_floats)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._adopt_parameters)
        self.loader = ModelLoader(load_completer, self.get_logger())
        for warning in unknown_parameters(self):
            self.get_logger().warning(warning)
        self.log = SweepLog()
        self.configure_error = ""  # why the last configure or activate failed; empty if it succeeded
        self._active_since_s = 0.0  # time.monotonic()
        self._worker: SweepWorker | None = None
        self._previous_worker: SweepWorker | None = None
        self._sweeps: Subscription | None = None
        self._handlers = Services(self, self.loader, self.reset)
        self._reporter = StatusReporter(self, self.snapshot, self.parameters.diagnostics_period_s)
        self._clock_jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)), post_callback=self._clock_jumped
        )

    # ---- state ----

    @property
    def state(self) -> str:
        """Label of the lifecycle state: unconfigured, inactive, active, finalized, or that of a transition."""
        return state_label(self)

    def snapshot(self) -> NodeState:
        """The node's state, for the diagnostics."""
        return NodeState(
            lifecycle_state=self.state,
            configure_error=self.configure_error,
            active_since_s=self._active_since_s,
            input_topic=str(self.resolve_topic_name(INPUT_TOPIC)),
            input_publishers=self._sweeps.get_publisher_count() if self._sweeps is not None else 0,
            parameters=self.parameters,
            loader=self.loader,
            log=self.log,
            outputs=self._worker.publishers if self._worker is not None else None,
        )

    def report(self) -> None:
        """Publish one diagnostic."""
        self._reporter.report()

    # ---- lifecycle ----

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.parameters = read_parameters(self)
            self.loader.load(self.parameters)
        except Exception as error:  # a missing or damaged model, an unusable device, no memory for it, ...
            return self._fail("cannot load the model", error)
        self.log = SweepLog()
        try:
            self._worker = self._make_worker()
        except Exception as error:  # an invalid QoS override, no source of transforms, ...
            self._release()
            return self._fail("cannot configure", error)
        self.configure_error = ""
        status = node_status(self.snapshot())
        self.get_logger().info(
            f"model {status.model} on {status.device} ({status.backend}): {status.input_topic} -> {status.output_topic}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.report()  # before the warm-up, which takes long when loops are compiled for the first time
        assert self._worker is not None
        assert self.loader.inference is not None
        try:
            if self.parameters.warm_up and not self._worker.is_running:
                self.loader.inference.warm_up(self.parameters.completion_options())
            self._worker.start()
            self._sweeps = self.create_subscription(
                PointCloud2, INPUT_TOPIC, self._worker.receive, qos.input_qos(), qos_overriding_options=qos.overrides()
            )
        except Exception as error:  # an error of the backend, a sweep that is still being processed, a bad QoS override
            self._worker.stop(timeout_s=0.0)
            return self._fail("cannot activate", error)
        self.configure_error = ""
        self._active_since_s = time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition the node is unconfigured and can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def callback_failed(self, error: Exception) -> None:
        """Log and count an exception of a callback or of reading its message; the node keeps running."""
        self.log.callback_failed()
        self.get_logger().error(f"callback failed: {type(error).__name__}: {error}", throttle_duration_sec=1.0)

    def reset(self) -> None:
        """Forget learned costs, memory limits, latencies and motion. The counts are kept."""
        if self._worker is not None:
            self._worker.forget_recent()
        if self.loader.inference is not None:
            self.loader.inference.reset()

    def close(self) -> None:
        """Shut the node down from any state and publish a last diagnostic."""
        if self.state in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()
        self._reporter.report_last()

    def _fail(self, what: str, error: Exception) -> TransitionCallbackReturn:
        self.configure_error = f"{what}: {error}"
        self.get_logger().error(self.configure_error)
        return TransitionCallbackReturn.FAILURE

    def _stop(self) -> None:
        if self._sweeps is not None:
            self.destroy_subscription(self._sweeps)
            self._sweeps = None
        if self._worker is not None:
            self._worker.stop()

    def _release(self) -> None:
        self._stop()
        self.loader.release()
        if self._worker is not None:
            self._worker.close()
            self._worker, self._previous_worker = None, self._worker

    def _make_worker(self) -> SweepWorker:
        if self._previous_worker is not None and self._previous_worker.is_running:
            raise RuntimeError(
                "a sweep received before the cleanup is still being processed; try again when it is done"
            )
        motion = SensorMotion(self, lambda: self.parameters)
        try:
            publishers = Publishers(self, self.log.missed_deadlines)
        except Exception:
            motion.close()
            raise
        return SweepWorker(self.parameters, self.loader, motion, publishers, self.log, self.get_logger())

    def _clock_jumped(self, jump: TimeJump) -> None:
        if self._worker is not None:
            self._worker.time_jumped("the clock went backwards")

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
        before, self.parameters = self.parameters, changed_parameters(self.parameters, changes)
        self.loader.set_parameters(self.parameters)
        if self._worker is not None:
            self._worker.set_parameters(self.parameters)
        if self.loader.inference is not None and self.parameters.model != before.model:
            self.loader.reload()
