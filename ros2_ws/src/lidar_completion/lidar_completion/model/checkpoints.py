"""Model folders: weights as safetensors beside a JSON card that says what they are.

models/edge/model.json          the card (ModelCard)
models/edge/model.safetensors   tensors named encoder.*, denoiser.*, refiner.* and, behind that, as in the public files

A model that adds networks to another's may name that one as its base, a folder beside its own, and holds only what it adds.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lidar_completion.diffusion import SAMPLERS, NoiseSchedule, range_scale
from lidar_completion.errors import ModelError, refuse_below
from lidar_completion.files import atomic_write
from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, Refiner

CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1


LEAST = {  # of the numbers of a pipeline
    **dict.fromkeys(("min_range_m", "max_range_m", "guidance", "start_timestep", "start_noise"), 0.0),
    **dict.fromkeys(("noise_per_metre", "noise_least", "noise_most", "noise_vertical"), 0.0),
    **dict.fromkeys(("farthest_points", "replication", "steps"), 1),
    "downsample_voxel_m": 1e-3,
}


@dataclass(frozen=True)
class Pipeline:
    """How a sweep is prepared and sampled; the values a model was trained for. All of them can be overridden at run time."""

    min_range_m: float = 3.5
    max_range_m: float = 50.0
    downsampling: str = "voxel"  # or "farthest": the reference's farthest point sampling, slow
    downsample_voxel_m: float = 0.3
    farthest_points: int = 18_000
    replication: int = 10
    sampler: str = "few_step"
    steps: int = 1
    guidance: float = 1.0
    start_timestep: int = 999  # our own models may start lower: a smaller noise level, evenly down from there
    start_noise: float = 1.0  # lambda of Eq. 19
    noise_per_metre: float = (
        0.0  # ours: noise that grows with range (diffusion.range_scale); 0 is the published, uniform noise
    )
    noise_least: float = 0.15
    noise_most: float = 1.2
    noise_vertical: float = 0.4
    published_start: bool = (
        False  # start at p* + lambda eps as the reference's code does, without Eq. 19's sqrt(1 - abar_T)
    )
    noised_around: str = "truth"  # in training, by Eq. 1; ours: "scan", on the way from the truth to the noised scan

    def __post_init__(self) -> None:
        for name, allowed in (
            ("downsampling", ("voxel", "farthest")),
            ("sampler", tuple(SAMPLERS)),
            ("noised_around", ("truth", "scan")),
        ):
            if getattr(self, name) not in allowed:
                raise ModelError(f"pipeline.{name} is {getattr(self, name)!r}; it can be one of {', '.join(allowed)}")
        refuse_below(self, "pipeline", LEAST)
        if self.sampler == "dpm_solver" and self.noise_per_metre:
            raise ModelError("pipeline.noise_per_metre needs a sampler of ours; dpm_solver knows only uniform noise")

    def noise_scale(self, points: Tensor) -> Tensor:
        """diffusion.range_scale of points (N, 3) with this pipeline's values."""
        return range_scale(points, self.noise_per_metre, self.noise_least, self.noise_most, self.noise_vertical)


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model that is not a tensor."""

    name: str
    description: str = ""
    licence: str = "Apache-2.0"
    training_data: str = ""
    architecture: Architecture = field(default_factory=Architecture)
    pipeline: Pipeline = field(default_factory=Pipeline)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    networks: tuple[str, ...] = ("encoder", "denoiser")
    # calibration: probability (R, D) to lie within 0.2 m of a surface at range_m (R,) and distance_m (D,) from the scan
    confidence: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    weights: str = WEIGHTS_NAME
    sha256: str = ""
    base: str = ""  # the folder beside this one whose networks are not repeated here
    base_sha256: str = ""  # of its weights
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.pipeline.start_timestep >= self.schedule.steps:
            raise ModelError(
                f"pipeline.start_timestep is {self.pipeline.start_timestep}; schedule.steps is {self.schedule.steps}, "
                "so that the last timestep is one less"
            )


NETWORKS = {"encoder": ConditionEncoder, "denoiser": Denoiser, "refiner": Refiner}


def build_networks(card: ModelCard) -> dict[str, nn.Module]:
    """Fresh networks of the card's architecture, by name."""
    return {name: NETWORKS[name](card.architecture) for name in card.networks}


def save_model(
    folder: str | Path,
    card: ModelCard,
    networks: dict[str, nn.Module],
    dtype: torch.dtype = torch.float32,
    base: str | Path | None = None,
) -> ModelCard:
    """Write card and weights. Returns the card with names and sha256 filled in.

    Floating tensors are stored as `dtype`, but for those it cannot hold (variances of wide layers outgrow float16).
    base: a model folder beside this one whose networks are not written again; ModelError where they are others.
    """
    folder = Path(folder)
    stored = {
        f"{network}.{name}": _stored(value, dtype).detach().cpu().contiguous()
        for network, module in networks.items()
        for name, value in module.state_dict().items()
    }
    if base is not None:
        card, stored = _without_base(stored, card, folder, Path(base))
    with atomic_write(folder / card.weights) as partial:
        save_file(stored, partial)
        partial.chmod(0o644)  # safetensors makes it readable only by its owner
    card = dataclasses.replace(card, networks=tuple(networks), sha256=_sha256(folder / card.weights))
    save_card(folder, card)
    return card


