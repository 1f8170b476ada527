"""What the engine costs on this CPU: stages, layers and scaling beside the GEMM peak of the same run.

    python benchmarks/engine_cpu.py [stages] [layers] [scaling] [backends] [--noise 1.0] [--width 1.0] [--bfloat16]

Times are the process's CPU seconds divided by its threads, so that other work on the machine disturbs them less than
the clock; the clock's seconds stand beside. Paper size: 18,000 points of an HDL-64 sweep (of LIDAR_COMPLETION_SHARED,
else of a simulated ring pattern), 10 copies, noise 1 m (t = 999) or 0.05 m (near the surface).
"""

import argparse
import datetime
import importlib.util
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lidar_completion import networks as network_module
from lidar_completion import scan as sweeps
from lidar_completion.diffusion import guide
from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, VoxelisedCloud, fold_batch_norm
from lidar_completion.point_cloud_files import read_points
from lidar_completion.sparse import convolution, convolution_torch
from lidar_completion.sparse.nearest import nearest_rows

ROOT = Path(__file__).parents[1]
POINTS, COPIES, VOXEL_M = 18_000, 10, 0.05
# What the reference needs, and the requirement, on two cores of 245 GFLOP/s (the middle of its 180..310).
REQUIRED_AT_GFLOPS = 245.0
TABLE = {
    ("guided", 1.0, False): (77.0, 25.0),
    ("guided", 1.0, True): (None, 10.0),
    ("guided", 0.05, False): (35.0, 8.0),
    ("unguided", 1.0, False): (45.0, 13.0),
}


def real_sweep() -> Tensor:
    """(N, 3): an HDL-64 sweep in range, or rings on the ground and walls where there is none."""
    path = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared")) / "data/scans/hdl64_000123.ply"
    if path.is_file():
        points = torch.from_numpy(read_points(path).points)
        return sweeps.crop_range(sweeps.remove_invalid(points), 3.5, 50.0)
    azimuth, pitch = torch.linspace(-3.14, 3.14, 2000), torch.linspace(-0.43, 0.03, 64)
    a, p = torch.meshgrid(azimuth, pitch, indexing="ij")
    distance = torch.minimum(1.73 / torch.sin(-p).clamp(min=1e-3), 12 + 8 * torch.sin(3 * a))
    ring = torch.stack([a.cos() * p.cos(), a.sin() * p.cos(), p.sin()], -1) * distance[..., None]
    return sweeps.crop_range(ring.reshape(-1, 3), 3.5, 50.0)


def golden_networks(width: float) -> tuple[ConditionEncoder, Denoiser]:
    spec = importlib.util.spec_from_file_location("weights", ROOT / "tests/core/golden/weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    built = ConditionEncoder(Architecture(width=width)), Denoiser(Architecture(width=width))
    for network in built:
        network.load_state_dict(weights.fill(network.state_dict()))
    return built


def timed(function: Callable[[], object], repeats: int = 1) -> tuple[float, float]:
    """Median CPU seconds a thread, and of the clock."""
    rows = []
    for _ in range(repeats):
        cpu, clock = time.process_time(), time.perf_counter()
        function()
        rows.append(((time.process_time() - cpu) / torch.get_num_threads(), time.perf_counter() - clock))
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))


