"""Evaluates models, predictions of other methods and the baselines on the same scenes.

Only missing results are computed, so an interrupted run resumes. summary.py turns the results into means with
intervals and paired differences; reports/ shows them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lidar_completion.errors import SweepError
from lidar_completion_evaluation.evaluate_scene import SceneResult, SceneSettings, evaluate_scene
from lidar_completion_evaluation.methods import Method, PredictionFolder
from lidar_completion_evaluation.metrics import MetricError
from lidar_completion_evaluation.pictures import errors_over_truth
from lidar_completion_evaluation.process_group import ALONE, ProcessGroup
from lidar_completion_evaluation.results import (
    file_name,
    picture_file,
    result_settings,
    store_result,
    stored_results,
    write_bytes,
)
from lidar_completion_evaluation.scenes import DriveScenes, Scene, SceneSource


@dataclass(frozen=True)
class _Task:
    """One scene and the rows that have no result for it yet."""

    source: SceneSource
    index: int
    methods: list[Method]
    output: Path
    settings: SceneSettings
    pictures: bool


def evaluate(
    source: SceneSource,
    methods: Sequence[Method],
    output: Path,
    *,
    settings: SceneSettings | None = None,
    processes: int = 1,
    group: ProcessGroup = ALONE,
    pictures: bool = True,
    progress: bool = True,
) -> None:
    """Evaluate every method on every scene without a stored result, into output/results/ROW/SCENE.json.

    Each process of the group evaluates its share of the scenes, with `processes` workers, and returns when all have finished.
    Raises ValueError for duplicate row names and missing predictions, before anything is computed.
    """
    settings = settings or SceneSettings()
    _check_names(methods)
    _check_predictions(source, methods)
    done = {method.name: stored_results(source, method, output, settings) for method in methods}
    tasks = [
        _Task(source, index, missing, output, settings, pictures)
        for index in group.share_of(range(len(source.names)))
        if (missing := [method for method in methods if source.names[index] not in done[method.name]])
    ]
    count = sum(len(task.methods) for task in tasks)
    shown = progress and group.is_first
    if shown:
        print(_cost(source, methods, done))
    with tqdm(total=count, unit="result", desc="evaluating", disable=not shown) as bar:
        for finished in _run(tasks, processes):
            bar.update(finished)
    group.wait_for_all()


def _cost(source: SceneSource, methods: Sequence[Method], done: dict[str, dict]) -> str:
    """What an evaluation has to compute, for the user to stop it or to ask for less."""
    total = len(source.names) * len(methods)
    count = total - sum(map(len, done.values()))
    baselines = sum(method.kind == "baseline" for method in methods)
    return (
        f"{len(source.names)} scenes x {len(methods)} rows ({baselines} of them baselines): {count} of {total} results to "
        "compute, the others are stored; the bar shows the time left. Fewer: --scenes, --every, --baselines none"
    )


def _run(tasks: list[_Task], processes: int) -> Iterator[int]:
    """Evaluate the tasks; yields the number of results of each finished one."""
    if processes <= 1:
        yield from map(_evaluate_task, tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_share_cores, initargs=(processes,)) as pool:
        yield from pool.map(_evaluate_task, tasks)


def _share_cores(processes: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _evaluate_task(task: _Task) -> int:
    scene = task.source.load(task.index)
    if task.pictures:
        write_bytes(picture_file(task.output, "sweep", scene.name), errors_over_truth(scene.truth, scene.sweep))
    for method in task.methods:
        figures, result = _evaluate_method(scene, method, task.settings)
        if task.pictures and result is not None:
            picture = errors_over_truth(scene.truth, result.points, result.errors_m)
            write_bytes(picture_file(task.output, method.name, scene.name), picture)
        settings = result_settings(task.source, method, task.settings)
        store_result(task.output, method.name, scene.name, {"settings": settings, **figures})
    return len(task.methods)


def _evaluate_method(
    scene: Scene, method: Method, settings: SceneSettings
) -> tuple[dict[str, Any], SceneResult | None]:
    """The figures to store; or the reason for a failure, which the report lists and the means leave out."""
    try:
        seen = scene.as_tilted()
        method.prepare(seen)
        start = time.perf_counter()
        completed = scene.from_tilted(method.complete(seen, settings.protocol))
        seconds = time.perf_counter() - start
        result = evaluate_scene(scene, completed, settings)
        return {"seconds": seconds, **result.figures}, result
    except (SweepError, MetricError) as error:
        return {"failed": str(error)}, None


def _check_names(methods: Sequence[Method]) -> None:
    names = [file_name(method.name) for method in methods]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"rows: expected different names, found {min(repeated)!r} twice; rename one of the folders")


def _check_predictions(source: SceneSource, methods: Sequence[Method]) -> None:
    for method in methods:
        if isinstance(method, PredictionFolder):
            if isinstance(source, DriveScenes) and source.tilt_deg:
                raise ValueError("--tilt: expected upright sweeps beside --predictions, which were made of them")
            for name in source.names:
                method.file_of(name)
