"""Where the time of a completion goes: CPU time of each stage, adding up to the total.

    python benchmarks/time_budget.py [MODEL] [--sweep FILE] [--repeats 9] [--threads 1] [--layers] [--json FILE]

Each stage's time excludes the stages that it calls; "rest" is what no stage covers. Convolutions also show their arithmetic
rate, relative to that of a large matrix product in the same run. The repeat with the smallest total is shown. With
--threads 1, CPU time is hardly affected by other processes; with more threads, only the calling thread's time is counted.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lidar_completion import (
    completer,
    crop,
    denoiser,
    diffusion,
    downsample,
    holes,
    measured,
    networks,
    samplers,
    starts,
)
from lidar_completion.networks import unet, union, voxelised_cloud
from lidar_completion.point_cloud_files import read_points
from lidar_completion.sparse import convolution, heads, kernel_map, points_cpu, search_cpu, tiles_cpu
from lidar_completion.visibility import free_space, output_filter, output_filter_compiled

ROOT = Path(__file__).parents[1]
# (stage, module or class, function)
STAGES: list[tuple[str, Any, str]] = [
    ("sweep: finite, range", measured, "finite_points"),
    ("sweep: finite, range", measured, "within_range"),
    ("sweep: finite, range", measured.MeasuredPoints, "rays"),
    ("sweep: rows of the scan", measured.MeasuredPoints, "at"),
    ("sweep: downsampling", downsample, "downsample_rows"),
    ("start points: copies", starts, "start_points"),
    ("start points: holes", holes, "hole_points"),
    ("start points: random numbers", diffusion, "noise_like"),
    ("start points: scale, sum", starts, "add_start_noise"),
    ("voxels", voxelised_cloud, "voxelise"),
    ("voxels: features", networks.VoxelisedCloud, "from_points_and_scan"),
    ("kernel maps", kernel_map, "submanifold_map"),
    ("kernel maps", kernel_map, "child_map"),
    ("nearest condition voxels", search_cpu, "nearest_tables"),
    ("gates", networks.Denoiser, "gate_table"),
    ("gates", points_cpu, "times_rows"),
    ("convolutions", tiles_cpu, "convolve_tiled"),
    ("convolutions: calls", convolution, "convolve"),
    ("rest of the networks", unet.UNet, "trunk"),
    ("rest of the networks", union.UnionDenoiser, "trunk"),
    ("head: first layer of voxels", unet.UNet, "point_outputs"),
    ("head", heads, "point_outputs"),
    ("head: first layer of voxels", union.UnionDenoiser, "point_outputs"),
    ("head", heads, "point_estimates"),
    ("denoiser: rest", denoiser, "scan_denoiser"),
    ("denoiser: rest", denoiser.UnionScanDenoiser, "__call__"),
    ("clean estimate", samplers, "clean_estimate"),
    ("refined points", completer, "refined_points"),
    ("moved points", unet, "moved_points"),
    ("scene crop", crop, "scene_rows"),
    ("scene crop", crop.SceneLimits, "of"),
    ("rows inside the scene", completer.CompletedPoints, "at"),
    ("clear space", free_space, "clear_image"),
    ("ray features", free_space.ClearSpace, "ray_features"),
    ("refiner: rest", networks.Refiner, "forward"),
    ("denoiser: rest", networks.Denoiser, "forward"),
    ("output filter: loop", output_filter_compiled, "reasons"),
    ("output filter: rest", output_filter, "trusted_rows"),
    ("confidence", completer, "point_confidence"),
    ("output arrays", completer, "label"),
]


class Budget:
    """CPU seconds and floating-point operations of each stage of one run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner: list[float] = []

    def measure(self, stage: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._inner.append(0.0)
        start = time.thread_time()
        try:
            return function(*args, **options)
        finally:
            spent = time.thread_time() - start
            own = spent - self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            self.calls[stage] = self.calls.get(stage, 0) + 1
            if self._inner:
                self._inner[-1] += spent


budget = Budget()


def instrument(layers: bool) -> None:
    """Replace each stage's function, in all modules that import it, by one that measures its time."""
    for stage, owner, name in STAGES:
        original = vars(owner)[name]
        function = measured_function(stage, getattr(owner, name), layers)
        modules = [module for key, module in sys.modules.items() if key.startswith("lidar_completion")]
        for holder in [owner, *modules]:
            for key, value in list(vars(holder).items()):
                if value is original:
                    setattr(holder, key, staticmethod(function) if isinstance(original, classmethod) else function)


def measured_function(stage: str, function: Callable[..., Any], layers: bool) -> Callable[..., Any]:
    """The function, which then reports its time to `budget`; convolutions also their number of operations."""

    def measured(*args: Any, **options: Any) -> Any:
        key = stage
        if stage == "convolutions":
            _, kernel, pairs = args[:3]
            key = f"{stage}: {_shape(kernel, pairs)}" if layers else stage
            work = 2.0 * sum(pairs.counts) * kernel.shape[1] * kernel.shape[2]
            budget.operations[key] = budget.operations.get(key, 0.0) + work
        return budget.measure(key, function, *args, **options)

    return measured


def _shape(kernel: torch.Tensor, kernel_map: Any) -> str:
    return f"{kernel.shape[0]:2d} x {kernel.shape[1]:3d} -> {kernel.shape[2]:3d}, {kernel_map.num_out} voxels"


def product_rate() -> float:
    """Floating-point operations per CPU second of (2048, 256) @ (256, 256) on one thread."""
    left, right = torch.randn(2048, 256), torch.randn(256, 256)
    return 2.0 * 2048 * 256 * 256 / min(_seconds(lambda: torch.mm(left, right)) for _ in range(50))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(ROOT / "models" / "edge"))
    parser.add_argument("--sweep", default=str(ROOT.parent / "shared" / "data" / "scans" / "hdl64_000123.ply"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", action="store_true", help="list each shape of convolution")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    report(options)


def report(options: argparse.Namespace) -> None:
    """Measure and print; see the module's description."""
    points = read_points(options.sweep).points
    model = completer.SceneCompleter.load(options.model, device="cpu")
    torch.set_num_threads(2)
    model.complete(points)
    clock = min(_clock(model, points) for _ in range(options.repeats))
    torch.set_num_threads(options.threads)
    rate = product_rate()
    instrument(options.layers)
    model.complete(points)
    runs = [measure_completion(model, points) for _ in range(options.repeats)]
    total, best, faults = min(runs, key=lambda run: run[0])
    best.seconds["rest"] = total - sum(best.seconds.values())
    print(
        f"{Path(options.model).name}, {len(points)} points, threads: {options.threads}; products {rate / 1e9:.0f} GFLOP/s"
    )
    for stage, seconds in best.seconds.items():
        work = best.operations.get(stage)
        speed = (
            ""
            if work is None
            else f"{work / 1e9:7.2f} GFLOP, {100 * work / seconds / rate:.0f} % of the products' rate"
        )
        calls, share = best.calls.get(stage, 1), 100 * seconds / total
        print(f"{stage:48s}{calls:4d} x{1e3 * seconds:8.2f} ms{share:5.1f} %{speed}")
    print(f"{'total':54s}{1e3 * total:8.2f} ms; {faults} page faults; {1e3 * clock:.0f} ms elapsed with 2 threads")
    if options.json:
        figures = {"total_s": total, "elapsed_s": clock, "product_rate": rate, "stages_s": best.seconds}
        Path(options.json).write_text(json.dumps(figures, indent=1))


def measure_completion(model: completer.SceneCompleter, points: np.ndarray) -> tuple[float, Budget, int]:
    """CPU seconds of one completion, those of its stages, and its page faults."""
    global budget
    budget, before = Budget(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total = _seconds(lambda: model.complete(points))
    return total, budget, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _clock(model: completer.SceneCompleter, points: np.ndarray) -> float:
    start = time.perf_counter()
    model.complete(points)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
