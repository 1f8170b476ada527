"""The demonstration: play a bag through the running ROS 2 node, judge what comes back, leave a picture and a report.

make demo                       the shipped synthetic drive
make demo BAG=my_bag            any rosbag2 with a PointCloud2 topic
make demo BAG=my_bag POSES=poses.txt      with poses (KITTI or TUM rows) the drive's own map is the ground truth
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from lidar_completion.errors import ModelError
from lidar_completion.model.card import load_card
from lidar_completion.visibility import COMPLETED
from lidar_completion_evaluation import baselines as trivial
from lidar_completion_evaluation.drives.drive import DriveError, Sweep
from lidar_completion_evaluation.drives.poses import read_poses
from lidar_completion_evaluation.metrics import nearest_distances, precision_recall_curve
from lidar_completion_evaluation.pictures import Panel, birds_eye
from lidar_completion_evaluation.replay.player import BagError, BagSweeps, ReplayError, ReplayResult, replay
from lidar_completion_evaluation.truth.ground_truth_map import DRIVE_RULES, merged_sweeps, truth_for_sweep
from lidar_completion_ros.point_cloud_messages import OUTPUT_FIELDS, output_layout, read_sweep
from lidar_completion_synthetic.sample import read_truth

ROWS = {
    "raw sweep": trivial.raw,
    "jittered sweep": trivial.jittered,
    "interpolated sweep": trivial.interpolated,
    "xy-jittered sweep": trivial.xy_jittered,
}
COMPLETION_ROW = "completion"
F_THRESHOLD_M = 0.2
TRUTH_NAME = "truth.npz"  # beside the shipped sample: its exact surface, in the frame of its poses
POSES_NAME = "poses.txt"


@dataclass(frozen=True)
class Judged:
    """One sweep of the demonstration; clouds in the sensor frame, metres."""

    sweep: np.ndarray
    completion: np.ndarray  # structured as the node publishes it
    truth: np.ndarray | None
    rows: dict[str, tuple[float, float]]  # row -> Chamfer distance in metres, F-score at 0.2 m; empty without truth


def main() -> None:
    options = arguments()
    output = options.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    try:
        card = load_card(options.model)
        result = replay(
            options.bag, output / "completed", rate=options.rate, model=str(options.model), progress=show_progress
        )
        judged = list(judge(options.bag, options.poses, result))
    except (BagError, ReplayError, ModelError, DriveError) as error:
        sys.exit(f"demo: {error}")
    if not judged:
        sys.exit("demo: the node gave no completion; see its messages above")
    table = summary_table(result, judged)
    print("\n" + table)
    middle = judged[len(judged) // 2]
    picture(middle, output / "birds_eye.png")
    report(options, card, result, judged, output)
    print(
        f"\npicture   {output / 'birds_eye.png'}\nreport    {output / 'report.html'}\nnew bag   {output / 'completed'}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--poses", type=Path, help=f"one pose a sweep; default: {POSES_NAME} beside the bag")
    parser.add_argument("--rate", type=float, default=0.0, help="1 is real time; 0 waits for every answer")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    return parser.parse_args()


def show_progress(done: int, total: int) -> None:
    print(f"\rsweep {done}/{total}", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Judging


def judge(bag: Path, poses_path: Path | None, result: ReplayResult) -> Iterator[Judged]:
    """Every sweep that was completed, with its ground truth where there is one."""
    sweeps = {stamp: read_sweep(message).points for stamp, message in messages(bag, result.input_topic)}
    truth = ground_truth(bag, poses_path, sweeps)
    for stamp, message in messages(result.completions, result.output_topic):
        sweep = sweeps[stamp][np.isfinite(sweeps[stamp]).all(axis=1)]
        completion = np.frombuffer(message.data, dtype=output_layout(tuple(OUTPUT_FIELDS)))
        goal = truth.get(stamp)
        rows = {} if goal is None else {name: scores(cloud, goal) for name, cloud in contenders(sweep, completion)}
        yield Judged(sweep, completion, goal, rows)


def messages(bag: Path, topic: str) -> Iterator[tuple[int, PointCloud2]]:
    """(header stamp in ns, message) of one topic."""
    for _, data in BagSweeps(bag, topic):
        message = deserialize_message(data, PointCloud2)
        yield message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, message


def contenders(sweep: np.ndarray, completion: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The clouds of the table, cropped as the truth is; the completion without the measured points passed through."""
    distance = np.linalg.norm(sweep, axis=1)
    near = sweep[(distance > DRIVE_RULES.min_range_m) & (distance < DRIVE_RULES.max_range_m)]
    for name, row in ROWS.items():
        yield name, row(near)
    yield COMPLETION_ROW, xyz(completion[completion["provenance"] == COMPLETED])


