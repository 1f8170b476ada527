"""Loads the model that the parameters name, and replaces it in the background while sweeps are completed with the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.task import Future

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import ModelCard
from lidar_completion_ros.inference import Completer, Inference
from lidar_completion_ros.installed_files import model_folder
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.scheduling.workload import WorkLimits, Workload

LoadCompleter = Callable[[Parameters, str], Completer]  # (parameters, device)


def load_completer(parameters: Parameters, device: str) -> Completer:
    """Load the model. Raises whatever a missing or damaged model or an unusable device raises."""
    folder = model_folder(parameters.model)
    return SceneCompleter.load(folder, device=device, backend=parameters.backend, precision=parameters.precision)


def work_limits(parameters: Parameters, card: ModelCard) -> WorkLimits:
    """The work limits that the parameters set; steps or replication 0 means the model card's value."""
    pipeline = card.pipeline
    largest = Workload(parameters.steps or pipeline.steps, parameters.replication or pipeline.replication)
    return WorkLimits(largest, parameters.latency_budget_ms / 1e3)


class ModelLoader:
    """The model in use. Reloads run one at a time, so that memory holds at most two models."""

    def __init__(self, load: LoadCompleter, logger: RcutilsLogger) -> None:
        self.inference: Inference | None = None
        self.error = ""  # why the newest requested model is not in use
        self._load_completer = load
        self._logger = logger
        self._loading = threading.Lock()
        self._newest_request = 0
        self._parameters = Parameters()

    @property
    def name(self) -> str:
        """Name of the model in use; empty if there is none or its card has no name."""
        inference = self.inference
        return inference.completer.card.name if inference else ""

    def load(self, parameters: Parameters) -> None:
        """Load the model and wait for it. Raises whatever `load_completer` raises."""
        self._parameters = parameters
        self.inference, self.error = self._load(parameters), ""

    def set_parameters(self, parameters: Parameters) -> None:
        """Adopt new work limits."""
        self._parameters = parameters
        if self.inference is not None:
            self.inference.set_limits(work_limits(parameters, self.inference.completer.card))

    def reload(self) -> Future:
        """Load the model of the current parameters in the background. The future's result is the error, "" for success.

        The worker switches to the new model between two sweeps. If loading fails, the old model stays in use.
        """
        self._newest_request += 1
        request, done = self._newest_request, Future()

        def load() -> None:
            with self._loading:
                error = self._reload(request)
            done.set_result(error)

        threading.Thread(target=load, name="model loader", daemon=True).start()
        return done

    def release(self) -> None:
        """Drop the model; a reload in progress has no effect."""
        self._newest_request += 1
        self.inference = None

    def _reload(self, request: int) -> str:
        superseded = "superseded by a newer request for a model"
        if request != self._newest_request:
            return superseded
        parameters = self._parameters
        try:
            inference = self._load(parameters)
            if parameters.warm_up:
                inference.warm_up(parameters.completion_options())
        except Exception as fault:  # whatever a damaged file or a full device raises
            error = f"cannot load the model {parameters.model or 'default'}: {fault}; {self.name} stays in use"
            self._logger.error(error)
            if request == self._newest_request:
                self.error = error
            return error
        if request != self._newest_request:
            return superseded
        self.inference, self.error = inference, ""
        self.set_parameters(self._parameters)  # which may have changed while the model was loaded
        self._logger.info(f"model {self.name} is in use")
        return ""

    def _load(self, parameters: Parameters) -> Inference:
        completer = self._load_completer(parameters, parameters.device)
        load_on_cpu: Callable[[], Completer] | None = None
        if completer.device.type != "cpu":
            load_on_cpu = lambda: self._load_completer(parameters, "cpu")  # noqa: E731
        return Inference(completer, work_limits(parameters, completer.card), load_on_cpu)
