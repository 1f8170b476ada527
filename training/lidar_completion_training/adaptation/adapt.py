"""`lidar-completion-train adapt`: poses, maps, evaluation, fine-tuning, evaluation, verdict.

Everything is kept in one folder; files that exist there already are reused:
    poses_auto.txt   poses, if they were estimated
    map.npz          map of the whole drive, which the held-back sweeps are compared with
    training.npz     map of the training sweeps alone
    run/             the training run
    evaluation/      results by scene
    candidate/       the fine-tuned model that was evaluated last, accepted or not
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lidar_completion.model.card import ModelCard, load_card, save_card
from lidar_completion.model.weights import load_model, save_model
from lidar_completion_evaluation.drives.drive import Drive
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import ModelMethod
from lidar_completion_evaluation.scenes import DriveScenes, SceneSource, SyntheticScenes
from lidar_completion_evaluation.summary import summarise
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.observed_space import RayRules
from lidar_completion_evaluation.truth.rules import PUBLISHED_RULES
from lidar_completion_training.adaptation.parts import Parts, split
from lidar_completion_training.adaptation.stream import OpenAdaptation
from lidar_completion_training.adaptation.verdict import CONTROL, CRITERIA, HELD_BACK, Figures, rises, table
from lidar_completion_training.cards import then
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import AdaptationRefused, TrainingError
from lidar_completion_training.export import export_to
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.runs import RECIPES, train

# No upper limit of z, as in all training on drives. Rays use coarse voxels: they only mark where truth may be missing.
TRAINING_RULES = replace(PUBLISHED_RULES, max_z_m=np.inf)
TRAINING_RAYS = RayRules(voxel_size_m=0.4)
TRAINING_RAY_SWEEPS = 4
BRIEF = SceneSettings(brief=True, published_emd=False)
HELD_BACK_SCENES = 8  # evaluated at most, if `every` is not given
DEFAULT_SENSOR = "HDL-64E"
# Weights are interpolated between the original (0) and the fine-tuned ones (1); the first accepted share is kept.
SHARES_OF_CHANGE = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class AdaptSettings:
    """Settings of one adaptation."""

    drive: Path
    model: Path
    folder: Path  # intermediate results
    output: Path  # model folder, written only if the model is accepted
    options: DriveOptions = field(default_factory=DriveOptions)
    moving: str = "auto"  # see build_map
    deskew: bool = False
    every: int | None = None  # n of "every n-th held-back sweep"
    control_scenes: int = 4
    sensor: str | None = None  # of the synthetic sweeps; default: the sensors that the model was trained for
    drive_share: float = 0.5  # share of the training sweeps that come from the drive; the others are synthetic
    minutes: float = 30.0  # maximum duration of the fine-tuning
    device: str = "auto"
    overrides: tuple[str, ...] = ()  # entry=value, for the recipe


def adapt(settings: AdaptSettings) -> tuple[Figures, Figures]:
    """Fine-tune the model to the drive and export it, if accepted, to settings.output; returns the metrics before and after.

    Exports the first of SHARES_OF_CHANGE with which no metric rises by more than its tolerance. Raises AdaptationRefused if
    there is none. A further call resumes an interrupted one.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    drive = open_drive(settings.drive, replace(settings.options, pose_cache=folder / settings.options.pose_cache))
    parts = split(drive)
    print(f"{drive.name}: {parts.describe()}")
    scenes = _scenes_of(settings, drive, parts)
    before = _figures(settings.model, scenes, settings)
    open_stream = OpenAdaptation(_training_scenes(settings, drive, parts), settings.drive_share)
    train(_recipe(settings), folder / "run", minutes=settings.minutes, device=settings.device, open_stream=open_stream)
    for share in SHARES_OF_CHANGE:
        card = _write_candidate(settings, drive, parts, share)
        after = _figures(folder / "candidate", scenes, settings)
        print(f"\n{share:.0%} of the weight change\n{table(before, after)}\n")
        if not (found := rises(before, after)):
            metrics = {"adaptation": {"share_of_change": share, "before": before, "after": after}}
            _accept(settings, drive, replace(card, metrics=metrics))
            return before, after
    raise AdaptationRefused(_refusal(found, settings))


def _write_candidate(settings: AdaptSettings, drive: Drive, parts: Parts, share: float) -> ModelCard:
    """Export weights interpolated between the original (share 0) and the fine-tuned ones (share 1).

    Interpolated weights often keep most of the gain of fine-tuning and lose less elsewhere (Wortsman et al., Robust fine-tuning
    of zero-shot models, CVPR 2022). Batch norms are frozen, so their statistics need no interpolation.
    """
    run, candidate = settings.folder / "run", settings.folder / "candidate"
    card = _with_history(export_to(run, candidate, refiner=_refiner(settings.model)), settings, drive, parts)
    if share < 1:
        start, networks = load_model(settings.model)[1], load_model(candidate)[1]
        for name, network in networks.items():
            network.load_state_dict(_between(start[name].state_dict(), network.state_dict(), share))
        return save_model(candidate, card, networks, dtype=torch.float16)
    save_card(candidate, card)
    return card


