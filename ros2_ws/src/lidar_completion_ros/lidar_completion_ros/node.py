"""The lifecycle node `lidar_completion`: sweeps in, dense scenes with provenance out.

    subscription -> mailbox (latest sweep wins) -> inference thread -> read_sweep -> Inference -> publishers
                                                                                        |
                                          Deadline: steps, replication <- measured time +

The executor's thread only receives messages, answers services and reports diagnostics, so that it stays responsive
while a sweep is being completed. A model is loaded by a thread of its own while the old one works.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist as GeometryTwist
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, Header
from std_srvs.srv import Trigger

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion.deskew import deskew
from lidar_completion.errors import SweepError
from lidar_completion.samplers import SAMPLERS
from lidar_completion.sparse.convolution import backend_of
from lidar_completion.temporal import TemporalMemory, recall, remember
from lidar_completion_ros.diagnostics import Situation, SweepLog, SweepRecord, judge, status
from lidar_completion_ros.frames import FixedFrames, FrameError, Frames, RigidTransform, TfFrames, pose, tf_is_installed
from lidar_completion_ros.inference import Inference, Wish
from lidar_completion_ros.installed_files import model_folder
from lidar_completion_ros.mailbox import Mailbox
from lidar_completion_ros.motion import Motion, Twist
from lidar_completion_ros.parameters import (
    ParameterError,
    Parameters,
    changed_parameters,
    declare_parameters,
    read_only_while_configured,
    read_parameters,
)
from lidar_completion_ros.point_cloud_messages import MessageError, completion_message, point_times, read_sweep

if TYPE_CHECKING:
    from nav_msgs.msg import Odometry

NODE_NAME = "lidar_completion"
INPUT_TOPIC = "velodyne_points"  # relative: a namespace gives every LiDAR its own
OUTPUT_TOPIC = "~/points"
COMPLETED_TOPIC = "~/points_completed"
SWEEP_TOPIC = "~/debug/sweep"
INTEGER = ParameterType.PARAMETER_INTEGER
STAGES = ("preprocess", "denoise", "postprocess", "total")
SECONDS_TO_FINISH_A_SWEEP = 10.0
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.DEADLINE,
    QoSPolicyKind.LIFESPAN,
    QoSPolicyKind.LIVELINESS,
    QoSPolicyKind.LIVELINESS_LEASE_DURATION,
)


@dataclass(frozen=True)
class Arrival:
    """A message and the time at which it came."""

    message: PointCloud2
    arrived_s: float  # time.monotonic()


@dataclass(frozen=True)
class Before:
    """What the completion before leaves to a sweep."""

    points: np.ndarray | None = None  # (P, 3) float32 in the sensor frame of this sweep
    label: str = "off"  # as in SweepRecord.temporal
    pose: np.ndarray | None = (
        None  # (4, 4) of the sensor where the memory's poses are; None: nothing is to be remembered
    )


class CompletionNode(LifecycleNode):
    """Completes the newest sweep of its input topic and publishes it under the same header."""

    def __init__(self, node_name: str = NODE_NAME, **arguments: object) -> None:
        super().__init__(node_name, **arguments)
        self._refuse_impossible_transitions()
        self.parameters: Parameters = declare_parameters(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._adopt_parameters)
        self._inference: Inference | None = None
        self._thread: threading.Thread | None = None
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._log = SweepLog()
        self._reported_troubles: Counter[str] = Counter()
        self._configure_error = ""
        self._reload_error = ""
        self._newest_reload = 0
        self._loading = threading.Lock()
        self._active_since_s = 0.0
        self._subscription: Subscription | None = None
        self._completions: Publisher | None = None
        self._completed_only: Publisher | None = None
        self._sweep_labels: Publisher | None = None
        self._debug_publishers: dict[str, Publisher] = {}
        self._frames: Frames = FixedFrames(RigidTransform.identity)
        self._motion = Motion()
        self._memory: TemporalMemory | None = None
        self._motion_subscription: Subscription | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetParametersAtomically, "~/set_steps", self._set_steps)
        self.create_service(Trigger, "~/reload_model", self._reload_model)
        self.create_service(Trigger, "~/reset", self._reset)
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=lambda jump: self._time_jumped("the clock went backwards"),
        )
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
            self._inference = load_inference(self.parameters)
        except Exception as error:  # a missing or damaged model, an unusable device, no memory for it, ...
            return self._fail("cannot load the model", error)
        self._log, self._reported_troubles, self._reload_error = SweepLog(), Counter(), ""
        try:
            self._frames = self._source_of_frames()
            self._motion_subscription = self._subscribe_to_motion()
            self._create_publishers()
        except Exception as error:  # an impossible QoS override, no source of transforms
            self._release()
            return self._fail("cannot configure", error)
        self._configure_error = ""
        completer = self._inference.completer
        self.get_logger().info(
            f"model {self._model_name()} on {completer.device} ({completer.backend}): "
            f"{self.resolve_topic_name(INPUT_TOPIC)} -> {self._output_topic()}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.report()  # the warm-up takes long where loops are compiled for the first time
        try:
            self._refuse_two_at_work()
            self._warm_up()
            self._subscription = self._subscribe()
        except Exception as error:  # whatever the backend raises (out of memory, ...), or an impossible QoS override
            return self._fail("cannot activate", error)
        self._configure_error = ""
        self._active_since_s = time.monotonic()
        outcome = super().on_activate(state)
        self._mailbox = Mailbox()
        self._thread = threading.Thread(target=self._complete_sweeps, name="inference", daemon=True)
        self._thread.start()
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

    def callback_failed(self, error: Exception) -> None:
        """Tell of what a callback raised, or the reading of its message: no reason to leave the vehicle without the node."""
        self._log.callback_failed()
        self.get_logger().error(f"callback failed: {type(error).__name__}: {error}", throttle_duration_sec=1.0)

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
        assert self._inference is not None
        if self.parameters.warm_up:
            warm_up(self._inference, self.parameters)

    def _stop_inference(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._mailbox.close():
            self._log.replaced()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(SECONDS_TO_FINISH_A_SWEEP)

    def _refuse_two_at_work(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("the last sweep before the deactivation is still in work; try again when it is done")

    def _release(self) -> None:
        self._newest_reload += 1  # a model that is being loaded comes too late
        for publisher in (
            self._completions,
            self._completed_only,
            self._sweep_labels,
            *self._debug_publishers.values(),
        ):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._completions = self._completed_only = self._sweep_labels = None
        self._debug_publishers = {}
        if isinstance(self._frames, TfFrames):
            self._frames.close()
        if self._motion_subscription is not None:
            self.destroy_subscription(self._motion_subscription)
        self._motion_subscription, self._inference, self._memory = None, None, None
        self._frames = FixedFrames(RigidTransform.identity)

    def _subscribe(self) -> Subscription:
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        overrides = QoSOverridingOptions(OVERRIDABLE)
        return self.create_subscription(PointCloud2, INPUT_TOPIC, self._receive, qos, qos_overriding_options=overrides)

    def _create_publishers(self) -> None:
        events = PublisherEventCallbacks(deadline=lambda event: self._log.missed_deadlines(event.total_count_change))
        # Reliable serves both kinds of subscribers: RViz asks for reliable, most consumers of clouds for best effort.
        self._completions, self._completed_only = (
            self.create_lifecycle_publisher(
                PointCloud2,
                topic,
                QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE),
                qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
                event_callbacks=events if topic == OUTPUT_TOPIC else None,
            )
            for topic in (OUTPUT_TOPIC, COMPLETED_TOPIC)
        )
        self._sweep_labels = self.create_lifecycle_publisher(DiagnosticArray, SWEEP_TOPIC, 10)
        topics = [f"processing_time/{stage}_ms" for stage in STAGES] + ["pipeline_latency_ms", "cyclic_time_ms"]
        self._debug_publishers = {
            topic: self.create_lifecycle_publisher(Float64, f"~/debug/{topic}", qos_profile_sensor_data)
            for topic in topics
        }

    def _source_of_frames(self) -> Frames:
        """Where the transforms to `target_frame` and from the frame of the motion come from."""
        parameters = self.parameters
        if not parameters.target_frame and parameters.motion == "none":
            return FixedFrames(RigidTransform.identity)
        given = any(parameters.sensor_pose[:6])
        if parameters.transforms == "tf" or (parameters.transforms == "auto" and not given and tf_is_installed()):
            return TfFrames(self)
        if parameters.transforms == "auto" and not given and parameters.target_frame:
            raise FrameError(
                f"target_frame {parameters.target_frame!r}: tf2_ros is not installed and sensor_pose is not given; "
                "set sensor_pose, or transforms to 'parameters' where the pose is the identity"
            )
        return FixedFrames(lambda: pose(self.parameters.sensor_pose))

    def _subscribe_to_motion(self) -> Subscription | None:
        if self.parameters.motion == "twist":
            return self.create_subscription(TwistStamped, "twist", self._hear_twist, qos_profile_sensor_data)
        if self.parameters.motion == "odometry":
            from nav_msgs.msg import Odometry  # not among what rclpy needs: only where it is asked for

            return self.create_subscription(Odometry, "odometry", self._hear_odometry, qos_profile_sensor_data)
        return None

    def _hear_twist(self, message: TwistStamped) -> None:
        self._motion.add(twist_of(message, message.twist, message.header.frame_id))

    def _hear_odometry(self, message: Odometry) -> None:
        self._motion.add(twist_of(message, message.twist.twist, message.child_frame_id))

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
        if self._inference is not None and self.parameters.model != before.model:
            self._reload()

    # ---- services ----

    def _set_steps(
        self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        """`steps` alone, as `ros2 param set` would; the type is the one of ROS's own that carries a number."""
        given = request.parameters
        if len(given) != 1 or given[0].name not in ("", "steps") or given[0].value.type != INTEGER:
            reason = "expected one parameter 'steps' (the name may be left empty) of type 2, an integer"
            response.result = SetParametersResult(successful=False, reason=reason)
        else:
            response.result = self.set_parameters_atomically([Parameter("steps", value=given[0].value.integer_value)])
        return response

    async def _reload_model(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the model that the parameter names again; answers when it runs, or when it cannot."""
        if self._inference is None:
            response.message = f"the node is {self.state}: configure loads the model"
            return response
        error = await self._reload()
        response.success, response.message = not error, error or f"running {self._model_name()}"
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Forget what earlier sweeps taught: cost, memory, latencies, motion. The counts go on."""
        self._forget_recent()
        if self._inference is not None:
            self._inference.forget()
        response.success = True
        return response

    def _reload(self) -> Future:
        """Load the model in a thread of its own; the inference thread takes it between two sweeps. Gives the error, or ""."""
        self._newest_reload += 1
        number, parameters, done = self._newest_reload, self.parameters, Future()

        def load() -> None:
            error = ""
            with self._loading:  # one at a time: memory holds the model that runs and one more
                try:
                    if number == self._newest_reload:
                        inference = load_inference(parameters)
                        if parameters.warm_up:
                            warm_up(inference, parameters)
                except Exception as fault:  # whatever a damaged file or a full device raises
                    error = (
                        f"model {parameters.model or 'default'} cannot be loaded, {self._model_name()} goes on: {fault}"
                    )
                    self.get_logger().error(error)
                if number != self._newest_reload:
                    error = error or "another model was asked for in the meantime"
                elif error:
                    self._reload_error = error
                else:
                    self._inference, self._reload_error = inference, ""
                    self.get_logger().info(f"model {self._model_name()} runs")
            done.set_result(error)

        threading.Thread(target=load, name="load model", daemon=True).start()
        return done

    # ---- sweeps ----

    def _receive(self, message: PointCloud2) -> None:
        """In the executor's thread: as short as can be."""
        if self._log.arrived(_stamp_ns(message)):
            self._time_jumped("the stamp went backwards; the sweep is completed all the same")
        if self.parameters.lazy and not self._subscribers():
            self._log.skipped_unwatched()
        elif self._mailbox.put(Arrival(message, time.monotonic())):
            self._log.replaced()

    def _subscribers(self) -> int:
        """Of the outputs, all together."""
        outputs = [each for each in (self._completions, self._completed_only) if each is not None]
        return sum(each.get_subscription_count() for each in outputs)

    def _time_jumped(self, what: str) -> None:
        self.get_logger().warning(what, throttle_duration_sec=1.0)
        self._forget_recent()

    def _forget_recent(self) -> None:
        """What lies before a jump in time says nothing about what comes after it."""
        self._log.forget_recent()
        self._motion.clear()
        self._memory = None

    def _complete_sweeps(self) -> None:
        """The inference thread. A sweep that cannot be completed is counted, and the next one gets its chance."""
        mailbox = self._mailbox
        while (arrival := mailbox.take()) is not None:
            self._log.began()
            try:
                self._complete(arrival)
            except (MessageError, SweepError, FrameError) as error:
                self._refuse(error)
            except Exception as error:  # the vehicle needs the next sweep, whatever this one did
                self._log.inference_failed(f"{type(error).__name__}: {error}")
                self.get_logger().error(f"inference failed: {type(error).__name__}: {error}")

    def _complete(self, arrival: Arrival) -> None:
        parameters, inference, message = self.parameters, self._inference, arrival.message
        assert inference is not None
        began_s = time.monotonic()
        age_s = began_s - arrival.arrived_s
        wish = _wish(inference, parameters)
        if inference.sheds(wish, message.width * message.height, age_s):
            self._log.shed_stale()
            return
        sweep = read_sweep(message, parameters.max_input_points)
        header, T_target_sensor = self._output_frame(message)
        options = parameters.completion_options() | {"intensity": sweep.intensity}
        twist = self._sensor_twist(message)
        points = self._deskewed(message, sweep.points, twist)
        before = self._before(message, twist, inference)
        completion, done = inference.complete(points, wish, options | {"prior": before.points})
        self._remember(completion, before, message)
        self._publish(header, completion, T_target_sensor, parameters)
        ended_s = time.monotonic()
        record = SweepRecord(
            completion.timings,
            ended_s - arrival.arrived_s,
            done.steps,
            points_in=len(sweep.points),
            points_out=len(completion.points),
            points_completed=len(completion.completed_points),
            replication=done.replication,
            age_s=age_s,
            deskewed=points is not sweep.points,
            temporal=before.label,
            removed=dict(completion.removed),
        )
        inference.answered(len(sweep.points), done, completion, ended_s - began_s, record.latency_s)
        self._log.completed_sweep(record)
        self._publish_debug(record, message)

    def _output_frame(self, message: PointCloud2) -> tuple[Header, RigidTransform]:
        """The output's header, and the transform of the points into its frame."""
        header, target = message.header, self.parameters.target_frame
        if not target:
            return header, RigidTransform.identity()
        moved = self._frames.transform(target, header.frame_id, _stamp_ns(message))
        return Header(stamp=header.stamp, frame_id=target), moved

    def _sensor_twist(self, message: PointCloud2) -> Twist | None:
        """How the sensor moves at the stamp, in its own frame; None where nobody said."""
        twist = None if self._motion_subscription is None else self._motion.at(_stamp_ns(message))
        if twist is None:
            return None
        sensor = message.header.frame_id
        return twist.seen_from(self._frames.transform(twist.frame or sensor, sensor, _stamp_ns(message)))

    def _deskewed(self, message: PointCloud2, points: np.ndarray, twist: Twist | None) -> np.ndarray:
        """The points as they would have been measured all at the stamp; as they are where times or motion are missing."""
        times_s = None if twist is None else point_times(message)
        if twist is None or times_s is None:
            return points
        return deskew(points, times_s, twist.linear, twist.angular)

    # ---- the completion before ----

    def _before(self, message: PointCloud2, twist: Twist | None, inference: Inference) -> Before:
        """What the completion before leaves to this one, by the twist as constant since then."""
        if not self.parameters.temporal:
            return Before()
        if twist is None:
            return Before(label="no motion")
        if not SAMPLERS[inference.completer.card.pipeline.sampler].takes_prior:
            return Before(label="the model's sampler cannot begin with it")
        memory, stamp_s = self._memory, _stamp_ns(message) / 1e9
        if memory is None:
            return Before(label="started", pose=np.eye(4))
        pose = memory.T_fixed_sensor @ twist.over(stamp_s - memory.stamp_s)
        points, reason = recall(memory, pose, stamp_s)
        return Before(points, reason or "used", pose)

    def _remember(self, completion: Completion, before: Before, message: PointCloud2) -> None:
        pose = before.pose
        self._memory = None if pose is None else remember(completion, pose, _stamp_ns(message) / 1e9)

    def _publish(
        self,
        header: Header,
        completion: Completion,
        T_target_sensor: RigidTransform,
        parameters: Parameters,
    ) -> None:
        assert self._completions is not None
        assert self._completed_only is not None
        columns = _columns(completion, T_target_sensor)
        if self._completions.get_subscription_count() or not parameters.lazy:
            self._completions.publish(completion_message(header, output_fields=parameters.output_fields, **columns))
        if self._completed_only.get_subscription_count():
            completed = {name: column[len(completion.measured_rows) :] for name, column in columns.items()}
            self._completed_only.publish(
                completion_message(header, output_fields=parameters.output_fields, **completed)
            )

    def _refuse(self, error: MessageError | SweepError | FrameError) -> None:
        fault = "nothing to complete" if isinstance(error, SweepError) else error.fault
        self._log.refused(fault, str(error))
        self.get_logger().warning(f"sweep refused: {error}", throttle_duration_sec=1.0)

    def _publish_debug(self, record: SweepRecord, message: PointCloud2) -> None:
        if self._sweep_labels is not None:  # of every sweep, under its stamp: what the output of that stamp is made of
            label = status(self._status_name("sweep"), DiagnosticStatus.OK, "completed", record.values())
            self._sweep_labels.publish(DiagnosticArray(header=message.header, status=[label]))
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
            subscribers=self._subscribers(),
            sweep_timeout_s=self.parameters.sweep_timeout_s,
            latency_budget_ms=self.parameters.latency_budget_ms,
            active_for_s=time.monotonic() - self._active_since_s,
            reload_error=self._reload_error,
            memory_trouble=self._inference.trouble if self._inference else "",
            can_meet_budget=self._inference is None or self._can_meet_budget(self._inference),
        )

    def _can_meet_budget(self, inference: Inference) -> bool:
        last = self._log.last
        return last is None or inference.can_be_met(last.points_in)

    def _publish_status(self, level: bytes, message: str, now: Situation) -> None:
        inference, parameters = self._inference, self.parameters
        values = {
            "state": now.state,
            "model": self._model_name(),
            "model error": self._reload_error,
            "device": str(inference.device) if inference else parameters.device,
            "backend": inference.completer.backend if inference else parameters.backend,
            "convolution": _convolution(inference),
            "precision": inference.completer.precision if inference else parameters.precision,
            "input topic": now.input_topic,
            "input publishers": str(now.publishers),
            "output topic": self._output_topic(),
            "output subscribers": str(now.subscribers),
            "latency budget ms": f"{parameters.latency_budget_ms:g}",
        }
        if inference is not None:
            wish = _wish(inference, parameters)
            values |= {"steps most": str(wish.most.steps), "replication most": str(wish.most.replication)}
            values |= inference.values()
        array = DiagnosticArray(
            status=[status(self._status_name("completion"), level, message, values | self._log.values())]
        )
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _status_name(self, what: str) -> str:
        return f"{self.get_fully_qualified_name().lstrip('/')}: {what}"

    def _output_topic(self) -> str:
        return self._completions.topic_name if self._completions is not None else ""

    def _model_name(self) -> str:
        return (self._inference.completer.card.name if self._inference else "") or self.parameters.model or "default"


