"""lidar-completion-train: trains, distils and exports models."""

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
    "direct": "Train in one or two passes from the noised sweep with a Chamfer distance.",
    "teacher": "Pre-train by noise prediction with condition dropout (LiDiff).",
    "refiner": "Train the refiner: six offsets a point, a Chamfer distance.",
    "diffusion-dpo": "Fine-tune a teacher on pairs of its own completions (Eq. 10).",
    "score-distillation": "Distil a teacher by score distillation (Eq. 6).",
    "distillation-dpo": "Distil a teacher by Distillation-DPO (Eq. 16 to 20).",
}

Recipe = Annotated[
    Path | None, typer.Option(help="YAML recipe, or one of ours such as small/1_direct.yaml; without, the defaults")
]
Run = Annotated[Path | None, typer.Option(help="folder of the run, gone on with where it is; default runs/OBJECTIVE")]
Output = Annotated[Path | None, typer.Option(help="write the model folder here at the end")]
Minutes = Annotated[
    float | None, typer.Option(min=0, help="save and stop after so many minutes; the same command goes on")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the training process")]
Overrides = Annotated[list[str] | None, typer.Argument(help="entry=value, such as iterations=100")]


@app.callback()
def main() -> None:
    # two processes that spin for the same cores are far slower than two that wait
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the user's input end the command with their message alone."""
    from lidar_completion.errors import ModelError
    from lidar_completion.point_cloud_files import PointCloudFileError
    from lidar_completion_evaluation.drives.drive import DriveError
    from lidar_completion_training.configuration import RecipeError
    from lidar_completion_training.curves import CurvesError
    from lidar_completion_training.train import TrainingError

    try:
        yield
    except (CurvesError, DriveError, ModelError, PointCloudFileError, RecipeError, TrainingError, OSError) as error:
        raise SystemExit(f"lidar-completion-train: {error}") from error


def add_objective(name: str, text: str) -> None:
    """The command that trains one objective."""

    def command(
        recipe: Recipe = None,
        run: Run = None,
        output: Output = None,
        minutes: Minutes = None,
        device: Device = "auto",
        threads: Threads = None,
        overrides: Overrides = None,
    ) -> None:
        import torch

        from lidar_completion_training.configuration import load_recipe
        from lidar_completion_training.runs import recipe_path, train

        if threads:
            torch.set_num_threads(threads)
        with explained():
            mine = load_recipe(
                recipe and recipe_path(recipe), [*(overrides or []), f"objective={name.replace('-', '_')}"]
            )
            train(mine, run or Path("runs") / name, output=output, minutes=minutes, device=device)

    app.command(name, help=text)(command)


for _name, _text in OBJECTIVES.items():
    add_objective(_name, _text)


@app.command()
def chain(
    recipes: Annotated[
        Path, typer.Argument(help="folder of recipes, or one of ours: smoke, small, paper; in the order of file names")
    ],
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    scenes: Annotated[int, typer.Option(help="synthetic test scenes of the evaluation at the end; 0: none")] = 2,
    device: Device = "auto",
    overrides: Annotated[list[str] | None, typer.Argument(help="entry=value, for every recipe")] = None,
) -> None:
    """Train a folder of recipes one after the other, export each, and judge the last; what is done is not done again."""
    from lidar_completion_training.runs import train_chain

    with explained():
        train_chain(recipes, runs, scenes=scenes, device=device, overrides=overrides)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="folder of a run, or of a model that gets its .onnx files")],
    output: Annotated[
        Path | None, typer.Option(help="model folder that a run is written to; default RUN/model")
    ] = None,
    refiner: Annotated[Path | None, typer.Option(help="model folder whose refiner goes into the model")] = None,
    base: Annotated[
        Path | None, typer.Option(help="model folder beside the output whose networks are not written again")
    ] = None,
    onnx: Annotated[
        bool, typer.Option(help="also ONNX (standard operators, dynamic sizes) for the onnx backend")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="store large ONNX weights in float16: half the size")] = False,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="entry=value, such as name=edge pipeline.steps=2")
    ] = None,
) -> None:
    """Write a run's averaged weights as a model folder, with or without ONNX."""
    from lidar_completion.model.card import CARD_NAME
    from lidar_completion_training.runs import export_onnx, export_to

    with explained():
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
    output: Annotated[Path, typer.Option(help="the picture")] = Path("curves.png"),
    number: Annotated[list[str] | None, typer.Option(help="which number; may be repeated; default: all")] = None,
    smooth: Annotated[float, typer.Option(min=0, max=1, help="share of the rows that the running mean spans")] = 0.02,
) -> None:
    """Draw the logs of runs: a panel a number, a line a run."""
    from lidar_completion_training.curves import draw_curves

    with explained():
        draw_curves(runs, output, number, smooth)
    print(output)


if __name__ == "__main__":
    app()
