"""The networks on onnxruntime, with the same call signatures as networks/; kernel maps become tables."""

import hashlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, load_card
from lidar_completion.model.weights import base_of
from lidar_completion.networks import Condition, VoxelisedCloud
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid

MANIFEST_NAME = "onnx.json"
INPUTS_VERSION = 2  # version of the graphs' inputs, stored in the manifest; graphs of other versions are refused
BLOCK = 512  # rows of a neighbour table that a graph processes at once; tables are padded to a multiple


def load_onnx_networks(
    folder: str | Path, card: ModelCard, device: torch.device, or_cpu: bool = False
) -> dict[str, Any]:
    """Encoder, denoiser (and refiner) of a model folder on onnxruntime, by name.

    ModelError if they were not exported, or were exported from other weights. or_cpu: if onnxruntime lacks CUDA, run on the
    CPU and warn.
    """
    folder = Path(folder)
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise ModelError(f"{manifest_path}: no such file; export the model with lidar-completion-train export {folder}")
    try:
        manifest = json.loads(manifest_path.read_text())
        files, source = dict(manifest["files"]), manifest["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{manifest_path}: not a manifest of exported networks ({error!r}); export again") from error
    if (version := manifest.get("inputs_version")) != INPUTS_VERSION:
        raise ModelError(f"{manifest_path}: inputs_version {version}, this program has {INPUTS_VERSION}; export again")
    if source != card.sha256:
        raise ModelError(
            f"{manifest_path}: exported from weights {source[:12]}…, the card says {card.sha256[:12]}…; export again"
        )
    kinds: dict[str, Any] = {"encoder": OnnxEncoder, "denoiser": OnnxDenoiser, "refiner": OnnxRefiner}
    if card.architecture.conditioning == "union":
        estimates = card.architecture.offsets_per_point
        kinds = {
            "denoiser": partial(OnnxUnionDenoiser, estimates=estimates),
            "refiner": partial(OnnxUnionRefiner, estimates=estimates),
        }
    base = base_of(folder, card)
    shared = {} if base is None else load_onnx_networks(base, load_card(base), device, or_cpu)
    own = [name for name in card.networks if name not in shared]
    if missing := [name for name in own if f"{name}.onnx" not in files]:
        raise ModelError(f"{manifest_path}: does not list {missing[0]}.onnx; export again")
    for name in own:
        path = folder / f"{name}.onnx"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != files[path.name]:
            raise ModelError(f"{path}: missing, truncated or changed since {MANIFEST_NAME} was written; export again")
    providers = execution_providers(device, or_cpu)
    return shared | {name: kinds[name](folder / f"{name}.onnx", providers) for name in own}


