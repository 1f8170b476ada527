"""A recipe: everything that decides a training run, as typed dataclasses that YAML files and the command line fill.

lidar-completion-train direct --recipe small/1_direct.yaml iterations=100 optimiser.learning_rate=1e-3
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lidar_completion.diffusion import NoiseSchedule
from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, Pipeline, load_card
from lidar_completion.networks import Architecture
from lidar_completion.settings import at_least, check_bounds, current_names
from lidar_completion_synthetic import SensorMix, mix_of

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class RecipeError(ValueError):
    """A recipe has an entry that does not exist or does not fit; the message names file and entry."""


@dataclass
class AugmentationRecipe:
    """Every sweep is turned about z by any angle and mirrored half of the time; more than that is for small data sets."""

    tilt_rad: float = (
        0.0  # standard deviation of a small rotation about each axis (published: 0.06), cut at three of them
    )
    scale: float = 0.0  # half width of the scale's interval around 1 (published: 0.05)


@dataclass
class DataRecipe:
    """Where sweeps and their truth come from: synthetic streets made while training, or recorded drives with maps."""

    source: str = "synthetic"  # or "drives"
    sensor: str = "HDL-64E"  # name or TOML file of a sensor, "mix", or the TOML file of a mix
    world: str = "town"  # recipe of the synthetic worlds: "town" or "varied"
    sweeps_per_world: int = at_least(1, 16)
    workers: int = at_least(0, 1)
    first_seed: int = at_least(0, 0)
    view_cell_m: float = at_least(
        1e-3, 10.0
    )  # truth is cut to the grid cells that the sweep touches, as the reference does
    drives: list[str] = field(default_factory=list)  # folders: SemanticKITTI sequences, KITTI-360 roots, bags
    maps: str = "maps"  # folder of the drives' maps, <name of the drive>.npz (`lidar-completion-train map`)
    drop_moving: bool = True  # leave moving and unlabelled points out of the input too, where a drive has labels
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    def __post_init__(self) -> None:
        check_bounds(self, "data")


@dataclass
class OptimiserRecipe:
    """Adam or SGD with a linear warm-up; the rate then falls on a cosine, or by a factor every so many iterations."""

    kind: str = "adam"  # or "sgd"
    learning_rate: float = at_least(0.0, 2e-3)
    group_factors: dict[str, float] = field(default_factory=dict)  # on the rate of a group, such as {auxiliary: 2.0}
    warm_up_iterations: int = at_least(0, 50)
    decay: str = "cosine"  # or "steps"
    final_fraction: float = 0.05  # of a cosine
    step_factor: float = 0.5  # of steps
    step_iterations: int = at_least(1, 1000)
    gradient_clip: float = 1.0
    average_decay: float = 0.998  # of the exponential moving average of the weights, which is what gets exported

    def __post_init__(self) -> None:
        for name, allowed in (("kind", ("adam", "sgd")), ("decay", ("cosine", "steps"))):
            if getattr(self, name) not in allowed:
                raise RecipeError(f"optimiser.{name} is {getattr(self, name)!r}; it can be {' or '.join(allowed)}")
        check_bounds(self, "optimiser")


@dataclass
class DirectRecipe:
    """The direct objective: passes from the replicated, noised sweep, pulled to the truth by a clamped Chamfer distance.

    The Chamfer distance's settings also hold where distillation uses it as a term.
    """

    second_pass: float = 0.35  # share of samples with a second pass, from the model's own first estimate
    max_steps: int = 8  # the second pass is any step of up to this many
    queries: int = 20_000  # random points a direction of the Chamfer distance
    clamp_m: float = 2.0
    coverage_weight: float = 1.0  # truth -> prediction, beside prediction -> truth
    confidence_weight: float = 0.05  # on the cross entropy of the points' own judgement (architecture.point_confidence)


@dataclass
class TeacherRecipe:
    """Noise prediction. The process that is predicted stands in pipeline.noised_around."""

    condition_dropout: float = 0.1
    moments_weight: float = 5.0  # on mean^2 + (std - 1)^2 of the prediction (published: 5); for noise around the truth
    metres: bool = False  # weigh each error by its noise scale: metres instead of multiples of the noise
    uniform_in_sigma: bool = False  # draw t uniformly in noise level instead of in time
    clean_estimate: bool = False  # weigh it by the noise level too: the error of the clean point (x0), not of the noise
    couple_within_m: float = 2.0  # noised around the scan: truth farther than this from every scan point is left out


@dataclass
class RefinerRecipe:
    """The refiner's input is the truth jittered, as published, or completions of recipe.start_from, as in use."""

    inputs: str = "jitter"  # or "completion"
    loss: str = "squared"  # Chamfer distance as published, or "clamped": that of the direct objective (direct.*)
    jitter_m: float = 0.2
    jitter_clip_m: float = 0.3
    points: int = 30_000  # of the input; six times as many come out; 0 means all
    queries: int = 0  # points a direction of the squared Chamfer distance; 0 means all


