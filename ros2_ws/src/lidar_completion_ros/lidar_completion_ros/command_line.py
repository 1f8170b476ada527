"""What the ROS package adds to the command `lidar-completion`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lidar_completion_ros.bag_replay import ReplayResult


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
) -> None:
    """Play a bag through the node over DDS, record the completions, and print latencies and drops."""
    try:  # here, so that the other commands do not pay for importing ROS
        from lidar_completion_ros.bag_replay import STORAGES, BagError, ReplayError, replay
    except ImportError as error:
        typer.echo(
            f"lidar-completion bag needs ROS 2: {error}; pip install 'lidar_completion_ros[ros]' brings it", err=True
        )
        raise typer.Exit(2) from None
    if storage not in STORAGES:
        raise typer.BadParameter(f"expected {' or '.join(STORAGES)}, found {storage!r}", param_hint="--storage")
    parameters = {name: value for name, value in (("device", device), ("steps", steps)) if value is not None}
    output = output or Path(f"{bag.resolve().stem}_completed")
    try:
        result = replay(
            bag, output, topic=topic, rate=rate, model=model, parameters=parameters, storage=storage, progress=_progress
        )
    except (BagError, ReplayError) as error:
        typer.echo(f"lidar-completion bag: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(summary(result))


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


def _progress(done: int, total: int) -> None:
    typer.echo(f"\rsweep {done}/{total}", nl=done == total, err=True)
