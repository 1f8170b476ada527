"""Errors of completed points more than 1.1 m above the sensor, in observed and in unknown space.

    python benchmarks/tall_structures.py [--models models/edge models/drive] [--steps 1] [--scenes 30]

An HDL-64 sees 2 degrees up, so tall objects are seen only from afar, and the truth of a short drive misses much of them.
The distance of tall completed points to the truth is therefore given separately for observed and unknown space, and for
synthetic scenes, whose truth is exact. Drives: every fifth sweep of 90 and 91 (LIDAR_COMPLETION_SHARED).
"""

import argparse
import datetime
from pathlib import Path

import numpy as np
from paper_tables import add_source_options, sources

from lidar_completion_evaluation.methods import BaselineMethod, Method, ModelMethod
from lidar_completion_evaluation.metrics import nearest_distances
from lidar_completion_evaluation.scenes import Scene

ROOT = Path(__file__).parents[1]
TALL_M = 1.1
COLUMNS = (
    "CD m",
    "to compl.",
    "to truth",
    "seen: to truth",
    "unseen: to truth",
    "seen %",
    "CD of seen m",
    "of points %",
)


def main() -> None:
    options = arguments()
    methods: list[Method] = [BaselineMethod("raw"), BaselineMethod("xy_jittered")]
    methods += [ModelMethod(model, options.steps) for model in options.models]
    print(f"{datetime.date.today()}  completed points more than {TALL_M} m above the sensor, {options.steps} step(s)")
    for source, output in sources(options):
        found: dict[str, list[list[float]]] = {method.name: [] for method in methods}
        for index in range(len(source.names)):
            scene = source.load(index)
            for method in methods:
                found[method.name].append(figures(scene, method.complete(scene)))
        print(f"\n{output.name}: {len(source.names)} scenes\n{'':16}" + "".join(f"{each:>18}" for each in COLUMNS))
        for name, rows in found.items():
            print(f"{name:16}" + "".join(f"{value:18.3f}" for value in map(known_mean, np.transpose(rows))), flush=True)


def figures(scene: Scene, completed: np.ndarray) -> list[float]:
    """One scene's cells; metres and per cent."""
    distances = nearest_distances(completed, scene.truth)
    tall = completed[:, 2] > TALL_M
    to_truth, seen = distances.prediction_to_truth[tall], scene.observed.observed(completed)[tall]
    coverage = mean(distances.truth_to_prediction[scene.truth[:, 2] > TALL_M])
    of_all, of_seen = mean(to_truth), mean(to_truth[seen])
    chamfer, chamfer_of_seen = (of_all + coverage) / 2, (of_seen + coverage) / 2
    shares = (100 * mean(seen), chamfer_of_seen, 100 * mean(tall))
    return [chamfer, coverage, of_all, of_seen, mean(to_truth[~seen]), *shares]


def mean(values: np.ndarray) -> float:
    """NaN without values."""
    return float(values.mean()) if len(values) else float("nan")


def known_mean(values: np.ndarray) -> float:
    """Mean over the scenes that have a value."""
    return mean(values[np.isfinite(values)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[ROOT / "models" / name for name in ("edge", "drive")]
    )
    parser.add_argument("--steps", type=int, default=1)
    add_source_options(parser, scenes=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
