"""Times this checkout against another one, alternating in one run.

    git worktree add ../before f7e550b
    python benchmarks/side_by_side.py ../before [--pairs edge:edge drive:drive paper] [--repeats 9] [--threads 2]

A pair is MODEL:OTHER_MODEL, each a folder or the name of a folder in its checkout's models/. `paper` is the network of the
public checkpoints with random weights: one guided step on an eighth of the sweep. Each side runs in its own process, with its own
sources; the sides take turns, sweep by sweep. The table shows medians, and the ratio of the medians, of elapsed and of CPU time.
Where other processes use the cores, CPU time with --threads 1 is the more reliable of the two.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion.point_cloud_files import read_points

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
PACKAGES = (
    "ros2_ws/src/lidar_completion", "ros2_ws/src/lidar_completion_ros", "ros2_ws/src/lidar_completion_evaluation",
    "synthetic", "training",
)  # fmt: skip
# Completes the same sweep once for each line of its input, and prints what each took
WORKER = """
import json, sys, time
import numpy as np, torch
from lidar_completion.completer import SceneCompleter
model, sweep, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
points = np.load(sweep)
completer = SceneCompleter.load(model, device="cpu")
for _ in range(2):
    completer.complete(points)
print("ready", flush=True)
for _ in sys.stdin:
    elapsed, cpu = time.perf_counter(), time.process_time()
    completion = completer.complete(points)
    print(json.dumps([time.perf_counter() - elapsed, time.process_time() - cpu, len(completion.points)]), flush=True)
"""


@dataclass(frozen=True)
class Side:
    """One of the two processes."""

    process: subprocess.Popen

    def time(self) -> list[float]:
        """Elapsed seconds, CPU seconds and number of points of one completion."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("next\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]


def python_path(checkout: Path) -> dict[str, str]:
    """The environment in which Python imports the packages of a checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(checkout.resolve() / each) for each in PACKAGES)}


@contextmanager
def side(checkout: Path, model: str, sweep: Path, threads: int) -> Iterator[Side]:
    """A process that completes the sweep with a checkout's sources."""
    folder = Path(model) if Path(model).is_dir() else checkout / "models" / model
    command = [sys.executable, "-c", WORKER, str(folder.resolve()), str(sweep), str(threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=python_path(checkout), cwd=checkout, **pipes) as process:  # type: ignore[call-overload]
        if process.stdout.readline().strip() != "ready":
            sys.exit(f"{folder}: the process of {checkout} did not start")
        try:
            yield Side(process)
        finally:
            process.stdin.close()


def compare(pair: str, other: Path, points: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """(repeats, 2, 3): elapsed seconds, CPU seconds and number of points of this checkout's side and of the other's."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if pair == "paper":
            points = points[::8]
            write_paper_model(Path(folder))
        own_model, other_model = (folder, folder) if pair == "paper" else pair.split(":")
        sweep = Path(folder) / "sweep.npy"
        np.save(sweep, points)
        sides = [
            stack.enter_context(side(checkout, model, sweep, options.threads))
            for checkout, model in ((ROOT, own_model), (other, other_model))
        ]
        return np.array([[each.time() for each in sides] for _ in range(options.repeats)])


def write_paper_model(folder: Path) -> None:
    """The published network with random weights, with a card that older versions can read too."""
    pipeline = {"sampler": "dpm_solver", "steps": 1, "guidance": 6.0, "replication": 10}
    card = ModelCard("paper size", pipeline=Pipeline(**pipeline))  # type: ignore[arg-type]
    card = save_model(folder, card, build_networks(card))
    short = {"name": card.name, "pipeline": pipeline, "networks": card.networks, "sha256": card.sha256}
    (folder / "model.json").write_text(json.dumps(short))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pairs", nargs="+", default=["edge:edge", "drive:drive", "paper"])
    parser.add_argument("--sweep", default=str(SHARED / "data" / "scans" / "hdl64_000123.ply"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "side_by_side.txt")
    options = parser.parse_args()
    points = read_points(options.sweep).points
    revision = subprocess.run(
        ["git", "-C", options.other, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    lines = [
        f"{datetime.date.today()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; {len(points)} points, "
        f"threads: {options.threads}; medians of {options.repeats}; this checkout against {revision.stdout.strip()}",
        f"{'pair':24s}{'elapsed ms':>12s}{'other':>8s}{'ratio':>7s}{'CPU ms':>10s}{'other':>8s}{'ratio':>7s}{'points':>10s}{'other':>10s}",
    ]
    print("\n".join(lines), flush=True)
    for pair in options.pairs:
        lines.append(row(pair, np.median(compare(pair, options.other, points, options), axis=0)))
        print(lines[-1], flush=True)
    options.results.write_text("\n".join(lines) + "\n")


def row(pair: str, medians: np.ndarray) -> str:
    """A line of the table; medians (2, 3) as from `compare`. A ratio is the other side's time divided by this one's."""
    (elapsed, cpu, points), (other_elapsed, other_cpu, other_points) = medians
    return (
        f"{pair[-24:]:24s}{1e3 * elapsed:12.0f}{1e3 * other_elapsed:8.0f}{other_elapsed / elapsed:7.2f}"
        f"{1e3 * cpu:10.0f}{1e3 * other_cpu:8.0f}{other_cpu / cpu:7.2f}{points:10.0f}{other_points:10.0f}"
    )


if __name__ == "__main__":
    main()
