"""The model card, model.json: everything about a model that is not a tensor.

The voxel size of the input is Pipeline.downsample_voxel_m; that of the network's grid is Architecture.voxel_size_m.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lidar_completion.diffusion import NoiseSchedule, range_scale
from lidar_completion.errors import ModelError
from lidar_completion.files import atomic_write
from lidar_completion.networks import NETWORKS, Architecture
from lidar_completion.samplers import SAMPLERS
from lidar_completion.settings import at_least, between, check_bounds, current_names
from lidar_completion.sparse.coordinates import LIMIT

CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1
MIN_OUTPUT_VOXEL_M = 1e-3


@dataclass(frozen=True)
class Pipeline:
    """How a sweep is prepared and sampled: the values that a model was trained for. SceneCompleter.complete can override them."""

    min_range_m: float = between(0.0, 1000.0, 3.5)
    max_range_m: float = between(0.0, 1000.0, 50.0)
    downsampling: str = "voxel"  # or "farthest": farthest point sampling as in the published code, slow
    downsample_voxel_m: float = between(1e-3, 100.0, 0.3)
    farthest_points: int = between(1, 10_000_000, 18_000)
    replication: int = between(1, 1000, 10)  # start points per point of the downsampled sweep
    sampler: str = "few_step"  # a key of samplers.SAMPLERS
    steps: int = between(1, 1000, 1)  # denoising steps
    guidance: float = between(0.0, 100.0, 1.0)  # classifier-free guidance; 1: one forward pass per step, else two
    start_timestep: int = at_least(0, 999)  # our own models may start at a lower noise level
    start_noise: float = between(0.0, 100.0, 1.0)  # lambda of Eq. 19
    # Start noise that grows with range (diffusion.range_scale), not in the paper; 0 is the published uniform noise
    noise_per_metre: float = between(0.0, 1.0, 0.0)
    noise_min: float = between(0.0, 100.0, 0.15)
    noise_max: float = between(0.0, 100.0, 1.2)
    noise_vertical: float = between(0.0, 10.0, 0.4)
    # Start at p* + lambda eps as in the published code, without the factor sqrt(1 - abar_T) of Eq. 19
    published_start: bool = False
    # Forward process in training: "truth" is that of Eq. 1; "scan", not in the paper, leads from the truth to the noised scan
    noised_around: str = "truth"
    # Not in the paper: start points in holes of the scan (holes.py), and a threshold on confidence
    hole_starts: int = between(0, 1000, 0)  # start points per hole and level; 0: none
    hole_levels: int = between(
        1, 10, 1
    )  # levels of start points in a hole: on the ground, and holes.LEVEL_M above each other
    hole_beyond_m: float = between(0.0, 100.0, 0.0)  # how far behind the last return of a direction holes are searched
    hole_cell_m: float = between(1e-3, 100.0, 0.8)  # width of the grid cells in which holes are searched
    min_confidence: float = between(0.0, 1.0, 0.0)  # points with lower confidence are removed; TrustRules can raise it
    # Completed points below the floor are removed: "published" (mean - 2 std of the sweep's heights), or "measured" (its lowest
    # point), which suits tilted sensors
    scene_floor: str = "published"
    # Completed points are thinned to the most confident one per voxel of this size; 0: off
    output_voxel_m: float = between(0.0, 100.0, 0.0)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("downsampling", ("voxel", "farthest")),
            ("sampler", tuple(SAMPLERS)),
            ("noised_around", ("truth", "scan")),
            ("scene_floor", ("published", "measured")),
        ):
            if getattr(self, name) not in allowed:
                raise ModelError(f"pipeline.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        check_bounds(self, "pipeline")
        if 0.0 < self.output_voxel_m < MIN_OUTPUT_VOXEL_M:
            raise ModelError(
                f"pipeline.output_voxel_m is {self.output_voxel_m}; expected 0 or at least {MIN_OUTPUT_VOXEL_M}"
            )
        for low, high in (("min_range_m", "max_range_m"), ("noise_min", "noise_max")):
            if getattr(self, low) > getattr(self, high):
                raise ModelError(
                    f"pipeline.{low} is {getattr(self, low)}; expected at most pipeline.{high}, which is {getattr(self, high)}"
                )

    def noise_scale(self, points: Tensor) -> Tensor:
        """Scale (N, 3) in metres of the noise that is added to start points (N, 3)."""
        return range_scale(points, self.noise_per_metre, self.noise_min, self.noise_max, self.noise_vertical)


@dataclass(frozen=True)
class Seen:
    """Sensors and mountings of the training data. The defaults are those of the first models: an HDL-64E on the roof of a car."""

    min_height_m: float = at_least(0.0, 1.53)  # of the sensor above the ground
    max_height_m: float = at_least(0.0, 1.93)
    max_tilt_deg: float = at_least(0.0, 3.0)  # angle between the z axis of the sensor and the normal of the ground
    sensors: tuple[str, ...] = ("HDL-64E",)

    def __post_init__(self) -> None:
        check_bounds(self, "seen")
        if self.min_height_m > self.max_height_m:
            raise ModelError(
                f"seen.min_height_m is {self.min_height_m:g}; expected at most seen.max_height_m, which is {self.max_height_m:g}"
            )


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model that is not a tensor."""

    name: str
    description: str = ""
    licence: str = "Apache-2.0"
    training_data: str = ""
    seen: Seen = field(default_factory=Seen)
    architecture: Architecture = field(default_factory=Architecture)
    pipeline: Pipeline = field(default_factory=Pipeline)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    networks: tuple[str, ...] = ("encoder", "denoiser")
    # Calibration table: probability (R, D) of lying within 0.2 m of a surface, at range_m (R,) and distance_m (D,) from the scan
    confidence: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    weights: str = WEIGHTS_NAME
    sha256: str = ""  # of the weights
    base: str = ""  # folder beside this one that holds the networks that are not stored here
    base_sha256: str = ""  # of the base's weights
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.pipeline.start_timestep >= self.schedule.steps:
            raise ModelError(
                f"pipeline.start_timestep is {self.pipeline.start_timestep}; expected less than schedule.steps, "
                f"which is {self.schedule.steps}"
            )
        reach_m = LIMIT * self.architecture.voxel_size_m
        if self.pipeline.max_range_m >= reach_m:
            raise ModelError(
                f"pipeline.max_range_m is {self.pipeline.max_range_m}; expected less than {reach_m:g} m, where the grid of "
                f"voxels of {self.architecture.voxel_size_m} m ends"
            )

    def start_sigma(self, timestep: int | None = None) -> float:
        """Standard deviation of the start noise in metres, lambda sqrt(1 - abar_t) (Eq. 19); default: at start_timestep."""
        pipeline = self.pipeline
        timestep = pipeline.start_timestep if timestep is None else timestep
        return pipeline.start_noise * (1.0 if pipeline.published_start else float(self.schedule.sigma[timestep]))

    def sampling_timesteps(self, after_prior: bool = False) -> list[int]:
        """Timesteps of a schedule with pipeline.steps steps; after_prior: with one more, without the first: a prior replaces it.

        Raises ValueError if the sampler cannot start from a prior.
        """
        pipeline, sampler = self.pipeline, SAMPLERS[self.pipeline.sampler]
        if after_prior and not sampler.takes_prior:
            raise ValueError(
                f"prior: the sampler {pipeline.sampler} cannot start from one; leave it out, or use a model with another sampler"
            )
        return sampler.timesteps(self.schedule, pipeline.steps + after_prior, pipeline.start_timestep)[after_prior:]


