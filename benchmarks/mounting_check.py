"""False alarms of the mounting check, what it reports for wrong frames, and what levelling gains.

    python benchmarks/mounting_check.py [--model models/edge]

Writes benchmarks/results/mounting_check.txt. False alarms: every sweep of the real drives, and 500 synthetic sweeps (100 worlds, half
of them hilly), as the node reports them: each sweep of a world is the first one once. Quality: share of completed points farther than 0.5 m from the map of the drive, for sweeps of drive 91.
"""

import argparse
import datetime
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import Seen
from lidar_completion.mounting import Confirmation, Levelling, MountingCheck, SensorView, findings, level_rotation
from lidar_completion_synthetic import SENSORS, TEST_SEED, Mounting, simulate_sweep, street

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
WORLDS, SWEEPS_PER_WORLD, FIRST_SEED = 100, 5, TEST_SEED + 600_000
SENSOR = Mounting(replace(SENSORS["HDL-64E"], columns=1042), 1.73, vehicle="car")
FAR_M = 0.5
Change = Callable[[np.ndarray], np.ndarray]


def turned(axis: str, angle_deg: float) -> Change:
    return lambda points: Rotation.from_euler(axis, angle_deg, degrees=True).apply(points).astype(np.float32)


def moved(*offset_m: float) -> Change:
    return lambda points: points + np.array(offset_m, np.float32)


CASES: dict[str, Change] = {
    "as it is": moved(0, 0, 0),
    "roll 10°": turned("x", 10),
    "pitch 10°": turned("y", 10),
    "pitch -20°": turned("y", -20),
    "upside down": turned("x", 180),
    "optical frame": turned("x", 90),
    "base_link": moved(0, 0, 1.73),
    "0.6 m high": moved(0, 0, 1.13),
    "map frame, 50 m up": moved(0, 0, 50),
    "map frame, 100 m ahead": moved(100, 50, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "mounting_check.txt")
    options = parser.parse_args()
    lines = [str(datetime.date.today()), *false_alarms(), "", *reports(), "", *gains(options.model)]
    options.results.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def false_alarms() -> Iterator[str]:
    """Sweeps with an alarm, judged alone and as the node does."""
    yield "False alarms | sweeps | judged alone: sweeps with an alarm | as the node reports them, after a start at each sweep | ms a sweep"
    for drive in ("90", "91"):
        yield alarm_row(f"drive {drive}", [list(real_sweeps(drive))])
    yield alarm_row("synthetic, half of them hilly", list(synthetic_drives()))


def alarm_row(name: str, drives: list[list[np.ndarray]]) -> str:
    SensorView.of(drives[0][0])  # compiles
    start_s = time.process_time()
    views = [[SensorView.of(sweep) for sweep in drive] for drive in drives]
    count = sum(map(len, views))
    cost_ms = (time.process_time() - start_s) / count * 1e3
    alone = sum(bool(findings(MountingCheck().add(view), Seen())) for drive in views for view in drive)
    starts = [drive[first:] + drive[:first] for drive in views for first in range(len(drive))]
    reported, judged = sum(map(warnings, starts)), sum(map(len, starts))
    return f"{name} | {count} | {alone} | {reported} of {judged:,} | {cost_ms:.1f}"


def warnings(views: list[SensorView]) -> int:
    """How many of these sweeps, in this order after a start, the node warns about."""
    check, confirmation = MountingCheck(), Confirmation()
    return sum(bool(confirmation.add(findings(check.add(view), Seen()))) for view in views)


def counts(found: Counter[str]) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in found.items()) or "0"


def reports() -> Iterator[str]:
    """Share of the sweeps of drive 91 with each finding, and the text for one of them."""
    yield "Wrong frames, drive 91 | findings in each of the 22 sweeps | text for one of them"
    sweeps = list(real_sweeps("91"))
    for name, change in CASES.items():
        checks = [findings(MountingCheck().add(SensorView.of(change(sweep))), Seen()) for sweep in sweeps]
        found = Counter(each.cause for check in checks for each in check)
        yield f"{name} | {counts(found)} | {'; '.join(each.text for each in checks[0])}"


def gains(model: Path) -> Iterator[str]:
    """Points far from the map, and outside the scene, without and with levelling by the estimate."""
    yield f"Levelling, {model.name}, 4 sweeps of drive 91 | far from the map, off | estimate | outside the scene, off | estimate"
    completer, sweeps, poses = SceneCompleter.load(model, device="cpu"), list(real_sweeps("91")), drive_poses("91")
    whole = np.concatenate([sweep @ pose[:, :3].T + pose[:, 3] for sweep, pose in zip(sweeps, poses, strict=True)])
    tree = cKDTree(whole)
    for name, change in list(CASES.items())[:6]:
        figures = np.mean([case_figures(completer, sweeps[k], poses[k], change, tree) for k in (2, 8, 14, 20)], axis=0)
        yield f"{name} | " + " | ".join(f"{100 * each:.1f} %" for each in figures)


def case_figures(
    completer: SceneCompleter, sweep: np.ndarray, pose: np.ndarray, change: Change, tree: cKDTree
) -> list[float]:
    back = change(np.eye(3, dtype=np.float32))  # the rotation, transposed
    points = change(sweep)
    ground = SensorView.of(points).ground
    assert ground is not None
    levelling = Levelling(level_rotation(ground.up))
    far, outside = [], []
    for completion in (
        completer.complete(points),
        levelling.restore(completer.complete(levelling.level(points)), points),
    ):
        unchanged = completion.completed_points @ back.T
        near = np.linalg.norm(unchanged, axis=1) < 30
        distance, _ = tree.query(unchanged[near] @ pose[:, :3].T + pose[:, 3])
        far.append(float(np.mean(distance > FAR_M)))
        outside.append(completion.removed["outside"] / completion.sampled)
    return [*far, *outside]


def real_sweeps(drive: str) -> Iterator[np.ndarray]:
    for path in sorted((SHARED / "data" / "sequences" / drive / "velodyne").glob("*.bin")):
        yield np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]


def drive_poses(drive: str) -> np.ndarray:
    return np.loadtxt(SHARED / "data" / "sequences" / drive / "poses.txt").reshape(-1, 3, 4)


def synthetic_drives() -> Iterator[list[np.ndarray]]:
    for number in range(WORLDS):
        world = street(FIRST_SEED + number, recipe="town" if number % 2 else "varied")
        span = min(60.0, world.drive_length_m / 2 - 10)
        along = np.linspace(-span, span, SWEEPS_PER_WORLD)
        yield [
            simulate_sweep(
                world, world.pose_at(at, SENSOR.height_m), SENSOR, np.random.default_rng([number, k]),
                speed_m_s=8.0, deskewed=False, time_s=0.1 * k,
            ).points
            for k, at in enumerate(along)
        ]  # fmt: skip


if __name__ == "__main__":
    main()
