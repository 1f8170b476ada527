"""Cost of the engine on a CUDA GPU, with the roofline: ceilings measured in the same run, FLOP and bytes counted.

    python benchmarks/engine_gpu.py [twins] [rows] [layers] [precision] [tune]     (default: all but tune)
    python benchmarks/engine_gpu.py counts                                         (needs no GPU: FLOP and bytes alone)

Paper size: 18,000 points of an HDL-64 sweep (of LIDAR_COMPLETION_SHARED, else of a simulated ring pattern), 10 copies,
voxels of 0.05 m, weights of tests/core/golden/weights.py (random ones where that file is missing). Needs only this
repository, torch, triton, numpy, numba and scipy.
"""

import argparse
import datetime
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "ros2_ws/src/lidar_completion"))  # where the package is not installed

from lidar_completion.completer import SceneCompleter  # noqa: E402
from lidar_completion.crop import crop_range, remove_invalid  # noqa: E402
from lidar_completion.denoiser import ScanDenoiser  # noqa: E402
from lidar_completion.model.card import ModelCard, Pipeline  # noqa: E402
from lidar_completion.model.weights import load_model  # noqa: E402
from lidar_completion.networks import (  # noqa: E402
    STAGE_LEVEL,
    Architecture,
    ConditionEncoder,
    Denoiser,
    VoxelisedCloud,
    fold_batch_norm,
)
from lidar_completion.networks import blocks as network_module  # noqa: E402
from lidar_completion.sparse import convolution, convolution_triton  # noqa: E402
from lidar_completion.sparse.kernel_map import KernelMap  # noqa: E402
from lidar_completion.sparse.nearest import nearest_rows  # noqa: E402
from lidar_completion.starts import replicate  # noqa: E402

POINTS, COPIES, VOXEL_M = 18_000, 10, 0.05
GUIDED_8_MS, UNGUIDED_1_MS, SHIPPED_MS, MEMORY_GIB = (250, 100), (25, 10), (15, None), (4, None)  # required, aim
DEVICE = "cuda"
DATASHEET = {torch.float32: 67e12, torch.bfloat16: 989e12}  # H200, dense; only for `counts`
DATASHEET_BANDWIDTH = 4.8e12


def real_sweep() -> Tensor:
    """(N, 3): an HDL-64 sweep within range, or simulated rings on ground and walls if there is none."""
    path = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared")) / "data/scans/hdl64_000123.ply"
    if path.is_file() and importlib.util.find_spec("plyfile"):
        from lidar_completion.point_cloud_files import read_points

        return crop_range(remove_invalid(torch.from_numpy(read_points(path).points)), 3.5, 50.0)
    azimuth, pitch = torch.linspace(-3.14, 3.14, 2000), torch.linspace(-0.43, 0.03, 64)
    a, p = torch.meshgrid(azimuth, pitch, indexing="ij")
    distance = torch.minimum(1.73 / torch.sin(-p).clamp(min=1e-3), 12 + 8 * torch.sin(3 * a))
    ring = torch.stack([a.cos() * p.cos(), a.sin() * p.cos(), p.sin()], -1) * distance[..., None]
    return crop_range(ring.reshape(-1, 3), 3.5, 50.0)


def scan_of(sweep: Tensor) -> Tensor:
    return sweep[torch.randperm(len(sweep), generator=torch.Generator().manual_seed(0))[:POINTS]]


def noised(scan: Tensor, noise_m: float) -> Tensor:
    replicated = replicate(scan, COPIES)
    noise = torch.randn(replicated.shape, generator=torch.Generator().manual_seed(0))
    return replicated + noise_m * noise.to(replicated.device)


def golden_networks() -> dict[str, nn.Module]:
    built = {"encoder": ConditionEncoder(Architecture()), "denoiser": Denoiser(Architecture())}
    path = ROOT / "tests/core/golden/weights.py"
    if path.is_file():
        spec = importlib.util.spec_from_file_location("weights", path)
        weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(weights)
        for network in built.values():
            network.load_state_dict(weights.fill(network.state_dict()))
    return built


