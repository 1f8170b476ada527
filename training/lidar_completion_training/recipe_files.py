"""Reads recipes: defaults, the card of the model to start from, a YAML file, and overrides from the command line."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lidar_completion.errors import ModelError
from lidar_completion.model.card import load_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import RecipeError

# Old names of entries, accepted for one release.
RENAMED = {
    "pipeline.noise_least": "pipeline.noise_min",
    "pipeline.noise_most": "pipeline.noise_max",
    "noise_prediction.metres": "noise_prediction.weight_by_noise_scale",
    "noise_prediction.even_levels": "noise_prediction.uniform_in_sigma",
    "distillation.metres": "distillation.weight_by_noise_scale",
    "distillation.even_levels": "distillation.uniform_in_sigma",
}


def load_recipe(path: Path | None = None, overrides: list[str] | None = None) -> Recipe:
    """Defaults, then the card of start_from, then the YAML file, then `key.entry=value` overrides; later ones win.

    RecipeError for unknown or ill-typed entries, and if start_from is not a model folder.
    """
    source = path or "the command line"
    entries = read_entries(path) if path is not None else OmegaConf.create({})
    try:
        given: Any = OmegaConf.merge(entries, with_current_names(OmegaConf.from_dotlist(overrides or [])))
        layers = [OmegaConf.structured(Recipe), _entries_of_model(given.get("start_from")), given]
        recipe: Any = OmegaConf.to_object(OmegaConf.merge(*layers))
    except (OmegaConfBaseException, YAMLError, ModelError, ValueError) as error:
        raise RecipeError(f"{source}: {str(error).splitlines()[0]}") from error
    return recipe


def read_entries(path: Path, readers: tuple[Path, ...] = ()) -> DictConfig:
    """The entries of a recipe file, unchecked, on top of those of the file that its entry `extends` names.

    `extends` is relative to the recipe. RecipeError if a file is missing, is not YAML, or extends itself; readers: the files that
    extend this one.
    """
    if path.resolve() in readers:
        raise RecipeError(f"{path}: extends itself; remove one `extends` of {', '.join(each.name for each in readers)}")
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe")
    try:
        entries = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: expected YAML, found something else ({' '.join(str(error).split())})") from error
    if not isinstance(entries, DictConfig):
        raise RecipeError(f"{path}: expected entries (name: value), found a list")
    entries = with_current_names(entries)
    extended = entries.pop("extends", None)
    if extended is None:
        return entries
    merged = OmegaConf.merge(read_entries(path.parent / str(extended), (*readers, path.resolve())), entries)
    assert isinstance(merged, DictConfig)
    return merged


def with_current_names(entries: DictConfig) -> DictConfig:
    """The entries with old names replaced; each old name gives a FutureWarning."""
    for old, new in RENAMED.items():
        if (value := OmegaConf.select(entries, old)) is None:
            continue
        warnings.warn(f"the recipe entry {old} is deprecated; use {new}", FutureWarning, stacklevel=3)
        _rename(entries, old, new, value)
    if (value := OmegaConf.select(entries, "distillation.batch_statistics")) is not None:
        message = "the recipe entry distillation.batch_statistics is deprecated; use distillation.batch_norm"
        warnings.warn(message, FutureWarning, stacklevel=3)
        mode = "sweep" if value else "frozen"
        _rename(entries, "distillation.batch_statistics", "distillation.batch_norm", mode)
    if "batch" in entries:  # counted sweeps per step and process
        processes = int(os.environ.get("WORLD_SIZE", 1))
        warnings.warn("the recipe entry batch is deprecated; use global_batch", FutureWarning, stacklevel=3)
        _rename(entries, "batch", "global_batch", entries.batch * processes)
    return entries


def _rename(entries: DictConfig, old: str, new: str, value: Any) -> None:
    section, _, name = old.rpartition(".")
    OmegaConf.update(entries, new, value)
    del (OmegaConf.select(entries, section) if section else entries)[name]


def _entries_of_model(folder: str | None) -> dict[str, Any]:
    """Architecture, pipeline, schedule and training data of a model's card; nothing without a folder."""
    if folder is None:
        return {}
    card = load_card(folder)
    settings = {name: dataclasses.asdict(getattr(card, name)) for name in ("architecture", "pipeline", "schedule")}
    return {**settings, "trained_before": card.training_data}