def execution_providers(device: torch.device, or_cpu: bool = False) -> list[Any]:
    """onnxruntime's providers for a device, the best first; ModelError if onnxruntime or its CUDA provider is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("backend 'onnx' needs onnxruntime (or onnxruntime-gpu): pip install onnxruntime") from error
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in available:
        onnxruntime.preload_dlls()  # CUDA's libraries are in Python packages, where the loader does not look
        return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
    problem = f"onnxruntime has no CUDA here (it has {', '.join(available)}): pip install onnxruntime-gpu"
    if not or_cpu:
        raise ModelError(problem)
    logging.getLogger(__name__).warning("the networks run on the CPU: %s", problem)
    return ["CPUExecutionProvider"]


class _OnnxNetwork:
    """An exported graph; its inputs are taken from a cloud by name."""

    def __init__(self, path: Path, providers: list[Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # its waiting threads would take the cores of our loops
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # onnxruntime raises its own untyped errors
            raise ModelError(f"{path}: onnxruntime cannot load it ({error})") from error
        if len(providers) > len(self._session.get_providers()):
            logging.getLogger(__name__).warning(
                "%s runs on the CPU: onnxruntime could not load its CUDA provider", path
            )
        self._inputs = [node.name for node in self._session.get_inputs()]

    def _run(self, cloud: VoxelisedCloud, extra: dict[str, np.ndarray]) -> Tensor:
        feed = {name: extra[name] if name in extra else cloud_input(name, cloud) for name in self._inputs}
        (output,) = self._session.run(None, feed)
        return torch.from_numpy(output).to(cloud.features.device)


class OnnxEncoder(_OnnxNetwork):
    """As networks.ConditionEncoder."""

    def __call__(self, scan: VoxelisedCloud) -> Condition:
        return Condition(scan.pyramid.levels[4], self._run(scan, {}))


class OnnxDenoiser(_OnnxNetwork):
    """As networks.Denoiser, for one scan."""

    def __call__(
        self,
        cloud: VoxelisedCloud,
        condition: Condition,
        t: Tensor,
        tables: list[Tensor] | None = None,
        stem: None = None,
    ) -> Tensor:
        if len(t) != 1:
            raise ValueError(f"the exported denoiser takes one scan, t has {len(t)} entries")
        tables = condition.nearest_tables(cloud.pyramid) if tables is None else tables
        nearest = {f"nearest.{level}": _int32(table) for level, table in enumerate(tables)}
        extra = {"condition": condition.features.cpu().numpy(), "t": t.float().cpu().numpy()}
        return self._run(cloud, {**nearest, **extra})

    def stem_features(self, cloud: VoxelisedCloud) -> None:
        """None, because the exported graph computes its own stem."""


class OnnxUnionDenoiser(_OnnxNetwork):
    """As networks.UnionDenoiser."""

    def __init__(self, path: Path, providers: list[Any], estimates: int) -> None:
        super().__init__(path, providers)
        self._estimates = estimates

    def __call__(self, cloud: VoxelisedCloud, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._estimates_of(self._run(cloud, {"t": t.float().cpu().numpy()}))

    def _estimates_of(self, output: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logit = output[:, : 3 * self._estimates], output[:, 3 * self._estimates :]
        return offsets.unflatten(1, (self._estimates, 3)), logit


class OnnxUnionRefiner(OnnxUnionDenoiser):
    """As networks.UnionRefiner."""

    def __call__(self, cloud: VoxelisedCloud) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._estimates_of(self._run(cloud, {}))


class OnnxRefiner(_OnnxNetwork):
    """As networks.Refiner."""

    def __call__(self, cloud: VoxelisedCloud) -> tuple[Tensor, Tensor]:
        output = self._run(cloud, {})
        return output[..., :3], output[..., 3:].flatten(1)


def cloud_input(name: str, cloud: VoxelisedCloud) -> np.ndarray:
    """The graph input called `name`, as onnx_export.CONVENTIONS describes it."""
    if name == "features":
        return cloud.features.cpu().numpy()
    if name == "point_row":
        return _int32(cloud.point_row)
    if name == "point_offset":
        return cloud.point_offset.cpu().numpy()
    kind, level, part = name.split(".")
    make = {"neighbours": neighbour_tables, "down": child_tables, "up": parent_tables}[kind]
    pyramid, number = cloud.pyramid, int(level)
    tables: dict[str, np.ndarray] = pyramid.cached(f"onnx {kind}", number, lambda: make(pyramid, number))
    return tables[part]


def neighbour_tables(pyramid: VoxelPyramid, level: int) -> dict[str, np.ndarray]:
    """table (R, 26), back (V,) of a level."""
    whole = np.delete(_table(pyramid.neighbours(level), 27), 13, axis=1)
    rows = np.flatnonzero((whole < len(whole)).any(axis=1))
    table = np.full((BLOCK * (len(rows) // BLOCK + 1), 26), len(whole), np.int32)
    table[: len(rows)] = whole[rows]
    back = np.full(len(whole), len(rows), np.int32)
    back[rows] = np.arange(len(rows), dtype=np.int32)
    return {"table": table, "back": back}


def child_tables(pyramid: VoxelPyramid, level: int) -> dict[str, np.ndarray]:
    """table (V_coarse, 8) of children."""
    return {"table": _table(pyramid.down(level), 8)}


def parent_tables(pyramid: VoxelPyramid, level: int) -> dict[str, np.ndarray]:
    """rows (V_fine,): 8 * parent + octant."""
    down = pyramid.down(level)
    octant = np.repeat(np.arange(8), down.counts)
    rows = np.empty(down.num_in, np.int32)
    rows[down.in_rows.cpu().numpy()] = 8 * down.out_rows.cpu().numpy() + octant
    return {"rows": rows}


def _table(kernel_map: KernelMap, kernel_size: int) -> np.ndarray:
    table = np.full((kernel_map.num_out, kernel_size), kernel_map.num_in, np.int32)
    offsets = np.repeat(np.arange(kernel_size), kernel_map.counts)
    table[kernel_map.out_rows.cpu().numpy(), offsets] = kernel_map.in_rows.cpu().numpy()
    return table


def _int32(rows: Tensor) -> np.ndarray:
    return rows.to(torch.int32).cpu().numpy()