def completer(networks: dict[str, nn.Module], wide_dtype: torch.dtype, device: torch.device) -> SceneCompleter:
    """The published sampler; a downsampling so fine that all 18,000 points stay."""
    pipeline = Pipeline(downsample_voxel_m=0.001, replication=COPIES, sampler="dpm_solver", published_start=True)
    folded = {name: fold_batch_norm(network, wide_dtype).to(device) for name, network in networks.items()}
    return SceneCompleter(ModelCard("golden", pipeline=pipeline), folded, device)


# ---------------------------------------------------------------------------------------------------------------------
# Ceilings, clocks, counts


def milliseconds(function: Callable[[], object], repeats: int = 10, warm_up: int = 3) -> float:
    """Median time of a call by CUDA events, after warming up."""
    for _ in range(warm_up):
        function()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


@dataclass(frozen=True)
class Ceilings:
    flops: dict[torch.dtype, float]  # FLOP/s of a large matrix product
    bandwidth: float  # bytes/s of a large copy, read and written

    def floor_ms(self, flop: float, moved: float, dtype: torch.dtype) -> float:
        return 1e3 * max(flop / self.flops[dtype], moved / self.bandwidth)


def measured_ceilings() -> Ceilings:
    flops = {}
    for dtype, n in ((torch.float32, 4096), (torch.float16, 8192), (torch.bfloat16, 8192)):
        a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
        flops[dtype] = 2e3 * n**3 / milliseconds(lambda a=a, b=b: a @ b)
    big = torch.randn(1 << 29, device=DEVICE)
    target = torch.empty_like(big)
    return Ceilings(flops, 2e3 * big.nbytes / milliseconds(lambda: target.copy_(big)))


@dataclass
class Layer:
    """One convolution as it was called."""

    volume: int
    c_in: int
    c_out: int
    rows_in: int
    rows_out: int
    pairs: int
    products: int  # rows times offsets that the Triton path multiplies, padding of blocks included
    dtype: torch.dtype
    moved: int  # fewest bytes: inputs, output, residual, kernel and table once each
    gathered: int  # bytes that the gathers ask the caches for
    call: Callable[[str], object]  # the same convolution again, with a backend

    @property
    def flop(self) -> float:
        return 2.0 * self.pairs * self.c_in * self.c_out


@contextmanager
def recorded(layers: list[Layer], repeatable: bool = False) -> Iterator[None]:
    """Every convolution that the networks call meanwhile; repeatable ones keep their tensors in memory."""
    plain = network_module.convolve

    def record(features, kernel, kernel_map=None, backend="auto", **more):  # type: ignore[no-untyped-def]
        out = plain(features, kernel, kernel_map, backend, **more)
        layers.append(layer_of(features, kernel, kernel_map, out, more))
        if repeatable:
            layers[-1].call = lambda name: plain(features, kernel, kernel_map, name, **more)
        return out

    network_module.convolve = record
    try:
        yield
    finally:
        network_module.convolve = plain


def layer_of(features: Tensor, kernel: Tensor, kernel_map: KernelMap | None, out: Tensor, more: dict) -> Layer:
    c_in, c_out = kernel.shape[-2:]
    moved = sum(x.nbytes for x in (features, kernel, out, more.get("residual")) if x is not None)
    volume = pairs = products = len(out)
    if kernel.dim() == 3:
        volume, pairs = len(kernel), int((kernel_map.table >= 0).sum())
        passes = convolution_triton.plans(kernel_map, convolution_triton.passes_of(kernel))
        products = sum(int(plan.counts.sum()) * plan.block_rows for plan in passes)
        moved += kernel_map.table.nbytes
    else:
        volume = 1
    gathered = products * c_in * features.element_size()
    return Layer(
        volume, c_in, c_out, len(features), len(out), pairs, products, kernel.dtype, moved, gathered, lambda _: None
    )


