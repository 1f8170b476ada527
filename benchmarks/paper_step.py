"""One full training step of every objective at the paper's size: seconds per part, peak memory, and the speed of a data worker.

    python benchmarks/paper_step.py                                     # everything, each objective in a process of its own
    python benchmarks/paper_step.py --objective teacher --device cuda
    python benchmarks/paper_step.py --objective data_worker             # sweeps per second of one core
    python benchmarks/paper_step.py --width 0.25 --points 20000         # a trial of the script

The recipes are recipes/paper; networks have random weights, and the sweep is synthetic. A part called like a network is the time
of its forward passes; "losses, rest" is everything else before the backward pass: voxels, kernel maps, distances.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lidar_completion.model.weights import save_model
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.truth.ground_truth_map import write_surface
from lidar_completion_synthetic import training_pairs
from lidar_completion_training.cards import model_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.learning_rate import optimiser_of
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.networks import starting_networks
from lidar_completion_training.objectives.sweep import generator_after, prepare_in_worker
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.runs import recipe_path
from lidar_completion_training.stream import Sample, samples

RECIPES = {
    "teacher": "1_teacher",
    "refiner": "2_refiner",
    "diffusion_dpo": "3_diffusion_dpo",
    "score_distillation": "4_score_distillation",
    "distillation_dpo": "5_distillation_dpo",
}
DATA_WORKER = "data_worker"
SWEEPS = 20  # of the data worker's drive


def main() -> None:
    arguments = parsed_arguments()
    if arguments.objective is None:
        results = [in_own_process(name, arguments) for name in (DATA_WORKER, *RECIPES)]
    else:
        torch.manual_seed(0)
        run = data_worker if arguments.objective == DATA_WORKER else training_step
        results = [run(arguments)]
        (arguments.output / f"{arguments.objective}.json").write_text(json.dumps(results[0], indent=1) + "\n")
    text = table(results, arguments)
    (arguments.output / "table.md").write_text(text)
    print(text)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=(*RECIPES, DATA_WORKER), help="default: all")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--points", type=int, default=180_000, help="of the noised cloud; a tenth of them are sampled")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keep-activations", action="store_true", help="no activation checkpointing: more memory")
    parser.add_argument("--output", type=Path, default=Path("runs/paper_step"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of one objective, whose peak memory is then its own; an earlier result of the output folder is kept."""
    file = arguments.output / f"{name}.json"
    if not file.exists():
        subprocess.run([sys.executable, *sys.argv, "--objective", name], check=True)
    return json.loads(file.read_text())


# --- a training step --------------------------------------------------------------------------------------------------


def training_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds per part and peak memory of one optimiser step with one sweep per process."""
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        recipe = paper_recipe(arguments, folder)
        objective = objective_of(recipe)
    objective.networks.to(device)
    optimisers = [optimiser_of(recipe.optimiser, module) for module in objective.trained.values()]
    clock = Clock(device)
    raw = street()
    prepared = clock.timed("data worker", partial(prepare_in_worker, recipe, 0, raw))
    watch(objective.networks, clock)
    for _ in range(1 if device.type == "cpu" else 3):  # the first steps on a GPU compile kernels
        clock.reset()
        sample = prepared.to(device)
        generator = generator_after(sample, recipe, 0, device)
        losses, _numbers = clock.timed("losses, rest", partial(objective.losses, sample, generator))
        total = torch.stack([*losses.values()]).sum()
        clock.timed("backward", total.backward)
        clock.timed("optimiser", lambda: [optimiser.step() for optimiser in optimisers])
    clock.seconds["losses, rest"] -= sum(clock.seconds[name] for name in objective.networks)
    return {
        "objective": recipe.objective,
        "points": len(prepared.replicated),
        "truth": len(prepared.truth),
        "seconds": dict(clock.seconds),
        "seconds_per_step": sum(seconds for part, seconds in clock.seconds.items() if part != "data worker"),
        "peak_gib": peak_bytes(device) / 2**30,
        "losses": {name: loss.item() for name, loss in losses.items()},
    }


def paper_recipe(arguments: argparse.Namespace, folder: str) -> Recipe:
    """The paper's recipe of the objective; models that it starts from have random weights."""
    sizes = [f"pipeline.farthest_points={arguments.points // 10}", "data.source=synthetic", "precision=32-true"]
    sizes += [f"activation_checkpointing={not arguments.keep_activations}"]
    if arguments.device == "cuda":
        sizes.remove("precision=32-true")
    teacher = load_recipe(recipe_path(Path("paper/1_teacher.yaml")), [*sizes, f"architecture.width={arguments.width}"])
    if arguments.objective == "teacher":
        return teacher
    save_model(folder, model_card(teacher), starting_networks(teacher))
    refiner = [f"refiner.points={arguments.points}", f"refiner.target_points={2 * arguments.points}"]
    path = recipe_path(Path(f"paper/{RECIPES[arguments.objective]}.yaml"))
    return load_recipe(path, [*sizes, *refiner, f"start_from={folder}"])


