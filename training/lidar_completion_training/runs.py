"""What the commands do with runs: train one, train a chain of recipes, export, judge."""

from pathlib import Path

from torch import nn

from lidar_completion.errors import ModelError
from lidar_completion.model.card import CARD_NAME, ModelCard, load_card
from lidar_completion.model.weights import load_model
from lidar_completion_training.configuration import Recipe, RecipeError, load_recipe, read_entries
from lidar_completion_training.processes import fabric_of
from lidar_completion_training.train import RECIPE_NAME, Trainer, TrainingError, export_run, load_state

MODEL_NAME = "model"  # folder of a run's or a chain's exported model
RECIPES = Path(__file__).parent / "recipes"  # those of this package
FROM_ENTRIES = ("start_from", "teacher")  # entries of a recipe that name an earlier recipe of its chain


def recipe_path(path: Path) -> Path:
    """A file or folder of recipes, or the one of this package that is called so: smoke, paper/1_teacher.yaml."""
    if path.is_file() or any(path.glob("*.yaml")) or not (RECIPES / path).exists():
        return path
    return RECIPES / path


def train(
    recipe: Recipe, run: Path, *, output: Path | None = None, minutes: float | None = None, device: str = "auto"
) -> bool:
    """Train a run to its end or for so many minutes; True, and the model folder written, when it is at its end."""
    fabric = fabric_of(recipe.precision, device)
    trainer = Trainer(recipe, run, fabric)
    done = trainer.run(minutes)
    if not done:
        fabric.print(f"{run}: iteration {trainer.iteration} of {recipe.iterations}; the same command goes on")
    elif output and fabric.is_global_zero:
        card = export_run(recipe, run, output)
        print(f"{output}: {card.name}, sha256 {card.sha256[:12]}")
    fabric.barrier()
    return done


def export_to(
    run: Path,
    output: Path,
    *,
    refiner: Path | None = None,
    base: Path | None = None,
    overrides: list[str] | None = None,
) -> ModelCard:
    """Write a run's averaged weights as a model folder, with the refiner of another model folder where one is given, and
    without the networks of a base beside it."""
    path = run / RECIPE_NAME
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; {run} is no folder of a run")
    # the run's recipe is whole: the model that it started from need not be there any more
    recipe = load_recipe(path, [*(overrides or []), "start_from=null"])
    card = export_run(recipe, run, output, _refiner_of(refiner, recipe) if refiner else None, base)
    print(f"{output}: {card.name}, {', '.join(card.networks)}, sha256 {card.sha256[:12]}")
    return card


def _refiner_of(model: Path, recipe: Recipe) -> dict[str, nn.Module]:
    card, networks = load_model(model)
    if "refiner" not in networks:
        raise ModelError(
            f"{model}: expected a refiner, found {', '.join(networks)}; train one: lidar-completion-train refiner"
        )
    if card.architecture != recipe.architecture:
        raise ModelError(
            f"{model}: its refiner has {card.architecture}, the run has {recipe.architecture}; "
            "train a refiner of the same architecture"
        )
    return {"refiner": networks["refiner"]}


def export_onnx(model: Path, half: bool = False) -> None:
    """Write a model folder's networks beside it as .onnx files; half: large weights in float16."""
    from lidar_completion.model.onnx_export import export_model

    for path in export_model(model, half):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


# --- chains ---------------------------------------------------------------------------------------------------------


def train_chain(
    recipes: Path, runs: Path, *, scenes: int = 3, device: str = "auto", overrides: list[str] | None = None
) -> Path:
    """Train the recipes of a folder (see recipe_path) in the order of their file names, write runs/model with ONNX, judge it; returns it.

    A recipe's run is runs/NAME, NAME its file name without number; start_from and teacher may be the NAME of an earlier
    one. The last recipe's networks and the refiner of the refiner recipe, where there is one, make the model. Trained runs
    are kept.
    """
    paths = sorted(recipe_path(recipes).glob("*.yaml"))
    if not paths:
        raise RecipeError(f"{recipes}: expected a folder of recipes (.yaml), found none")
    done: dict[str, Recipe] = {}
    for number, path in enumerate(paths, start=1):
        name = run_name(path)
        recipe = load_recipe(path, [*(overrides or []), *_earlier(path, runs, list(done))])
        print(f"[{number}/{len(paths)}] {name}: {recipe.objective}, {recipe.iterations} iterations", flush=True)
        if not is_trained(runs / name, recipe.iterations):
            train(recipe, runs / name, output=runs / name / MODEL_NAME, device=device)
        done[name] = recipe
    refiner = next((runs / name / MODEL_NAME for name, recipe in done.items() if recipe.objective == "refiner"), None)
    model = runs / MODEL_NAME
    export_to(runs / name, model, refiner=refiner)
    export_onnx(model)
    if scenes:
        judge_model(model, runs / "evaluation", scenes, device)
    return model


def run_name(recipe: Path) -> str:
    """The name of a recipe's run in a chain: 03_diffusion_dpo.yaml -> diffusion_dpo."""
    return recipe.stem.lstrip("0123456789").lstrip("_-") or recipe.stem


def _earlier(path: Path, runs: Path, names: list[str]) -> list[str]:
    """Overrides that turn names of earlier recipes into their model folders."""
    entries = read_entries(path)
    named = {entry: entries.get(entry) for entry in FROM_ENTRIES}
    return [f"{entry}={runs / name / MODEL_NAME}" for entry, name in named.items() if name in names]


def has_model(run: Path) -> bool:
    """Whether a model lies in the folder of a run, written by it or put there."""
    return (run / MODEL_NAME / CARD_NAME).is_file()


def is_trained(run: Path, iterations: int) -> bool:
    """Whether the run has come to this iteration and its model is written."""
    if not has_model(run):
        return False
    load_card(run / MODEL_NAME)
    state = load_state(run)
    return state is not None and state["iteration"] >= iterations


def judge_model(model: Path, output: Path, scenes: int, device: str = "auto") -> None:
    """Judge a model with and without its refiner, and the trivial rows, on synthetic test scenes; prints the table."""
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