def gate_cost(cloud: VoxelisedCloud, condition_voxels: int) -> tuple[float, float]:
    """FLOP and bytes of the eight gates and four concatenations of a conditional forward."""
    c = Architecture().channels
    flop = moved = 0.0
    for i, (stage, level) in enumerate(STAGE_LEVEL.items()):
        hidden = c[4] if i < 6 else c[i]
        flop += 2 * condition_voxels * (2 * c[4] ** 2 + 2 * c[4] * hidden + hidden * c[i])
        moved += 4 * len(cloud.pyramid.levels[level]) * (3 * c[i] + 2)
        if stage.startswith("up"):
            j = i - 4
            moved += 8 * len(cloud.pyramid.levels[level - 1]) * (c[5 + j] + c[3 - j])
    return flop, moved


def forward_cost(
    layers: list[Layer], cloud: VoxelisedCloud, condition_voxels: int
) -> tuple[dict[torch.dtype, float], float]:
    """FLOP by dtype and fewest bytes of one conditional forward, if nothing but its tensors moved once a layer."""
    flop: dict[torch.dtype, float] = {}
    for layer in layers:
        flop[layer.dtype] = flop.get(layer.dtype, 0.0) + layer.flop
    gates, moved = gate_cost(cloud, condition_voxels)
    flop[torch.float32] = flop.get(torch.float32, 0.0) + gates
    return flop, moved + sum(layer.moved for layer in layers)


def floor_of(flop: dict[torch.dtype, float], moved: float, ceilings: Ceilings) -> float:
    arithmetic = 1e3 * sum(count / ceilings.flops[dtype] for dtype, count in flop.items())
    return max(arithmetic, 1e3 * moved / ceilings.bandwidth)


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def print_twins() -> None:
    """Triton and the plain path, a layer of each kind: largest difference over the std, values and gradients."""
    cloud = VoxelisedCloud.from_points(noised(scan_of(real_sweep()), 0.5).to(DEVICE), VOXEL_M)
    maps = {"neighbours": cloud.pyramid.neighbours(3), "down": cloud.pyramid.down(2), "up": cloud.pyramid.up(2)}
    print("| map | channels | features, kernel | values | by features | by kernel |\n|---|---|---|---|---|---|")
    dtypes = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float16)]
    for kind, table in maps.items():
        for c_in, c_out in ((3, 32), (32, 48), (128, 256)):
            for features_dtype, kernel_dtype in dtypes:
                features = torch.randn(table.num_in, c_in, device=DEVICE).to(features_dtype)
                kernel = (torch.randn(table.volume, c_in, c_out, device=DEVICE) / c_in**0.5).to(kernel_dtype)
                weight = torch.randn(table.num_out, c_out, device=DEVICE)
                results = []
                for name in ("torch", "triton"):
                    exact = torch.float64 if name == "torch" else None
                    leaves = [x.to(exact or x.dtype).clone().requires_grad_() for x in (features, kernel)]
                    out = convolution.convolve(*leaves, table, name)
                    results.append((out, *torch.autograd.grad(out, leaves, weight.to(out.dtype))))
                apart = [float((b.double() - a).abs().max() / a.std()) for a, b in zip(*results, strict=True)]
                shown = " | ".join(f"{error:.1e}" for error in apart)
                print(f"| {kind} | {c_in}->{c_out} | {features_dtype}, {kernel_dtype} | {shown} |", flush=True)


