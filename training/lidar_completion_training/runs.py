"""Train one run, train a chain of recipes, evaluate the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lidar_completion.model.card import CARD_NAME, load_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.export import export_onnx, export_run, export_to
from lidar_completion_training.processes import launch_fabric
from lidar_completion_training.recipe_files import load_recipe, read_entries
from lidar_completion_training.schedule import schedule_of
from lidar_completion_training.state import load_state
from lidar_completion_training.stream import Open
from lidar_completion_training.trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MODEL_NAME = "model"  # folder of a run's or a chain's exported model
RECIPES = Path(__file__).parent / "recipes"  # shipped recipes
MODEL_ENTRIES = ("start_from", "teacher")  # entries of a recipe that may name an earlier recipe of its chain


def recipe_path(path: Path) -> Path:
    """The path itself if it has recipes, otherwise the shipped ones of that name: smoke, paper/1_teacher.yaml."""
    if path.is_file() or any(path.glob("*.yaml")) or not (RECIPES / path).exists():
        return path
    return RECIPES / path


def train(
    recipe: Recipe,
    run: Path,
    *,
    output: Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    fabric: Fabric | None = None,
    open_stream: Open | None = None,
) -> bool:
    """Train a run until it is finished, or for `minutes`. If finished, write the model folder and return True.

    open_stream: opens the stream of samples; default: that of data.source.
    """
    fabric = fabric or launch_fabric(device)
    trainer = Trainer(recipe, run, fabric, open_stream)
    done = trainer.run(minutes)
    if not done:
        fabric.print(
            f"{run}: iteration {trainer.iteration} of {trainer.schedule.iterations}; the same command resumes it"
        )
    elif output and fabric.is_global_zero:
        card = export_run(recipe, run, output)
        print(f"{output}: {card.name}, sha256 {card.sha256[:12]}")
    fabric.barrier()
    return done


# --- chains ---------------------------------------------------------------------------------------------------------


def train_chain(
    recipes: Path, runs: Path, *, scenes: int = 3, device: str = "auto", overrides: list[str] | None = None
) -> Path:
    """Train a folder of recipes in the order of their file names, write runs/model with ONNX, and evaluate it.

    The run of a recipe is runs/NAME, its file name without the number; start_from and teacher may be the NAME of an
    earlier recipe. The model has the last recipe's networks and, if there is a refiner recipe, its refiner. Finished runs
    are skipped. Returns the model folder.
    """
    paths = sorted(recipe_path(recipes).glob("*.yaml"))
    if not paths:
        raise RecipeError(f"{recipes}: expected a folder of recipes (.yaml), found none")
    fabric = launch_fabric(device)
    done: dict[str, Recipe] = {}
    for number, path in enumerate(paths, start=1):
        name = run_name(path)
        recipe = load_recipe(path, [*(overrides or []), *_earlier_models(path, runs, list(done))])
        iterations = schedule_of(recipe, fabric.world_size).iterations
        fabric.print(f"[{number}/{len(paths)}] {name}: {recipe.objective}, {iterations} iterations", flush=True)
        if not fabric.broadcast(is_trained(runs / name, iterations)):
            train(recipe, runs / name, output=runs / name / MODEL_NAME, fabric=fabric)
        done[name] = recipe
    if fabric.is_global_zero:
        _finish_chain(done, runs, scenes, device)
    return runs / MODEL_NAME


def _finish_chain(done: dict[str, Recipe], runs: Path, scenes: int, device: str) -> None:
    """Export the last run with the chain's refiner as runs/model, with ONNX, and evaluate it."""
    refiner = next((runs / name / MODEL_NAME for name, recipe in done.items() if recipe.objective == "refiner"), None)
    model = runs / MODEL_NAME
    export_to(runs / list(done)[-1], model, refiner=refiner)
    export_onnx(model)
    if scenes:
        evaluate_model(model, runs / "evaluation", scenes, device)


def run_name(recipe: Path) -> str:
    """The name of a recipe's run in a chain: 03_diffusion_dpo.yaml -> diffusion_dpo."""
    return recipe.stem.lstrip("0123456789").lstrip("_-") or recipe.stem


def _earlier_models(path: Path, runs: Path, names: list[str]) -> list[str]:
    """Overrides that replace the names of earlier recipes in start_from and teacher by their model folders."""
    entries = read_entries(path)
    named = {entry: entries.get(entry) for entry in MODEL_ENTRIES}
    return [f"{entry}={runs / name / MODEL_NAME}" for entry, name in named.items() if name in names]


def has_model(run: Path) -> bool:
    """Whether a run's folder holds a model, exported by the run or copied there."""
    return (run / MODEL_NAME / CARD_NAME).is_file()


def is_trained(run: Path, iterations: int) -> bool:
    """Whether the run has reached this iteration and exported its model."""
    if not has_model(run):
        return False
    load_card(run / MODEL_NAME)  # ModelError if it is damaged
    state = load_state(run)
    return state is not None and state["iteration"] >= iterations


def evaluate_model(model: Path, output: Path, scenes: int, device: str = "auto") -> None:
    """Evaluate a model with and without its refiner, and the baselines, on synthetic test scenes; prints the table."""
    from lidar_completion_evaluation.evaluate import evaluate
    from lidar_completion_evaluation.methods import ModelMethod, baseline_methods
    from lidar_completion_evaluation.reports.evaluation import write_report
    from lidar_completion_evaluation.scenes import SyntheticScenes
    from lidar_completion_evaluation.summary import summarise, text_table, write_csv

    source = SyntheticScenes(scenes)
    refined = (True, False) if "refiner" in load_card(model).networks else (True,)
    methods = [*baseline_methods(), *(ModelMethod(model, refine=refine, device=device) for refine in refined)]
    evaluate(source, methods, output)
    summary = summarise(source, methods, output)
    print(text_table(summary))
    for path in [write_report(summary, output), *write_csv(summary, output)]:
        print(path)