@dataclass
class DiffusionDPORecipe:
    """Eq. 10 on pairs of the frozen teacher's completions."""

    beta: float = 5000.0  # beta T w of Eq. 10
    pair_steps: int = 8  # steps of the completions that make a pair
    draws: int = 1  # noise levels (t, noise) a pair, since pairs are expensive
    metric: str = "cd"
    metric_points: int = 20_000


@dataclass
class DistillationRecipe:
    """Score distillation and Distillation-DPO; the defaults are the published settings."""

    second_start_noise: float = 1.1  # lambda of Eq. 19 of the second sample of a pair
    metric: str = "cd"  # which sample of a pair wins: cd, clamped_cd, jsd, w1, f_score
    metric_points: int = 0  # random points a direction for the distances of the metric; 0 means all
    auxiliary_models: int = 2  # Table 7; score distillation has one
    sign: str = "released"  # or "equation": Eq. 18 as printed, the opposite
    pair_weight: float = 1.0  # 1/omega of Eq. 18
    score_distillation_weight: float = 0.0  # of plain score distillation (Eq. 6) beside it
    same_start_noise: bool = True  # one eps for both starts of a pair, at different lambda
    same_score_noise: bool = True  # one (t, eps) for both samples of a pair when their scores are taken
    shared_noise: bool = False  # auxiliary models learn on the noised clouds whose scores are taken: a third less work
    steps: list[int] = field(default_factory=lambda: [1])  # of the student's samples, one is drawn
    stop_early: bool = True  # the sample is the clean estimate after any of those steps, so that every step is trained
    first_score_timestep: int = 0  # timesteps of scores and auxiliary models lie from here
    last_score_timestep: int = 999  # to here, or to the pipeline's start
    uniform_in_sigma: bool = False  # draw them uniformly in noise level instead of in time
    metres: bool = False  # weigh scores and errors by the noise scale: metres instead of multiples of the noise
    teacher_guidance: float = 1.0  # of the teacher's scores; above 1 the student learns guidance into one forward
    train_encoder: bool = False
    batch_statistics: bool = False  # batch norms use the sweep's own statistics instead of the teacher's
    chamfer_weight: float = 0.0  # of a direct term, the clamped Chamfer distance to the truth (recipe.direct)
    scene_weight: float = 0.0  # ScoreLiDAR's scene-wise term
    landmark_weight: float = 0.0  # ScoreLiDAR's point-wise term
    free_space_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise RecipeError(
                f"distillation.steps is {self.steps}; expected numbers of steps, such as [1] or [1,2,4,8]"
            )


@dataclass
class FreeSpaceRecipe:
    """The penalty on points between the sensor and what it measured."""

    within_deg: float = 0.2  # a point counts for the nearest ray if it is this close to it
    margin_m: float = 0.2
    clamp_m: float = 2.0
    queries: int = 20_000


@dataclass
class ExportRecipe:
    """Where the exported model's card differs from training."""

    replication: int = 20  # denser than training can afford: a network that moves points does not mind more of them
    sampler: str = ""  # empty: the pipeline's
    steps: int = 0  # 0: the pipeline's
    description: str = ""