@torch.inference_mode()
def print_rows(ceilings: Ceilings) -> None:
    device, scan, networks = torch.device(DEVICE), scan_of(real_sweep()), golden_networks()
    print("| row | ms | required (aim) | GFLOP | GB | floor ms | share of the floor | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, wide in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        ours = completer(networks, wide, device)
        for title, steps, guidance, limit in (
            ("8 guided steps", 8, 3.5, GUIDED_8_MS),
            ("1 unguided step", 1, 1.0, UNGUIDED_1_MS),
        ):
            flop, moved = run_cost(ours, scan, steps, guidance)
            torch.cuda.reset_peak_memory_stats()
            times = [ours.complete(scan, steps=steps, guidance=guidance).timings["denoise"] for _ in range(7)]
            ms, memory = 1e3 * statistics.median(times[2:]), torch.cuda.max_memory_allocated() / 2**30
            floor = floor_of(flop, moved, ceilings)
            print(
                f"| paper size, {title}, {name} | {ms:.1f} | {limit[0]} ({limit[1]}) | {sum(flop.values()) / 1e9:.0f} "
                f"| {moved / 1e9:.1f} | {floor:.1f} | {100 * floor / ms:.0f} % | {memory:.2f} (<= {MEMORY_GIB[0]}) |",
                flush=True,
            )
    for folder in sorted((ROOT / "models").glob("*/model.json")):
        card, shipped = load_model(folder.parent)
        folded = {key: fold_batch_norm(network).to(device) for key, network in shipped.items()}
        ours, sweep = SceneCompleter(card, folded, device), real_sweep()
        torch.cuda.reset_peak_memory_stats()
        rows = [ours.complete(sweep).timings for _ in range(23)][3:]
        total, denoise = (1e3 * statistics.median(row[key] for row in rows) for key in ("total", "denoise"))
        memory = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"| {card.name}, sweep of {len(sweep)} points to completion, without DDS | {total:.1f} (denoise {denoise:.1f}) "
            f"| {SHIPPED_MS[0]} | | | | | {memory:.2f} |",
            flush=True,
        )


def run_cost(ours: SceneCompleter, scan: Tensor, steps: int, guidance: float) -> tuple[dict[torch.dtype, float], float]:
    """FLOP by dtype and bytes of a whole run, counted while it runs (the encoder's included; gates left out)."""
    layers: list[Layer] = []
    with recorded(layers):
        ours.complete(scan, steps=steps, guidance=guidance)
    flop: dict[torch.dtype, float] = {}
    for layer in layers:
        flop[layer.dtype] = flop.get(layer.dtype, 0.0) + layer.flop
    return flop, float(sum(layer.moved for layer in layers))


