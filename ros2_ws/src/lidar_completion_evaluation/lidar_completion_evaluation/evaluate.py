"""Judges models, other methods' predictions and the four trivial rows on the same scenes, so that nobody can argue.

`evaluate` computes what is missing: results are kept per row and scene, so that a killed run goes on. summary.py turns them
into means with intervals and paired differences, and the report shows them.
"""

from __future__ import annotations

import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from lidar_completion.errors import SweepError
from lidar_completion.files import atomic_write
from lidar_completion.model.card import load_card
from lidar_completion.point_cloud_files import read_points, suffixes
from lidar_completion.visibility import TrustRules
from lidar_completion_evaluation.baselines import TRIVIAL
from lidar_completion_evaluation.evaluate_scene import JudgeRules, judge
from lidar_completion_evaluation.metrics import MetricError, NearestDistances, nearest_distances
from lidar_completion_evaluation.pictures import errors_over_truth
from lidar_completion_evaluation.scenes import Scene, SceneSource
from lidar_completion_evaluation.truth.ground_truth_map import in_window

# what of a model's card decides its completions; a new description, calibration figures or a copy elsewhere do not
DECIDING = ("architecture", "pipeline", "schedule", "networks", "confidence", "sha256", "base_sha256")
RESULT_VERSION = 3  # raise it when a figure changes its meaning: older results are then computed again


# --- rows -------------------------------------------------------------------------------------------------------


class Method(ABC):
    """One row of the table: something that completes a sweep."""

    name: str
    kind: ClassVar[str]  # trivial, model, predictions

    @abstractmethod
    def complete(self, scene: Scene) -> np.ndarray:
        """Completed points (M, 3) in the sensor frame without the measured ones."""

    def prepare(self) -> None:  # noqa: B027 (most methods need nothing)
        """Load what is needed, outside of the time that is measured."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the result; a stored result of other settings is computed again."""


@dataclass
class TrivialMethod(Method):
    """A completion that knows nothing (see lidar_completion_evaluation.baselines)."""

    name: str
    seed: int = 0
    kind = "trivial"

    def complete(self, scene: Scene) -> np.ndarray:
        return TRIVIAL[self.name](scene.sweep, self.seed)

    def settings(self) -> dict[str, Any]:
        return {"trivial": self.name, "seed": self.seed}


@dataclass
class ModelMethod(Method):
    """A model folder at a number of steps (None: its card's); loaded when first used.

    min_confidence: completed points with less are taken out; options: further arguments of SceneCompleter.complete, such as
    {"guidance": 3.5}; name: "" makes one of folder and steps.
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
    def _completer(self):
        from lidar_completion.completer import SceneCompleter

        return SceneCompleter.load(self.model, device=self.device, backend=self.backend)

    def prepare(self) -> None:
        self._completer  # noqa: B018 (loads the model)

    def complete(self, scene: Scene) -> np.ndarray:
        sweep = scene.sweep if scene.returns is None else scene.returns
        options = {"steps": self.steps, "refine": self.refine, "seed": self.seed, **self.options}
        trust = TrustRules(min_confidence=self.min_confidence)
        return self._completer.complete(sweep, trust=trust, **options).completed_points

    def settings(self) -> dict[str, Any]:
        card = load_card(self.model)
        steps = card.pipeline.steps if self.steps is None else self.steps
        used = asdict(replace(card, pipeline=replace(card.pipeline, steps=steps)))
        return {
            "model": {entry: used[entry] for entry in DECIDING},
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
    """Completions of any other method: one cloud per scene, named like the sweep, in the sensor frame."""

    folder: Path
    name: str = field(init=False)
    kind = "predictions"

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: expected a folder of predictions, found nothing there; check the path")
        self.name = self.folder.resolve().name

    def complete(self, scene: Scene) -> np.ndarray:
        return read_points(self.file_of(scene.name)).points

    def file_of(self, scene: str) -> Path:
        """The prediction of a scene; ValueError with the fix where there is none."""
        for suffix in suffixes():
            if (self.folder / f"{scene}{suffix}").exists():
                return self.folder / f"{scene}{suffix}"
        raise ValueError(
            f"{self.folder}: expected a prediction {scene}{{{','.join(suffixes())}}}, found none; "
            "name predictions like the sweeps, or judge fewer scenes"
        )

    def settings(self) -> dict[str, Any]:
        return {"predictions": _content_of(self.folder)}


def trivial_methods(seed: int = 0) -> list[Method]:
    """The rows that stand in every table."""
    return [TrivialMethod(name, seed) for name in TRIVIAL]


def _content_of(path: Path) -> list:
    """Names, sizes and times of the files of a folder of predictions."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ValueError(f"{path}: expected a folder of predictions, found no file in it; check the path")
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


