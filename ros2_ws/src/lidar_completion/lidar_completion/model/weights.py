"""Model folders: weights as safetensors, beside the card that describes them.

models/edge/model.json          the card (card.py)
models/edge/model.safetensors   tensors named encoder.*, denoiser.*, refiner.*, followed by their names in the public checkpoints

A model that adds networks to another model can name that one as its base, a folder beside its own. It then stores only
the networks that it adds.
"""

import dataclasses
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lidar_completion.errors import ModelError
from lidar_completion.files import atomic_write
from lidar_completion.model.card import CARD_NAME, ModelCard, load_card, save_card
from lidar_completion.networks import CHANNELS, Architecture, new_network


def build_networks(card: ModelCard) -> dict[str, nn.Module]:
    """The card's networks by name, with random weights."""
    return {name: new_network(name, card.architecture) for name in card.networks}


def save_model(
    folder: str | Path,
    card: ModelCard,
    networks: dict[str, nn.Module],
    dtype: torch.dtype = torch.float32,
    base: str | Path | None = None,
) -> ModelCard:
    """Write card and weights. Returns the card with networks and sha256 filled in.

    dtype: of floating-point tensors, except those that overflow in it (variances of wide layers exceed float16).
    base: a model folder beside this one whose networks are not stored again; ModelError if they differ.
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
    base_card, networks = load_model(base)
    shared = {
        f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
    }
    for name, value in shared.items():
        if name not in stored or not torch.equal(stored[name].to(value.dtype), value):
            raise ModelError(f"{base}: its {name} differs from the model to be written; write the model without a base")
    card = dataclasses.replace(card, base=base.name, base_sha256=base_card.sha256)
    return card, {name: value for name, value in stored.items() if name not in shared}


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    narrow = value.to(dtype)
    return narrow if bool(torch.isfinite(narrow).all()) else value


def load_model(folder: str | Path) -> tuple[ModelCard, dict[str, nn.Module]]:
    """Card and networks (eval mode, float32, CPU) of a model folder.

    Raises ModelError if anything is missing or damaged, or if a shape differs from the card's architecture.
    """
    folder = Path(folder)
    card = load_card(folder)
    tensors = _load_tensors(folder, card)
    base = base_of(folder, card)
    shared = {} if base is None else load_model(base)[1]
    networks = dict(shared)
    for name in card.networks:
        if name in shared:
            continue
        source = str(folder / card.weights)
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        networks[name] = filled_network(name, card.architecture, mine, source).eval()
    return card, {name: networks[name] for name in card.networks}


def _load_tensors(folder: Path, card: ModelCard) -> dict[str, Tensor]:
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
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from error


def base_of(folder: str | Path, card: ModelCard) -> Path | None:
    """The model folder whose networks a model shares, or None. ModelError if it is not the one the model was saved with."""
    if not card.base:
        return None
    place = Path(folder) / CARD_NAME
    base = Path(folder).absolute().parent / card.base
    if Path(card.base).name != card.base or card.base == ".." or base == Path(folder).absolute():
        raise ModelError(f"{place}: base is {card.base!r}, expected the name of another folder beside the model")
    try:
        found = load_card(base)
    except ModelError as error:
        raise ModelError(
            f"{place}: the model shares networks with {base}; copy that folder beside it ({error})"
        ) from error
    if found.sha256 != card.base_sha256 or found.architecture != card.architecture or found.base:
        raise ModelError(
            f"{place}: saved with the base {card.base} of sha256 {card.base_sha256[:12]}…, found {found.sha256[:12]}…; "
            "copy both folders again"
        )
    return base


def filled_network(name: str, architecture: Architecture, tensors: dict[str, Tensor], source: str) -> nn.Module:
    """The network (float32, CPU) with these tensors; a large one is allocated only if their shapes are right.

    source: file, for messages. Raises ModelError for missing, unknown, misshaped or infinite tensors.
    """
    # The meta device imports torch._dynamo, which takes 3 s and 130 MB, so that small networks are built on the CPU.
    small = max(*architecture.channels, architecture.head_width) <= max(CHANNELS)
    with torch.random.fork_rng(devices=[]):
        with torch.device("cpu" if small else "meta"):
            network = new_network(name, architecture)
        _check_shapes(network, name, tensors, source)
        if not small:
            network = new_network(name, architecture)
    _fill(network, name, tensors, source)
    return network


def _check_shapes(network: nn.Module, name: str, tensors: dict[str, Tensor], source: str) -> None:
    expected = {key: value.shape for key, value in network.state_dict().items()}
    for problem, names in (
        ("missing", expected.keys() - tensors.keys()),
        ("unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise ModelError(f"{source}: {len(names)} tensors of the {name} are {problem}, the first is {min(names)}")
    for key, value in tensors.items():
        if value.shape != expected[key]:
            raise ModelError(
                f"{source}: {name}.{key} has shape {tuple(value.shape)}, expected {tuple(expected[key])} "
                "for the card's architecture"
            )


def _fill(network: nn.Module, name: str, tensors: dict[str, Tensor], source: str) -> None:
    for key, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{source}: {name}.{key} has values that are not finite; the training diverged, or the file is damaged"
            )
    expected = network.state_dict()
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in tensors.items()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
