"""Compare this implementation with golden files written by the published implementation.

    python tests/parity.py GOLDEN.npz... --weights WEIGHTS.py [--device cuda] [--gradient-tolerance 0.02]

Accepts golden files of any width, number of points, timestep and batch size: denoisers (`eps_cond`), sparse primitives
(`sp_C`) and solver steps (`1.timesteps`). WEIGHTS.py has a function `fill(state_dict)` that sets every tensor to the values used
for the golden files. Prints the largest error of each output relative to its std; exits 1 above tolerance.
"""

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lidar_completion.diffusion import NoiseSchedule
from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, Refiner, VoxelisedCloud
from lidar_completion.samplers import dpm_solver_step
from lidar_completion.sparse.convolution import convolve
from lidar_completion.sparse.coordinates import Voxels, coarsen, pack, unique_voxels, voxel_mean, voxelise
from lidar_completion.sparse.kernel_map import KernelMap, kernel_map

VOXEL_SIZE_M = 0.05
REPLICATION = 10
OUTPUT_TOLERANCE = 1e-4
PRIMITIVE_TOLERANCE = 1e-5
# Gradients jump where a ReLU's input changes sign, so two float32 implementations differ by the number of such inputs within
# rounding error of zero. This depends on the file, not on its width.
GRADIENT_TOLERANCE = {"denoiser_quarter_layers": 1e-4, "denoiser_quarter": 2e-2, "denoiser_full": 2e-3}
OTHER_GRADIENT_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Check:
    """One output's largest error relative to its std (or, for tables and coordinates, the share of wrong rows)."""

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # NaN fails


Golden = dict[str, np.ndarray]
Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def check_file(
    golden: Golden, fill: Fill, device: str = "cpu", gradient_tolerance: float = OTHER_GRADIENT_TOLERANCE
) -> list[Check]:
    """All checks for one golden file; ValueError if its kind is unknown."""
    if "eps_cond" in golden:
        return check_denoiser(golden, fill, device, gradient_tolerance)
    if "sp_C" in golden:
        return list(check_primitives(golden, device))
    if any(name.endswith(".timesteps") for name in golden):
        return list(check_solver(golden))
    raise ValueError(f"no eps_cond, sp_C or *.timesteps among its arrays: {', '.join(sorted(golden)[:8])}")


# ---------------------------------------------------------------------------------------------------------------------
# Denoisers


def check_denoiser(golden: Golden, fill: Fill, device: str, gradient_tolerance: float) -> list[Check]:
    """Voxels, every stage, match tables, both branches, refiner, loss and gradient norms, if the file has them."""
    width = float(golden["cr"]) if "cr" in golden else 1.0
    architecture = Architecture(width=width, voxel_size_m=VOXEL_SIZE_M)
    encoder, denoiser, refiner = (
        filled(kind(architecture), fill, device) for kind in (ConditionEncoder, Denoiser, Refiner)
    )
    t = torch.from_numpy(np.atleast_1d(golden["t"]).astype(np.int64)).to(device)
    points, batch = points_of(golden["points"], device)
    scan, scan_batch = points_of(golden["scan"], device)
    t = t.expand(items(batch)) if len(t) == 1 else t
    cloud = VoxelisedCloud.from_points(points, VOXEL_SIZE_M, batch)
    replicated = replicate(scan, scan_batch)
    scan_cloud = VoxelisedCloud.from_points(*replicated[:1], VOXEL_SIZE_M, replicated[1])
    checks = list(check_voxels(golden, cloud))

    with stage_features({"encoder": encoder, "unet": denoiser}) as seen:
        condition = encoder(scan_cloud)
        eps = denoiser(cloud, condition, t)
    pyramids = {"encoder": scan_cloud.pyramid.levels, "unet": cloud.pyramid.levels}
    checks += check_stages(golden, seen, pyramids)
    checks += check_match_tables(golden, condition.nearest_tables(cloud.pyramid), cloud, condition.voxels)
    checks.append(compare("eps_cond", eps, golden["eps_cond"]))
    with torch.no_grad():
        if "eps_uncond" in golden:
            origin = torch.zeros(items(batch), 3, device=device)
            item = torch.arange(len(origin), device=device)
            nothing = encoder(VoxelisedCloud.from_points(origin, VOXEL_SIZE_M, item))
            checks.append(compare("eps_uncond", denoiser(cloud, nothing, t), golden["eps_uncond"]))
        if "refine_offset" in golden:
            offsets, _ = refiner(scan_cloud)
            expected = golden["refine_offset"].reshape(-1, *offsets.shape[1:])
            checks.append(compare("refine_offset", offsets[: len(expected)], expected))
    if "noise" in golden:
        checks += check_gradients(golden, eps, encoder, denoiser, gradient_tolerance)
    return checks


