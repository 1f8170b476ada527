"""lidar-completion-train: trains models."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Train, distil and export completion models."
)


@app.callback()
def main() -> None:
    # two processes that spin for the same cores are far slower than two that wait
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@app.command()
def direct(
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; without one, the defaults")] = None,
    run: Annotated[Path, typer.Option(help="folder of the run; a run that was stopped goes on from it")] = Path(
        "runs/direct"
    ),
    output: Annotated[Path | None, typer.Option(help="write the model folder here at the end")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the training process")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="entry=value, such as iterations=100")] = None,
) -> None:
    """Train in one or two passes from the noised sweep with a Chamfer distance (the direct objective)."""
    import torch

    from lidar_completion_training.configuration import RecipeError, load_recipe
    from lidar_completion_training.train import Trainer, TrainingError

    if threads:
        torch.set_num_threads(threads)
    try:
        trainer = Trainer(load_recipe(recipe, overrides), run)
        trainer.run()
    except (RecipeError, TrainingError) as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error
    if output:
        card = trainer.export(output)
        print(f"{output}: {card.name}, sha256 {card.sha256[:12]}")


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="model folder; its card is rewritten")],
    scenes: Annotated[int, typer.Option(help="held-back synthetic scenes")] = 20,
) -> None:
    """Calibrate the confidence of completed points and write it into the model's card."""
    from lidar_completion.errors import ModelError
    from lidar_completion_training.calibrate import calibrate as run

    try:
        table = run(model, scenes).confidence
    except ModelError as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error
    for ring, share in zip(table["range_m"], table["probability"], strict=True):
        print(f"{ring:5.1f} m  {share:.3f}")


@app.command()
def export(model: Annotated[Path, typer.Argument(help="model folder; the .onnx files are written into it")]) -> None:
    """Export a model to ONNX (standard operators, dynamic sizes) for the onnx backend."""
    from lidar_completion.errors import ModelError
    from lidar_completion.onnx_export import export_model

    try:
        files = export_model(model)
    except ModelError as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


@app.command("map")
def map_(
    drive: Annotated[
        Path, typer.Argument(help="SemanticKITTI sequence, KITTI-360 root, folder of sweeps with poses, or rosbag2")
    ],
    output: Annotated[Path, typer.Option(help="the map, an .npz file")],
    poses: Annotated[Path | None, typer.Option(help="poses; default: poses.txt in the folder")] = None,
    moving: Annotated[str, typer.Option(help="how moving things go: labels, visibility, keep, auto")] = "auto",
    deskew: Annotated[bool, typer.Option(help="take the sensor's motion out of each sweep (raw drives)")] = False,
) -> None:
    """Build the ground-truth map of a drive of any length; a run that was killed goes on where it was."""
    from lidar_completion.point_cloud_files import PointCloudFileError
    from lidar_completion_training.data.drives import DriveError
    from lidar_completion_training.data.open import open_drive
    from lidar_completion_training.ground_truth_map import build_map

    try:
        print(build_map(open_drive(drive, poses=poses), output, moving=moving, deskew=deskew))
    except (DriveError, PointCloudFileError, ValueError) as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error


if __name__ == "__main__":
    app()
