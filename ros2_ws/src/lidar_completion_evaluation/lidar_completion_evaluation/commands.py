"""What this package adds to the command `lidar-completion` beside `evaluate` and `bag`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the user's input end the command with their message alone."""
    from lidar_completion.errors import ModelError
    from lidar_completion.point_cloud_files import PointCloudFileError
    from lidar_completion_evaluation.drives.drive import DriveError

    try:
        yield
    except (DriveError, ModelError, PointCloudFileError, OSError) as error:
        raise SystemExit(f"lidar-completion: {error}") from error


def calibrate_command(
    model: Annotated[Path, typer.Argument(help="model folder; its card is rewritten")],
    scenes: Annotated[
        int,
        typer.Option(
            min=1, help="synthetic scenes to fit, where the network does not judge its points; half as many judge"
        ),
    ] = 24,
) -> None:
    """Judge the confidence of completed points on held-back scenes, fit it where it needs a fit, and write both into the card."""
    from lidar_completion_evaluation.calibrate import calibrate as run

    with explained():
        card = run(model, scenes)
    table = f"table of {len(card.confidence['range_m'])} ranges" if card.confidence else "the network's own"
    print(f"{model}: confidence: {table}")


def map_command(
    drive: Annotated[
        Path, typer.Argument(help="SemanticKITTI sequence, KITTI-360 root, folder of sweeps with poses, or rosbag2")
    ],
    output: Annotated[Path, typer.Option(help="the map, an .npz file")],
    poses: Annotated[Path | None, typer.Option(help="poses; default: poses.txt in the folder")] = None,
    moving: Annotated[str, typer.Option(help="how moving things go: labels, visibility, keep, auto")] = "auto",
    deskew: Annotated[bool, typer.Option(help="take the sensor's motion out of each sweep (raw drives)")] = False,
) -> None:
    """Build the ground-truth map of a drive of any length; a run that was killed goes on where it was."""
    from lidar_completion_evaluation.drives.open import open_drive
    from lidar_completion_evaluation.truth.ground_truth_map import build_map

    with explained():
        print(build_map(open_drive(drive, poses=poses), output, moving=moving, deskew=deskew))