@torch.inference_mode()
def print_layers(ceilings: Ceilings, noise_m: float = 1.0) -> None:
    """Every shape of convolution of one conditional forward, timed alone; then the stages around them."""
    networks = {name: fold_batch_norm(n, torch.bfloat16).to(DEVICE) for name, n in golden_networks().items()}
    scan = scan_of(real_sweep()).to(DEVICE)
    points, t = noised(scan, noise_m), torch.tensor([999], device=DEVICE)
    condition, cloud = (
        networks["encoder"](VoxelisedCloud.from_points(scan, VOXEL_M)),
        VoxelisedCloud.from_points(points, VOXEL_M),
    )
    tables = condition.nearest_tables(cloud.pyramid)
    layers: list[Layer] = []
    with recorded(layers, repeatable=True):
        networks["denoiser"](cloud, condition, t, tables)
    shapes: dict[tuple, list[Layer]] = {}
    for layer in layers:
        key = (layer.volume, layer.c_in, layer.c_out, layer.rows_out, str(layer.dtype).split(".")[1])
        shapes.setdefault(key, []).append(layer)
    print("| kernel | channels | rows | dtype | layers | ms each | TFLOP/s | padding | floor ms | share | plain ms |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for (volume, c_in, c_out, rows, dtype), same in shapes.items():
        layer = same[0]
        ms, plain = (milliseconds(lambda name=name, layer=layer: layer.call(name)) for name in ("auto", "torch"))
        floor = ceilings.floor_ms(layer.flop, layer.moved, layer.dtype)
        print(
            f"| {volume} | {c_in}->{c_out} | {rows} | {dtype} | {len(same)} | {ms:.3f} | {layer.flop / ms / 1e9:.0f} "
            f"| {layer.products / layer.pairs:.2f} | {floor:.3f} | {100 * floor / ms:.0f} % | {plain:.3f} |",
            flush=True,
        )

    def maps() -> None:
        fresh = VoxelisedCloud.from_points(points, VOXEL_M).pyramid
        for level in range(5):
            convolution_triton.plans(fresh.neighbours(level), 3 if level > 1 else 1)
        for level in range(4):
            convolution_triton.plans(fresh.down(level), 1)
            convolution_triton.plans(fresh.up(level), 1)

    print("| stage | ms |\n|---|---|")
    stages = {
        "voxels and pyramid": lambda: VoxelisedCloud.from_points(points, VOXEL_M),
        "voxels, pyramid, kernel maps and plans": maps,
        "five nearest tables": lambda: [nearest_rows(level, condition.voxels) for level in cloud.pyramid.levels],
        "condition encoder": lambda: networks["encoder"](VoxelisedCloud.from_points(scan, VOXEL_M)),
        "conditional forward, maps at hand": lambda: networks["denoiser"](cloud, condition, t, tables),
    }
    for name, function in stages.items():
        print(f"| {name} | {milliseconds(function):.2f} |", flush=True)


@torch.inference_mode()
def print_precision() -> None:
    """What half precision changes: mean error of one forward, and the Chamfer distance between the completions."""
    scan, networks, device = scan_of(real_sweep()), golden_networks(), torch.device(DEVICE)
    scenes, outputs = {}, {}
    for name, wide in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        ours = completer(networks, wide, device)
        outputs[name] = ScanDenoiser(ours.networks, ours.card.architecture, scan.to(device))(
            noised(scan, 1.0).to(device), 999
        ).noise
        scenes[name] = torch.from_numpy(ours.complete(scan, steps=1).completed_points).to(device)
    print("| products of wide layers | mean error of a forward, of its std | CD to the sweep, m | change |")
    print("|---|---|---|---|")
    exact, target = outputs["float32"], scan.to(device)
    distances = {name: chamfer(scene, target) for name, scene in scenes.items()}
    for name, eps in outputs.items():
        error, change = float((eps - exact).abs().mean() / exact.std()), distances[name] / distances["float32"] - 1
        print(f"| {name} | {100 * error:.3f} % | {distances[name]:.4f} | {100 * change:+.2f} % |")
    print("(random weights: what counts is the change, which the trained model has to confirm)")


def chamfer(a: Tensor, b: Tensor) -> float:
    def one_way(x: Tensor, y: Tensor) -> float:
        return float(torch.cat([torch.cdist(part, y).amin(1) for part in x.split(4096)]).mean())

    return (one_way(a, b) + one_way(b, a)) / 2


@torch.inference_mode()
def print_tuning() -> None:
    """Other block shapes, passes and float32 precisions for the layers that cost most; shape_of and passes_of hold the choice."""
    points = noised(scan_of(real_sweep()), 1.0).to(DEVICE)
    pyramid = VoxelisedCloud.from_points(points, VOXEL_M).pyramid
    module, Shape = convolution_triton, convolution_triton.Shape
    chosen = module.shape_of, module.passes_of, module.FLOAT32_PRECISION
    print(
        "| level | channels | dtype | tile n x c, warps, stages | passes | precision | ms |\n|---|---|---|---|---|---|---|"
    )
    for level, c_in, c_out in ((3, 512, 256), (3, 256, 256), (2, 128, 128), (0, 96, 96), (0, 32, 32)):
        table = pyramid.neighbours(level)
        features, kernel = torch.randn(table.num_in, c_in, device=DEVICE), torch.randn(27, c_in, c_out, device=DEVICE)
        for dtype in (torch.bfloat16, torch.float32):
            half, weights = dtype != torch.float32, kernel.to(dtype)
            shapes = [
                Shape(n, c, w, s)
                for n, c in ((64, 32), (128, 32), (128, 64), (256, 32))
                for w, s in ((4, 3), (8, 2), (8, 3))
            ]
            for shape in shapes:
                for passes in (1, 3):
                    for precision in ("ieee",) if half else ("ieee", "tf32x3"):
                        module.shape_of = lambda _, shape=shape: shape
                        module.passes_of = lambda _, passes=passes: passes
                        module.FLOAT32_PRECISION = precision
                        try:
                            ms = milliseconds(partial(module.convolve_fused, features, weights, table), 5, 2)
                        except Exception as error:  # too much shared memory, say
                            print(f"| {level} | {c_in}->{c_out} | {dtype} | {shape} | {type(error).__name__} |")
                            continue
                        tile = f"{shape.block_n} x {shape.block_c}, {shape.warps}, {shape.stages}"
                        print(
                            f"| {level} | {c_in}->{c_out} | {dtype} | {tile} | {passes} | {precision} | {ms:.3f} |",
                            flush=True,
                        )
    module.shape_of, module.passes_of, module.FLOAT32_PRECISION = chosen


@torch.inference_mode()
def print_counts(noise_m: float) -> None:
    """FLOP and bytes of one conditional forward, counted on the CPU from the maps, with the datasheet's lower bound."""
    scan = scan_of(real_sweep())
    cloud, condition = (
        VoxelisedCloud.from_points(noised(scan, noise_m), VOXEL_M),
        VoxelisedCloud.from_points(scan, VOXEL_M),
    )
    condition_voxels = len(condition.pyramid.levels[4])
    ceilings = Ceilings(DATASHEET, DATASHEET_BANDWIDTH)
    for name, wide in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        denoiser = fold_batch_norm(Denoiser(Architecture()), wide).to("meta")
        layers: list[Layer] = []
        walk_without_computing(denoiser, cloud, layers)
        flop, moved = forward_cost(layers, cloud, condition_voxels)
        padded = sum(2.0 * layer.products * layer.c_in * layer.c_out for layer in layers)
        gathered = sum(layer.gathered for layer in layers)
        print(
            f"| {noise_m} m, {name} | {[len(level) for level in cloud.pyramid.levels]} | {condition_voxels} "
            f"| {sum(layer.flop for layer in layers) / 1e9:.0f} | {padded / 1e9:.0f} "
            f"| {gate_cost(cloud, condition_voxels)[0] / 1e9:.0f} | {moved / 1e9:.2f} | {gathered / 1e9:.1f} "
            f"| {floor_of(flop, moved, ceilings):.2f} |",
            flush=True,
        )


def walk_without_computing(denoiser: nn.Module, cloud: VoxelisedCloud, layers: list[Layer]) -> None:
    """Record the trunk's convolutions with tensors that have shapes and no values."""

    def shapes_only(features, kernel, kernel_map=None, backend="auto", **more):  # type: ignore[no-untyped-def]
        rows = len(features) if kernel_map is None else kernel_map.num_out
        out = features.new_empty(rows, kernel.shape[-1])
        layers.append(layer_of(features, kernel, kernel_map, out, more))
        return out

    plain = network_module.convolve
    network_module.convolve = shapes_only
    try:
        features = cloud.features.to("meta")
        on_meta = VoxelisedCloud(cloud.pyramid, features, cloud.point_row, cloud.point_offset)
        denoiser.trunk(on_meta, lambda stage, features: features)
    finally:
        network_module.convolve = plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["twins", "rows", "layers", "precision"])
    parts = parser.parse_args().parts
    if "counts" in parts:
        print(
            "| noise, wide kernels | voxels | condition | GFLOP | with padding | gates | GB | gathered GB | floor ms |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for noise_m in (1.0, 0.05):
            print_counts(noise_m)
        return
    if not torch.cuda.is_available():
        sys.exit("engine_gpu.py needs a CUDA GPU, and PyTorch finds none here; `counts` is the part that needs none")
    backend = convolution.backend_of(torch.device(DEVICE))
    print(f"{datetime.date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}, backend {backend}")
    ceilings = measured_ceilings()
    peaks = ", ".join(f"{str(dtype).split('.')[1]} {peak / 1e12:.0f}" for dtype, peak in ceilings.flops.items())
    print(f"matrix products {peaks} TFLOP/s; copy {ceilings.bandwidth / 1e12:.2f} TB/s\n")
    if "twins" in parts:
        print_twins()
    if "rows" in parts:
        print_rows(ceilings)
    if "layers" in parts:
        print_layers(ceilings)
    if "precision" in parts:
        print_precision()
    if "tune" in parts:
        print_tuning()


if __name__ == "__main__":
    main()
