"""Cost of the engine on this CPU: stages, layers, memory, scaling and backends, with the GEMM peak of the same run.

    python benchmarks/engine_cpu.py [stages] [layers] [memory] [scaling] [backends]
        [--noise 1.0] [--width 1.0] [--bfloat16] [--repeats 3] [--steps 8] [--points 18000] [--threads N] [--json FILE]

Each figure is a median of wall-clock times; CPU seconds per thread are given too, which other work on the machine disturbs
less. Paper size: 18,000 points of an HDL-64 sweep (of LIDAR_COMPLETION_SHARED, else of a simulated ring pattern), 10
copies, noise 1 m (t = 999) or 0.05 m (near the surface). `run_all.py` runs every part and puts the figures together.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lidar_completion.crop import crop_range, remove_invalid
from lidar_completion.diffusion import NoiseSchedule, guide
from lidar_completion.downsample import voxel_downsample
from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, VoxelisedCloud, fold_batch_norm
from lidar_completion.networks import blocks as network_module
from lidar_completion.point_cloud_files import read_points
from lidar_completion.samplers import Prediction, dpm_solver
from lidar_completion.starts import replicate

ROOT = Path(__file__).parents[1]
POINTS, COPIES, VOXEL_M = 18_000, 10, 0.05


def real_sweep() -> Tensor:
    """(N, 3): an HDL-64 sweep within range, or simulated rings on ground and walls if there is none."""
    path = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared")) / "data/scans/hdl64_000123.ply"
    if path.is_file():
        points = torch.from_numpy(read_points(path).points)
        return crop_range(remove_invalid(points), 3.5, 50.0)
    azimuth, pitch = torch.linspace(-3.14, 3.14, 2000), torch.linspace(-0.43, 0.03, 64)
    a, p = torch.meshgrid(azimuth, pitch, indexing="ij")
    distance = torch.minimum(1.73 / torch.sin(-p).clamp(min=1e-3), 12 + 8 * torch.sin(3 * a))
    ring = torch.stack([a.cos() * p.cos(), a.sin() * p.cos(), p.sin()], -1) * distance[..., None]
    return crop_range(ring.reshape(-1, 3), 3.5, 50.0)


def golden_networks(width: float) -> tuple[ConditionEncoder, Denoiser]:
    spec = importlib.util.spec_from_file_location("weights", ROOT / "tests/core/golden/weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    built = ConditionEncoder(Architecture(width=width)), Denoiser(Architecture(width=width))
    for network in built:
        network.load_state_dict(weights.fill(network.state_dict()))
    return built


def timed(function: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Median seconds by the clock, and of the CPU a thread."""
    rows = []
    for _ in range(repeats):
        cpu, clock = time.process_time(), time.perf_counter()
        function()
        rows.append((time.perf_counter() - clock, (time.process_time() - cpu) / torch.get_num_threads()))
    return dict(zip(("clock_s", "cpu_s"), map(statistics.median, zip(*rows, strict=True)), strict=True))


