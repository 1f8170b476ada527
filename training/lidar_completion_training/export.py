"""Writes the model folder of a run."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import build_networks, load_model, save_model
from lidar_completion_training.cards import exported_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import TrainingError
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.state import STATE_NAME, load_state
from lidar_completion_training.trainer import RECIPE_NAME


def export_run(
    recipe: Recipe,
    run: Path,
    output: Path,
    refiner: dict[str, nn.Module] | None = None,
    base: Path | None = None,
) -> ModelCard:
    """Write a run's averaged weights as a model folder in float16.

    refiner: networks to add; base: model folder whose networks are not written again (see save_model).
    TrainingError if the run has no saved state.
    """
    state = load_state(run)
    if state is None:
        raise TrainingError(f"{run / STATE_NAME}: no such file; train first, or check the path of the run")
    average: dict[str, Tensor] = state["average"]
    names = tuple(dict.fromkeys(name.split(".")[0] for name in average))
    card = dataclasses.replace(exported_card(recipe), networks=names)
    if variant := state.get("variant"):
        card = dataclasses.replace(card, description=f"{card.description} ({variant})")
    networks = nn.ModuleDict(build_networks(card))
    networks.load_state_dict(average)
    return save_model(output, card, {**dict(networks.items()), **(refiner or {})}, dtype=torch.float16, base=base)


def export_to(
    run: Path,
    output: Path,
    *,
    refiner: Path | None = None,
    base: Path | None = None,
    overrides: list[str] | None = None,
) -> ModelCard:
    """Export a run with the recipe in its folder.

    refiner: model folder whose refiner is added; base: as in export_run; overrides: changes to the recipe.
    """
    path = run / RECIPE_NAME
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; {run} is not the folder of a run")
    # the saved recipe is complete: the model that it started from is not needed and may no longer exist
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
    """Write a model folder's networks as .onnx files into it; half: large weights in float16."""
    from lidar_completion.model.onnx_export import export_model

    for path in export_model(model, half):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