# --- running ----------------------------------------------------------------------------------------------------


def evaluate(
    source: SceneSource,
    methods: Sequence[Method],
    output: Path,
    *,
    rules: JudgeRules | None = None,
    processes: int = 1,
    shard: tuple[int, int] = (0, 1),
    pictures: bool = True,
    progress: bool = True,
) -> None:
    """Judge every method on every scene that has no result yet; results go to output/results/ROW/SCENE.json.

    shard (k, n): only every n-th scene, from the k-th, so that n runs on n machines share the work and one output folder.
    """
    rules = rules or JudgeRules()
    _refuse_equal_names(methods)
    for method in methods:
        if isinstance(method, PredictionFolder):
            for name in source.names:
                method.file_of(name)
    done = {method.name: stored_results(source, method, output, rules) for method in methods}
    todo = [
        (source, index, missing, output, rules, pictures)
        for index in range(shard[0], len(source.names), shard[1])
        if (missing := [method for method in methods if source.names[index] not in done[method.name]])
    ]
    bar = {"total": len(todo), "unit": "scene", "desc": "judging", "disable": not progress}
    if processes <= 1:
        for task in tqdm(todo, **bar):
            _judge_scene(task)
        return
    workers = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_share_cores, initargs=(processes,)
    )
    with workers as pool:
        for _ in tqdm(pool.map(_judge_scene, todo), **bar):
            pass


def _share_cores(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _judge_scene(task: tuple) -> None:
    source, index, methods, output, rules, pictures = task
    scene = source.load(index)
    if pictures:
        _write_whole(picture_file(output, "sweep", scene.name), errors_over_truth(scene.truth, scene.sweep))
    for method in methods:
        result, completed, distances = _result(scene, method, source, rules)
        if pictures and distances is not None:
            picture = errors_over_truth(scene.truth, completed, distances.prediction_to_truth)
            _write_whole(picture_file(output, method.name, scene.name), picture)
        settings = _settings(method, source, rules)
        text = json.dumps({"scene": scene.name, "settings": settings, **result}, allow_nan=False)
        _write_whole(result_file(output, method.name, scene.name), text.encode())


def _result(
    scene: Scene, method: Method, source: SceneSource, rules: JudgeRules
) -> tuple[dict[str, Any], np.ndarray, NearestDistances | None]:
    """Figures, completed points and their distances, or the reason why there are none: a failed scene is shown, never averaged away."""
    try:
        method.prepare()
        start = time.perf_counter()
        completed = method.complete(scene)
        seconds = time.perf_counter() - start
        completed = in_window(completed, source.rules)
        distances = nearest_distances(completed, scene.truth)
        return {"seconds": seconds, **judge(scene, completed, rules, distances)}, completed, distances
    except (SweepError, MetricError) as error:
        return {"failed": str(error)}, np.zeros((0, 3), np.float32), None


def stored_results(source: SceneSource, method: Method, output: Path, rules: JudgeRules) -> dict[str, dict]:
    """scene -> what has been judged so far of one row with these settings."""
    settings = _settings(method, source, rules)
    found = ((name, _read_result(result_file(output, method.name, name))) for name in source.names)
    return {name: result for name, result in found if result is not None and result["settings"] == settings}


def _settings(method: Method, source: SceneSource, rules: JudgeRules) -> dict:
    settings = {
        "version": RESULT_VERSION,
        "method": method.settings(),
        "source": source.describe(),
        "judge": asdict(rules),
    }
    return json.loads(json.dumps(settings))


def _refuse_equal_names(methods: Sequence[Method]) -> None:
    slugs = [_slug(method.name) for method in methods]
    if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise ValueError(f"rows: expected different names, found {min(twice)!r} twice; rename one of the folders")


def result_file(output: Path, row: str, scene: str) -> Path:
    return output / "results" / _slug(row) / f"{scene}.json"


def picture_file(output: Path, row: str, scene: str) -> Path:
    return output / "pictures" / _slug(row) / f"{scene}.png"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")


def _read_result(path: Path) -> dict | None:
    """A stored result; None where there is none, or one that no longer can be read and so is computed again."""
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except json.JSONDecodeError:
        return None


def _write_whole(path: Path, content: bytes) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(content)
