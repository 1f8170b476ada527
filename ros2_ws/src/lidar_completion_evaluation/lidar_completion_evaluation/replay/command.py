"""`lidar-completion bag`, and the executable `replay_bag` that the launch file starts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lidar_completion_evaluation.replay.player import ReplayResult


def bag(
    bag: Annotated[Path, typer.Argument(help="rosbag2: a folder, or an .mcap or .db3 file")],
    topic: Annotated[
        str | None, typer.Option(help="PointCloud2 topic to play; needed if the bag holds several")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.0, help="1 is real time; 0: play a sweep when the last is answered")
    ] = 1.0,
    output: Annotated[Path | None, typer.Option(help="new bag of completions; default: BAG_completed here")] = None,
    model: Annotated[str | None, typer.Option(help="model of the node, if none runs yet")] = None,
    device: Annotated[str | None, typer.Option(help="device of the node, if none runs yet")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=8, help="denoising steps, if no node runs yet")] = None,
    storage: Annotated[str, typer.Option(help="of the new bag: mcap or sqlite3")] = "mcap",
    wait_for_node: Annotated[
        bool, typer.Option("--wait-for-node", help="start no node: wait for the one that is about to come up")
    ] = False,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate", help="write an HTML report: latency, drops, steps, diagnostics; quality with poses"),
    ] = False,
    poses: Annotated[
        Path | None, typer.Option(help="TUM file (time x y z qx qy qz qw): judge against the map of the bag")
    ] = None,
    odometry_topic: Annotated[
        str | None, typer.Option(help="odometry or pose topic of the bag, instead of poses")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="new folder of the report; default: BAG_evaluation here")] = None,
    judge_every: Annotated[int, typer.Option(min=1, help="judge every n-th sweep")] = 5,
    show: Annotated[int, typer.Option(min=0, help="so many of the worst and of the slowest sweeps with pictures")] = 3,
) -> None:
    """Play a bag through the node over DDS, record the completions, and print latencies and drops.

    With --evaluate only the completions that are judged are recorded, unless --output names a bag for all of them.
    """
    try:  # here, so that the other commands do not pay for importing ROS
        from lidar_completion_evaluation.replay.player import STORAGES, BagError, ReplayError, replay
    except ImportError as error:
        raise _stop(f"needs ROS 2: {error}; pip install 'lidar_completion_ros[ros]' brings it") from None
    if storage not in STORAGES:
        raise typer.BadParameter(f"expected {' or '.join(STORAGES)}, found {storage!r}", param_hint="--storage")
    if (poses or odometry_topic or report) and not evaluate:
        raise typer.BadParameter(
            "are for an evaluation: add --evaluate", param_hint="--poses, --odometry-topic, --report"
        )
    options = {
        "topic": topic,
        "rate": rate,
        "model": model,
        "parameters": {name: value for name, value in (("device", device), ("steps", steps)) if value is not None},
        "storage": storage,
        "wait_for_node": wait_for_node,
    }
    name = bag.resolve().stem
    try:
        with _one_interrupt():
            if not evaluate:
                result = replay(bag, output or Path(f"{name}_completed"), progress=_progress("sweep"), **options)
                typer.echo(summary(result))
                return
            folder = report or Path(f"{name}_evaluation")
            judged = {"poses": poses, "odometry_topic": odometry_topic, "judge_every": judge_every, "show": show}
            _evaluate(bag, folder, output=output, **judged, **options)
    except (BagError, ReplayError, ImportError) as error:
        raise _stop(str(error)) from None


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """The first SIGINT ends the replay; a second one, as launch and the terminal both send it, must not interrupt that end."""
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


def _evaluate(bag: Path, folder: Path, **options: object) -> None:
    # both before the replay, so that a missing library is told first
    from lidar_completion_evaluation.replay.evaluation import evaluate_replay
    from lidar_completion_evaluation.replay.report import write_report

    evaluation = evaluate_replay(
        bag, folder, progress=lambda what, done, total: _progress(what)(done, total), **options
    )
    typer.echo(summary(evaluation.result))
    if evaluation.quality:
        rows = evaluation.quality
        for row in ("raw", "completion"):
            cd, f = (sum(each[f"{row} {name}"] for each in rows) / len(rows) for name in ("cd", "f"))
            typer.echo(f"{row:<12} CD {cd:.3f} m, F at 0.2 m {100 * f:.1f} %, mean of {len(rows)} judged sweeps")
    typer.echo(f"{'report':<12} {write_report(evaluation)}")


def _stop(message: str) -> typer.Exit:
    typer.echo(f"lidar-completion bag: {message}", err=True)
    return typer.Exit(2)


def summary(result: ReplayResult) -> str:
    """What a replay gave, as a small table."""
    answered = [sweep for sweep in result.sweeps if sweep.points_out is not None]
    points_in = sum(sweep.points_in for sweep in answered) / max(1, len(answered))
    points_out = sum(sweep.points_out or 0 for sweep in answered) / max(1, len(answered))
    percentiles = "  ".join(f"p{percentile} {result.latency_ms(percentile):.0f}" for percentile in (50, 95, 99, 100))
    rows = {
        "sweeps": f"{len(result.sweeps)} on {result.input_topic}",
        "completions": f"{result.completed} on {result.output_topic}",
        "dropped": f"{result.dropped} replaced by a newer sweep, {result.refused} refused, {result.lost} lost by DDS",
        "latency ms": percentiles,
        "rate": f"{result.rate_hz:.2f} completions/s",
        "points": f"{points_in:.0f} in, {points_out:.0f} out (mean)",
        "model": f"{result.node_values['model']} on {result.node_values['device']} ({result.node_values['backend']})",
        "written to": str(result.completions),
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


def _progress(what: str) -> Callable[[int, int], None]:
    return lambda done, total: typer.echo(f"\r{what} {done}/{total}", nl=done == total, err=True)


def main() -> None:
    """Run `bag` as a program of its own."""
    typer.run(bag)
