"""Temporal mode compared with single sweeps on real drives: quality over consecutive sweeps with the drives' poses.

    python benchmarks/temporal_mode.py [--model models/edge] [--every 5] [--maps FOLDER]

Every sweep of a drive is completed in order; every `--every`-th is evaluated, except the first, which has no predecessor.
"""

import argparse
import datetime
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion.temporal import recall, remember
from lidar_completion_evaluation.calibrate import reliability
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.metrics import nearest_distances
from lidar_completion_evaluation.scenes import DriveScenes, Scene
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.rules import MapRules, window_mask

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
PERIOD_S = 0.1
COLUMNS = (
    "CD m",
    "to truth",
    "to compl.",
    "F@0.2 %",
    "violations %",
    "ghosts %",
    "calibr. error",
    "denoise s",
    "points",
)


def main() -> None:
    options = arguments()
    completer = SceneCompleter.load(options.model)
    print(f"{datetime.date.today()}  model {options.model.name}, {torch.get_num_threads()} threads")
    for name in options.drives:
        drive = open_folder(SHARED / "data" / "sequences" / name)
        file = build_map(drive, (options.maps or Path(tempfile.mkdtemp())) / f"map{name}.npz", progress=False)
        source = DriveScenes(drive, file, every=options.every)
        print(f"\ndrive {name}\n{'':20}" + "".join(f"{column:>14}" for column in COLUMNS))
        for title, steps, remembers in (("1 step", 1, False), ("2 steps", 2, False), ("1 step, temporal", 1, True)):
            rows = chain(completer, source, steps, remembers)
            print(f"{title:20}" + "".join(f"{value:14.3f}" for value in np.mean(rows, axis=0)), flush=True)
            if remembers:
                print("  sweep by sweep, CD: " + " ".join(f"{row[0]:.3f}" for row in rows))


def chain(completer: SceneCompleter, source: DriveScenes, steps: int, remembers: bool) -> list[list[float]]:
    memory, rows, drive = None, [], source.drive
    for number in range(len(drive)):
        evaluated = number > 0 and number in source.indices
        if not (evaluated or remembers):
            continue
        prior, reset = recall(memory, drive.T_map_sensor[number], number * PERIOD_S)
        if reset:
            print(f"  sweep {number}: {reset}")
        done = completer.complete(drive.read(number).points, steps=steps, prior=prior, seed=number)
        if remembers:
            memory = remember(done, drive.T_map_sensor[number], number * PERIOD_S)
        if evaluated:
            scene = source.load(source.indices.index(number))
            rows.append(figures(scene, done, source.rules))
    return rows


def figures(scene: Scene, done: Completion, rules: MapRules) -> list[float]:
    inside = window_mask(done.completed_points, rules)
    points, confidence = done.completed_points[inside], done.confidence[len(done.measured_rows) :][inside]
    found = nearest_distances(points, scene.truth, workers=1)
    good = found.prediction_to_truth < 0.2
    shares = (found.f_score(0.2), (scene.observed.free(points) & ~good).mean(), found.ghost_rate(0.5))
    error = reliability(confidence, good).expected_calibration_error
    distances = (found.chamfer, found.mean_to_truth, found.mean_to_prediction)
    return [*distances, *(100 * share for share in shares), error, done.timings["denoise"], len(points)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--maps", type=Path, help="folder where the drives' maps are kept")
    parser.add_argument("--drives", type=lambda text: text.split(","), default=["90", "91"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
