"""Where the truth lies that a completion misses, and what other start points in holes of the scan change.

    python benchmarks/start_points.py models/edge [--set hole_levels=2 hole_beyond_m=4 --set replication=11 ...]

Without --set: a table of classes of truth, for the model's card as it is. A class is the distance to the sweep (over or below 1 m),
what the sensor measured in the direction (a nearer return: occluded; a farther one: seen through; the point itself: seen;
nothing; above the highest return), and the height (over or below 0.5 m above the lowest truth in the same cell of 2 m).
With --set: one line of figures of the completed points per setting of the model card's pipeline.
Data: synthetic test scenes, then every fifth sweep of drives 90 and 91 (LIDAR_COMPLETION_SHARED).
"""

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from paper_tables import add_source_options, sources
from scipy.spatial import cKDTree

from lidar_completion.visibility.free_space import polar
from lidar_completion_evaluation.evaluate_scene import SceneSettings, compare, evaluate_scene
from lidar_completion_evaluation.methods import ModelMethod
from lidar_completion_evaluation.scenes import Scene

MISSING_M = 1.0  # truth farther than this from every measured point is missing from the sweep
HIGH_M = 0.5
CELL_M = 2.0
SAME_DEG = 1.0  # a return at most this far away lies in the same direction
SAME_M = 0.5  # and at most this much nearer or farther: the same surface
ROWS = 12
FIGURES = {
    "points": "points", "cd": "CD m", "to_truth": "to truth", "to_prediction": "to compl.", "f_0.2": "F", "ghost_rate": "wrong",
    "violations": "free", "jsd_bev": "JSD", "missing_to_prediction": "missing m", "near_to_prediction": "near m",
}  # fmt: skip


def main() -> None:
    options = arguments()
    print(f"{datetime.date.today()}  {options.model}, one step, completed points")
    for source, output in sources(options):
        scenes = [source.load(index) for index in range(len(source.names))]
        print(f"\n{output.name}: {len(scenes)} scenes")
        if not options.set:
            print_classes(scenes, ModelMethod(options.model, 1))
            continue
        print(f"{'':44}" + "".join(f"{name:>11}" for name in FIGURES.values()))
        for entries in options.set:
            rows = list(figures(scenes, ModelMethod(options.model, 1, options=pipeline(entries))))
            print(f"{' '.join(entries):44}" + "".join(f"{value:11.4g}" for value in np.mean(rows, axis=0)), flush=True)


def pipeline(entries: list[str]) -> dict[str, Any]:
    """Values of entries such as hole_levels=2."""
    return {name: yaml.safe_load(value) for name, value in (entry.split("=") for entry in entries)}


def figures(scenes: list[Scene], method: ModelMethod) -> Iterator[list[float]]:
    """The figures of each scene."""
    settings = SceneSettings(published_emd=False, brief=True)
    for scene in scenes:
        found = evaluate_scene(scene, method.complete(scene), settings).completed
        yield [found[name] for name in FIGURES]


def print_classes(scenes: list[Scene], method: ModelMethod) -> None:
    """The classes that contribute most to the mean distance from truth to completion."""
    counts: dict[tuple[str, ...], np.ndarray] = {}
    for scene in scenes:
        distance = compare(scene, method.complete(scene)).distances.truth_to_prediction
        from_sweep = scene.sweep_distances.truth_to_prediction
        for name, rows in classes(scene, from_sweep):
            sums = np.array([rows.sum(), distance[rows].sum(), from_sweep[rows].sum()])
            counts[name] = counts.get(name, np.zeros(3)) + sums
    total = sum(each[0] for each in counts.values())
    print(f"{'':32}{'of truth %':>12}{'distance m':>12}{'of sweep m':>12}{'contributes m':>15}")
    for name, (count, distances, of_sweep) in sorted(counts.items(), key=lambda each: -each[1][1])[:ROWS]:
        values = (100 * count / total, distances / count, of_sweep / count)
        print(f"{', '.join(name):32}" + "".join(f"{value:12.3f}" for value in values) + f"{distances / total:15.4f}")


def classes(scene: Scene, from_sweep: np.ndarray) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """The name of each class that occurs, and which points (M,) of the truth belong to it."""
    missing = np.where(from_sweep > MISSING_M, "missing", "near")
    names = np.stack([missing, directions(scene), heights(scene.truth)], axis=1)
    for name in np.unique(names, axis=0):
        yield tuple(name), (names == name).all(axis=1)


def directions(scene: Scene) -> np.ndarray:
    """What the sensor measured in the direction of each point of the truth (M,)."""
    range_m, angles = range_and_angles(scene.truth)
    seen_m, seen_angles = range_and_angles(scene.sweep)
    apart, row = cKDTree(seen_angles).query(angles)
    behind_m = range_m - seen_m[row]
    conditions = (
        angles[:, 1] > np.percentile(seen_angles[:, 1], 99.8),
        apart >= SAME_DEG,
        behind_m > SAME_M,
        behind_m < -SAME_M,
    )
    return np.select(conditions, ("above the highest return", "no return", "occluded", "seen through"), "seen")


def range_and_angles(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range (N,) in metres; azimuth and elevation (N, 2) in degrees."""
    range_m, *angles = polar(torch.from_numpy(points))
    return range_m.numpy(), torch.rad2deg(torch.stack(angles, dim=1)).numpy()


def heights(truth: np.ndarray) -> np.ndarray:
    """Whether each point (M,) is high or low above the lowest one of its cell."""
    cells, row = np.unique(np.floor(truth[:, :2] / CELL_M), axis=0, return_inverse=True)
    lowest = np.full(len(cells), np.inf)
    np.minimum.at(lowest, row, truth[:, 2])
    return np.where(truth[:, 2] - lowest[row] > HIGH_M, "high", "low")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", nargs="+", action="append", default=[], metavar="ENTRY=VALUE")
    add_source_options(parser, scenes=6)
    return parser.parse_args()


if __name__ == "__main__":
    main()
