"""Demonstration: play a bag through the running ROS 2 node, evaluate the completions, write a picture and a report.

make demo                                 the shipped synthetic recording
make demo BAG=my_bag                      any rosbag2 with a PointCloud2 topic
make demo BAG=my_bag POSES=poses.txt      with poses (KITTI or TUM rows) the map of the bag is the ground truth
"""

import argparse
import io
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, load_card
from lidar_completion_evaluation.drives.drive import DriveError
from lidar_completion_evaluation.pictures import Panel, birds_eye
from lidar_completion_evaluation.replay.evaluation import Evaluation, Truth, evaluate_replay
from lidar_completion_evaluation.replay.recorded import RecordedCompletion, recorded_completions
from lidar_completion_evaluation.replay.report import ROW_NAMES, ReportPicture, mean_figures, write_report
from lidar_completion_evaluation.replay.result import ReplayError, ReplayResult
from lidar_completion_evaluation.scenes import Scene
from lidar_completion_synthetic.sample import read_truth

TRUTH_NAME = "truth.npz"  # beside the shipped sample: its exact surface, in the frame of its poses
POSES_NAME = "poses.txt"
HEIGHT_M = (-2.5, 3.0)  # limits of the colour scale


def main() -> None:
    options = arguments()
    output: Path = options.output
    shutil.rmtree(output, ignore_errors=True)
    try:
        card = load_card(options.model)
        evaluation = evaluate_replay(
            options.bag,
            output,
            truth=ground_truth(options.bag, options.poses),
            output=output / "completed",
            every=1,
            rate=options.rate,
            model=str(options.model),
            on_progress=show_progress,
        )
    except (DriveError, ReplayError, ModelError) as error:
        sys.exit(f"demo: {error}")
    if not evaluation.result.completed:
        sys.exit("demo: the node returned no completion; see its messages above")
    print("\n" + summary_table(evaluation))
    completion = middle_completion(evaluation.result)
    scene = evaluation.scenes.scene(completion.stamp_ns) if evaluation.scenes else None
    report = write_report(
        evaluation,
        about=about(card),
        pictures=pictures(evaluation, completion, scene),
        truth=truth_name(options.bag, options.poses),
        viewed=(completion, scene),
    )
    print(f"\npicture   {output / 'birds_eye.png'}\nreport    {report}\nbag       {output / 'completed'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--poses", help=f"pose file, or auto; default: {POSES_NAME} beside the bag")
    parser.add_argument("--rate", type=float, default=0.0, help="1 is real time; 0 waits for every completion")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    return parser.parse_args()


def show_progress(stage: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{stage} {done}/{total}", end=end, file=sys.stderr, flush=True)


def ground_truth(bag: Path, poses: str | None) -> Truth:
    """The exact surface beside the shipped sample, else the map of the bag; nothing without poses."""
    folder = bag if bag.is_dir() else bag.parent
    exact, beside = folder / TRUTH_NAME, folder / POSES_NAME
    if poses is None and not beside.is_file():
        return Truth()
    surface = (lambda: read_truth(exact).astype(np.float64)) if exact.is_file() and poses is None else None
    return Truth(poses or beside, surface=surface)


def truth_name(bag: Path, poses: str | None) -> str:
    folder = bag if bag.is_dir() else bag.parent
    return (
        "the exact surface of the synthetic world"
        if poses is None and (folder / TRUTH_NAME).is_file()
        else "the map of the bag"
    )


def about(card: ModelCard) -> str:
    return f"{card.name}: {card.description or card.training_data}."


def summary_table(evaluation: Evaluation) -> str:
    result = evaluation.result
    lines = [
        f"sweeps       {len(result.sweeps)} played, {result.completed} completed, {result.dropped} dropped",
        f"latency      p50 {result.latency_ms(50):.0f} ms, p95 {result.latency_ms(95):.0f} ms, from sweep to completion",
        points_line(result),
    ]
    means = mean_figures(evaluation.quality)
    if not means:
        return "\n".join(
            [*lines, "quality      not evaluated, because the bag has no pose file; add POSES=poses.txt or POSES=auto"]
        )
    lines += ["", f"{'':22}{'CD, m':>8}{'vs raw':>9}{'F at 0.2 m':>12}"]
    for row in [*(row for row in means if row != "completion"), "completion"]:
        cd, f = means[row]["cd"], means[row]["f"]
        name = "completion" if row == "completion" else ROW_NAMES[row]
        lines.append(f"{name:22}{cd:8.3f}{100 * (cd / means['raw']['cd'] - 1):+8.0f}%{f:12.3f}")
    return "\n".join(lines)


def points_line(result: ReplayResult) -> str:
    answered = [sweep for sweep in result.sweeps if sweep.points_out is not None]
    points_in = np.mean([sweep.points_in for sweep in answered])
    points_out = np.mean([sweep.points_out for sweep in answered])
    return f"points       {points_in:,.0f} in, {points_out:,.0f} out (mean)"


def middle_completion(result: ReplayResult) -> RecordedCompletion:
    return next(islice(recorded_completions(result), result.completed // 2, None))


def pictures(evaluation: Evaluation, completion: RecordedCompletion, scene: Scene | None) -> list[ReportPicture]:
    """Input, completion and truth of one sweep, and its confidence; also written as PNG files."""
    both = np.concatenate([completion.measured, completion.completed])
    panels = [Panel("input sweep", completion.measured, limits=HEIGHT_M), Panel("completion", both, limits=HEIGHT_M)]
    if scene is not None:
        panels.append(Panel("ground truth", scene.truth, limits=HEIGHT_M))
    return [
        ReportPicture(
            "Input and output", "Bird's-eye view, coloured by height.", drawn(panels, evaluation, "birds_eye")
        ),
        ReportPicture(
            "Measured and imagined points",
            "White: measured points, passed through unchanged. Coloured: completed points, brighter with higher confidence.",
            drawn(confidence_panels(completion), evaluation, "confidence"),
        ),
    ]


def confidence_panels(completion: RecordedCompletion) -> list[Panel]:
    measured, white = completion.measured, np.ones(len(completion.measured))
    return [
        Panel("measured", measured, white, "gray", (0.0, 1.0)),
        Panel("imagined, by confidence", completion.completed, completion.confidence, "plasma", (0.0, 1.0), measured),
    ]


def drawn(panels: list[Panel], evaluation: Evaluation, name: str) -> bytes:
    """The picture as PNG, also written to the output folder."""
    buffer = io.BytesIO()
    birds_eye(panels, buffer)
    (evaluation.folder / f"{name}.png").write_bytes(buffer.getvalue())
    return buffer.getvalue()


if __name__ == "__main__":
    main()