def points_of(array: np.ndarray, device: str) -> tuple[Tensor, Tensor | None]:
    """Points (N, 3) and batch items (N,) of (N, 3), (N, 4) with the item first, or (B, N, 3)."""
    tensor = torch.from_numpy(array).to(device)
    if tensor.dim() == 3:
        item = torch.arange(len(tensor), device=device).repeat_interleave(tensor.shape[1])
        return tensor.flatten(0, 1), item if len(tensor) > 1 else None
    if tensor.shape[1] == 4:
        item = tensor[:, 0].long()
        return tensor[:, 1:].contiguous(), item if items(item) > 1 else None
    return tensor, None


def items(batch: Tensor | None) -> int:
    return 1 if batch is None else int(batch.max()) + 1


def replicate(scan: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Every scan REPLICATION times, the whole scan after itself; batch items stay together."""
    if batch is None:
        return scan.repeat(REPLICATION, 1), None
    rows = [(batch == item).nonzero().squeeze(1).repeat(REPLICATION) for item in range(items(batch))]
    return scan[torch.cat(rows)], batch[torch.cat(rows)]


def filled(network: nn.Module, fill: Fill, device: str) -> Any:
    network.load_state_dict(fill(network.state_dict()))
    return network.to(device).eval()


class stage_features:
    """While open, the dictionary it gives holds every submodule's last output as 'network.path'."""

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self._seen: dict[str, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(self._keep(f"{name}.{path}"))
            for name, network in networks.items()
            for path, module in network.named_modules()
            if path
        ]

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: self._seen.__setitem__(name, output)

    def __enter__(self) -> dict[str, Tensor]:
        return self._seen

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def check_voxels(golden: Golden, cloud: VoxelisedCloud) -> Iterator[Check]:
    if "voxels.C" in golden:
        order = sorted_rows(golden["voxels.C"])
        yield compare_rows("voxels.C", cloud.pyramid.levels[0].coordinates, golden["voxels.C"][order])
        yield compare("voxels.F", cloud.features, golden["voxels.F"][order])


def check_stages(golden: Golden, seen: dict[str, Tensor], pyramids: dict[str, list[Voxels]]) -> Iterator[Check]:
    for name in sorted(key[:-2] for key in golden if key.endswith(".F") and key != "voxels.F"):
        network, _, path = name.partition(".")
        if name not in seen:
            print(f"  {name}: no such stage here, not checked", file=sys.stderr)
            continue
        order = sorted_rows(golden[f"{name}.C"])
        voxels = pyramids[network][stage_level(path)].coordinates
        yield compare_rows(f"{name}.C", voxels, golden[f"{name}.C"][order])
        yield compare(f"{name}.F", seen[name], golden[f"{name}.F"][order])


def stage_level(path: str) -> int:
    """The level on which a stage ends: stem 0, stage1..4 1..4, up1..4 3..0."""
    stage = path.split(".")[0]
    return 0 if stage == "stem" else int(stage[5:]) if stage.startswith("stage") else 4 - int(stage[2:])


def check_match_tables(
    golden: Golden, tables: list[Tensor], cloud: VoxelisedCloud, condition: Voxels
) -> Iterator[Check]:
    for level, table in enumerate(tables):
        if (name := f"match{level}") + ".C" in golden:
            order = sorted_rows(golden[f"{name}.C"])
            yield compare_rows(f"{name}.C", cloud.pyramid.levels[level].coordinates, golden[f"{name}.C"][order])
            yield compare_rows(f"{name}.part_C", condition.coordinates[table], golden[f"{name}.part_C"][order])


def check_gradients(
    golden: Golden, eps: Tensor, encoder: nn.Module, denoiser: nn.Module, tolerance: float
) -> Iterator[Check]:
    """Loss mean((eps_cond - noise)^2) and the norm of its gradient by every parameter, encoder first."""
    noise = torch.from_numpy(golden["noise"]).to(eps.device).view_as(eps)
    loss = (eps - noise).square().mean()
    if "loss" in golden:
        expected = float(golden["loss"])
        yield Check("loss", abs(loss.item() - expected) / abs(expected), OUTPUT_TOLERANCE)
    if "grad_norm" not in golden:
        return
    loss.backward()
    parameters = [*encoder.named_parameters(), *denoiser.named_parameters()]
    names = [str(name) for name in golden["grad_norm.names"]]
    if names != [name for name, _ in parameters]:
        by_name = dict(denoiser.named_parameters()), dict(encoder.named_parameters())
        parameters = reorder(names, *by_name)
    norms = np.array([0.0 if p.grad is None else p.grad.double().norm().item() for _, p in parameters])
    expected_norms = golden["grad_norm"].astype(np.float64)
    error = np.abs(norms - expected_norms) / np.maximum(expected_norms, 1e-6 * expected_norms.max())
    worst = int(error.argmax())
    yield Check("grad_norm", float(error[worst]), tolerance, f"{len(names)} parameters, the largest at {names[worst]}")


def reorder(names: list[str], denoiser: dict[str, Tensor], encoder: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Parameters in the file's order: the first occurrence of a name is the encoder's (if it has one), the second the denoiser's."""
    seen: set[str] = set()
    ordered = []
    for name in names:
        owner = encoder if name in encoder and name not in seen else denoiser
        seen.add(name)
        ordered.append((name, owner[name]))
    return ordered


# ---------------------------------------------------------------------------------------------------------------------
# Sparse primitives


CHAIN = {  # what each operation is applied to
    "k3s1_at2": "k2s2",
    "k2s2_2to4": "k3s1_at2",
    "tr_k2s2_4to2": "k2s2_2to4",
    "tr_k2s2_2to1": "tr_k2s2_4to2",
}
OPERATION = re.compile(r"(?P<tr>tr_)?k(?P<size>\d)s(?P<stride>\d)(d(?P<dilation>\d))?(?P<bias>bias)?(_.*)?")


def check_primitives(golden: Golden, device: str) -> Iterator[Check]:
    """Every convolution of the file on the reference's own input, concatenation, voxelisation and slicing."""
    for name in (key[: -len("_kernel")] for key in golden if key.endswith("_kernel")):
        yield from check_convolution(golden, name, CHAIN.get(name, "sp"), device)
    if "cat_F" in golden:
        parts = (features_of(golden, source)[1] for source in ("tr_k2s2_2to1", "sp"))
        expected = golden["cat_F"][sorted_rows(golden["sp_C"])]
        yield compare("cat", torch.from_numpy(np.concatenate(list(parts), 1)), expected, PRIMITIVE_TOLERANCE)
    if "tf_points" in golden:
        yield from check_voxelisation(golden, device)


def check_convolution(golden: Golden, name: str, source: str, device: str) -> Iterator[Check]:
    form = OPERATION.fullmatch(name)
    if form is None:
        raise ValueError(f"{name}_kernel: not a name like k3s1, k3s1d2, k2s2_2to4 or tr_k2s2_2to1")
    stride = int(np.ravel(golden.get(f"{source}_tensor_stride", [1]))[0])
    inputs, features = features_of(golden, source)
    voxels = Voxels(pack_rows(inputs, device), stride)
    outputs, expected = features_of(golden, name)
    kernel = torch.from_numpy(golden[f"{name}_kernel"]).to(device)
    if kernel.dim() == 2:
        target, table = voxels, None
    else:
        target, table = output_map(voxels, outputs, form, device)
    out = convolve(torch.from_numpy(features).to(device), kernel, table)  # type: ignore[arg-type]
    if f"{name}_bias" in golden:
        out = out + torch.from_numpy(golden[f"{name}_bias"]).to(device)
    yield compare_rows(f"{name}.C", target.coordinates, outputs)
    yield compare(f"{name}.F", out, expected, PRIMITIVE_TOLERANCE)


def output_map(voxels: Voxels, outputs: np.ndarray, form: re.Match[str], device: str) -> tuple[Voxels, KernelMap]:
    """The operation's output voxels (of a transposed one: the file's, which exist beforehand) and its kernel map."""
    size, stride, dilation = int(form["size"]), int(form["stride"]), int(form["dilation"] or 1)
    if form["tr"]:
        target = Voxels(pack_rows(outputs, device), voxels.stride // stride)
        return target, kernel_map(target, voxels, size, dilation).transposed
    target = coarsen(voxels)[0] if stride == 2 else voxels
    return target, kernel_map(voxels, target, size, dilation)


def check_voxelisation(golden: Golden, device: str) -> Iterator[Check]:
    points = torch.from_numpy(golden["tf_points"]).to(device)
    voxels, row = voxelise(points[:, 1:], VOXEL_SIZE_M, points[:, 0].long())
    order = sorted_rows(golden["tf_sparse_C"])
    yield compare_rows("voxelise.C", voxels.coordinates, golden["tf_sparse_C"][order])
    mean = voxel_mean(torch.from_numpy(golden["tf_F"]).to(device), row, len(voxels))
    yield compare("voxelise.F", mean, golden["tf_sparse_F"][order], PRIMITIVE_TOLERANCE)
    if "slice_in_F" in golden:
        sliced = torch.from_numpy(golden["slice_in_F"][order]).to(device)[row]
        yield compare("slice", sliced, golden["slice_out_F"], PRIMITIVE_TOLERANCE)


def features_of(golden: Golden, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and features of a tensor of the file, sorted by coordinate."""
    order = sorted_rows(golden[f"{name}_C"])
    return golden[f"{name}_C"][order], golden[f"{name}_F"][order]


def pack_rows(coordinates: np.ndarray, device: str) -> Tensor:
    rows = torch.from_numpy(coordinates.astype(np.int64)).to(device)
    return unique_voxels(pack(rows[:, 1:], rows[:, 0]))[0].keys


# ---------------------------------------------------------------------------------------------------------------------
# Solver


def check_solver(golden: Golden) -> Iterator[Check]:
    """The published sampler's timesteps and every step's result, from given noises."""
    schedule = NoiseSchedule()
    for steps in sorted(int(name.split(".")[0]) for name in golden if name.endswith(".timesteps")):
        eps, noise, expected = (torch.from_numpy(golden[f"{steps}.{name}"]) for name in ("eps", "noise", "prev"))
        timesteps = schedule.timesteps(steps)
        wrong = timesteps != golden[f"{steps}.timesteps"].tolist()
        yield Check(f"{steps} steps: timesteps", float(wrong), 0.0)
        offset, before, worst = torch.from_numpy(golden[f"{steps}.x"]), None, 0.0
        for i, (t, t_next) in enumerate(zip(timesteps, [*timesteps[1:], 0], strict=True)):
            first_order = i == steps - 1 and steps < 15
            offset, clean = dpm_solver_step(
                offset, eps[i], t, t_next, schedule, noise[i], None if first_order else before
            )
            before = (clean, t)
            worst = max(worst, compare("", offset, expected[i].numpy()).error)
        yield Check(f"{steps} steps: offsets", worst, OUTPUT_TOLERANCE)


# ---------------------------------------------------------------------------------------------------------------------
# Comparing and printing


def sorted_rows(coordinates: np.ndarray) -> np.ndarray:
    """The order that sorts rows (batch, x, y, z) lexicographically."""
    return np.lexsort(coordinates.T[::-1])


def compare(name: str, ours: Tensor, golden: np.ndarray, tolerance: float = OUTPUT_TOLERANCE) -> Check:
    ours_array = ours.detach().double().cpu().numpy()
    golden = golden.reshape(-1, *golden.shape[-(ours_array.ndim - 1) :]) if golden.ndim > ours_array.ndim else golden
    if ours_array.shape != golden.shape:
        return Check(name, np.inf, tolerance, f"shape {ours_array.shape}, the file has {golden.shape}")
    scale = float(golden.std()) or 1.0
    return Check(name, float(np.abs(ours_array - golden).max(initial=0.0)) / scale, tolerance)


def compare_rows(name: str, ours: Tensor, golden: np.ndarray) -> Check:
    rows = ours.cpu().numpy()
    if rows.shape != golden.shape:
        return Check(name, 1.0, 0.0, f"{len(rows)} rows, the file has {len(golden)}")
    return Check(name, float((rows != golden).any(axis=1).mean()), 0.0)


def load_fill(path: Path) -> Fill:
    """The `fill` function of a weights file."""
    spec = importlib.util.spec_from_file_location("golden_weights", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path}: not a Python file with a function fill(state_dict)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill  # type: ignore[no-any-return]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("golden", nargs="+", type=Path, metavar="GOLDEN.npz")
    parser.add_argument("--weights", required=True, type=Path, metavar="WEIGHTS.py")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gradient-tolerance", type=float, help="default: 1e-4, 2e-2 or 2e-3 by the file's name")
    options = parser.parse_args(arguments)
    fill, failed = load_fill(options.weights), 0
    for path in options.golden:
        tolerance = options.gradient_tolerance or GRADIENT_TOLERANCE.get(path.stem, OTHER_GRADIENT_TOLERANCE)
        print(path)
        with np.load(path) as arrays:
            checks = check_file(dict(arrays), fill, options.device, tolerance)
        for check in checks:
            verdict = "ok  " if check.passed else "FAIL"
            print(f"  {verdict} {check.name:24} {check.error:9.2e}  (tolerance {check.tolerance:.0e}) {check.note}")
        failed += sum(not check.passed for check in checks)
    print(f"{failed} outputs above tolerance" if failed else "all within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
