"""Processes each sweep in its own thread; `SweepWorker._process` has one line per stage.

Drop a sweep that waited too long, decode, look up the transform, deskew, check the mounting, complete, publish, update the
latency estimate.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import PointCloud2

from lidar_completion.completer import Completion
from lidar_completion.deskew import deskew
from lidar_completion.errors import SweepError
from lidar_completion.point_clouds import PointCloudError, returns
from lidar_completion.samplers import SAMPLERS
from lidar_completion_ros.diagnostics import SweepLog
from lidar_completion_ros.inference import Inference
from lidar_completion_ros.model_loader import ModelLoader
from lidar_completion_ros.motion.frames import FrameError
from lidar_completion_ros.motion.temporal_mode import TemporalMode, TemporalPrior
from lidar_completion_ros.motion.twist import Twist
from lidar_completion_ros.mounting_monitor import Inspection, MountingError, MountingMonitor, outside_share
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.point_cloud_messages import decode, passed_on_columns, point_times, stamp_ns
from lidar_completion_ros.publishers import Publishers
from lidar_completion_ros.scheduling.mailbox import Mailbox
from lidar_completion_ros.scheduling.workload import Workload
from lidar_completion_ros.sensor_motion import SensorMotion
from lidar_completion_ros.status import SweepLabel

STOP_TIMEOUT_S = 10.0  # time to finish the current sweep when the node is deactivated


@dataclass(frozen=True)
class Arrival:
    """A message and the time of its arrival."""

    message: PointCloud2
    time_s: float  # time.monotonic()


@dataclass(frozen=True)
class MeasuredSweep:
    """The returns of a decoded message; missing returns are dropped."""

    message: PointCloud2
    points: np.ndarray  # (N, 3) float32, metres, sensor frame
    intensity: np.ndarray | None  # (N,) float32
    rows: np.ndarray  # (M,) bool: which points of the message are returns

    @property
    def missing_returns(self) -> int:
        return len(self.rows) - len(self.points)

    def times_s(self) -> np.ndarray | None:
        """Seconds (N,) from the stamp to each point; None if the message has no usable times."""
        times = point_times(self.message)
        return None if times is None else times[self.rows]

    def passed_on(self, measured_rows: np.ndarray, output_layout: str) -> dict[str, np.ndarray]:
        """Fields of the message that the output layout copies, for the measured points in these rows (n,) of `points`."""
        if output_layout == "fields":
            return {}
        return passed_on_columns(self.message, np.flatnonzero(self.rows)[measured_rows])


class SweepWorker:
    """Completes sweeps in its own thread; a new sweep replaces a waiting one.

    `receive`, `set_parameters` and `forget_recent` are called by the executor's thread.
    """

    def __init__(
        self,
        parameters: Parameters,
        loader: ModelLoader,
        motion: SensorMotion,
        publishers: Publishers,
        log: SweepLog,
        logger: RcutilsLogger,
    ) -> None:
        self._parameters = parameters
        self._loader = loader
        self._motion = motion
        self.publishers = publishers
        self._log = log
        self._logger = logger
        self._temporal = TemporalMode()
        self._mounting = MountingMonitor(motion, logger)
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive; also true after `stop` if a sweep does not finish."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the last sweep before `stop` is still being processed."""
        if self.is_running:
            raise RuntimeError(
                "a sweep from before the deactivation is still being processed; activate again when it has finished"
            )
        self._mailbox = Mailbox()
        self._thread = threading.Thread(target=self._run, args=(self._mailbox,), name="sweep worker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Discard a waiting sweep and wait for the current one."""
        if self._mailbox.close():
            self._log.sweep_replaced()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def close(self) -> None:
        """Release subscriptions and publishers, after `stop`."""
        self._motion.close()
        self.publishers.destroy()

    def set_parameters(self, parameters: Parameters) -> None:
        """Parameters from the next sweep on."""
        self._parameters = parameters

    def receive(self, message: PointCloud2) -> None:
        """Put a sweep into the mailbox; with `lazy`, only if somebody subscribes to the result."""
        if self._log.sweep_arrived(stamp_ns(message.header)):
            self.time_jumped("the stamp of this sweep is earlier than that of the previous one; it is completed anyway")
        if self._parameters.lazy and not self.publishers.subscribers():
            self._log.sweep_skipped()
        elif self._mailbox.put(Arrival(message, time.monotonic())):
            self._log.sweep_replaced()

    def time_jumped(self, reason: str) -> None:
        self._logger.warning(reason, throttle_duration_sec=1.0)
        self.forget_recent()

    def forget_recent(self) -> None:
        """Clear latencies, twists, mounting estimates and the previous completion, which are invalid after a jump in time."""
        self._log.forget_recent()
        self._motion.clear()
        self._temporal.clear()
        self._mounting.clear()

    def _run(self, mailbox: Mailbox[Arrival]) -> None:
        while (arrival := mailbox.take()) is not None:
            self._log.sweep_started()
            try:
                self._process(arrival)
            except (PointCloudError, SweepError, FrameError, MountingError) as error:
                fault = "nothing to complete" if isinstance(error, SweepError) else error.fault
                self._log.sweep_refused(fault, str(error))
                self._logger.warning(f"sweep refused: {error}", throttle_duration_sec=1.0)
            except Exception as error:  # the next sweep may succeed
                self._log.inference_failed(f"{type(error).__name__}: {error}")
                self._logger.error(f"inference failed: {type(error).__name__}: {error}")

    def _process(self, arrival: Arrival) -> None:
        parameters, inference, message = self._parameters, self._loader.inference, arrival.message
        assert inference is not None
        started_s = time.monotonic()
        waited_s = started_s - arrival.time_s
        if inference.should_shed(message.width * message.height, waited_s):
            self._log.sweep_shed()
            return
        sweep = decode_sweep(message, parameters.max_input_points)
        header, T_target_sensor = self._motion.output_transform(message.header)
        twist = self._motion.sensor_twist(message.header)
        points = deskewed(sweep, twist)
        inspection = self._mounting.inspect(points, message.header, inference.completer.card.seen, parameters)
        prior = self._prior(twist, message, inference)
        options = parameters.completion_options() | {"intensity": sweep.intensity, "prior": prior.points}
        completion, done = complete_levelled(inference, points, options, inspection)
        self._temporal.remember(completion, prior, stamp_ns(message.header) / 1e9)
        passed_on = sweep.passed_on(completion.measured_rows, parameters.output_layout)
        self.publishers.publish_completion(header, completion, T_target_sensor, parameters, passed_on)
        finished_s = time.monotonic()
        latency_s = finished_s - arrival.time_s
        inference.observe(len(points), done, completion, finished_s - started_s, latency_s)
        label = sweep_label(sweep, completion, done, prior, points is not sweep.points, waited_s, latency_s)
        label = mounting_label(label, inspection, completion, self._mounting.warning(inspection, completion))
        self._log.sweep_completed(label)
        self.publishers.publish_label(message.header, label)
        self.publishers.publish_debug_values(message.header, label, self._log.cycle_s)

    def _prior(self, twist: Twist | None, message: PointCloud2, inference: Inference) -> TemporalPrior:
        if not self._parameters.temporal:
            return TemporalPrior()
        sampler = SAMPLERS[inference.completer.card.pipeline.sampler]
        return self._temporal.prior(twist, stamp_ns(message.header) / 1e9, sampler.takes_prior)


def decode_sweep(message: PointCloud2, max_points: int) -> MeasuredSweep:
    """Decode a message and drop missing returns. Raises PointCloudError."""
    cloud = decode(message, max_points=max_points)
    rows = returns(cloud.points)
    if rows.all():
        return MeasuredSweep(message, cloud.points, cloud.intensity, rows)
    intensity = None if cloud.intensity is None else cloud.intensity[rows]
    return MeasuredSweep(message, cloud.points[rows], intensity, rows)


def deskewed(sweep: MeasuredSweep, twist: Twist | None) -> np.ndarray:
    """The points (N, 3) as if all had been measured at the stamp; unchanged without per-point times or a twist."""
    times_s = None if twist is None else sweep.times_s()
    if twist is None or times_s is None:
        return sweep.points
    return deskew(sweep.points, times_s, twist.linear, twist.angular)


def complete_levelled(
    inference: Inference, points: np.ndarray, options: dict[str, Any], inspection: Inspection
) -> tuple[Completion, Workload]:
    """Complete points (N, 3). The points of a tilted sensor are levelled for the network; the result is in the original frame."""
    levelling = inspection.levelling
    if levelling is None:
        return inference.complete(points, options)
    prior, trust = options["prior"], options["trust"]
    options = options | {
        "prior": None if prior is None else levelling.level(prior),
        "trust": replace(trust, ego_box_m=None),
    }
    completion, done = inference.complete(levelling.level(points), options)
    return levelling.restore(completion, points, trust.ego_box_m), done


def sweep_label(
    sweep: MeasuredSweep,
    completion: Completion,
    done: Workload,
    prior: TemporalPrior,
    is_deskewed: bool,
    waited_s: float,
    latency_s: float,
) -> SweepLabel:
    """How a sweep was completed, for the sweep label and the diagnostics; done: the workload used."""
    return SweepLabel(
        steps=done.steps,
        replication=done.replication,
        points_in=len(sweep.rows),
        missing_returns=sweep.missing_returns,
        points_out=len(completion.points),
        points_completed=len(completion.completed_points),
        deskewed=is_deskewed,
        temporal=prior.status,
        waited_ms=waited_s * 1e3,
        latency_ms=latency_s * 1e3,
        removed=dict(completion.removed),
        stages_ms={stage: seconds * 1e3 for stage, seconds in completion.timings.items()},
    )


def mounting_label(label: SweepLabel, inspection: Inspection, completion: Completion, warning: str) -> SweepLabel:
    """The label with the result of the inspection of the mounting."""
    mounting = inspection.mounting
    label = replace(label, outside_percent=100 * outside_share(completion), levelled=inspection.levelling is not None)
    if mounting is None:
        return label
    return replace(
        label,
        mounting_warning=warning,
        ground_height_m=mounting.height_m,
        sensor_roll_deg=mounting.roll_deg,
        sensor_pitch_deg=mounting.pitch_deg,
    )