def gemm_peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of (2048, 256) @ (256, 256), all threads, by their CPU seconds."""
    a, b = torch.randn(2048, 256).to(dtype), torch.randn(256, 256).to(dtype)
    out = torch.empty(2048, 256, dtype=dtype)
    seconds = timed(lambda: [torch.mm(a, b, out=out) for _ in range(20)], 9)["cpu_s"]
    return 20 * 2 * 2048 * 256 * 256 / seconds / 1e9


class Scene:
    """A replicated, noised scan, as a step of the sampler sees it."""

    def __init__(self, noise_m: float, points: int = POINTS) -> None:
        generator = torch.Generator().manual_seed(0)
        sweep = real_sweep()
        self.scan = sweep[torch.randperm(len(sweep), generator=generator)[:points]]
        replicated = replicate(self.scan, COPIES)
        self.points = replicated + noise_m * torch.randn(replicated.shape, generator=generator)

    def cloud(self) -> VoxelisedCloud:
        return VoxelisedCloud.from_points(self.points, VOXEL_M)


@dataclass
class Run:
    """What every part measures with."""

    options: argparse.Namespace
    peaks: dict[str, float]
    plain: tuple[ConditionEncoder, Denoiser]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.options.bfloat16 else torch.float32

    def folded(self) -> list[nn.Module]:
        return [fold_batch_norm(network, self.dtype) for network in self.plain]

    def scene(self) -> Scene:
        return Scene(self.options.noise, self.options.points)


T_LAST = torch.tensor([999])
NOTHING = torch.zeros(1, 3)


def measure_stages(run: Run) -> dict[str, Any]:
    scene, (encoder, denoiser), repeats = run.scene(), run.folded(), run.options.repeats
    sweep, scan = real_sweep(), VoxelisedCloud.from_points(scene.scan, VOXEL_M)
    condition, nothing = encoder(scan), encoder(VoxelisedCloud.from_points(NOTHING, VOXEL_M))

    def maps() -> None:
        pyramid = scene.cloud().pyramid
        condition.nearest_tables(pyramid)
        for level in range(5):
            pyramid.neighbours(level), pyramid.down(min(level, 3))

    def guided() -> Tensor:  # as a step of the sampler: from points to noise
        cloud = scene.cloud()
        return guide(denoiser(cloud, condition, T_LAST), denoiser(cloud, nothing, T_LAST), 3.5)

    maps(), small_forward(run)
    stages = {
        "voxel downsampling": (lambda: voxel_downsample(sweep, 0.1), 9),
        "kernel maps and nearest tables": (maps, 3),
        "condition": (lambda: encoder(scan), 3),
        "unguided forward": (lambda: denoiser(scene.cloud(), condition, T_LAST), repeats),
        "guided forward": (guided, repeats),
    }
    print(f"voxels per level {[len(level) for level in scene.cloud().pyramid.levels]}; {len(sweep)} points downsampled")
    print("| stage | clock s | CPU s a thread |\n|---|---|---|")
    figures: dict[str, Any] = {}
    for name, (function, times) in stages.items():
        figures[name] = timed(function, times)
        print("| {} | {clock_s:.3f} | {cpu_s:.3f} |".format(name, **figures[name]), flush=True)
    if run.options.bfloat16:
        figures["mean error, share of the output's std"] = error = rounding_error(run)
        print(f"mean error of bfloat16 {100 * error:.2f} % of the output's std (at most 2 %; 10,000 points)")
    return figures


def small_forward(run: Run) -> Tensor:
    """A forward of 10,000 points, which also compiles what is to be compiled."""
    encoder, denoiser = run.folded()
    scene = Scene(run.options.noise, 1000)
    return denoiser(scene.cloud(), encoder(VoxelisedCloud.from_points(scene.scan, VOXEL_M)), T_LAST)


def rounding_error(run: Run) -> float:
    exact = small_forward(replace(run, options=argparse.Namespace(**{**vars(run.options), "bfloat16": False})))
    return float((small_forward(run) - exact).abs().mean() / exact.std())


def measure_layers(run: Run) -> dict[str, Any]:
    scene, (encoder, denoiser) = run.scene(), run.folded()
    small_forward(run)
    cloud, condition = scene.cloud(), encoder(VoxelisedCloud.from_points(scene.scan, VOXEL_M))
    tables = condition.nearest_tables(cloud.pyramid)
    for level in range(5):
        cloud.pyramid.neighbours(level), cloud.pyramid.down(min(level, 3))
    rows: dict[tuple[int, int, int, int], list[float]] = {}
    plain = network_module.convolve

    def measured(features, kernel, kernel_map, *rest, **more):  # type: ignore[no-untyped-def]
        begin = time.process_time()
        out = plain(features, kernel, kernel_map, *rest, **more)
        seconds = (time.process_time() - begin) / torch.get_num_threads()
        pairs = len(features) if kernel_map is None else sum(kernel_map.counts)
        size, (c_in, c_out) = 1 if kernel.dim() == 2 else len(kernel), kernel.shape[-2:]
        moved = 4 * (len(features) * c_in + len(out) * c_out + kernel.numel()) / 1e6
        row = rows.setdefault((size, c_in, c_out, len(out)), [0, 0.0, 0.0, 0.0])
        for i, more_of_it in enumerate((1, seconds, 2e-9 * pairs * c_in * c_out, moved)):
            row[i] += more_of_it
        return out

    network_module.convolve = measured
    try:
        whole = timed(lambda: denoiser(cloud, condition, T_LAST, tables))["cpu_s"]
    finally:
        network_module.convolve = plain
    peak = run.peaks["bfloat16" if run.options.bfloat16 else "float32"]
    print(
        "| kernel | channels | voxels out | layers | CPU ms | GFLOP | GFLOP/s | share of peak | features and kernel, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (size, c_in, c_out, voxels), (count, seconds, gflop, moved) in sorted(rows.items(), key=lambda r: -r[1][1]):
        rate = gflop / max(seconds, 1e-9)
        print(
            f"| {size} | {c_in}->{c_out} | {voxels} | {count} | {1e3 * seconds:.0f} | {gflop:.1f} | {rate:.0f} "
            f"| {100 * rate / peak:.0f} % | {moved:.0f} |"
        )
    convolved, gflop = sum(row[1] for row in rows.values()), sum(row[2] for row in rows.values())
    print(f"convolutions {convolved:.2f} s of {whole:.2f} s, {gflop:.0f} GFLOP, {gflop / convolved:.0f} GFLOP/s")
    wide = [row for key, row in rows.items() if min(key[1:3]) >= 128 and key[0] > 1]
    share = sum(row[2] for row in wide) / max(1e-9, sum(row[1] for row in wide)) / peak
    if wide:
        print(f"layers with >= 128 channels, everything included: {100 * share:.0f} % of the peak")
    layers = [{"kernel": k[0], "channels": k[1:3], "voxels": k[3], "values": v} for k, v in rows.items()]
    return {
        "share of the peak, >= 128 channels": share,
        "forward_s": whole,
        "convolutions_s": convolved,
        "layers": layers,
    }


def measure_memory(run: Run) -> dict[str, Any]:
    """Peak of the whole process over guided steps of the published sampler, as the completer runs them."""
    scene, (encoder, denoiser), schedule = run.scene(), run.folded(), NoiseSchedule()
    del run.plain
    condition, nothing = (encoder(VoxelisedCloud.from_points(p, VOXEL_M)) for p in (scene.scan, NOTHING))
    replicated, peaks = replicate(scene.scan, COPIES), [peak_memory()]
    print(f"before the first step {peaks[0]:.2f} GiB", flush=True)

    def denoise(points: Tensor, t: int) -> Prediction:
        cloud, time_step = VoxelisedCloud.from_points(points, VOXEL_M), torch.tensor([t])
        stem = denoiser.stem_features(cloud)
        given, free = (denoiser(cloud, each, time_step, stem=stem) for each in (condition, nothing))
        eps = guide(given, free, 3.5)
        eps = eps / eps.std()  # untrained weights predict noise of any scale; at unit scale the points stay in place
        peaks.append(peak_memory())
        print(f"after step {len(peaks) - 1} (t = {t}) {peaks[-1]:.2f} GiB", flush=True)
        return Prediction(eps)

    timesteps = schedule.timesteps(8)[: run.options.steps]
    whole = timed(lambda: dpm_solver(denoise, replicated, scene.points, timesteps, schedule, torch.Generator()))
    print(f"{len(timesteps)} guided steps of 8: peak {peaks[-1]:.2f} GiB, {whole['clock_s']:.1f} s")
    return {"peak_gib": peaks, "steps": len(timesteps), **whole}


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_scaling(run: Run) -> dict[str, Any]:
    """One unguided forward by points and by width, and the published sampler by steps."""
    figures: dict[str, Any] = {"points": [], "steps": [], "width": []}
    small_forward(run)
    print("| points | voxels | clock s | CPU s a thread | CPU microseconds a point |\n|---|---|---|---|---|")
    for points in (2000, 6000, 20_000, 60_000, 200_000):
        if points > COPIES * run.options.points * 1.2:
            break
        row = forward_of(run.folded(), points)
        figures["points"].append(row)
        per_point = 1e6 * row["cpu_s"] / points
        print("| {points} | {voxels} | {clock_s:.3f} | {cpu_s:.3f} |".format(**row), f"{per_point:.1f} |", flush=True)
    encoder, denoiser = run.folded()
    scene, schedule = Scene(1.0, 1000), NoiseSchedule()
    condition, replicated = encoder(VoxelisedCloud.from_points(scene.scan, VOXEL_M)), replicate(scene.scan, COPIES)

    def denoise(points: Tensor, t: int) -> Prediction:
        return Prediction(denoiser(VoxelisedCloud.from_points(points, VOXEL_M), condition, torch.tensor([t])))

    print("\n| steps, 10,000 points | clock s | CPU s a thread |\n|---|---|---|")
    for steps in (1, 2, 4, 8):
        timesteps = schedule.timesteps(steps)
        row = timed(lambda t=timesteps: dpm_solver(denoise, replicated, scene.points, t, schedule, torch.Generator()))
        figures["steps"].append({"steps": steps, **row})
        print("| {steps} | {clock_s:.3f} | {cpu_s:.3f} |".format(steps=steps, **row), flush=True)
    print("\n| width, 20,000 points | parameters | clock s | CPU s a thread |\n|---|---|---|---|")
    for width in (0.125, 0.25, 0.5, 1.0):
        plain = golden_networks(width)
        parameters = sum(p.numel() for network in plain for p in network.parameters())
        row = forward_of([fold_batch_norm(network, run.dtype) for network in plain], 20_000)
        figures["width"].append({"width": width, "parameters": parameters, **row})
        print("| {width} | {parameters:,} | {clock_s:.3f} | {cpu_s:.3f} |".format(**figures["width"][-1]), flush=True)
    return figures


def forward_of(networks: list[nn.Module], points: int) -> dict[str, float]:
    """One forward with this number of points, from points to noise; the second of two, because the first compiles."""
    scene, (encoder, denoiser) = Scene(1.0, points // COPIES), networks
    condition = encoder(VoxelisedCloud.from_points(scene.scan, VOXEL_M))
    cloud = scene.cloud()
    if points <= 20_000:
        denoiser(cloud, condition, T_LAST)
    seconds = timed(lambda: denoiser(scene.cloud(), condition, T_LAST), 1 if points > 20_000 else 3)
    return {"points": points, "voxels": len(cloud.pyramid.levels[0]), **seconds}


def measure_backends(run: Run) -> dict[str, Any]:
    """Our CPU path, onnxruntime and plain PyTorch, on the published network and on the shipped model."""
    figures = {"paper": published_on_backends(run)}
    model = ROOT / "models" / "edge"
    if (model / "card.json").is_file() or any(model.glob("*.json")):
        figures["shipped"] = shipped_on_backends(model, run.options.repeats)
    return figures


def published_on_backends(run: Run) -> dict[str, Any]:
    from lidar_completion.model.card import ModelCard
    from lidar_completion.model.onnx_export import export_model
    from lidar_completion.model.onnx_network import load_onnx_networks
    from lidar_completion.model.weights import save_model

    scene, (encoder, denoiser) = run.scene(), run.folded()
    condition = encoder(VoxelisedCloud.from_points(scene.scan, VOXEL_M))
    ours, figures = network_module.convolve, {}

    def plain(features, kernel, kernel_map, **more):  # type: ignore[no-untyped-def]
        return ours(features, kernel, kernel_map, "torch", **more)

    print(f"{COPIES * run.options.points:,} points, one unguided forward, from points to noise")
    print("| backend | clock s | CPU s a thread | times ours |\n|---|---|---|---|")

    def row(name: str, function: Callable[[], object]) -> None:
        figures[name] = seconds = timed(function)
        ratio = seconds["clock_s"] / figures["cpu"]["clock_s"]
        print("| {} | {clock_s:.2f} | {cpu_s:.2f} |".format(name, **seconds), f"{ratio:.2f} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        card = ModelCard(name="golden", architecture=Architecture(width=run.options.width))
        card = save_model(folder, card, dict(zip(("encoder", "denoiser"), run.plain, strict=True)))
        export_model(folder)
        on_onnx = load_onnx_networks(folder, card, torch.device("cpu"))["denoiser"]
    small_forward(run)
    row("cpu", lambda: denoiser(scene.cloud(), condition, T_LAST))
    row("onnxruntime", lambda: on_onnx(scene.cloud(), condition, T_LAST))
    network_module.convolve = plain
    row("plain PyTorch", lambda: denoiser(scene.cloud(), condition, T_LAST))
    network_module.convolve = ours
    return figures


def shipped_on_backends(model: Path, repeats: int) -> dict[str, Any]:
    from lidar_completion.completer import SceneCompleter
    from lidar_completion.model.onnx_export import export_model

    sweep, figures = real_sweep().numpy(), {}
    print(f"\nshipped model {model.name}, {len(sweep):,} points in, from sweep to noise (stage denoise)")
    print("| backend | clock s | times ours |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(model, Path(folder) / model.name)
        export_model(copied)
        for name in ("torch", "onnx"):
            completer = SceneCompleter.load(copied, device="cpu", backend=name)
            runs = [completer.complete(sweep).timings["denoise"] for _ in range(repeats + 1)][1:]
            figures[name] = statistics.median(runs)
            print(f"| {name} | {figures[name]:.3f} | {figures[name] / figures['torch']:.2f} |", flush=True)
    return figures


def processor_name() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return name


def machine() -> str:
    return f"{datetime.date.today()}, {processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


PARTS = {
    "stages": measure_stages,
    "layers": measure_layers,
    "memory": measure_memory,
    "scaling": measure_scaling,
    "backends": measure_backends,
}


@torch.inference_mode()
def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    peaks = {"float32": gemm_peak(), "bfloat16": gemm_peak(torch.bfloat16)}
    print(f"{machine()}\nGEMM peak {peaks['float32']:.0f} GFLOP/s float32, {peaks['bfloat16']:.0f} bfloat16")
    print(f"width {options.width}, noise {options.noise} m, {'bfloat16' if options.bfloat16 else 'float32'}\n")
    run = Run(options, peaks, golden_networks(options.width))
    figures = {part: PARTS[part](run) for part in options.parts}
    print(f"\nGEMM peak at the end {gemm_peak():.0f} GFLOP/s float32")
    if options.json:
        described = {
            "machine": machine(),
            "peaks": peaks,
            "options": {k: str(v) for k, v in vars(options).items() if k != "json"},
        }
        options.json.write_text(json.dumps({**described, **figures}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["stages", "layers"])
    parser.add_argument("--noise", type=float, default=1.0, help="metres: 1.0 as at t = 999, 0.05 near the surface")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="of a forward; the figure is their median")
    parser.add_argument("--steps", type=int, default=8, help="guided steps whose memory is measured")
    parser.add_argument("--points", type=int, default=POINTS, help="of the scan, before it is replicated")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    main()