def xyz(cloud: np.ndarray) -> np.ndarray:
    return np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=1)


def scores(cloud: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    distances = nearest_distances(cloud, truth)
    return distances.chamfer, float(precision_recall_curve(distances, [F_THRESHOLD_M]).f_score[0])


def ground_truth(bag: Path, poses_path: Path | None, sweeps: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Truth of each sweep by stamp: from truth.npz beside the bag, else the map of all its sweeps; needs poses."""
    folder = bag if bag.is_dir() else bag.parent
    poses_path = poses_path or folder / POSES_NAME
    if not poses_path.is_file():
        return {}
    poses = read_poses(poses_path)
    if len(poses) < len(sweeps):
        raise DriveError(f"{poses_path}: expected a pose for each of {len(sweeps)} sweeps, found {len(poses)}")
    if (folder / TRUTH_NAME).is_file():
        surface = read_truth(folder / TRUTH_NAME).astype(np.float64)
    else:
        surface = merged_sweeps(zip(map(Sweep, sweeps.values()), poses, strict=False))
    return {stamp: truth_for_sweep(surface, pose) for stamp, pose in zip(sweeps, poses, strict=False)}


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def mean_scores(judged: list[Judged]) -> dict[str, tuple[float, float]]:
    """Mean Chamfer distance and F-score of each row over the sweeps that have a truth."""
    known = [each for each in judged if each.rows]
    names = known[0].rows if known else {}
    return {name: tuple(np.mean([each.rows[name] for each in known], axis=0)) for name in names}


def summary_table(result: ReplayResult, judged: list[Judged]) -> str:
    points_in = np.mean([len(each.sweep) for each in judged])
    points_out = np.mean([len(each.completion) for each in judged])
    lines = [
        f"sweeps       {len(result.sweeps)} played, {result.completed} completed, {result.dropped} dropped",
        f"latency      p50 {result.latency_ms(50):.0f} ms, p95 {result.latency_ms(95):.0f} ms, message to message",
        f"points       {points_in:,.0f} in, {points_out:,.0f} out (mean)",
    ]
    means = mean_scores(judged)
    if not means:
        return "\n".join(
            [*lines, "quality      no poses beside the bag, so no ground truth: see README, make demo POSES="]
        )
    lines += ["", f"{'':22}{'CD, m':>8}{'vs raw':>9}{f'F at {F_THRESHOLD_M} m':>12}"]
    raw = means["raw sweep"][0]
    lines += [f"{name:22}{cd:8.3f}{100 * (cd / raw - 1):+8.0f}%{f:12.3f}" for name, (cd, f) in means.items()]
    return "\n".join(lines)


def picture(each: Judged, path: Path) -> None:
    height = (-2.5, 3.0)
    panels = [
        Panel("input sweep", each.sweep, limits=height),
        Panel("completion", xyz(each.completion), limits=height),
    ]
    if each.truth is not None:
        panels.append(Panel("ground truth", each.truth, limits=height))
    birds_eye(panels, path)


def confidence_picture(each: Judged, path: Path) -> None:
    completed = each.completion[each.completion["provenance"] == COMPLETED]
    panels = [
        Panel("measured", each.sweep, np.ones(len(each.sweep)), "gray", (0.0, 1.0)),
        Panel("imagined, by confidence", xyz(completed), completed["confidence"], "plasma", (0.0, 1.0), each.sweep),
    ]
    birds_eye(panels, path)


def report(options: argparse.Namespace, card, result: ReplayResult, judged: list[Judged], output: Path) -> None:  # type: ignore[no-untyped-def]
    confidence_picture(judged[len(judged) // 2], output / "confidence.png")
    latencies = [each.latency_s * 1e3 for each in result.sweeps if each.latency_s is not None]
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html.j2")
    means = mean_scores(judged)
    (output / "report.html").write_text(
        page.render(
            bag=options.bag,
            card=card,
            result=result,
            judged=judged,
            means=means,
            worst=max((cd for cd, _ in means.values()), default=1.0),
            latencies=latencies,
            slowest=max(latencies, default=1.0),
            f_threshold_m=F_THRESHOLD_M,
        )
    )


if __name__ == "__main__":
    main()
