"""`lidar-completion view`: sweeps and completions in 3-D, in the browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lidar_completion_evaluation.commands import POSES_HELP, reported

if TYPE_CHECKING:
    from lidar_completion.completer import SceneCompleter
    from lidar_completion_evaluation.view.server import BrowserView
    from lidar_completion_evaluation.view.sweeps import SweepSource


def view_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="a bag, a folder of sweeps, or cloud files; default: what the running node publishes"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="model folder that completes sweeps; default: sweeps are shown without completion"),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="PointCloud2 topic; default: of a bag its only one, of a running node its output"),
    ] = None,
    poses: Annotated[Path | None, typer.Option(help=POSES_HELP)] = None,
    odometry_topic: Annotated[str | None, typer.Option(help="odometry or pose topic of a bag")] = None,
    truth: Annotated[
        bool,
        typer.Option("--truth", help="show distances to the map built from all sweeps of the drive and their poses"),
    ] = False,
    work: Annotated[Path, typer.Option(help="folder of the map and of estimated poses")] = Path("runs/view"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    host: Annotated[
        str, typer.Option(help="address to serve at; 0.0.0.0: reachable from other machines")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="port to serve at; the next free one if it is taken")
    ] = 8080,
) -> None:
    """Show sweeps in the browser: measured points white, completed points coloured by confidence or distance to the truth."""
    with reported():
        try:
            source = _source(paths, model, device, topic, poses, odometry_topic, truth, work) if paths else None
            _serve(source, topic, host, port)
        except ImportError as error:
            raise SystemExit(f"lidar-completion view: {error}") from error


def _serve(source: SweepSource | None, topic: str | None, host: str, port: int) -> None:
    from lidar_completion_evaluation.view.server import BrowserView

    with BrowserView(host, port) as view:
        try:
            typer.echo(f"{view.url}   (stop with Ctrl-C)")
            _run(view, source, topic)
        except KeyboardInterrupt:
            typer.echo("")


def _run(view: BrowserView, source: SweepSource | None, topic: str | None) -> None:
    if source is None:
        from lidar_completion_evaluation.view.live import follow

        follow(view.show, topic, stop=lambda: False, on_wait=typer.echo)
        return
    view.browse(source)
    while True:
        time.sleep(1.0)


def _source(  # type: ignore[no-untyped-def]
    paths, model, device, topic, poses, odometry_topic, truth, work
) -> SweepSource:
    from lidar_completion_evaluation.drives.open import open_sweeps
    from lidar_completion_evaluation.view.sweeps import DriveSweeps, FileSweeps

    completer = _completer(model, device)
    if not _is_drive(paths[0]):
        return FileSweeps(paths, completer)
    if not truth:
        return DriveSweeps(open_sweeps(paths[0], topic=topic), completer)
    return _with_truth(paths[0], completer, topic, poses, odometry_topic, work / paths[0].resolve().name)


def _is_drive(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".mcap", ".db3")


def _with_truth(  # type: ignore[no-untyped-def]
    path: Path, completer, topic, poses, odometry_topic, work: Path
) -> SweepSource:
    """The sweeps of a drive with their truth: its truth.npz, as in the shipped sample, otherwise the map built from it."""
    from lidar_completion_evaluation.drives.open import open_drive
    from lidar_completion_evaluation.truth.ground_truth_map import build_map
    from lidar_completion_evaluation.view.sweeps import TRUTH_NAME, DriveSweeps, truth_of_map, truth_of_surface

    beside = path / "poses.txt"
    exact = poses is None and (path / TRUTH_NAME).is_file()
    if exact and beside.is_file():
        poses = beside
    drive = open_drive(
        path, poses=poses, topic=topic, odometry_topic=odometry_topic, pose_cache=work / "poses_auto.txt"
    )
    if exact:
        from lidar_completion_synthetic.sample import read_truth

        return DriveSweeps(drive, completer, truth_of_surface(drive, read_truth(path / TRUTH_NAME)))
    return DriveSweeps(drive, completer, truth_of_map(drive, build_map(drive, work / "map.npz", moving="keep")))


def _completer(model: Path | None, device: str) -> SceneCompleter | None:
    from lidar_completion.completer import SceneCompleter

    return None if model is None else SceneCompleter.load(model, device=device)
