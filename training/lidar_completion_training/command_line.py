"""lidar-completion-train: train, distil and export models."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Train, distil and export completion models."
)

OBJECTIVES = {
    "direct": "Train to complete the noised scan in one or two passes, with a Chamfer distance as loss.",
    "teacher": "Pre-train by noise prediction with condition dropout (LiDiff).",
    "refiner": "Train the refiner: six offsets per point, Chamfer loss.",
    "diffusion-dpo": "Fine-tune a teacher on pairs of its own completions (Eq. 10).",
    "score-distillation": "Distil a teacher by score distillation (Eq. 6).",
    "distillation-dpo": "Distil a teacher by Distillation-DPO (Eq. 16 to 20).",
}

Recipe = Annotated[
    Path | None,
    typer.Option(help="YAML recipe, or a shipped one such as small/1_direct.yaml; default: every entry at its default"),
]
Run = Annotated[Path | None, typer.Option(help="folder of the run, resumed if it exists; default: runs/OBJECTIVE")]
Output = Annotated[Path | None, typer.Option(help="write the model folder here at the end")]
Minutes = Annotated[float | None, typer.Option(min=0, help="save and stop after this time; the same command resumes")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda")]
Plan = Annotated[bool, typer.Option("--plan", help="print sweeps, steps, learning rates, hours, memory; do not train")]
Processes = Annotated[int | None, typer.Option(min=1, help="number of processes for --plan; default: that of torchrun")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the training process")]
Overrides = Annotated[list[str] | None, typer.Argument(help="entry=value, such as iterations=100")]


@app.callback()
def main() -> None:
    # spinning OpenMP threads slow down other processes on the same cores
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def reported_errors() -> Iterator[None]:
    """On errors that the user can fix, exit with the message and without a traceback."""
    from lidar_completion.errors import ModelError
    from lidar_completion.point_cloud_files import PointCloudFileError
    from lidar_completion_evaluation.drives.drive import DriveError
    from lidar_completion_training.errors import CurvesError, RecipeError, TrainingError

    try:
        yield
    except (CurvesError, DriveError, ModelError, PointCloudFileError, RecipeError, TrainingError, OSError) as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error


def add_objective(name: str, text: str) -> None:
    """Add the command that trains one objective."""

    def command(
        recipe: Recipe = None,
        run: Run = None,
        output: Output = None,
        minutes: Minutes = None,
        device: Device = "auto",
        threads: Threads = None,
        plan: Plan = False,
        processes: Processes = None,
        overrides: Overrides = None,
    ) -> None:
        import torch

        from lidar_completion_training.plan import plan_text
        from lidar_completion_training.recipe_files import load_recipe
        from lidar_completion_training.runs import recipe_path, train

        if threads:
            torch.set_num_threads(threads)
        with reported_errors():
            folder = run or Path("runs") / name
            entries = [*(overrides or []), f"objective={name.replace('-', '_')}"]
            if plan:
                entries += ["start_from=null", "teacher=null"]  # models that may not exist yet
            settings = load_recipe(recipe and recipe_path(recipe), entries)
            if plan:
                print(plan_text(settings, processes or int(os.environ.get("WORLD_SIZE", 1)), folder))
            else:
                train(settings, folder, output=output, minutes=minutes, device=device)

    app.command(name, help=text)(command)


for _name, _text in OBJECTIVES.items():
    add_objective(_name, _text)


@app.command()
def adapt(
    drive: Annotated[Path, typer.Argument(help="bag, folder of sweeps, SemanticKITTI sequence or KITTI-360 root")],
    model: Annotated[Path, typer.Option(help="model folder, or NAME for models/NAME")] = Path("models/edge"),
    output: Annotated[Path | None, typer.Option(help="model folder, if accepted; default: FOLDER/model")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="folder of all intermediate files; default: runs/adapt/DRIVE")
    ] = None,
    poses: Annotated[
        str | None, typer.Option(help="pose file, or auto: estimate them from the sweeps with KISS-ICP")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="PointCloud2 topic of a bag; default: the only one")] = None,
    odometry_topic: Annotated[
        str | None, typer.Option(help="odometry or pose topic of a bag, instead of --poses")
    ] = None,
    bin_columns: Annotated[int, typer.Option(min=3, help="float32 values per point of .bin files")] = 4,
    moving: Annotated[str, typer.Option(help="removal of moving objects: labels, visibility, keep, auto")] = "auto",
    deskew: Annotated[bool, typer.Option(help="deskew the sweeps of the maps")] = False,
    every: Annotated[int | None, typer.Option(min=1, help="every n-th held-back sweep; default: at most 8")] = None,
    control: Annotated[int, typer.Option(min=1, help="synthetic test scenes that must not get worse")] = 4,
    sensor: Annotated[str | None, typer.Option(help="synthetic sensor; default: as the model was trained")] = None,
    share: Annotated[float, typer.Option(min=0.05, max=1, help="share of the drive in the training sweeps")] = 0.5,
    minutes: Annotated[float, typer.Option(min=0, help="time limit of the fine-tuning")] = 30.0,
    device: Device = "auto",
    threads: Threads = None,
    overrides: Overrides = None,
) -> None:
    """Fine-tune a model to a drive; keep it only if no metric rises by more than its tolerance."""
    import torch

    from lidar_completion_evaluation.drives.open import DriveOptions
    from lidar_completion_training.adaptation import adapt as adaptation

    if threads:
        torch.set_num_threads(threads)
    folder = folder or Path("runs/adapt") / drive.resolve().stem
    start = model if model.exists() else Path("models") / model
    options = DriveOptions(poses, topic, odometry_topic, bin_columns=bin_columns)
    settings = adaptation.AdaptSettings(
        drive, start, folder, output or folder / "model", options, moving, deskew, every, control, sensor, share, minutes, device,
        tuple(overrides or ()),
    )  # fmt: skip
    with reported_errors():
        adaptation.adapt(settings)


@app.command()
def chain(
    recipes: Annotated[
        Path, typer.Argument(help="recipe folder, in order of file names; shipped: smoke, small, edge, drive, paper")
    ],
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    scenes: Annotated[int, typer.Option(help="synthetic test scenes for the evaluation at the end; 0: none")] = 2,
    device: Device = "auto",
    overrides: Annotated[list[str] | None, typer.Argument(help="entry=value, for every recipe")] = None,
) -> None:
    """Train a folder of recipes one after the other, export each, and evaluate the last. Finished runs are skipped."""
    from lidar_completion_training.runs import train_chain

    with reported_errors():
        train_chain(recipes, runs, scenes=scenes, device=device, overrides=overrides)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="folder of a run, or of a model to add .onnx files to")],
    output: Annotated[Path | None, typer.Option(help="model folder to write; default: RUN/model")] = None,
    refiner: Annotated[Path | None, typer.Option(help="model folder whose refiner is added to the model")] = None,
    base: Annotated[
        Path | None, typer.Option(help="model folder beside the output; networks that it already has are not written")
    ] = None,
    onnx: Annotated[
        bool, typer.Option(help="also write ONNX files (standard operators, dynamic sizes) for the onnx backend")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="store large ONNX weights in float16: half the size")] = False,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="entry=value, such as name=edge pipeline.steps=2")
    ] = None,
) -> None:
    """Write a run's averaged weights as a model folder, with or without ONNX files."""
    from lidar_completion.model.card import CARD_NAME
    from lidar_completion_training.export import export_onnx, export_to

    with reported_errors():
        if (source / CARD_NAME).is_file():
            export_onnx(source, half)
            return
        output = output or source / "model"
        export_to(source, output, refiner=refiner, base=base, overrides=overrides)
        if onnx:
            export_onnx(output, half)


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs, or their log.csv")],
    output: Annotated[Path, typer.Option(help="PNG file")] = Path("curves.png"),
    number: Annotated[list[str] | None, typer.Option(help="column to draw; may be repeated; default: all")] = None,
    smooth: Annotated[float, typer.Option(min=0, max=1, help="window of the running mean, as a share of rows")] = 0.02,
) -> None:
    """Plot the logs of runs: one panel per column, one line per run."""
    from lidar_completion_training.curves import draw_curves

    with reported_errors():
        draw_curves(runs, output, number, smooth)
    print(output)


if __name__ == "__main__":
    app()
