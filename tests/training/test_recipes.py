"""Recipes: the shipped ones load, build their objectives and form chains; invalid ones are rejected."""

import dataclasses
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_channels import TINY_CHANNELS

import lidar_completion_training
from lidar_completion.model.card import Seen, load_card
from lidar_completion.model.weights import save_model
from lidar_completion_training.cards import exported_card, model_card, seen
from lidar_completion_training.configuration import AugmentationRecipe, DataRecipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.networks import starting_networks
from lidar_completion_training.recipe_files import RENAMED, load_recipe

RECIPES = Path(lidar_completion_training.__file__).parent / "recipes"
MODELS = Path(__file__).parents[2] / "models"
CHAINS = ("paper", "small", "smoke")
TINY = [f"architecture.own_channels={list(TINY_CHANNELS)}", "architecture.voxel_size_m=1.0"]


def names(chain: str) -> list[Path]:
    return sorted((RECIPES / chain).glob("*.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with the pipeline of a chain's teacher, from which later recipes take their defaults."""
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
def test_recipe_builds_its_objective(path, model):
    entries = OmegaConf.load(path)
    starts = [f"{entry}={model(path.parent.name)}" for entry in ("start_from", "teacher") if entry in entries]
    recipe = load_recipe(path, starts or TINY)
    assert path.stem.split("_", 1)[1] in (recipe.objective, "student")
    assert objective_of(recipe).card.name == recipe.name


def differing(first, second, place=""):
    """Names of the entries in which two recipes differ."""
    for name in sorted(first.keys() | second.keys()):
        mine, other = first.get(name), second.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            yield from differing(mine, other, f"{place}{name}.")
        elif mine != other:
            yield place + name


@pytest.mark.parametrize(
    ("ablation", "entry"),
    [
        ("lambda_1.05", "distillation.second_start_noise"),
        ("lambda_1.2", "distillation.second_start_noise"),
        ("lambda_1.5", "distillation.second_start_noise"),
        ("lambda_2.0", "distillation.second_start_noise"),
        ("student_of_lidiff_star", None),
        ("preference_jsd", "distillation.metric"),
        ("one_auxiliary_model", "distillation.auxiliary_models"),
        ("sign_of_equation_18", "distillation.sign"),
    ],
)
def test_ablation_changes_one_entry_of_the_published_recipe(ablation, entry, model):
    start = [f"start_from={model('paper')}"]
    published, changed = (
        dataclasses.asdict(load_recipe(RECIPES / file, start))
        for file in ("paper/5_distillation_dpo.yaml", f"ablations/{ablation}.yaml")
    )
    assert set(differing(published, changed)) == {"name", "export.description", *([entry] if entry else [])}


def test_every_ablation_is_tested():
    cases = test_ablation_changes_one_entry_of_the_published_recipe.pytestmark[0].args[1]
    assert {path.stem for path in names("ablations")} == {name for name, _ in cases}


def test_extended_recipe_is_overridden_entry_by_entry(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/base.yaml").write_text("name: base\noptimiser: {learning_rate: 1.0e-3, gradient_clip: 2.0}\n")
    (tmp_path / "middle.yaml").write_text("extends: base/base.yaml\nname: middle\n")
    (tmp_path / "own.yaml").write_text("extends: middle.yaml\noptimiser: {learning_rate: 5.0e-4}\n")
    recipe = load_recipe(tmp_path / "own.yaml")
    assert (recipe.name, recipe.optimiser.learning_rate, recipe.optimiser.gradient_clip) == ("middle", 5e-4, 2.0)


def test_recipe_that_extends_itself_or_nothing_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"a\.yaml: extends itself"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("extends: missing.yaml\n")
    with pytest.raises(RecipeError, match=r"missing\.yaml: no such recipe"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("chain", CHAINS)
def test_recipe_starts_from_earlier_recipe_of_its_chain(chain):
    earlier: list[str] = []
    for path in names(chain):
        entries = OmegaConf.load(path)
        assert {entries[entry] for entry in ("start_from", "teacher") if entry in entries} <= set(earlier)
        earlier.append(path.stem.split("_", 1)[1])


def test_paper_recipes_have_published_settings(model):
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


def test_a_fine_tuned_card_keeps_the_training_data_of_its_start():
    before = load_card(MODELS / "drive").training_data
    start = f"start_from={MODELS / 'drive'}"
    same = [start, "data.sensor=mix", "data.world=varied"]
    assert exported_card(load_recipe(None, same)).training_data == before
    drives = [start, "data.source=drives", "data.drives=[drives/mine]"]
    assert exported_card(load_recipe(None, drives)).training_data == f"{before}; then drives mine"


@pytest.mark.parametrize(("name", "recipe"), [("edge", "edge/5_fifth"), ("drive", "drive/3_third")])
def test_shipped_cards_match_their_recipes(name, recipe):
    shipped = load_card(MODELS / name)
    card = exported_card(load_recipe(RECIPES / f"{recipe}.yaml", [f"start_from={MODELS / name}"]))
    assert (card.name, card.description, card.training_data) == (name, shipped.description, shipped.training_data)
    assert (card.pipeline, card.architecture, card.schedule) == (
        shipped.pipeline,
        shipped.architecture,
        shipped.schedule,
    )


def test_edge_recipes_train_one_model(tmp_path):
    first, *later = sorted((RECIPES / "edge").glob("*.yaml"))
    recipe = load_recipe(first)
    torch.manual_seed(0)
    save_model(tmp_path / "first", model_card(recipe), starting_networks(recipe))
    recipes = [recipe, *(load_recipe(path, [f"start_from={tmp_path / 'first'}"]) for path in later)]
    assert f"{sum(each.iterations for each in recipes):,} samples" in recipes[-1].export.description
    assert {each.name for each in recipes} == {"edge"}
    assert len({(each.architecture, each.pipeline) for each in recipes}) == 1
    assert len({each.data.first_seed for each in recipes}) == len(recipes)
    assert {each.pipeline.replication for each in recipes} == {4}
    assert [exported_card(each).pipeline.replication for each in recipes] == [9, 9, 9, 9, 10]
    assert load_card(MODELS / "edge").pipeline == exported_card(recipes[-1]).pipeline


def test_drive_has_the_pipeline_that_its_last_recipe_makes_of_edge():
    *_, last = sorted((RECIPES / "drive").glob("*.yaml"))
    recipe = load_recipe(last, [f"start_from={MODELS / 'edge'}", "pipeline.hole_levels=1"])  # edge is exported with two
    assert load_card(MODELS / "drive").pipeline == exported_card(recipe).pipeline


def test_export_changes_sampler_steps_and_levels():
    before = exported_card(load_recipe()).pipeline
    assert (before.sampler, before.hole_levels) == ("few_step", 1)
    entries = ["export.sampler=deterministic", "export.steps=4", "pipeline.steps=2", "export.hole_levels=2"]
    card = exported_card(load_recipe(None, entries))
    assert (card.pipeline.sampler, card.pipeline.steps, card.pipeline.hole_levels) == ("deterministic", 4, 2)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("global_batch=0", "global_batch is 0; expected a finite number, at least 1"),
        ("iterations=-1", "iterations is -1"),
        ("data.workers=-1", "data.workers is -1"),
        ("pipeline.replication=0", "pipeline.replication is 0"),
        ("architecture.width=0", "layers of 0 channels"),
        ("precision=magic", "precision is 'magic'; it can be one of 32-true"),
        ("optimiser.kind=magic", "optimiser.kind is 'magic'; it can be one of adam, sgd"),
        ("optimiser.decay=magic", "optimiser.decay is 'magic'; it can be one of cosine, steps"),
        ("distillation.steps=[]", r"distillation.steps is \[\]; expected numbers of steps"),
        ("nothing=1", "nothing"),
    ],
)
def test_rejects_invalid_entry(entry, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, [entry])


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1", "\x00"])
def test_rejects_file_that_is_not_a_recipe(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: expected"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("old", RENAMED)
def test_old_entry_names_are_accepted_with_a_warning(tmp_path, old):
    new = RENAMED[old]
    section, entry = old.split(".")
    value = 0.25 if section == "pipeline" else True
    (tmp_path / "recipe.yaml").write_text(f"{section}: {{{entry}: {value}}}")
    for path, overrides in ((None, [f"{old}={value}"]), (tmp_path / "recipe.yaml", [])):
        with pytest.warns(FutureWarning, match=f"{old} is deprecated; use {new}"):
            recipe = load_recipe(path, overrides)
        assert getattr(getattr(recipe, section), new.split(".")[1]) == value


def test_cards_state_the_mountings_of_the_training_data():
    upright = seen(DataRecipe())
    mixed = seen(DataRecipe(sensor="mix"))
    assert (upright, upright.sensors) == (Seen(), ("HDL-64E",))
    assert (mixed.min_height_m, mixed.max_height_m, mixed.max_tilt_deg) == (0.4, 2.5, 15.0)
    assert "VLP-16" in mixed.sensors
    assert seen(DataRecipe(augmentation=AugmentationRecipe(tilt_rad=0.06))).max_tilt_deg == pytest.approx(10.3)
