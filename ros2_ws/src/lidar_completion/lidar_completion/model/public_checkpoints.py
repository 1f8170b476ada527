"""Reads the published .ckpt files of LiDiff, ScoreLiDAR and Distillation-DPO without executing their pickles.

A checkpoint is a zip archive: a pickle that describes tensors (and, from Lightning, optimisers, loggers and settings of
any class), and their raw numbers. The pickle is interpreted with an allowlist of four names; every other class or
function becomes an inert placeholder, so no code of the file is imported or called.
"""

import dataclasses
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, fill_network, save_model
from lidar_completion.networks import CHANNELS, Architecture

# Names of the networks in the files. If a file has several of a kind, the first in the list is used (a student is saved together
# with its teacher).
PREFIXES = {
    "encoder": ("partial_enc.", "DM_encoder."),
    "denoiser": ("generator.", "DiffModel.", "model."),
    "refiner": ("model_refine.",),
}
GUIDANCE = {"lidiff": 6.0, "student": 3.5}
STEPS = {"lidiff": 50, "student": 8}


def read_public_checkpoint(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network ("encoder", "denoiser", "refiner") in a published file, under our names.

    Takes Lightning files and bare state dicts (`partial_enc.pt`, `unet_diff.pt`, `refine.pt`). Raises ModelError.
    """
    path = Path(path)
    tensors = _state_dict(read_tensors(path), path)
    networks = {name: found for name, prefixes in PREFIXES.items() if (found := _under(tensors, prefixes))}
    if not networks and "stem.0.kernel" in tensors:
        networks = {_kind_of_bare(tensors): tensors}
    if not networks:
        first = ", ".join(sorted(tensors)[:3])
        raise ModelError(f"{path}: none of its {len(tensors)} tensors belongs to a known network (first: {first})")
    return networks


def convert_public_checkpoints(
    files: Iterable[str | Path], folder: str | Path, *, name: str = "", family: str = "auto"
) -> ModelCard:
    """Write the networks of one or more published files as a model folder, with the published sampler and settings.

    family: "lidiff" (50 steps, guidance 6), "student" (ScoreLiDAR, Distillation-DPO: 8 steps, guidance 3.5), or "auto":
    "student" if the denoiser is called `generator` or `DiffModel`. Raises ModelError for files that do not form a
    model: not readable, no encoder or denoiser, tensors missing or of other shapes.
    """
    paths = [Path(path) for path in files]
    networks: dict[str, dict[str, Tensor]] = {}
    students = False
    for path in paths:
        found = read_public_checkpoint(path)
        if twice := sorted(networks.keys() & found.keys()):
            raise ModelError(f"{path}: holds another {twice[0]}; pass each network once")
        networks |= found
        students |= any(key.startswith(PREFIXES["denoiser"][:2]) for key in _state_dict(read_tensors(path), path))
    if missing := [needed for needed in ("encoder", "denoiser") if needed not in networks]:
        named = ", ".join(map(str, paths))
        raise ModelError(f"{named}: no {' and no '.join(missing)}; a model needs both, pass the file that has it too")
    family = ("student" if students else "lidiff") if family == "auto" else family
    card = ModelCard(
        name=name or paths[0].stem,
        description=f"Converted from {', '.join(path.name for path in paths)}; published sampler and settings",
        licence="as the original checkpoint",
        training_data="SemanticKITTI, by the original authors",
        architecture=_architecture(networks["denoiser"], paths[0]),
        pipeline=_published_pipeline(family),
        networks=tuple(kind for kind in PREFIXES if kind in networks),
    )
    modules = build_networks(card)
    for kind, module in modules.items():
        fill_network(module, kind, networks[kind], ", ".join(map(str, paths)))
    return save_model(folder, card, modules)


def _published_pipeline(family: str) -> Pipeline:
    if family not in GUIDANCE:
        raise ValueError(f"family is 'auto', {', '.join(map(repr, GUIDANCE))}, not {family!r}")
    return Pipeline(
        downsampling="farthest",
        farthest_points=18_000,
        replication=10,
        sampler="dpm_solver",
        steps=STEPS[family],
        guidance=GUIDANCE[family],
        published_start=True,
    )


def _architecture(denoiser: dict[str, Tensor], path: Path) -> Architecture:
    widest = denoiser.get("latent_stage1.0.weight")
    if widest is None or widest.dim() != 2:
        raise ModelError(f"{path}: the denoiser has no latent_stage1.0.weight (C, C) to derive the width from")
    return Architecture(width=len(widest) / CHANNELS[4])


def _under(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that the file has, without it."""
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {}


def _kind_of_bare(tensors: dict[str, Tensor]) -> str:
    if any(name.startswith("latent_") for name in tensors):
        return "denoiser"
    return "refiner" if "last.0.weight" in tensors else "encoder"


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}, expected a dictionary of tensors or a state_dict")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


# ---------------------------------------------------------------------------------------------------------------------
# The archive


def read_tensors(path: str | Path) -> Any:
    """What torch.save wrote into `path`: containers, numbers, strings and tensors; everything else becomes a Placeholder."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelError(f"{path}: holds {len(pickles)} data.pkl, expected one: not written by torch.save")
            with archive.open(pickles[0]) as file:
                return _Reader(file, archive, pickles[0].removesuffix("data.pkl")).load()
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{path}: not a zip archive ({error}); truncated, or from a PyTorch before 1.6: load and save it again there"
        ) from error
    except ModelError as error:
        raise ModelError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise ModelError(f"{path}: damaged ({type(error).__name__}: {error})") from error


class Placeholder:
    """Replaces a class or function in the file that is not needed. Accepts all calls and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Placeholder":
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None:
        """For pickled list subclasses."""

    def extend(self, _: Any) -> None:
        """For pickled list subclasses."""

    def add(self, _: Any) -> None:
        """For pickled set subclasses."""


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Reader(pickle.Unpickler):
    """Unpickler with four names: OrderedDict, our versions of two tensor builders, storage types; placeholders otherwise."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        return Placeholder

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            return Placeholder()
        _, kind, key, _, count = pid
        raw = bytearray(self._archive.read(f"{self._folder}data/{key}"))  # a missing entry is a KeyError: damaged
        if not isinstance(count, int) or len(raw) < count * kind.dtype.itemsize:
            raise ModelError(f"storage {key} has {len(raw)} bytes, expected {count} x {kind.dtype.itemsize}")
        return torch.frombuffer(raw, dtype=kind.dtype, count=count) if count else torch.empty(0, dtype=kind.dtype)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """torch._utils._rebuild_tensor_v2, with its numbers checked against the storage."""
    if not isinstance(storage, Tensor):
        return Placeholder()
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ModelError(f"a tensor of size {size}, stride {stride}, offset {offset} is invalid")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= len(storage) or math.prod(size) > len(storage)):
        raise ModelError(f"a tensor of size {size} reaches beyond its storage of {len(storage)} values")
    return storage.as_strided(size, stride, offset).clone()


def _parameter(data: Any, *_: Any) -> Any:
    return data