def _convolution(inference: Inference | None) -> str:
    """What multiplies: onnxruntime, or the sparse convolution that "auto" takes on the model's device."""
    if inference is None:
        return ""
    return "onnxruntime" if inference.completer.backend == "onnx" else backend_of(inference.device)


def load_inference(parameters: Parameters) -> Inference:
    """The model that the parameters name. Raises whatever a missing or damaged model or an unusable device raises."""
    folder = model_folder(parameters.model)

    def load(device: str) -> SceneCompleter:
        return SceneCompleter.load(folder, device=device, backend=parameters.backend, precision=parameters.precision)

    completer = load(parameters.device)
    load_on_cpu: Callable[[], SceneCompleter] | None = None
    if completer.device.type != "cpu":
        load_on_cpu = lambda: load("cpu")  # noqa: E731
    return Inference(completer, load_on_cpu)


def warm_up(inference: Inference, parameters: Parameters) -> None:
    """Complete made-up sweeps, unless the range limits leave nothing of them."""
    with suppress(SweepError):
        inference.warm_up(_wish(inference, parameters), parameters.completion_options())


def _wish(inference: Inference, parameters: Parameters) -> Wish:
    return inference.wish(parameters.steps, parameters.replication, parameters.latency_budget_ms)


def twist_of(message: Any, twist: GeometryTwist, frame: str) -> Twist:
    """The twist of a message with a header; frame: in which it is given."""
    linear, angular = (np.array([each.x, each.y, each.z]) for each in (twist.linear, twist.angular))
    return Twist(_stamp_ns(message), linear, angular, frame)


def _stamp_ns(message: Any) -> int:
    """Nanoseconds of the header's stamp. Not by rclpy's Time, which raises where a broken stamp is negative."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _columns(completion: Completion, T_target_sensor: RigidTransform) -> dict[str, np.ndarray]:
    """The output's columns, measured points first. A sweep without intensity gives 0."""
    intensity = completion.intensity
    if intensity is None:
        intensity = np.zeros(len(completion.points), np.float32)
    return {
        "points": T_target_sensor.apply(completion.points),
        "intensity": intensity,
        "provenance": completion.provenance,
        "confidence": completion.confidence,
    }
