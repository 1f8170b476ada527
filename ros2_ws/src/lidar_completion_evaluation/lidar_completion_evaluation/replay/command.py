"""`lidar-completion bag`, and the executable `replay_bag` that the launch file starts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from lidar_completion_evaluation.commands import POSES_HELP

if TYPE_CHECKING:
    from lidar_completion_evaluation.replay.evaluation import Evaluation
    from lidar_completion_evaluation.replay.result import ReplayResult

Bag = Annotated[Path, typer.Argument(help="rosbag2: a folder, or an .mcap or .db3 file")]
Topic = Annotated[str | None, Option(help="PointCloud2 topic to play; needed if the bag has several")]
Rate = Annotated[
    float, Option(min=0.0, help="1 is real time; 0 plays each sweep once the previous one has been completed")
]
Output = Annotated[
    Path | None, Option(help="new bag of all completions; default: BAG_completed in the working directory")
]
Model = Annotated[str | None, Option(help="model for the node that is started if none is running")]
Device = Annotated[str | None, Option(help="device for the node that is started if none is running")]
Steps = Annotated[
    int | None, Option(min=1, max=8, help="denoising steps for the node that is started if none is running")
]
Storage = Annotated[str, Option(help="storage of the new bag: mcap or sqlite3")]
Wait = Annotated[bool, Option("--wait-for-node", help="do not start a node; wait for one from a launch file")]
Evaluate = Annotated[
    bool, Option("--evaluate", help="write an HTML report: latency, drops, steps, diagnostics; quality with poses")
]
Poses = Annotated[str | None, Option(help=f"compare completions with the map of the bag; {POSES_HELP}")]
Odometry = Annotated[str | None, Option(help="odometry or pose topic of the bag, instead of --poses")]
Report = Annotated[
    Path | None, Option(help="new folder for the report; default: BAG_evaluation in the working directory")
]
Every = Annotated[int, Option(min=1, help="evaluate every n-th sweep")]
LOST = 1  # exit code if DDS lost sweeps or completions
Show = Annotated[int, Option(min=0, help="number of worst and of slowest sweeps shown with pictures")]


def bag(
    bag: Bag,
    topic: Topic = None,
    rate: Rate = 1.0,
    output: Output = None,
    model: Model = None,
    device: Device = None,
    steps: Steps = None,
    storage: Storage = "mcap",
    wait_for_node: Wait = False,
    evaluate: Evaluate = False,
    poses: Poses = None,
    odometry_topic: Odometry = None,
    report: Report = None,
    evaluate_every: Every = 5,
    show: Show = 3,
) -> None:
    """Play a bag through the node over DDS, record the completions, and print latencies and drops.

    With --evaluate only the evaluated completions are recorded, unless --output names a bag for all of them.
    Exit code 1: sweeps or completions were lost; the others are recorded and evaluated.
    """
    try:  # imported here, so that the other commands do not need ROS
        from lidar_completion_evaluation.drives.drive import DriveError
        from lidar_completion_evaluation.replay.evaluation import Truth
        from lidar_completion_evaluation.replay.replay import STORAGES
        from lidar_completion_evaluation.replay.result import ReplayError
    except ImportError as error:
        raise _stop(f"needs ROS 2: {error}; install it: pip install 'lidar_completion_ros[ros]'") from None
    if storage not in STORAGES:
        raise typer.BadParameter(f"expected {' or '.join(STORAGES)}, found {storage!r}", param_hint="--storage")
    if (poses or odometry_topic or report) and not evaluate:
        raise typer.BadParameter("requires --evaluate", param_hint="--poses, --odometry-topic, --report")
    parameters = {name: value for name, value in (("device", device), ("steps", steps)) if value is not None}
    node = {"model": model, "parameters": parameters, "wait_for_node": wait_for_node}
    options = {"topic": topic, "rate": rate, "storage": storage, **node}
    name = bag.resolve().stem
    try:
        with _one_interrupt():
            if evaluate:
                folder = report or Path(f"{name}_evaluation")
                truth = Truth(poses, odometry_topic)
                result = _evaluate(bag, folder, truth=truth, output=output, every=evaluate_every, show=show, **options)
            else:
                result = _replay(bag, output or Path(f"{name}_completed"), **options)
    except (DriveError, ReplayError) as error:
        raise _stop(str(error)) from None
    if result.lost:
        raise _stop(lost_message(result), LOST)


def _replay(bag: Path, output: Path, **options: Any) -> ReplayResult:
    from lidar_completion_evaluation.replay.replay import replay

    result = replay(bag, output, on_progress=_progress("sweep"), **options)
    typer.echo(summary(result))
    return result


def _evaluate(bag: Path, folder: Path, **options: Any) -> ReplayResult:
    from lidar_completion_evaluation.replay.evaluation import evaluate_replay
    from lidar_completion_evaluation.replay.report import write_report

    evaluation = evaluate_replay(
        bag, folder, on_progress=lambda stage, done, total: _progress(stage)(done, total), **options
    )
    typer.echo(summary(evaluation.result))
    typer.echo(quality_summary(evaluation), nl=bool(evaluation.quality))
    typer.echo(f"{'report':<12} {write_report(evaluation)}")
    return evaluation.result


def lost_message(result: ReplayResult) -> str:
    """How many sweeps were lost, and the usual causes."""
    return (
        f"{result.lost} of {len(result.sweeps)} sweeps were lost: the node neither completed them nor reported them as "
        "dropped or refused. Usual causes: the node runs without the Fast DDS profile (config/fast_dds_profile.xml), "
        "/dev/shm is too small or not shared, or the node restarted"
    )


def summary(result: ReplayResult) -> str:
    """Counts, latencies and rate of a replay as a small table."""
    answered = [sweep for sweep in result.sweeps if sweep.points_out is not None]
    points_in = sum(sweep.points_in for sweep in answered) / max(1, len(answered))
    points_out = sum(sweep.points_out or 0 for sweep in answered) / max(1, len(answered))
    status = result.node.status
    percentiles = "  ".join(f"p{percentile} {result.latency_ms(percentile):.0f}" for percentile in (50, 95, 99, 100))
    rows = {
        "sweeps": f"{len(result.sweeps)} on {result.input_topic}",
        "completions": f"{result.completed} on {result.output_topic}",
        "dropped": f"{result.dropped} replaced by a newer sweep, {result.refused} refused, {result.lost} lost by DDS",
        "latency ms": percentiles,
        "rate": f"{result.rate_hz:.2f} completions/s",
        "points": f"{points_in:.0f} in, {points_out:.0f} out (mean)",
        "model": f"{status.model} on {status.device} ({status.backend})",
        "written to": str(result.completions),
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


def quality_summary(evaluation: Evaluation) -> str:
    """Mean figures of the raw sweep and the completion; empty without poses."""
    from lidar_completion_evaluation.replay.report import mean_figures

    means, count = mean_figures(evaluation.quality), len(evaluation.quality)
    return "\n".join(
        f"{row:<12} CD {means[row]['cd']:.3f} m, F at 0.2 m {100 * means[row]['f']:.1f} %, "
        f"mean of {count} evaluated sweeps"
        for row in ("raw", "completion")
        if row in means
    )


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """The first SIGINT ends the replay. Launch and the terminal both send one; the second must not interrupt the cleanup."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _progress(stage: str) -> Callable[[int, int], None]:
    return lambda done, total: typer.echo(f"\r{stage} {done}/{total}", nl=done == total, err=True)


def _stop(message: str, exit_code: int = 2) -> typer.Exit:
    typer.echo(f"lidar-completion bag: {message}", err=True)
    return typer.Exit(exit_code)


def main() -> None:
    """Run `bag` as its own program."""
    typer.run(bag)
