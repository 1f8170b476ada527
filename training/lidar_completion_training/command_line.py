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


if __name__ == "__main__":
    app()
