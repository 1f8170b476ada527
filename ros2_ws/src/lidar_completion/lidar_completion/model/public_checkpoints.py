"""Reads the published .ckpt files of LiDiff, ScoreLiDAR and Distillation-DPO without executing their pickles.

A checkpoint is a zip archive: a pickle that describes tensors (and, from Lightning, optimisers, loggers and settings of
any class), and their raw numbers. The pickle is interpreted with an allowlist of four names; every other class or
function becomes an inert placeholder, so no code of the file is imported or called.
"""

import dataclasses
import logging
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
from lidar_completion.model.weights import filled_network, save_model
from lidar_completion.networks import CHANNELS, Architecture

# Names of the networks in the files. If a file has several of a kind, the first in the list is used (a student is saved together
# with its teacher).
PREFIXES = {
    "encoder": ("partial_enc.", "DM_encoder."),
    "denoiser": ("generator.", "DiffModel.", "model."),
    "refiner": ("model_refine.",),
}
# Denoising steps and guidance weight with which the published evaluation runs a checkpoint
ROLES = {"teacher": (50, 6.0), "student": (8, 3.5)}
# The role of a denoiser that is saved under a prefix. DiffModel is ambiguous: the released distillation script also loads its
# teacher under this name.
ASSUMED_ROLES = {"generator.": "student", "DiffModel.": "student", "model.": "teacher"}


def read_public_checkpoint(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network ("encoder", "denoiser", "refiner") in a published file, under our names.

    Takes Lightning files and bare state dicts (`partial_enc.pt`, `unet_diff.pt`, `refine.pt`). Raises ModelError.
    """
    return _networks_in(_state_dict(read_tensors(path), Path(path)), Path(path))


def convert_public_checkpoints(
    files: Iterable[str | Path], folder: str | Path, *, name: str = "", role: str = "auto"
) -> ModelCard:
    """Write the networks of one or more published files as a model folder, with the published sampler and settings.

    role: "teacher" (LiDiff and LiDiff*: 50 steps, guidance 6), "student" (ScoreLiDAR, Distillation-DPO: 8 steps, guidance
    3.5), or "auto": by the denoiser's name in the file (ASSUMED_ROLES). The card's description and a log message say what was
    assumed. Raises ModelError for files that do not form a model: not readable, no encoder or denoiser, tensors missing or of
    other shapes.
    """
    if role not in ("auto", *ROLES):
        raise ValueError(f"role is {role!r}; expected auto, {', '.join(ROLES)}")
    paths = [Path(path) for path in files]
    named = ", ".join(map(str, paths))
    networks: dict[str, dict[str, Tensor]] = {}
    prefix = "model."
    for path in paths:
        tensors = _state_dict(read_tensors(path), path)
        found = _networks_in(tensors, path)
        if twice := sorted(networks.keys() & found.keys()):
            raise ModelError(f"{path}: holds another {twice[0]}; pass each network once")
        networks |= found
        if "denoiser" in found:
            prefix = _prefix_in(tensors, PREFIXES["denoiser"]) or prefix
    if missing := [needed for needed in ("encoder", "denoiser") if needed not in networks]:
        raise ModelError(f"{named}: no {' and no '.join(missing)}; a model needs both, pass the file that has it too")
    role, reason = (role, "as requested") if role != "auto" else _assumed_role(prefix, named)
    card = ModelCard(
        name=name or paths[0].stem,
        description=f"Converted from {', '.join(path.name for path in paths)}; published settings of a {role}, {reason}",
        licence="as the original checkpoint",
        training_data="SemanticKITTI, by the original authors",
        architecture=_architecture(networks["denoiser"], paths[0]),
        pipeline=_published_pipeline(role),
        networks=tuple(kind for kind in PREFIXES if kind in networks),
    )
    modules = {kind: filled_network(kind, card.architecture, networks[kind], named) for kind in card.networks}
    return save_model(folder, card, modules)


def _assumed_role(prefix: str, files: str) -> tuple[str, str]:
    """The role that a denoiser's prefix suggests, and the reason; logs the assumption."""
    role = ASSUMED_ROLES[prefix]
    other = next(each for each in ROLES if each != role)
    steps, guidance = ROLES[role]
    logging.getLogger(__name__).warning(
        "%s: assumed to be a %s (%d steps, guidance %g), because its denoiser is called %s; "
        "if it is a %s, convert it with role %s",
        *(files, role, steps, guidance, prefix.rstrip("."), other, other),
    )
    return role, f"assumed from the name {prefix.rstrip('.')}"


def _published_pipeline(role: str) -> Pipeline:
    steps, guidance = ROLES[role]
    return Pipeline(
        downsampling="farthest",
        farthest_points=18_000,
        replication=10,
        sampler="dpm_solver",
        steps=steps,
        guidance=guidance,
        published_start=True,
    )


def _networks_in(tensors: dict[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    networks = {name: found for name, prefixes in PREFIXES.items() if (found := _under(tensors, prefixes))}
    if not networks and "stem.0.kernel" in tensors:
        networks = {_kind_of_bare(tensors): tensors}
    if not networks:
        first = ", ".join(sorted(tensors)[:3])
        raise ModelError(f"{path}: none of its {len(tensors)} tensors belongs to a known network (first: {first})")
    return networks


def _architecture(denoiser: dict[str, Tensor], path: Path) -> Architecture:
    widest = denoiser.get("latent_stage1.0.weight")
    if widest is None or widest.dim() != 2:
        raise ModelError(f"{path}: the denoiser has no latent_stage1.0.weight (C, C) to derive the width from")
    return Architecture(width=len(widest) / CHANNELS[4])


def _under(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that the file has, without it."""
    prefix = _prefix_in(tensors, prefixes)
    if prefix is None:
        return {}
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _prefix_in(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> str | None:
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors)), None)


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
            _check_expansion(archive, path.stat().st_size)
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


def _check_expansion(archive: zipfile.ZipFile, file_bytes: int) -> None:
    """ModelError if reading the archive could take more memory than its file: torch.save stores without compression."""
    entries = archive.infolist()
    if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
        raise ModelError(
            f"its entry {packed[0]} is compressed: not written by torch.save; load and save it again there"
        )
    expanded = sum(entry.file_size for entry in entries)
    if expanded > file_bytes:
        raise ModelError(f"its entries claim {expanded:,} bytes, the file has {file_bytes:,}: damaged or forged")


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
        self._storages: dict[str, bytearray] = {}

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
        raw = self._bytes(str(key))
        if not isinstance(count, int) or len(raw) < count * kind.dtype.itemsize:
            raise ModelError(f"storage {key} has {len(raw)} bytes, expected {count} x {kind.dtype.itemsize}")
        return torch.frombuffer(raw, dtype=kind.dtype, count=count) if count else torch.empty(0, dtype=kind.dtype)

    def _bytes(self, key: str) -> bytearray:
        """A storage, which is read only once. KeyError if the entry is missing; read_tensors reports it as damaged."""
        if key not in self._storages:
            self._storages[key] = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return self._storages[key]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """As torch._utils._rebuild_tensor_v2, but checks the numbers against the storage. A view, so it takes no memory."""
    if not isinstance(storage, Tensor):
        return Placeholder()
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ModelError(f"a tensor of size {size}, stride {stride}, offset {offset} is invalid")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= len(storage) or math.prod(size) > len(storage)):
        raise ModelError(f"a tensor of size {size} reaches beyond its storage of {len(storage)} values")
    return storage.as_strided(size, stride, offset)


def _parameter(data: Any, *_: Any) -> Any:
    return data
