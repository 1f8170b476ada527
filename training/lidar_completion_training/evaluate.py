"""Judges models, other methods' predictions and the four trivial rows on the same scenes, so that nobody can argue.

`evaluate` computes what is missing (results are kept per row and scene, so that a killed run goes on), `summarise` turns
the results into means with intervals and paired differences, and the report shows them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from lidar_completion.errors import SweepError
from lidar_completion.metrics import MetricError, NearestDistances, nearest_distances
from lidar_completion.pictures import errors_over_truth
from lidar_completion.point_cloud_files import read_points, suffixes
from lidar_completion.trivial import TRIVIAL
from lidar_completion_training.ground_truth_map import in_window
from lidar_completion_training.judge import JudgeRules, judge
from lidar_completion_training.published import PublishedRow
from lidar_completion_training.scenes import Scene, SceneSource
from lidar_completion_training.statistics import Interval, PairedDifference, mean_interval, paired_difference

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
    """A completion that knows nothing (see lidar_completion.trivial)."""

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

    options: further arguments of SceneCompleter.complete, such as {"guidance": 3.5}; name: "" makes one of folder and steps.
    """

    model: Path
    steps: int | None = None
    refine: bool = True
    device: str = "auto"
    backend: str = "torch"
    seed: int = 0
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
        return self._completer.complete(sweep, **options).completed_points

    def settings(self) -> dict[str, Any]:
        return {
            "model": _content_of(self.model),
            "steps": self.steps,
            "refine": self.refine,
            "backend": self.backend,
            "seed": self.seed,
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
    """Names, sizes and times of the files of a folder (or of one file): changes when a model is trained again."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"{path}: expected a model or a folder of predictions, found nothing there; check the path")
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
    todo = [
        (source, index, missing, output, rules, pictures)
        for index in range(shard[0], len(source.names), shard[1])
        if (missing := [method for method in methods if not _is_done(output, method, source, index, rules)])
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


def _is_done(output: Path, method: Method, source: SceneSource, index: int, rules: JudgeRules) -> bool:
    result = _read_result(result_file(output, method.name, source.names[index]))
    return result is not None and result["settings"] == _settings(method, source, rules)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


# --- summary ----------------------------------------------------------------------------------------------------

# figure -> (heading, unit scale, digits, better)
FIGURES: dict[str, tuple[str, float, int, str]] = {
    "cd": ("CD m", 1, 3, "lower"),
    "cd_clamped": ("CD to 1 m", 1, 3, "lower"),
    "f_0.2": ("F@0.2 %", 100, 1, "higher"),
    "cd_observed": ("CD obs m", 1, 3, "lower"),
    "f_observed_0.2": ("F obs %", 100, 1, "higher"),
    "violations": ("free viol %", 100, 2, "lower"),
    "ghost_rate": ("ghost %", 100, 2, "lower"),
    "jsd_bev": ("JSD", 1, 3, "lower"),
    "emd_as_published": ("EMD*", 1, 2, "lower"),
    "w1": ("W1 m", 1, 3, "lower"),
    "jsd_3d": ("JSD 3-D", 1, 3, "lower"),
    "rmse_as_published": ("RMSE* m", 1, 3, "lower"),
    "iou_0.5": ("IoU 0.5 %", 100, 1, "higher"),
    "iou_0.2": ("IoU 0.2 %", 100, 1, "higher"),
    "iou_0.1": ("IoU 0.1 %", 100, 1, "higher"),
    "precision_as_published": ("P* %", 1, 1, "higher"),
    "recall_as_published": ("R* %", 1, 1, "higher"),
    "f_as_published": ("F* %", 1, 1, "higher"),
}
# What a reader sees first, what a driver needs, and what else the paper's tables hold.
PAPER = ("cd", "jsd_bev", "emd_as_published", "w1")
DRIVING = ("cd_clamped", "f_0.2", "cd_observed", "f_observed_0.2", "violations", "ghost_rate")
FURTHER = (
    "jsd_3d",
    "rmse_as_published",
    "iou_0.5",
    "iou_0.2",
    "iou_0.1",
    "precision_as_published",
    "recall_as_published",
    "f_as_published",
)
PAIRED = ("cd", "jsd_bev", *DRIVING)


@dataclass(frozen=True)
class RowSummary:
    """One method over its scenes: figures[section][name] with section "completed" or "with_measured"."""

    name: str
    kind: str  # of the method
    figures: dict[str, dict[str, Interval]]
    seconds: Interval | None
    scenes: dict[str, dict]  # scene -> stored result
    failed: dict[str, str]  # scene -> reason

    def values(self, figure: str, section: str = "completed") -> dict[str, float]:
        """scene -> figure, over the scenes that have it."""
        found = ((scene, result[section].get(figure)) for scene, result in self.scenes.items())
        return {scene: value for scene, value in found if value is not None}


@dataclass(frozen=True)
class Summary:
    """All rows, the scenes they stand on, and the trivial row that is to be beaten."""

    source: dict[str, Any]
    scenes: list[str]
    rows: list[RowSummary]
    published: tuple[PublishedRow, ...] = ()

    @cached_property
    def best_trivial(self) -> RowSummary | None:
        """The trivial row with the lowest mean CD."""
        rows = [row for row in self.rows if row.kind == "trivial" and "cd" in row.figures["completed"]]
        return min(rows, key=lambda row: row.figures["completed"]["cd"].mean, default=None)

    @cached_property
    def focus(self) -> RowSummary:
        """The row whose scenes are shown: the first model, else the first folder, else the best trivial row."""
        return next((row for row in self.rows if row.kind != "trivial"), self.best_trivial or self.rows[0])

    def against_trivial(self, row: RowSummary, figure: str = "cd") -> PairedDifference | None:
        """The row minus the best trivial row, scene by scene."""
        if self.best_trivial is None or row is self.best_trivial:
            return None
        return paired_difference(row.values(figure), self.best_trivial.values(figure))


def summarise(
    source: SceneSource, methods: Sequence[Method], output: Path, *, rules: JudgeRules | None = None, published=()
) -> Summary:
    """Means, intervals and failures of what has been judged so far with these settings."""
    rules = rules or JudgeRules()
    rows = [_row(source, method, output, rules) for method in methods]
    return Summary(source.describe(), list(source.names), rows, tuple(published))


def _row(source: SceneSource, method: Method, output: Path, rules: JudgeRules) -> RowSummary:
    settings = _settings(method, source, rules)
    scenes, failed = {}, {}
    for name in source.names:
        result = _read_result(result_file(output, method.name, name))
        if result is None or result["settings"] != settings:
            continue
        if "failed" in result:
            failed[name] = result["failed"]
        else:
            scenes[name] = result
    figures = {section: _means(scenes.values(), section) for section in ("completed", "with_measured")}
    seconds = mean_interval([result["seconds"] for result in scenes.values()]) if scenes else None
    return RowSummary(method.name, method.kind, figures, seconds, scenes, failed)


def _means(results: Iterable[dict], section: str) -> dict[str, Interval]:
    gathered: dict[str, list[float]] = {}
    for result in results:
        for name, value in result[section].items():
            if isinstance(value, int | float):
                gathered.setdefault(name, []).append(value)
    return {name: mean_interval(values) for name, values in gathered.items()}


# --- tables -----------------------------------------------------------------------------------------------------


def text_table(summary: Summary, section: str = "completed") -> str:
    """Tables under each other, with 95 % intervals: the paper's, what a driver needs, and, of the completed points alone,
    the difference to the best trivial row and the paper's further figures."""
    groups = (PAPER, DRIVING, FURTHER) if section == "completed" else (PAPER, DRIVING)
    return "\n\n".join(_text_table(summary, section, names) for names in groups)


def shown_figures(summary: Summary, section: str, names: Iterable[str]) -> list[str]:
    """Those of the names that some row has."""
    return [name for name in names if any(name in row.figures[section] for row in summary.rows)]


def _text_table(summary: Summary, section: str, names: tuple[str, ...]) -> str:
    shown = shown_figures(summary, section, names)
    with_tail = names is PAPER and section == "completed"
    head = ["method", *(FIGURES[name][0] for name in shown)]
    lines = [[row.name, *(_cell(row, name, section) for name in shown)] for row in summary.rows]
    if with_tail:
        head += ["CD to best trivial", "s/scene", "scenes"]
        lines = [line + _tail(summary, row) for line, row in zip(lines, summary.rows, strict=True)]
        lines += [_published_line(row, shown) for row in summary.published]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "\n".join(
        "  ".join(word.ljust(width) if column == 0 else word.rjust(width) for column, (word, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in [head, *lines])
    )


def _cell(row: RowSummary, name: str, section: str) -> str:
    _, scale, digits, _ = FIGURES[name]
    interval = row.figures[section].get(name)
    if interval is None:
        return "–"
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (interval.mean, interval.lower, interval.upper))
    return f"{mean} [{low}, {high}]"


def _tail(summary: Summary, row: RowSummary) -> list[str]:
    paired = summary.against_trivial(row)
    difference = "–"
    if paired is not None:
        interval = paired.difference
        difference = f"{interval.mean:+.3f} [{interval.lower:+.3f}, {interval.upper:+.3f}]"
    elif row is summary.best_trivial:
        difference = "best trivial"
    seconds = "–" if row.seconds is None else f"{row.seconds.mean:.2f}"
    return [difference, seconds, f"{len(row.scenes)}" + (f" ({len(row.failed)} failed)" if row.failed else "")]


def _published_line(row: PublishedRow, shown: list[str]) -> list[str]:
    values = {name: getattr(row, name, None) for name in shown}
    cells = [f"{value:.{FIGURES[name][2]}f}" if value is not None else "–" for name, value in values.items()]
    return [f"{row.name} (published)", *cells, "–", f"{row.seconds:.2f}", "published"]


def write_csv(summary: Summary, folder: Path) -> list[Path]:
    """summary.csv (every mean with its interval), scenes.csv (every figure of every scene), paired.csv (all pairs)."""
    files = {
        "summary.csv": [("row", "section", "figure", "mean", "lower", "upper", "scenes"), *_summary_lines(summary)],
        "scenes.csv": [("row", "scene", "section", "figure", "value"), *_scene_lines(summary)],
        "paired.csv": [
            ("row", "minus", "figure", "mean", "lower", "upper", "lower_on_share", "scenes"),
            *_paired_lines(summary),
        ],
    }
    for name, lines in files.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return [folder / name for name in files]


def _summary_lines(summary: Summary):
    for row in summary.rows:
        for section, figures in row.figures.items():
            for name, value in figures.items():
                yield row.name, section, name, value.mean, value.lower, value.upper, value.n
    for published in summary.published:
        for name in ("cd", "jsd_bev", "emd_as_published", "seconds"):
            if getattr(published, name) is not None:
                yield published.name, "published", name, getattr(published, name), "", "", ""


def _scene_lines(summary: Summary):
    for row in summary.rows:
        for scene, result in row.scenes.items():
            for section in ("completed", "with_measured"):
                for name, value in result[section].items():
                    if isinstance(value, int | float):
                        yield row.name, scene, section, name, value
        for scene, reason in row.failed.items():
            yield row.name, scene, "failed", reason, ""


def _paired_lines(summary: Summary):
    for row in summary.rows:
        for other in summary.rows:
            for figure in PAIRED if row is not other else ():
                paired = paired_difference(row.values(figure), other.values(figure))
                if paired is not None:
                    value = paired.difference
                    yield row.name, other.name, figure, value.mean, value.lower, value.upper, paired.lower_on, value.n
