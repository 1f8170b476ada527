"""Effect of the free-space filter, the ground filter and a minimum confidence on completions of real drives, and calibration there.

    python benchmarks/free_space_filter.py [--model models/edge] [--every 5] [--maps FOLDER] [--drives 90,91] [--synthetic 0]

Every sweep is completed once; each row of the table filters the same completion. Violations are found with the rays of
up to ten sweeps around the evaluated one, of which the filter uses one.
"""

import argparse
import datetime
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from lidar_completion.completer import SceneCompleter
from lidar_completion.crop import crop_range
from lidar_completion.downsample import downsample
from lidar_completion.visibility import FreeSpaceRules, TrustRules
from lidar_completion.visibility.output_filter import trusted_rows
from lidar_completion_evaluation.calibrate import draw_reliability, reliability
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.metrics import NearestDistances, nearest_distances
from lidar_completion_evaluation.scenes import DriveScenes, Scene, SceneSource, SyntheticScenes
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.rules import window_mask

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
SPACE = FreeSpaceRules()
OFF = TrustRules(free_space=None, below_ground_m=None)
ROWS = {
    "nothing": OFF,
    "margin 0.2 m": replace(OFF, free_space=replace(SPACE, margin_m=0.2)),
    "margin 0.3 m, the default": replace(OFF, free_space=SPACE),
    "margin 0.5 m": replace(OFF, free_space=replace(SPACE, margin_m=0.5)),
    "margin 1 m": replace(OFF, free_space=replace(SPACE, margin_m=1.0)),
    "near 0 m": replace(OFF, free_space=replace(SPACE, near_m=0.0)),
    "near 0.15 m": replace(OFF, free_space=replace(SPACE, near_m=0.15)),
    "near 0.35 m": replace(OFF, free_space=replace(SPACE, near_m=0.35)),
    "gap 0.3 deg": replace(OFF, free_space=replace(SPACE, max_gap_deg=0.3)),
    "gap 1.2 deg": replace(OFF, free_space=replace(SPACE, max_gap_deg=1.2)),
    "ground 0.2 m alone": replace(OFF, below_ground_m=0.2),
    "ground 0.5 m alone": replace(OFF, below_ground_m=0.5),
    "ground 1 m alone": replace(OFF, below_ground_m=1.0),
    "defaults": TrustRules(),
    "defaults, confidence 0.3": TrustRules(min_confidence=0.3),
    "defaults, confidence 0.5": TrustRules(min_confidence=0.5),
    "defaults, confidence 0.7": TrustRules(min_confidence=0.7),
}
COLUMNS = (
    "violations %",
    "CD m",
    "to truth",
    "to compl.",
    "F@0.2 %",
    "prec. %",
    "ghosts %",
    "removed %",
    "good lost %",
)


def main() -> None:
    options = arguments()
    completer = SceneCompleter.load(options.model)
    curves = {}
    print(
        f"{datetime.date.today()}  model {options.model.name}, every {options.every}th sweep, {torch.get_num_threads()} threads"
    )
    for name, source in sources(options):
        measured = [one_sweep(completer, source, index) for index in range(len(source.names))]
        print(f"\n{name}: {len(measured)} sweeps\n{'':28}" + "".join(f"{column:>14}" for column in COLUMNS))
        for row in ROWS:
            print(
                f"{row:28}"
                + "".join(f"{value:14.3f}" for value in np.mean([rows[row] for rows, *_ in measured], axis=0))
            )
        for seen, which in ((False, "every point"), (True, "points in observed space")):
            said, near, known = (np.concatenate([each[1][part] for each in measured]) for part in range(3))
            chosen = known | (not seen)
            curves[f"{name}, {which}"] = reliability(said[chosen], near[chosen])
            print(f"\nconfidence, {which}\n{curves[f'{name}, {which}']}")
    if options.picture:
        draw_reliability({name: curve for name, curve in curves.items() if "every" in name}, options.picture)


def sources(options: argparse.Namespace) -> list[tuple[str, SceneSource]]:
    found: list[tuple[str, SceneSource]] = []
    if options.synthetic:
        found.append(("synthetic test scenes", SyntheticScenes(options.synthetic)))
    folder = options.maps or Path(tempfile.mkdtemp())
    for name in options.drives:
        drive = open_folder(SHARED / "data" / "sequences" / name)
        file = build_map(drive, folder / f"map{name}.npz", progress=False)
        found.append((f"drive {name}", DriveScenes(drive, file, every=options.every)))
    return found


def one_sweep(completer: SceneCompleter, source: SceneSource, index: int) -> tuple[dict[str, list], tuple]:
    """Figures of every row; and confidence, near, observed of the completed points under the default rules."""
    scene = source.load(index)
    returns = scene.sweep if scene.returns is None else scene.returns
    done = completer.complete(returns, trust=OFF, seed=index)
    first = len(done.measured_rows)
    inside = window_mask(done.completed_points, source.rules)
    points, confidence = done.completed_points[inside], torch.from_numpy(done.confidence[first:][inside])
    distances = nearest_distances(points, scene.truth)
    rays, cloud = torch.from_numpy(returns), torch.from_numpy(points)
    rays = crop_range(rays, completer.card.pipeline.min_range_m, torch.inf)
    settings = completer.card.pipeline
    near = crop_range(rays, settings.min_range_m, settings.max_range_m)
    scan = downsample(near, settings)
    free = scene.observed.free(points) & (distances.prediction_to_truth >= 0.2)
    figures = {}
    for name, rules in ROWS.items():
        kept = trusted_rows(cloud, scan, confidence, rays, rules)[0].numpy()
        figures[name] = row(scene, points, kept, distances, free)
    kept = trusted_rows(cloud, scan, confidence, rays, TrustRules())[0].numpy()
    good = distances.prediction_to_truth < 0.2
    return figures, (confidence.numpy()[kept], good[kept], scene.observed.observed(points)[kept])


def row(
    scene: Scene, points: np.ndarray, kept: np.ndarray, distances: NearestDistances, free: np.ndarray
) -> list[float]:
    to_truth = distances.prediction_to_truth
    found = NearestDistances(to_truth[kept], cKDTree(points[kept]).query(scene.truth, workers=1)[0])
    good = to_truth < 0.2
    lost = 1 - good[kept].sum() / good.sum()
    shares = (
        free[kept].mean(),
        found.f_score(0.2),
        found.precision(0.2),
        found.ghost_rate(0.5),
        1 - len(kept) / len(points),
        lost,
    )
    violations, f_score, precision, ghosts, removed, lost = (100 * share for share in shares)
    return [
        violations,
        found.chamfer,
        found.mean_to_truth,
        found.mean_to_prediction,
        f_score,
        precision,
        ghosts,
        removed,
        lost,
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--maps", type=Path, help="folder where the drives' maps are kept")
    parser.add_argument("--drives", type=lambda text: text.split(",") if text else [], default=["90", "91"])
    parser.add_argument("--synthetic", type=int, default=0, help="also evaluate this many synthetic test scenes")
    parser.add_argument("--picture", type=Path, help="reliability diagram to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