@dataclass
class Recipe:
    """start_from: model folder that everything starts from. Its architecture, pipeline and schedule are the defaults then.

    teacher: model folder of the teacher in a distillation, where it is not start_from.
    """

    name: str = "unnamed"
    objective: str = "direct"
    start_from: str | None = None
    teacher: str | None = None
    iterations: int = at_least(0, 1000)
    batch: int = at_least(1, 1)  # sweeps a step and process
    precision: str = "32-true"  # or another of PRECISIONS
    seed: int = at_least(0, 0)
    save_every: int = at_least(1, 50)
    picture_every: int = at_least(0, 0)  # 0: none
    architecture: Architecture = field(
        default_factory=lambda: Architecture(width=0.25, voxel_size_m=0.3, head_width=64, point_offsets=True)
    )
    pipeline: Pipeline = field(
        default_factory=lambda: Pipeline(
            downsample_voxel_m=0.25, noise_per_metre=0.02, noise_min=0.1, noise_max=1.0, noise_vertical=0.3
        )
    )
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    direct: DirectRecipe = field(default_factory=DirectRecipe)
    noise_prediction: TeacherRecipe = field(default_factory=TeacherRecipe)
    refiner: RefinerRecipe = field(default_factory=RefinerRecipe)
    diffusion_dpo: DiffusionDPORecipe = field(default_factory=DiffusionDPORecipe)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    free_space: FreeSpaceRecipe = field(default_factory=FreeSpaceRecipe)
    export: ExportRecipe = field(default_factory=ExportRecipe)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RecipeError(f"precision is {self.precision!r}; it can be one of {', '.join(PRECISIONS)}")
        check_bounds(self)


def load_recipe(path: Path | None = None, overrides: list[str] | None = None) -> Recipe:
    """Defaults, then the card of start_from, then the YAML file, then `key.entry=value` overrides.

    RecipeError for anything unknown or ill-typed, and for a start_from that is no model.
    """
    source = path or "the command line"
    entries = read_entries(path) if path is not None else {}
    try:
        mine = OmegaConf.merge(entries, OmegaConf.from_dotlist(overrides or []))
        mine = _with_current_names(mine, source)
        layers = [OmegaConf.structured(Recipe), _of_model(mine.get("start_from")), mine]
        recipe: Any = OmegaConf.to_object(OmegaConf.merge(*layers))
    except (OmegaConfBaseException, YAMLError, ModelError, ValueError) as error:
        raise RecipeError(f"{source}: {str(error).splitlines()[0]}") from error
    return recipe


RENAMED = {  # old names of entries that are still accepted, by section
    "pipeline": {"noise_least": "noise_min", "noise_most": "noise_max"},
    "noise_prediction": {"even_levels": "uniform_in_sigma"},
    "distillation": {"even_levels": "uniform_in_sigma"},
}


def _with_current_names(entries: Any, source: Any) -> dict[str, Any]:
    """The entries with old names replaced; each gives a DeprecationWarning."""
    values: Any = OmegaConf.to_container(entries)
    for section, renamed in RENAMED.items():
        if isinstance(values.get(section), dict):
            values[section] = current_names(values[section], renamed, f"{source}: {section}")
    return values


def read_entries(path: Path) -> DictConfig:
    """What a recipe's file says, unchecked; RecipeError where it is missing or no YAML of entries."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe")
    try:
        entries = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: expected YAML, found something else ({' '.join(str(error).split())})") from error
    if not isinstance(entries, DictConfig):
        raise RecipeError(f"{path}: expected entries (name: value), found a list")
    return entries


def _of_model(folder: str | None) -> dict[str, Any]:
    """What a model's card says about the entries that a recipe shares with it."""
    if folder is None:
        return {}
    card = load_card(folder)
    return {name: dataclasses.asdict(getattr(card, name)) for name in ("architecture", "pipeline", "schedule")}


def exported_card(recipe: Recipe) -> ModelCard:
    """The card that goes out with the weights."""
    card, settings = model_card(recipe), recipe.export
    pipeline = dataclasses.replace(
        card.pipeline,
        replication=settings.replication,
        sampler=settings.sampler or card.pipeline.sampler,
        steps=settings.steps or card.pipeline.steps,
    )
    return dataclasses.replace(card, pipeline=pipeline, description=settings.description)


def model_card(recipe: Recipe) -> ModelCard:
    """The card of the model that this recipe trains."""
    return ModelCard(
        name=recipe.name,
        architecture=recipe.architecture,
        pipeline=recipe.pipeline,
        schedule=recipe.schedule,
        training_data=training_data(recipe.data),
    )


def training_data(recipe: DataRecipe) -> str:
    """What a card says of the data."""
    if recipe.source == "drives":
        return "drives " + ", ".join(Path(drive).name for drive in recipe.drives)
    source = mix_of(recipe.sensor)
    seen = source.describe() if isinstance(source, SensorMix) else source.sensor.name
    worlds = "" if recipe.world == "town" else f"{recipe.world} worlds, "
    return f"synthetic streets (lidar_completion_synthetic), {worlds}{seen}"