# Old names of entries that are still accepted, by the dataclass that has the entry
RENAMED: dict[type, Mapping[str, str]] = {Pipeline: {"noise_least": "noise_min", "noise_most": "noise_max"}}


def save_card(folder: str | Path, card: ModelCard) -> None:
    """Write the card of a model folder."""
    with atomic_write(Path(folder) / CARD_NAME) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def load_card(folder: str | Path) -> ModelCard:
    """Read the card of a model folder; ModelError names the file, the entry and what is wrong with it."""
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise ModelError(f"{path}: no such file. A model is a folder with {CARD_NAME} and its weights")
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a JSON model card ({error})") from error
    card = _from_dict(ModelCard, values, path)
    if card.format_version != FORMAT_VERSION:
        raise ModelError(f"{path}: format_version {card.format_version}, this program reads {FORMAT_VERSION}")
    _check_confidence(card.confidence, path)
    unknown = [name for name in card.networks if name not in NETWORKS]
    if unknown:
        raise ModelError(f"{path}: unknown networks {unknown}; known are {', '.join(NETWORKS)}")
    return card


def _check_confidence(table: Any, path: Path) -> None:
    """ModelError unless the table is empty or visibility.confidence can read it, which would otherwise fail at a sweep."""
    if table == {}:
        return
    known = {"range_m", "distance_m", "probability"}
    if not isinstance(table, dict) or not {"range_m", "probability"} <= table.keys() <= known:
        raise ModelError(f"{path}: confidence is {table!r}, expected range_m, probability and, optionally, distance_m")
    shape = []
    for name in ("range_m", "distance_m"):
        if name in table:
            knots = _numbers(table[name])
            if knots.ndim != 1 or len(knots) < 2 or not (np.diff(knots) > 0).all():
                raise ModelError(f"{path}: confidence.{name} is {table[name]!r}, expected rising distances, 2 or more")
            shape.append(len(knots))
    probability = _numbers(table["probability"])
    if probability.shape != tuple(shape) or not ((probability >= 0) & (probability <= 1)).all():
        raise ModelError(
            f"{path}: confidence.probability has shape {probability.shape}, expected {tuple(shape)} numbers from 0 to 1, "
            "one for each range (and distance); calibrate the model again"
        )


def _numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers as an array; an empty array for anything else."""
    try:
        array = np.array(values)
    except ValueError:  # rows of different lengths
        return np.zeros(0)
    return array if array.dtype.kind in "fi" else np.zeros(0)


def _from_dict(kind: type, values: Any, path: Path, where: str = "") -> Any:
    """A (nested) dataclass from JSON; ModelError names an unknown, missing or ill-typed entry."""
    if not isinstance(values, dict):
        raise ModelError(f"{path}: {where.rstrip('.') or 'the card'} is {type(values).__name__}, expected an object")
    values = current_names(values, RENAMED.get(kind, {}), f"{path}: {where.rstrip('.')}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ModelError(f"{path}: the entry {where}{missing[0]} is missing")
    if unknown := sorted(values.keys() - fields.keys()):
        raise ModelError(f"{path}: unknown entry {where}{unknown[0]}; known are {', '.join(fields)}")
    arguments = {name: _typed(fields[name].type, value, path, where + name) for name, value in values.items()}
    try:
        return kind(**arguments)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _typed(kind: Any, value: Any, path: Path, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _from_dict(kind, value, path, where + ".")  # type: ignore[arg-type]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (tuple[str, ...], tuple[int, ...]):
        if not isinstance(value, list) or not all(type(v) is kind.__args__[0] for v in value):
            raise ModelError(f"{path}: {where} is {value!r}, expected a list of {kind.__args__[0].__name__}")
        return tuple(value)
    if kind in (str, int, float, bool) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ModelError(f"{path}: {where} is {value!r}, expected {kind.__name__}")
    return value
