"""What costmaps lose when they are cleared from completed points.

    python benchmarks/clearing.py [--model models/edge]

Writes benchmarks/results/clearing.txt. Rays: share of the cells of 0.2 m that hold a measured obstacle (0.3 to 2 m above the
ground, within 30 m) through which rays to measured and to completed points of the same sweep pass. Costmap: measured obstacles
of earlier sweeps that an obstacle layer as Nav2's has cleared although no ray of the sensor passed, over a drive.
"""

import argparse
import datetime
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from lidar_completion.completer import SceneCompleter
from lidar_completion.mounting import MountingCheck, SensorView
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
from nav2_layer import Observations, ObstacleLayer, Source, in_map, lost_obstacles  # noqa: E402 (needs the path above)

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
RANGE_M, CELL_M, MAP_M = 30.0, 0.2, 120.0
LIMITS = {
    "min_obstacle_height": 0.3,
    "max_obstacle_height": 2.0,
    "obstacle_max_range": RANGE_M,
    "raytrace_max_range": RANGE_M,
}
MEASURED = Source("measured", marking=True, clearing=True, **LIMITS)
CONFIDENT = Source("confident", marking=True, clearing=False, **LIMITS)
LATE = ("confident", "completed", "all")
CONFIGURATIONS = {
    "clear from measured, mark both": [MEASURED, CONFIDENT],
    "clear from measured and confident (0.5)": [MEASURED, replace(CONFIDENT, clearing=True)],
    "clear from measured and all completed": [MEASURED, replace(CONFIDENT, topic="completed", clearing=True)],
    "the completed cloud alone, which holds both": [replace(MEASURED, topic="all")],
}


def clouds_of(measured: np.ndarray, completer: SceneCompleter, up_m: float) -> dict[str, np.ndarray]:
    """Clouds of one sweep by topic, in the sensor frame moved up so that the ground is at 0."""
    completion = completer.complete(measured)
    count, raised = len(completion.measured_rows), completion.points + np.float32([0, 0, up_m])
    confidence = completion.confidence[count:]
    chosen = {f"confident {limit}": raised[count:][confidence >= limit] for limit in (0.5, 0.9)}
    return {
        "measured": raised[:count],
        "completed": raised[count:],
        "all": raised,
        "confident": chosen["confident 0.5"],
        **chosen,
    }


def shares_of_crossed_cells(clouds: Observations) -> dict[str, float]:
    """Share of the cells with a measured obstacle that the rays to each cloud cross, each ray's own end excepted."""
    layer = ObstacleLayer([], MAP_M, CELL_M)
    obstacles = layer.marked(MEASURED, *clouds["measured"])
    shares = {"obstacle cells": float(obstacles.sum())}
    for name in ("measured", "completed", "confident 0.5", "confident 0.9"):
        points, sensor = layer.buffered(MEASURED, clouds[name][0]), clouds[name][1]
        distance = np.maximum(np.hypot(*(points[:, :2] - sensor[:2]).T), 1e-6)
        shortened = sensor + (points - sensor) * np.clip(1.0 - 1.5 * CELL_M / distance, 0.0, 1.0)[:, None]
        shares[name] = float(layer.crossed(shortened, sensor, RANGE_M)[obstacles].mean())
    return shares


def completed_drive(path: Path, completer: SceneCompleter, sweeps: int) -> list[Observations]:
    """The clouds of each of the first sweeps in the map frame."""
    drive = open_drive(path, DriveOptions(poses=str(path / "poses.txt")))
    first, check, found = np.linalg.inv(drive.T_map_sensor[0]), MountingCheck(), []
    for index in range(min(len(drive), sweeps)):
        points = drive.read(index).points
        height_m = check.add(SensorView.of(points)).height_m
        clouds, pose = clouds_of(points, completer, height_m), first @ drive.T_map_sensor[index]
        found.append({topic: in_map(cloud, pose) for topic, cloud in clouds.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "clearing.txt")
    parser.add_argument("--sweeps", type=int, default=6, help="of each drive")
    arguments = parser.parse_args()
    completer = SceneCompleter.load(arguments.model, device="cpu")
    lines = [
        f"{datetime.date.today()}, model {arguments.model.name}, cells of {CELL_M} m, obstacles within {RANGE_M:.0f} m"
    ]
    paths = {"samples/street": ROOT / "samples" / "street"}
    paths |= {f"drive {name}": SHARED / "data" / "sequences" / name for name in ("90", "91")}
    for name, path in paths.items():
        if path.exists():
            lines += figures(name, completed_drive(path, completer, arguments.sweeps))
            print("\n".join(lines), flush=True)
    arguments.results.write_text("\n".join(lines) + "\n")


def figures(name: str, drive: list[Observations]) -> list[str]:
    """The lines of one drive."""
    shares = [shares_of_crossed_cells(clouds) for clouds in drive]
    cells = np.mean([each.pop("obstacle cells") for each in shares])
    lines = ["", f"{name}, {len(drive)} sweeps, {cells:.0f} cells with a measured obstacle in a sweep"]
    for row in shares[0]:
        lines.append(f"crossed by rays to {row} points: {100 * np.mean([each[row] for each in shares]):.0f} %")
    for title, sources in CONFIGURATIONS.items():
        obstacles, lost = lost_obstacles(sources, drive, MEASURED, LATE, MAP_M)
        lines.append(f"{title}: {lost} of {obstacles} cells with a measured obstacle cleared without a measured ray")
    return lines


if __name__ == "__main__":
    main()