def _without_base(
    stored: dict[str, Tensor], card: ModelCard, folder: Path, base: Path
) -> tuple[ModelCard, dict[str, Tensor]]:
    """The card that names its base, and the tensors that the base does not have."""
    if base.absolute().parent != folder.absolute().parent or base.absolute() == folder.absolute():
        raise ModelError(f"{base}: expected a folder beside {folder}, so that both can be moved together")
    theirs, networks = load_model(base)
    shared = {
        f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
    }
    for name, value in shared.items():
        if name not in stored or not torch.equal(stored[name].to(value.dtype), value):
            raise ModelError(f"{base}: its {name} is not that of the model to be written; write it without a base")
    card = dataclasses.replace(card, base=base.name, base_sha256=theirs.sha256)
    return card, {name: value for name, value in stored.items() if name not in shared}


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    narrow = value.to(dtype)
    return narrow if bool(torch.isfinite(narrow).all()) else value


def save_card(folder: str | Path, card: ModelCard) -> None:
    """Write the card of a model folder whose weights stay as they are."""
    with atomic_write(Path(folder) / CARD_NAME) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def load_card(folder: str | Path) -> ModelCard:
    """Read a model folder's card; ModelError names what is wrong with it."""
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
    """Empty, or what visibility.calibrated_confidence reads; anything else would fail only at the first sweep."""
    if table == {}:
        return
    known = {"range_m", "distance_m", "probability"}
    if not isinstance(table, dict) or not {"range_m", "probability"} <= table.keys() <= known:
        raise ModelError(f"{path}: confidence is {table!r}, expected range_m, probability and, if known, distance_m")
    shape = []
    for name in ("range_m", "distance_m"):
        if name in table:
            places = _numbers(table[name])
            if places.ndim != 1 or len(places) < 2 or not (np.diff(places) > 0).all():
                raise ModelError(f"{path}: confidence.{name} is {table[name]!r}, expected rising distances, 2 or more")
            shape.append(len(places))
    probability = _numbers(table["probability"])
    if probability.shape != tuple(shape) or not ((probability >= 0) & (probability <= 1)).all():
        raise ModelError(
            f"{path}: confidence.probability has shape {probability.shape}, expected {tuple(shape)} numbers from 0 to 1, "
            "one for each range (and distance); calibrate the model again"
        )


def _numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers as an array; an empty one for anything else."""
    try:
        array = np.array(values)
    except ValueError:  # rows of different lengths
        return np.zeros(0)
    return array if array.dtype.kind in "fi" else np.zeros(0)


def load_model(folder: str | Path) -> tuple[ModelCard, dict[str, nn.Module]]:
    """Card and networks (eval mode, float32, CPU) of a model folder; ModelError for anything missing, damaged or of other shapes."""
    folder = Path(folder)
    card = load_card(folder)
    path = folder / card.weights
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{folder / CARD_NAME}: weights {card.weights!r} lie outside the model's folder")
    if not path.is_file():
        raise ModelError(f"{path}: no such file, but {CARD_NAME} names it")
    if (found := _sha256(path)) != card.sha256:
        raise ModelError(
            f"{path}: sha256 {found[:12]}…, the card says {card.sha256[:12]}…: truncated or changed; copy the model again"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from error
    base = base_of(folder, card)
    shared = {} if base is None else load_model(base)[1]
    own = tuple(name for name in card.networks if name not in shared)
    networks = shared | build_networks(dataclasses.replace(card, networks=own))
    for name in own:
        _fill(networks[name], name, tensors, path)
        networks[name].eval()
    return card, {name: networks[name] for name in card.networks}


def base_of(folder: str | Path, card: ModelCard) -> Path | None:
    """The model folder whose networks a model shares; None where it stands alone. ModelError where it is not the one it was made with."""
    if not card.base:
        return None
    place = Path(folder) / CARD_NAME
    base = Path(folder).absolute().parent / card.base
    if Path(card.base).name != card.base or card.base == ".." or base == Path(folder).absolute():
        raise ModelError(f"{place}: base is {card.base!r}, expected the name of another folder beside the model")
    try:
        found = load_card(base)
    except ModelError as error:
        raise ModelError(f"{place}: the model shares networks with {base}; copy that beside it ({error})") from error
    if found.sha256 != card.base_sha256 or found.architecture != card.architecture or found.base:
        raise ModelError(
            f"{place}: made with the base {card.base} of sha256 {card.base_sha256[:12]}…, found {found.sha256[:12]}…; "
            "copy both folders again"
        )
    return base


def _fill(network: nn.Module, name: str, tensors: dict[str, torch.Tensor], path: Path) -> None:
    mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    expected = network.state_dict()
    if missing := sorted(expected.keys() - mine.keys()):
        raise ModelError(f"{path}: {len(missing)} tensors of the {name} are missing, the first is {missing[0]}")
    if extra := sorted(mine.keys() - expected.keys()):
        raise ModelError(f"{path}: {len(extra)} unknown tensors in the {name}, the first is {extra[0]}")
    for key, value in mine.items():
        if value.shape != expected[key].shape:
            raise ModelError(
                f"{path}: {name}.{key} has shape {tuple(value.shape)}, the card's architecture wants {tuple(expected[key].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{path}: {name}.{key} holds values that are not finite; the training diverged, or the file is damaged"
            )
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in mine.items()})


def _from_dict(kind: type, values: Any, path: Path, where: str = "") -> Any:
    """A (nested) dataclass from JSON; unknown or ill-typed entries are a ModelError with their place."""
    if not isinstance(values, dict):
        raise ModelError(f"{path}: {where.rstrip('.') or 'the card'} is {type(values).__name__}, expected an object")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    needed = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
