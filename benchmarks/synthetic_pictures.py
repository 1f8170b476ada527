"""Pictures of synthetic scenes: ten sweeps from above with their ground truth, and as range images.

    python benchmarks/synthetic_pictures.py docs/pictures
    python benchmarks/synthetic_pictures.py beside --beside $LIDAR_COMPLETION_SHARED/data/sequences/90/velodyne/000008.bin
    python benchmarks/synthetic_pictures.py docs/pictures --recipe varied --sensor mix --suffix _varied
    python benchmarks/synthetic_pictures.py docs/pictures --beside hdl32_target.ply --sensor HDL-32E --suffix _hdl32

--beside puts a real sweep first for comparison. Do not publish such a picture if the licence of the real data forbids it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lidar_completion.point_cloud_files import read_points
from lidar_completion_synthetic import RECIPES, SENSORS, TEST_SEED, SensorMix, mix_of, simulate_sweep, street
from lidar_completion_synthetic.ground_truth import visible_surface


def from_above(axis, points: np.ndarray, title: str) -> None:
    """Bird's-eye view of +-45 m, coloured by height."""
    axis.axis("on")
    axis.scatter(points[:, 0], points[:, 1], c=points[:, 2], s=0.15, cmap="viridis", vmin=-2.3, vmax=1.5, linewidths=0)
    axis.set(xlim=(-45, 45), ylim=(-45, 45), aspect="equal", xticks=[], yticks=[], facecolor="black")
    axis.set_title(title, fontsize=8)


def range_image(points: np.ndarray, view_deg: tuple[float, float], columns: int = 1400, rows: int = 150) -> np.ndarray:
    """Logarithm of the range (rows, columns) over azimuth and elevation between the two angles; NaN without a return."""
    distance = np.linalg.norm(points, axis=1)
    points, distance = points[distance > 2], distance[distance > 2]
    column = ((np.pi - np.arctan2(points[:, 1], points[:, 0])) / (2 * np.pi) * columns).astype(int).clip(0, columns - 1)
    low, high = view_deg
    row = ((high - np.degrees(np.arcsin(points[:, 2] / distance))) / (high - low) * rows).astype(int).clip(0, rows - 1)
    image = np.full((rows, columns), np.nan)
    order = np.argsort(-distance)
    image[row[order], column[order]] = np.log(distance[order])
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--sensor", default="HDL-64E", help="name or file of a sensor, or mix")
    parser.add_argument("--recipe", default="town", choices=list(RECIPES))
    parser.add_argument("--suffix", default="", help="appended to the file names")
    options = parser.parse_args()
    source, shown = mix_of(options.sensor), []
    sensor = SENSORS["HDL-32E"] if isinstance(source, SensorMix) else source.sensor  # of the range images
    view_deg = (sensor.field_of_view_deg[0] - 0.5, sensor.field_of_view_deg[1] + 1.5)
    rows = min(150, round((view_deg[1] - view_deg[0]) / np.median(np.diff(sensor.elevations_deg)) * 1.5))
    if options.beside:
        real = read_points(options.beside).points
        shown.append(("real", real[np.isfinite(real).all(axis=1)], np.zeros((0, 3))))
    for seed in range(TEST_SEED, TEST_SEED + options.scenes):
        world, rng = street(seed, recipe=options.recipe), np.random.default_rng(seed)
        mounting = source.draw(rng) if isinstance(source, SensorMix) else source
        pose = mounting.pose_of(world.pose_at(0.0, mounting.height_m))
        sweep = simulate_sweep(world, pose, mounting, rng)
        truth = (visible_surface(world, mounting)[::3] - sweep.pose[:3, 3]) @ sweep.pose[:3, :3]
        title = f"{seed}, {world.kind}"
        if isinstance(source, SensorMix):
            title += (
                f"\n{mounting.sensor.name}, {mounting.height_m:.1f} m, {mounting.tilt_deg:.0f} deg, {mounting.vehicle}"
            )
        shown.append((title, sweep.points, truth))
    options.folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        4, (len(shown) + 1) // 2, figsize=(2.6 * ((len(shown) + 1) // 2), 10.8), layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (title, points, truth) in enumerate(shown):
        column, pair = number // 2, number % 2
        from_above(axes[2 * pair, column], points, title)
        if len(truth):
            from_above(axes[2 * pair + 1, column], truth, "ground truth")
    figure.savefig(options.folder / f"synthetic_scenes{options.suffix}.png", dpi=75)
    figure, axes = plt.subplots(len(shown), 1, figsize=(12, 1.5 * len(shown)), layout="constrained", squeeze=False)
    for axis, (title, points, _) in zip(axes[:, 0], shown, strict=True):
        axis.imshow(
            range_image(points, view_deg, rows=rows),
            cmap="turbo",
            vmin=1,
            vmax=4.3,
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(title, fontsize=7, pad=2)
        axis.axis("off")
    figure.savefig(options.folder / f"synthetic_range_images{options.suffix}.png", dpi=60)


if __name__ == "__main__":
    main()
