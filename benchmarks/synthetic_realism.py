"""Distance between the histograms of synthetic and real sweeps.

    python benchmarks/synthetic_realism.py $LIDAR_COMPLETION_SHARED/data/sequences/90 $LIDAR_COMPLETION_SHARED/data/sequences/91 --sweeps 60 \
        --figure docs/pictures/synthetic_histograms.png

    python benchmarks/synthetic_realism.py $LIDAR_COMPLETION_SHARED/data/scans/hdl32_target.ply --sensor HDL-32E --speed 0

A drive is a folder with velodyne/*.bin (or the .bin files themselves), or one sweep (.bin .ply .pcd). For each property the Jensen-Shannon distance
(square root of the divergence, base 2: 0 identical, 1 disjoint) between the mean histograms of the drives and of synthetic sweeps is printed. For
scale, the distance between each two real drives is printed too, and the distance of one synthetic sweep from the mean of the others (median and
90 % quantile).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import label
from scipy.spatial import cKDTree

from lidar_completion.point_cloud_files import read_points
from lidar_completion_synthetic import RECIPES, SENSORS, TEST_SEED, simulate_sweep, street

NEAR_M = 2.5  # returns from the own vehicle and empty returns are closer
BINS = {
    "range (m)": np.arange(2.5, 80.5, 1.0),
    "height over sensor (m)": np.arange(-4, 4.01, 0.1),
    "elevation (deg)": np.arange(-31.75, 23.76, 0.5),
    "nearest neighbour (m)": np.geomspace(0.003, 3.0, 50),
    "points in 1 m cube": np.geomspace(1, 3000, 40),
    "height span of 1 m column (m)": np.arange(0, 5.01, 0.1),
    "footprint of tall objects (m2)": np.geomspace(0.16, 60, 16) * 0.99,
    "intensity": np.linspace(0, 1, 41),
}


def properties(points: np.ndarray, intensity: np.ndarray | None) -> dict[str, np.ndarray]:
    """Histogram (bins,) of every property of BINS for one sweep (N, 3), each summing to 1; zeros without intensity."""
    distance = np.linalg.norm(points, axis=1)
    kept = np.isfinite(distance) & (distance > NEAR_M)
    points, distance = points[kept], distance[kept]
    intensity = np.zeros(0) if intensity is None else intensity[kept] / (255 if intensity.max() > 1 else 1)
    some = np.random.default_rng(0).permutation(len(points))[:20_000]
    nearest = cKDTree(points).query(points[some], k=2)[0][:, 1]
    _, cube, count = np.unique(np.floor(points).astype(int), axis=0, return_inverse=True, return_counts=True)
    values = {
        "range (m)": distance,
        "height over sensor (m)": points[:, 2],
        "elevation (deg)": np.degrees(np.arcsin(points[:, 2] / distance)),
        "nearest neighbour (m)": np.maximum(nearest, 0.003),
        "points in 1 m cube": count[cube.ravel()],
        "height span of 1 m column (m)": _column_spans(points),
        "footprint of tall objects (m2)": tall_footprints(points),
        "intensity": intensity,
    }
    return {name: _normalised(np.histogram(value, BINS[name])[0]) for name, value in values.items()}


def _column_spans(points: np.ndarray) -> np.ndarray:
    """Highest minus lowest point of every occupied 1 m column."""
    _, column = np.unique(np.floor(points[:, :2]).astype(int), axis=0, return_inverse=True)
    column = column.ravel()
    high, low = np.full(column.max() + 1, -np.inf), np.full(column.max() + 1, np.inf)
    np.maximum.at(high, column, points[:, 2])
    np.minimum.at(low, column, points[:, 2])
    return high - low


def tall_footprints(points: np.ndarray, cell_m: float = 0.4, within_m: float = 30.0) -> np.ndarray:
    """Footprint in m2 of every object that is at least 1.2 m tall: connected cells whose points span that height. Poles have one cell."""
    cells = int(2 * within_m / cell_m)
    index = np.floor((points[:, :2] + within_m) / cell_m).astype(int)
    inside = ((index >= 0) & (index < cells)).all(axis=1)
    flat = index[inside, 0] * cells + index[inside, 1]
    high, low = np.full(cells * cells, -np.inf), np.full(cells * cells, np.inf)
    np.maximum.at(high, flat, points[inside, 2])
    np.minimum.at(low, flat, points[inside, 2])
    objects, count = label((high - low >= 1.2).reshape(cells, cells), np.ones((3, 3)))
    return np.bincount(objects.ravel(), minlength=count + 1)[1:] * cell_m**2


def _normalised(histogram: np.ndarray) -> np.ndarray:
    return histogram / max(histogram.sum(), 1)


def js_distance(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon distance, base 2."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(a > 0, a * np.log2(a / middle), 0).sum() for a in (p, q)]
    return float(np.sqrt(max(sum(terms) / 2, 0)))


def real_drive(folder: Path) -> tuple[dict[str, np.ndarray], list[int]]:
    """Mean histograms of a drive's sweeps (or of one file), and their numbers of points."""
    if folder.is_file():
        cloud = read_points(folder)
        return properties(cloud.points, cloud.intensity), [_count(cloud.points)]
    files = sorted((folder / "velodyne").glob("*.bin")) or sorted(folder.glob("*.bin"))
    if not files:
        raise SystemExit(f"{folder}: expected velodyne/*.bin, found none; pass the folder of a SemanticKITTI sequence")
    sweeps = [np.fromfile(f, np.float32).reshape(-1, 4) for f in files]
    return _mean([properties(s[:, :3], s[:, 3]) for s in sweeps]), [_count(s[:, :3]) for s in sweeps]