def _between(start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: start[name].lerp(value, share) if value.is_floating_point() else value for name, value in end.items()}


def _accept(settings: AdaptSettings, drive: Drive, card: ModelCard) -> None:
    """Write the candidate to the output folder."""
    described = replace(
        card, name=settings.output.name, description=f"{load_card(settings.model).name}, adapted to {drive.name}"
    )
    networks = load_model(settings.folder / "candidate")[1]
    save_model(settings.output, described, networks, dtype=torch.float16)
    print(f"{settings.output}: adapted to {drive.name}; no metric rose by more than its tolerance")


def _scenes_of(settings: AdaptSettings, drive: Drive, parts: Parts) -> dict[str, SceneSource]:
    """The evaluation: held-back sweeps with the map of the whole drive, and synthetic scenes as a control."""
    truth = build_map(drive, settings.folder / "map.npz", moving=settings.moving, deskew=settings.deskew)
    every = settings.every or math.ceil((parts.sweeps - parts.held_back) / HELD_BACK_SCENES)
    sensor, _ = _sensor_and_world(settings)
    return {
        HELD_BACK: DriveScenes(drive, truth, every=every, first=parts.held_back),
        CONTROL: SyntheticScenes(settings.control_scenes, DEFAULT_SENSOR if sensor == "mix" else sensor),
    }


def _training_scenes(settings: AdaptSettings, drive: Drive, parts: Parts) -> DriveScenes:
    """The training sweeps, with a map of these sweeps alone, so that nothing of the held-back sweeps is trained on."""
    part = parts.of_training(drive)
    truth = build_map(part, settings.folder / "training.npz", moving=settings.moving, deskew=settings.deskew)
    return DriveScenes(part, truth, TRAINING_RULES, every=1, ray_sweeps=TRAINING_RAY_SWEEPS, rays=TRAINING_RAYS)


def _sensor_and_world(settings: AdaptSettings) -> tuple[str, str]:
    """Sensor and worlds of the synthetic sweeps; by default those that the model was trained on."""
    seen = load_card(settings.model).seen.sensors
    sensor = settings.sensor or ("mix" if len(seen) > 1 else next(iter(seen), DEFAULT_SENSOR))
    return sensor, "varied" if sensor == "mix" else "town"


def _recipe(settings: AdaptSettings) -> Recipe:
    card = load_card(settings.model)
    sensor, world = _sensor_and_world(settings)
    entries = [
        f"name={card.name}",
        f"start_from={settings.model}",
        f"pipeline.replication={max(1, card.pipeline.replication // 2)}",
        f"export.replication={card.pipeline.replication}",
        f"data.sensor={sensor}",
        f"data.world={world}",
    ]
    return load_recipe(RECIPES / "adapt.yaml", [*entries, *settings.overrides])


def _figures(model: Path, scenes: dict[str, SceneSource], settings: AdaptSettings) -> Figures:
    """The metrics of a model that decide its acceptance; TrainingError if it fails on a scene."""
    method, found = ModelMethod(model, device=settings.device), {}
    for part, source in scenes.items():
        output = settings.folder / "evaluation" / part.replace(" ", "_")
        evaluate(source, [method], output, settings=BRIEF, pictures=False)
        row = summarise(source, [method], output, settings=BRIEF).rows[0]
        for scene, reason in row.failed.items():
            raise TrainingError(
                f"{model}: evaluation of {scene} ({part}) failed: {reason}; remove such sweeps from the drive"
            )
        found[part] = {name: row.figures["completed"][name].mean for name in CRITERIA}
    return found


def _refiner(model: Path) -> Path | None:
    """The model's folder if it has a refiner, which is exported unchanged."""
    return model if "refiner" in load_card(model).networks else None


def _with_history(card: ModelCard, settings: AdaptSettings, drive: Drive, parts: Parts) -> ModelCard:
    """The candidate's card: keeps the model's training data, sensors and confidence, and adds the drive to the training data."""
    start = load_card(settings.model)
    further = (
        f"{parts.training} sweeps of {drive.name}, mixed with synthetic streets of {_sensor_and_world(settings)[0]}"
    )
    return replace(
        card,
        name=f"{start.name}-candidate",
        description=f"{start.name}, fine-tuned to {drive.name}; a candidate, not accepted",
        training_data=then(start.training_data, further),
        seen=start.seen,
        confidence=start.confidence,
    )


def _refusal(found: list[str], settings: AdaptSettings) -> str:
    candidate = settings.folder / "candidate"
    listed = "\n".join(f"  {each}" for each in found)
    return (
        f"{settings.model} stays as it is: even with {SHARES_OF_CHANGE[-1]:.0%} of the weight change, "
        f"metrics got worse:\n{listed}\n"
        f"{candidate} holds the refused model. "
        "Use the original model, or try again in another --folder, with a longer drive, a smaller "
        "optimiser.learning_rate or fewer iterations"
    )
