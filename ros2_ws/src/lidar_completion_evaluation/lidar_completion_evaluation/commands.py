"""The commands `lidar-completion map` and `lidar-completion calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

POSES_HELP = "pose file (KITTI, TUM or 4x4 rows), or auto: estimate the poses from the sweeps with KISS-ICP"

Model = Annotated[Path, Argument(help="model folder; its card is rewritten")]
Scenes = Annotated[
    int, Option(min=1, help="synthetic scenes for the fit (unless the network predicts confidence); half as many are held out for the check")
]  # fmt: skip
DrivePath = Annotated[
    Path, Argument(help="SemanticKITTI sequence, KITTI-360 root, folder of sweeps with poses, or rosbag2")
]
Output = Annotated[Path, Option(help="the map, an .npz file")]
Poses = Annotated[str | None, Option(help=POSES_HELP)]
Kitti360Drive = Annotated[str | None, Option("--kitti-360-drive", help="drive of KITTI-360; default: the first")]
BinColumns = Annotated[int, Option(min=3, help="float32 values per point of .bin files: 4 KITTI, 5 nuScenes")]
Moving = Annotated[str, Option(help="how moving objects are removed: labels, visibility, keep, auto")]
Deskew = Annotated[bool, Option(help="deskew each sweep (raw drives only)")]


def calibrate_command(model: Model, scenes: Scenes = 24) -> None:
    """Measure a model's calibration on held-out synthetic scenes (fits a table first if it needs one); writes to the card."""
    from lidar_completion_evaluation.calibrate import calibrate

    with reported():
        card = calibrate(model, scenes)
    table = f"table of {len(card.confidence['range_m'])} ranges" if card.confidence else "predicted by the network"
    typer.echo(f"{model}: confidence: {table}")


def map_command(
    drive: DrivePath,
    output: Output,
    poses: Poses = None,
    kitti_360_drive: Kitti360Drive = None,
    bin_columns: BinColumns = 4,
    moving: Moving = "auto",
    deskew: Deskew = False,
) -> None:
    """Build the ground-truth map of a drive of any length. An interrupted run resumes."""
    from lidar_completion_evaluation.drives.open import DriveOptions, open_drive
    from lidar_completion_evaluation.process_group import of_torchrun
    from lidar_completion_evaluation.truth.ground_truth_map import build_map

    cache = output.with_name("poses_auto.txt")
    options = DriveOptions(poses, kitti_360_drive=kitti_360_drive, bin_columns=bin_columns, pose_cache=cache)
    with reported():
        group = of_torchrun()
        with group.first_before_others():  # the first estimates poses
            opened = open_drive(drive, options)
        typer.echo(build_map(opened, output, moving=moving, deskew=deskew, group=group))


@contextmanager
def reported() -> Iterator[None]:
    """Invalid user input ends the command with an error message."""
    from lidar_completion.errors import ModelError
    from lidar_completion.point_cloud_files import PointCloudFileError
    from lidar_completion_evaluation.drives.drive import DriveError

    try:
        yield
    except (DriveError, ModelError, PointCloudFileError, OSError) as error:
        raise SystemExit(f"lidar-completion: {error}") from error
