"""Time per sweep of the shipped models, by stage, on this machine.

    python benchmarks/shipped_models.py [--models models/edge models/drive] [--replication 5,10] [--sweep FILE] [--steps 1,2] [--runs 9]
        [--backends torch onnx]

Medians of several runs after a warm-up. The GFLOP/s of a matrix product before and after show the speed of the cores, which
varies on shared hosts. Without --sweep: the real HDL-64 sweep of LIDAR_COMPLETION_SHARED, else a synthetic one.
"""

import argparse
import datetime
import os
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import torch
from engine_cpu import gemm_peak, processor_name

from lidar_completion.completer import SceneCompleter
from lidar_completion.point_cloud_files import read_points

ROOT = Path(__file__).parents[1]
STAGES = ("preprocess", "denoise", "postprocess", "total")


def main() -> None:
    options = arguments()
    name, points = sweep_to_complete(options.sweep)
    completers = {
        (model.name, backend): SceneCompleter.load(model, backend=backend)
        for model in options.models
        for backend in options.backends
    }
    device = next(iter(completers.values())).device
    print(
        f"{datetime.date.today()}  {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}"
    )
    print(f"sweep {name}: {len(points):,} points, median of {options.runs}; cores {gemm_peak():.0f} GFLOP/s float32\n")
    titles = ("backend", "replication", "steps", *(f"{stage}, ms" for stage in STAGES), "points out")
    print(f"{'model':8}" + "".join(f"{title:>16}" for title in titles))
    for (model, backend), completer in completers.items():
        replication = options.replication or [completer.card.pipeline.replication]
        for work in product(replication, options.steps):
            cells = cost(completer, points, *work, options.runs)
            print(f"{model:8}" + "".join(f"{cell:>16}" for cell in (backend, *cells)), flush=True)
    print(f"\ncores {gemm_peak():.0f} GFLOP/s at the end")


def cost(completer: SceneCompleter, points: np.ndarray, replication: int, steps: int, times: int) -> list[str]:
    """The cells of one row: replication, steps, median milliseconds of every stage, points out."""
    runs = [completer.complete(points, steps=steps, replication=replication) for _ in range(times + 1)][1:]
    medians = [statistics.median(run.timings[stage] for run in runs) * 1e3 for stage in STAGES]
    return [f"{replication}", f"{steps}", *(f"{each:.0f}" for each in medians), f"{len(runs[0].points):,}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[ROOT / "models" / name for name in ("edge", "drive")]
    )
    parser.add_argument("--replication", type=numbers, default=[], help="default: the model card's")
    parser.add_argument("--sweep", type=Path)
    parser.add_argument("--steps", type=numbers, default=[1, 2])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--backends", nargs="+", default=["torch"], choices=("torch", "onnx"))
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def sweep_to_complete(path: Path | None) -> tuple[str, np.ndarray]:
    shared = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared")) / "data/scans/hdl64_000123.ply"
    path = path or (shared if shared.is_file() else None)
    if path is not None:
        return path.name, read_points(path).points
    from lidar_completion_synthetic import test_pair

    return "synthetic test scene 0", test_pair(0).sweep


def processor() -> str:
    return f"{processor_name()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