def street() -> Sample:
    """A synthetic sweep of an HDL-64E with its ground truth at 0.1 m."""
    pair = next(iter(training_pairs(0, 1, "HDL-64E")))
    return Sample(torch.from_numpy(pair.sweep), torch.from_numpy(pair.truth))


class Clock:
    """Seconds by part; waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def reset(self) -> None:
        self.seconds = defaultdict(float, {"data worker": self.seconds["data worker"]})

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, part: str, function: Callable[[], Any]) -> Any:
        began = self.now()
        result = function()
        self.seconds[part] += self.now() - began
        return result


def watch(networks: nn.ModuleDict, clock: Clock) -> None:
    """Count the seconds of every network's forward passes."""
    began: dict[str, float] = {}
    for name, network in networks.items():
        network.register_forward_pre_hook(lambda *_, name=name: began.__setitem__(name, clock.now()))
        network.register_forward_hook(
            lambda *_, name=name: clock.seconds.__setitem__(name, clock.seconds[name] + clock.now() - began[name])
        )


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- a data worker ----------------------------------------------------------------------------------------------------


def data_worker(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sweeps per second and core that one data worker prepares from a drive in the page cache."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        drive = street_drive(Path(folder))
        entries = [f"data.drives=[{drive}]", f"data.maps={folder}", "data.sweeps_per_epoch=0", "data.workers=0"]
        entries += [f"pipeline.farthest_points={arguments.points // 10}", f"architecture.width={arguments.width}"]
        recipe = load_recipe(recipe_path(Path("paper/1_teacher.yaml")), entries)
        stream = samples(recipe.data, 0, 1, partial(prepare_in_worker, recipe))
        last = list(islice(stream, SWEEPS))[-1]  # the first epoch fills caches and compiles
        began, used = time.perf_counter(), time.process_time()
        list(islice(stream, SWEEPS))
        wall, cpu = time.perf_counter() - began, time.process_time() - used
    return {
        "objective": DATA_WORKER,
        "points": len(last.replicated),
        "truth": len(last.truth),
        "sweeps_per_second": SWEEPS / wall,
        "sweeps_per_cpu_second": SWEEPS / cpu,
        "peak_gib": peak_bytes(torch.device("cpu")) / 2**30,
    }


def street_drive(folder: Path) -> Path:
    """A SemanticKITTI sequence of the same street seen from places that are 0.1 m apart, and its map."""
    sample = street()
    sweep, truth = sample.sweep.numpy(), sample.truth.numpy()
    drive = folder / "street"
    (drive / "velodyne").mkdir(parents=True)
    poses = np.tile(np.eye(4), (SWEEPS, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(SWEEPS)
    for i, pose in enumerate(poses):
        points = sweep - pose[:3, 3].astype(np.float32)
        np.column_stack([points, np.zeros(len(points))]).astype("<f4").tofile(drive / f"velodyne/{i:06d}.bin")
    np.savetxt(drive / "poses.txt", poses[:, :3].reshape(SWEEPS, 12))
    write_surface(truth.astype(np.float64), folder / "street.npz", open_drive(drive))
    return drive


# --- the table --------------------------------------------------------------------------------------------------------


def table(results: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """A Markdown page of all results."""
    lines = [
        "# One training step at the paper's size",
        "",
        f"`python benchmarks/paper_step.py --width {arguments.width:g} --points {arguments.points} --device {arguments.device}`, "
        f"{machine(arguments.device)}; load of the machine at the end {os.getloadavg()[0]:.1f}.",
        "",
        "| objective | points | truth | s per step | parts (s) | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        if result["objective"] == DATA_WORKER:
            continue
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in result["seconds"].items())
        row = (
            result["objective"],
            f"{result['points']:,}",
            f"{result['truth']:,}",
            f"{result['seconds_per_step']:.1f}",
        )
        lines.append(f"| {' | '.join(row)} | {parts} | {result['peak_gib']:.1f} |")
    for result in results:
        if result["objective"] == DATA_WORKER:
            lines += [
                "",
                f"A data worker prepares {result['sweeps_per_second']:.1f} sweeps per second on one core, "
                f"{result['sweeps_per_cpu_second']:.1f} per second of its own CPU time ({result['points']:,} points, "
                f"{result['truth']:,} of ground truth, peak {result['peak_gib']:.1f} GiB).",
            ]
    return "\n".join(lines) + "\n"


def machine(device: str) -> str:
    """The accelerator, or the processor and the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
