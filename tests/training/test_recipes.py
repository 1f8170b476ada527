"""The recipes that ship: every one is read, makes its objective, and chains with those before it."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import lidar_completion_training
from lidar_completion.model.card import load_card
from lidar_completion.model.weights import save_model
from lidar_completion_training.configuration import RecipeError, exported_card, load_recipe, model_card
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.preparation import starting_networks

RECIPES = Path(lidar_completion_training.__file__).parent / "recipes"
MODELS = Path(__file__).parents[2] / "models"
CHAINS = ("paper", "small", "smoke")
TINY = ["architecture.width=0.125", "architecture.voxel_size_m=1.0"]


def names(chain: str) -> list[Path]:
    return sorted((RECIPES / chain).glob("*.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with the pipeline of a chain's teacher: the recipes after it take their defaults from it."""
    made: dict[str, str] = {}

    def of(chain: str) -> str:
        if chain not in made:
            teacher = next(path for path in names(chain) if "teacher" in path.name)
            torch.manual_seed(0)
            recipe = load_recipe(teacher, [*TINY, "start_from=null"])
            made[chain] = str(tmp_path_factory.mktemp("models") / chain)
            save_model(made[chain], model_card(recipe), starting_networks(recipe))
        return made[chain]

    return of


@pytest.mark.parametrize(
    "path", [path for chain in CHAINS for path in names(chain)], ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_a_recipe_makes_its_objective(path, model):
    entries = OmegaConf.load(path)
    starts = [f"{entry}={model(path.parent.name)}" for entry in ("start_from", "teacher") if entry in entries]
    recipe = load_recipe(path, starts or TINY)
    assert path.stem.split("_", 1)[1] in (recipe.objective, "student")
    assert objective_of(recipe).card.name == recipe.name


@pytest.mark.parametrize("chain", CHAINS)
def test_a_recipe_starts_from_an_earlier_one_of_its_chain(chain):
    earlier: list[str] = []
    for path in names(chain):
        entries = OmegaConf.load(path)
        assert {entries[entry] for entry in ("start_from", "teacher") if entry in entries} <= set(earlier)
        earlier.append(path.stem.split("_", 1)[1])


def test_the_papers_recipes_have_the_papers_settings(model):
    teacher = load_recipe(RECIPES / "paper/1_teacher.yaml")
    assert (teacher.architecture.width, teacher.architecture.voxel_size_m) == (1.0, 0.05)
    assert (teacher.pipeline.farthest_points, teacher.pipeline.replication) == (18_000, 10)
    assert (teacher.noise_prediction.condition_dropout, teacher.noise_prediction.moments_weight) == (0.1, 5.0)
    start = [f"start_from={model('paper')}"]
    student = load_recipe(RECIPES / "paper/5_distillation_dpo.yaml", start)
    assert (student.optimiser.kind, student.optimiser.learning_rate, student.optimiser.gradient_clip) == (
        "sgd",
        1e-5,
        0.05,
    )
    assert (student.distillation.second_start_noise, student.distillation.auxiliary_models) == (1.1, 2)
    assert (student.pipeline.sampler, student.pipeline.steps, student.pipeline.guidance) == ("dpm_solver", 8, 3.5)


@pytest.mark.parametrize(("name", "recipe"), [("edge", "6_student"), ("drive", "7_refiner")])
def test_a_shipped_card_says_what_its_recipe_exports(name, recipe):
    shipped = load_card(MODELS / name)
    card = exported_card(load_recipe(RECIPES / f"small/{recipe}.yaml", [f"start_from={MODELS / 'edge'}"]))
    assert (card.name, card.description, card.training_data) == (name, shipped.description, shipped.training_data)
    assert (card.pipeline, card.architecture, card.schedule) == (
        shipped.pipeline,
        shipped.architecture,
        shipped.schedule,
    )


def test_a_model_may_be_sampled_otherwise_than_it_was_trained():
    assert exported_card(load_recipe()).pipeline.sampler == "few_step"
    card = exported_card(load_recipe(None, ["export.sampler=deterministic", "export.steps=4", "pipeline.steps=2"]))
    assert (card.pipeline.sampler, card.pipeline.steps) == ("deterministic", 4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("batch=0", "batch is 0; expected a finite number, at least 1"),
        ("iterations=-1", "iterations is -1"),
        ("data.workers=-1", "data.workers is -1"),
        ("pipeline.replication=0", "pipeline.replication is 0"),
        ("architecture.width=0", "layers of 0 channels"),
        ("precision=magic", "precision is 'magic'; it can be one of 32-true"),
        ("optimiser.kind=magic", "optimiser.kind is 'magic'; it can be adam or sgd"),
        ("optimiser.decay=magic", "optimiser.decay is 'magic'; it can be cosine or steps"),
        ("distillation.steps=[]", r"distillation.steps is \[\]; expected numbers of steps"),
        ("nothing=1", "nothing"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_when_the_recipe_is_read(entry, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, [entry])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pipeline.noise_least=0.07", "pipeline.noise_min=0.07"),
        ("pipeline.noise_most=0.7", "pipeline.noise_max=0.7"),
        ("noise_prediction.even_levels=true", "noise_prediction.uniform_in_sigma=true"),
        ("distillation.even_levels=true", "distillation.uniform_in_sigma=true"),
    ],
)
def test_accepts_old_names_of_entries(old, new):
    with pytest.warns(DeprecationWarning, match="is deprecated; write"):
        assert load_recipe(None, [old]) == load_recipe(None, [new])


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1", "\x00"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: expected"):
        load_recipe(tmp_path / "recipe.yaml")