def synthetic_drive(
    sweeps: int, first_seed: int, sensor: str, speed_m_s: float, recipe: str, kinds: list[str]
) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """Histograms of sweeps, one per world, with moving objects, and their numbers of points."""
    histograms, counts = [], []
    for seed in range(first_seed, first_seed + sweeps):
        rng = np.random.default_rng(seed)
        kind = str(rng.choice(kinds)) if kinds else None
        world = street(seed, recipe=recipe, kind=kind)
        sweep = simulate_sweep(world, world.pose_at(rng.uniform(-50, 50)), SENSORS[sensor], rng, speed_m_s=speed_m_s)
        histograms.append(properties(sweep.points, sweep.intensity))
        counts.append(_count(sweep.points))
    return histograms, counts


def own_spread(histograms: list[dict[str, np.ndarray]], name: str) -> tuple[float, float]:
    """Distance of one sweep from the mean of the others: median and 90 % quantile over the sweeps."""
    values = np.array([each[name] for each in histograms])
    others = (values.sum(axis=0) - values) / (len(values) - 1)
    distances = [js_distance(one, rest) for one, rest in zip(values, others, strict=True)]
    return float(np.median(distances)), float(np.quantile(distances, 0.9))


def _count(points: np.ndarray) -> int:
    return int((np.linalg.norm(points, axis=1) > NEAR_M).sum())


def _mean(histograms: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([h[name] for h in histograms], axis=0) for name in BINS}


def table(drives: dict[str, dict[str, np.ndarray]], sweeps: list[dict[str, np.ndarray]]) -> list[dict]:
    """One row per property: distance of synthetic sweeps to every drive and to their mean, between each two drives, and of
    one synthetic sweep to the others."""
    names = list(drives)
    pooled, synthetic = _mean(list(drives.values())), _mean(sweeps)
    rows = []
    for name in BINS:
        if not pooled[name].any():
            continue
        row = {"property": name}
        if len(names) > 1:
            row["synthetic - all real"] = js_distance(synthetic[name], pooled[name])
        row |= {f"synthetic - {d}": js_distance(synthetic[name], drives[d][name]) for d in names}
        row |= {
            f"{a} - {b}": js_distance(drives[a][name], drives[b][name])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        }
        row["one synthetic - others"], row["90 %"] = own_spread(sweeps, name)
        rows.append(row)
    return rows


def draw(drives: dict[str, dict[str, np.ndarray]], synthetic: dict[str, np.ndarray], path: Path) -> None:
    """Plots every histogram, real drives and synthetic sweeps overlaid."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 6.2), layout="constrained")
    for axis, (name, bins) in zip(axes.flat, BINS.items(), strict=False):
        for drive, histogram in drives.items():
            axis.stairs(histogram[name], bins, label=f"real, {drive}", linewidth=1.2)
        axis.stairs(synthetic[name], bins, label="synthetic", color="black", linewidth=1.6)
        axis.set_title(name, fontsize=10)
        axis.set_yticks([])
        if bins[0] > 0 and bins[1] / bins[0] > 1.05 and "range" not in name:
            axis.set_xscale("log")
    axes.flat[0].legend(fontsize=8)
    for axis in axes.flat[len(BINS) :]:
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", nargs="+", type=Path)
    parser.add_argument("--sweeps", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=TEST_SEED)
    parser.add_argument("--sensor", default="HDL-64E", choices=list(SENSORS))
    parser.add_argument("--recipe", default="town", choices=list(RECIPES))
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[], help="only these kinds of street")
    parser.add_argument("--speed", type=float, default=8.0, help="of the synthetic vehicle, m/s")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    read = {d.stem: real_drive(d) for d in options.drives}
    drives = {name: histograms for name, (histograms, _) in read.items()}
    sweeps, counts = synthetic_drive(
        options.sweeps, options.first_seed, options.sensor, options.speed, options.recipe, options.kinds
    )
    rows = table(drives, sweeps)
    columns = [c for c in rows[0] if c != "property"]
    print("| Jensen-Shannon distance | " + " | ".join(columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    for row in rows:
        print(f"| {row['property']} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
    for name, values in {**{n: c for n, (_, c) in read.items()}, "synthetic": counts}.items():
        print(
            f"points per sweep, {name}: median {np.median(values):,.0f}, {min(values):,} to {max(values):,} ({len(values)} sweeps)"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.figure:
        draw(drives, _mean(sweeps), options.figure)


if __name__ == "__main__":
    main()
