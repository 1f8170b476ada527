"""The rows of an evaluation: baselines, models, and the predictions of other methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import load_card
from lidar_completion.point_cloud_files import read_points, suffixes
from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.protocols import DEFAULT, Protocol
from lidar_completion_evaluation.scenes import Scene

# The parts of a model card that determine completions; name, description, metrics and location do not.
DETERMINING = ("architecture", "pipeline", "schedule", "networks", "confidence", "sha256", "base_sha256")


class Method(ABC):
    """One row of the tables: a method that completes a sweep."""

    name: str
    kind: ClassVar[str]  # baseline, model or predictions

    @abstractmethod
    def complete(self, scene: Scene, protocol: Protocol = DEFAULT) -> np.ndarray:
        """Completed points (M, 3) in the sensor frame, metres, without the measured points."""

    def prepare(self, scene: Scene) -> None:  # noqa: B027 (most methods need nothing)
        """Load what is needed and warm up, so that the first timed completion is not slower than the others."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the completions depend on. Stored results with other settings are recomputed."""


@dataclass
class BaselineMethod(Method):
    """A learning-free baseline (see baselines.py)."""

    name: str
    seed: int = 0
    kind = "baseline"

    def complete(self, scene: Scene, protocol: Protocol = DEFAULT) -> np.ndarray:
        return BASELINES[self.name](scene.sweep, self.seed)

    def settings(self) -> dict[str, Any]:
        return {"baseline": self.name, "seed": self.seed}


@dataclass
class ModelMethod(Method):
    """A model folder at a number of denoising steps (None: the card's).

    min_confidence: completed points below it are dropped; options: further arguments of SceneCompleter.complete, such as
    {"guidance": 3.5}; name: "" derives one from folder and steps.
    """

    model: Path
    steps: int | None = None
    refine: bool = True
    device: str = "auto"
    backend: str = "torch"
    seed: int = 0
    min_confidence: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    kind = "model"

    def __post_init__(self) -> None:
        steps = "" if self.steps is None else f", {self.steps} step{'s' * (self.steps > 1)}"
        self.name = self.name or f"{self.model.resolve().name}{steps}{'' if self.refine else ', unrefined'}"

    @cached_property
    def _completer(self) -> SceneCompleter:
        return SceneCompleter.load(self.model, device=self.device, backend=self.backend)

    def prepare(self, scene: Scene) -> None:
        if "_completer" not in self.__dict__:
            self._complete(scene, DEFAULT, steps=1)

    def complete(self, scene: Scene, protocol: Protocol = DEFAULT) -> np.ndarray:
        return self._complete(scene, protocol, self.steps)

    def _complete(self, scene: Scene, protocol: Protocol, steps: int | None) -> np.ndarray:
        sweep = scene.sweep if scene.returns is None else scene.returns
        trust = replace(protocol.trust, min_confidence=self.min_confidence)
        options = {"refine": self.refine, "seed": self.seed, **self.options}
        return self._completer.complete(sweep, steps=steps, trust=trust, **options).completed_points

    def settings(self) -> dict[str, Any]:
        card = load_card(self.model)
        steps = card.pipeline.steps if self.steps is None else self.steps
        used = asdict(replace(card, pipeline=replace(card.pipeline, steps=steps)))
        return {
            "model": {entry: used[entry] for entry in DETERMINING},
            "refine": self.refine,
            "backend": self.backend,
            "seed": self.seed,
            **({"min_confidence": self.min_confidence} if self.min_confidence else {}),
            **self.options,
        }

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_completer"}


@dataclass
class PredictionFolder(Method):
    """Completions of another method: one cloud per scene, named like the sweep, in the sensor frame."""

    folder: Path
    name: str = field(init=False)
    kind = "predictions"

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: expected a folder of predictions, found nothing there; check the path")
        self.name = self.folder.resolve().name

    def complete(self, scene: Scene, protocol: Protocol = DEFAULT) -> np.ndarray:
        return read_points(self.file_of(scene.name)).points

    def file_of(self, scene: str) -> Path:
        """The prediction of a scene. Raises ValueError if there is none."""
        for suffix in suffixes():
            if (self.folder / f"{scene}{suffix}").exists():
                return self.folder / f"{scene}{suffix}"
        raise ValueError(
            f"{self.folder}: expected a prediction {scene}{{{','.join(suffixes())}}}, found none; "
            "name predictions like the sweeps, or evaluate fewer scenes"
        )

    def settings(self) -> dict[str, Any]:
        """Names, sizes and modification times of all files of the folder."""
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        if not files:
            raise ValueError(f"{self.folder}: expected a folder of predictions, found no file in it; check the path")
        return {"predictions": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]}


def baseline_methods(seed: int = 0, chosen: str = "all") -> list[Method]:
    """One row per baseline: "all", "none", or names separated by commas. Raises ValueError."""
    names = {"all": list(BASELINES), "none": []}.get(chosen, [name.strip() for name in chosen.split(",")])
    if unknown := [name for name in names if name not in BASELINES]:
        known = ", ".join(BASELINES)
        raise ValueError(f"--baselines: expected all, none, or some of {known}; found {unknown[0]!r}")
    return [BaselineMethod(name, seed) for name in names]