def gemm_peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of (2048, 256) @ (256, 256), all threads."""
    a, b = torch.randn(2048, 256).to(dtype), torch.randn(256, 256).to(dtype)
    out = torch.empty(2048, 256, dtype=dtype)
    seconds, _ = timed(lambda: [torch.mm(a, b, out=out) for _ in range(20)], 5)
    return 20 * 2 * 2048 * 256 * 256 / seconds / 1e9


class Scene:
    """A replicated, noised scan, as a step of the sampler sees it."""

    def __init__(self, noise_m: float, points: int = POINTS) -> None:
        generator = torch.Generator().manual_seed(0)
        sweep = real_sweep()
        self.scan = sweep[torch.randperm(len(sweep), generator=generator)[:points]]
        replicated = sweeps.replicate(self.scan, COPIES)
        self.points = replicated + noise_m * torch.randn(replicated.shape, generator=generator)

    def cloud(self) -> VoxelisedCloud:
        return VoxelisedCloud.of(self.points, VOXEL_M)


def print_stages(
    scene: Scene, encoder: nn.Module, denoiser: nn.Module, options: argparse.Namespace, peak: float
) -> None:
    sweep, scan = real_sweep(), VoxelisedCloud.of(scene.scan, VOXEL_M)
    condition, nothing = encoder(scan), encoder(VoxelisedCloud.of(torch.zeros(1, 3), VOXEL_M))
    cloud, t = scene.cloud(), torch.tensor([999])
    scale = REQUIRED_AT_GFLOPS / peak

    def maps() -> None:
        pyramid = scene.cloud().pyramid
        for level in range(5):
            pyramid.neighbours(level), nearest_rows(pyramid.levels[level], condition.voxels)
        for level in range(4):
            pyramid.down(level)

    def guided() -> None:
        guide(denoiser(cloud, condition, t), denoiser(cloud, nothing, t), 3.5)

    maps()
    print(f"voxels per level {[len(level) for level in cloud.pyramid.levels]}")
    print("| stage | CPU s | clock s | reference | required, scaled to this peak |\n|---|---|---|---|---|")
    rows = [
        (f"voxel downsampling of {len(sweep)} points", lambda: sweeps.voxel_downsample(sweep, 0.1), 5, (2.5, 0.015)),
        ("kernel maps and nearest tables", maps, 3, (12.0, 1.5)),
        ("condition", lambda: encoder(scan), 1, (None, None)),
        ("unguided forward", lambda: denoiser(cloud, condition, t), 1, required("unguided", options)),
        ("guided forward", guided, 1, required("guided", options)),
    ]
    for name, function, repeats, (reference, limit) in rows:
        cpu, clock = timed(function, repeats)
        wanted = "" if limit is None else f"{limit * (scale if 'forward' in name else 1):.3g}"
        print(f"| {name} | {cpu:.3f} | {clock:.3f} | {reference or ''} | {wanted} |", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process {memory:.2f} GiB (required <= 3)")


def required(kind: str, options: argparse.Namespace) -> tuple[float | None, float | None]:
    return TABLE.get((kind, options.noise, options.bfloat16), (None, None))


def print_layers(scene: Scene, encoder: nn.Module, denoiser: nn.Module, peak: float) -> None:
    cloud, condition = scene.cloud(), encoder(VoxelisedCloud.of(scene.scan, VOXEL_M))
    rows: dict[tuple[int, int, int, int], list[float]] = {}
    plain = convolution.convolve

    def measured(features, kernel, kernel_map, *rest, **more):  # type: ignore[no-untyped-def]
        begin = time.process_time()
        out = plain(features, kernel, kernel_map, *rest, **more)
        seconds = (time.process_time() - begin) / torch.get_num_threads()
        pairs = len(features) if kernel_map is None else sum(kernel_map.counts)
        key = (1 if kernel.dim() == 2 else len(kernel), *kernel.shape[-2:], len(out))
        row = rows.setdefault(key, [0, 0.0, 0.0])
        row[0], row[1], row[2] = (
            row[0] + 1,
            row[1] + seconds,
            row[2] + 2e-9 * pairs * kernel.shape[-2] * kernel.shape[-1],
        )
        return out

    tables = condition.nearest_tables(cloud.pyramid)
    network_module.convolve = measured
    try:
        whole, _ = timed(lambda: denoiser(cloud, condition, torch.tensor([999]), tables))
    finally:
        network_module.convolve = plain
    print("| kernel | channels | voxels out | layers | CPU ms | GFLOP | GFLOP/s | share of peak |")
    print("|---|---|---|---|---|---|---|---|")
    for (size, c_in, c_out, voxels), (count, seconds, gflop) in sorted(rows.items(), key=lambda row: -row[1][1]):
        share = f"{100 * gflop / seconds / peak:.0f} %"
        print(
            f"| {size} | {c_in}->{c_out} | {voxels} | {count} | {1e3 * seconds:.0f} | {gflop:.1f} | {gflop / seconds:.0f} | {share} |"
        )
    wide = [row for key, row in rows.items() if min(key[1:3]) >= 128 and key[0] > 1]
    convolved, gflop = sum(row[1] for row in rows.values()), sum(row[2] for row in rows.values())
    print(f"convolutions {convolved:.1f} s of {whole:.1f} s, {gflop:.0f} GFLOP")
    if wide:
        share = sum(row[2] for row in wide) / sum(row[1] for row in wide) / peak
        print(
            f"layers with >= 128 channels, gather and scatter included: {100 * share:.0f} % of the peak (required 55 %)"
        )


def print_scaling(width: float) -> list[tuple[int, float]]:
    encoder, denoiser = (fold_batch_norm(network) for network in golden_networks(width))
    print("| points | voxels | CPU s a forward | microseconds a point |\n|---|---|---|---|")
    rows = []
    for points in (200, 600, 2000, 6000, 18_000):
        scene = Scene(1.0, points)
        cloud, condition = scene.cloud(), encoder(VoxelisedCloud.of(scene.scan, VOXEL_M))
        cpu, _ = timed(lambda c=cloud, k=condition: denoiser(c, k, torch.tensor([999])))
        n = points * COPIES
        rows.append((n, cpu))
        print(f"| {n} | {len(cloud.pyramid.levels[0])} | {cpu:.3f} | {1e6 * cpu / n:.1f} |", flush=True)
    return rows


def print_backends(width: float) -> None:
    from lidar_completion.checkpoints import ModelCard, save_model
    from lidar_completion.onnx_export import export_model
    from lidar_completion.onnx_network import load_onnx_networks

    scene = Scene(1.0, 2000)
    plain = golden_networks(width)
    encoder, denoiser = (fold_batch_norm(network) for network in plain)
    cloud, condition, t = scene.cloud(), encoder(VoxelisedCloud.of(scene.scan, VOXEL_M)), torch.tensor([999])
    backend = convolution_torch.convolve
    print("| backend | CPU s | clock s |\n|---|---|---|")

    def only_plain(features, kernel, kernel_map, *_, bias=None, residual=None, relu=False):  # type: ignore[no-untyped-def]
        out = features @ kernel if kernel.dim() == 2 else backend(features, kernel, kernel_map)
        out = out + bias if bias is not None else out
        out = out + residual if residual is not None else out
        return out.relu() if relu else out

    with tempfile.TemporaryDirectory() as folder:
        card = ModelCard(name="golden", architecture=Architecture(width=width))
        card = save_model(folder, card, dict(zip(("encoder", "denoiser"), plain, strict=True)))
        export_model(folder)
        on_onnx = load_onnx_networks(folder, card, torch.device("cpu"))["denoiser"]
        rows = {"cpu": lambda: denoiser(cloud, condition, t), "onnxruntime": lambda: on_onnx(cloud, condition, t)}
        for name, function in rows.items():
            function()
            print("| {} | {:.3f} | {:.3f} |".format(name, *timed(function, 3)), flush=True)
    fused = network_module.convolve
    network_module.convolve = only_plain
    print("| plain PyTorch | {:.3f} | {:.3f} |".format(*timed(lambda: denoiser(cloud, condition, t), 2)))
    network_module.convolve = fused


def machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{datetime.date.today()}, {model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["stages", "layers"])
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    peaks = gemm_peak(), gemm_peak(torch.bfloat16)
    print(f"{machine()}\nGEMM peak {peaks[0]:.0f} GFLOP/s float32, {peaks[1]:.0f} bfloat16")
    print(f"width {options.width}, noise {options.noise} m, {dtype}\n")
    encoder, denoiser = (fold_batch_norm(network, dtype) for network in golden_networks(options.width))
    if "stages" in options.parts:
        print_stages(Scene(options.noise), encoder, denoiser, options, peaks[0])
    if "layers" in options.parts:
        print_layers(Scene(options.noise), encoder, denoiser, peaks[options.bfloat16])
    if "scaling" in options.parts:
        print_scaling(options.width)
    if "backends" in options.parts:
        print_backends(options.width)
    print(f"GEMM peak at the end {gemm_peak():.0f} GFLOP/s float32")


if __name__ == "__main__":
    main()
