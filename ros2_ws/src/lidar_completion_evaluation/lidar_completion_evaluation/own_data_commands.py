"""`lidar-completion make-bag`: a folder of clouds as a rosbag2."""

from pathlib import Path
from typing import Annotated

import typer

from lidar_completion_evaluation.commands import reported


def make_bag_command(
    folder: Annotated[
        Path,
        typer.Argument(help="folder of .bin .ply .pcd .npy or .npz clouds, or one with such a subfolder velodyne/"),
    ],
    output: Annotated[Path | None, typer.Option(help="new bag; default: FOLDER_bag in the working directory")] = None,
    times: Annotated[
        Path | None, typer.Option(help="one time per cloud, seconds or date and time; default: times.txt in the folder")
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(help="pose file (KITTI, TUM or 4x4 rows), written as odometry; default: poses.txt in the folder"),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="sweeps per second, if there are no times")] = 10.0,
    topic: Annotated[str, typer.Option(help="topic of the clouds")] = "/velodyne_points",
    odometry_topic: Annotated[str, typer.Option(help="topic of the poses")] = "/odometry",
    frame: Annotated[str, typer.Option(help="frame_id of the clouds")] = "velodyne",
    bin_columns: Annotated[int, typer.Option(min=3, help="float32 values per point of .bin files")] = 4,
) -> None:
    """Write a folder of clouds to a rosbag2, with its poses as odometry if there are any."""
    from lidar_completion_evaluation.drives.write_bag import folder_to_bag

    with reported():
        bag = folder_to_bag(
            folder,
            output or Path(f"{folder.resolve().name}_bag"),
            times=times,
            poses=poses,
            rate_hz=rate,
            topic=topic,
            odometry_topic=odometry_topic,
            frame=frame,
            bin_columns=bin_columns,
        )
    typer.echo(f"{bag}")
