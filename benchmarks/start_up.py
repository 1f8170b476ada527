"""Start-up and memory of a new process: from the interpreter's start to the first completion, beside another checkout.

    git worktree add ../before f7e550b
    python benchmarks/start_up.py [../before] [--model edge] [--other-model edge] [--repeats 5] [--threads 2]

Each process imports the library, loads the model and completes the sweep twice; the sides take turns. The loops are compiled
before (python -m lidar_completion.compile_loops, and one process that is not counted). The table shows medians: elapsed and CPU
seconds until the end of each stage, and resident memory in MB after it, with its split into mapped files (libraries) and other
memory. With --fresh, each process starts with an empty cache of compiled loops.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import ROOT, SHARED, python_path

from lidar_completion.point_cloud_files import read_points

STAGES = ("import", "load", "first completion", "second completion")
WORKER = """
import json, os, sys, time
import numpy as np
def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "RssFile", "RssAnon")]
rows = []
def stop():
    rows.append([time.time(), time.process_time(), *resident()])
import torch
torch.set_num_threads(int(sys.argv[3]))
from lidar_completion.completer import SceneCompleter
stop()
model = SceneCompleter.load(sys.argv[1], device="cpu")
stop()
points = np.load(sys.argv[2])
for _ in range(2):
    model.complete(points)
    stop()
print(json.dumps(rows))
"""


def start(checkout: Path, model: str, sweep: Path, options: argparse.Namespace) -> np.ndarray:
    """(stages, 5) of one process: elapsed seconds, CPU seconds, and MB of memory: resident, of files, other."""
    folder = Path(model) if Path(model).is_dir() else checkout / "models" / model
    with tempfile.TemporaryDirectory() as cache:
        environment = python_path(checkout) | ({"NUMBA_CACHE_DIR": cache} if options.fresh else {})
        command = [sys.executable, "-c", WORKER, str(folder.resolve()), str(sweep), str(options.threads)]
        begin = time.time()
        run = subprocess.run(command, env=environment, cwd=checkout, check=True, capture_output=True, text=True)
    rows = np.array(json.loads(run.stdout.splitlines()[-1]))
    rows[:, 0] -= begin
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--model", default="edge")
    parser.add_argument("--other-model", default="edge")
    parser.add_argument("--sweep", default=str(SHARED / "data" / "scans" / "hdl64_000123.ply"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="without compiled loops")
    options = parser.parse_args()
    sides = [(ROOT, options.model)] + ([(options.other, options.other_model)] if options.other else [])
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep.npy"
        np.save(sweep, read_points(options.sweep).points)
        if not options.fresh:
            for side in sides:
                start(*side, sweep, options)
        runs = np.array([[start(*side, sweep, options) for side in sides] for _ in range(options.repeats)])
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; threads: {options.threads}; medians of {options.repeats}"
    )
    print(f"{'after':40s}{'elapsed s':>10s}{'CPU s':>8s}{'memory MB':>11s}{'files':>8s}{'other':>8s}")
    for (checkout, model), rows in zip(sides, np.median(runs, axis=0), strict=True):
        for stage, (elapsed, cpu, *memory) in zip(STAGES, rows, strict=True):
            name = f"{checkout.resolve().name} {Path(model).name}: {stage}"
            print(f"{name:40s}{elapsed:10.2f}{cpu:8.2f}{memory[0]:11.0f}{memory[1]:8.0f}{memory[2]:8.0f}")


if __name__ == "__main__":
    main()
