"""Everything that a GPU has to show, in one run of at most ten minutes: environment, tests, golden values, kernels, times, training.

    python benchmarks/gpu_report.py [--output gpu_report] [--only NAME ...] [--minutes 10] [--wheels FOLDER]

Meant for a bare machine with Python 3.11 or 3.12, PyTorch, Triton, a copy of this checkout and no network. --wheels: folder of wheels
to install first, ROS among them, where the node is to run (`pip download -d FOLDER -c constraints.txt PACKAGES` makes it). A part that
fails or takes too long does not stop the others; the summary lists it. OUTPUT/ gets report.json, summary.txt, the full output of
each part, and profile.json (a trace for chrome://tracing or Perfetto). Exit status 1 if a part failed.

Without a GPU, `--only environment kernels` tries the script out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (
    "ros2_ws/src/lidar_completion", "ros2_ws/src/lidar_completion_ros", "ros2_ws/src/lidar_completion_evaluation",
    "synthetic", "training",
)  # fmt: skip
ENVIRONMENT = """
import importlib.util, platform, subprocess, sys, torch
print(platform.platform(), "python", sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda)
names = "triton numpy numba scipy safetensors plyfile pydantic onnxruntime rclpy pytest omegaconf lightning".split()
print("missing packages:", ", ".join(name for name in names if importlib.util.find_spec(name) is None) or "none")
try:
    print(subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
except FileNotFoundError:
    print("no nvidia-smi")
if torch.cuda.is_available():
    print(torch.cuda.get_device_properties(0))
else:
    sys.exit("PyTorch finds no GPU")
"""
SELF_TEST = """
import warnings, torch
warnings.simplefilter("error")  # a failed self-test falls back with a warning that holds the reason
from lidar_completion.sparse.convolution import backend_of
backend = backend_of(torch.device("cuda"))
print("backend:", backend)
assert backend == "triton"
"""
PROFILE = """
import sys, numpy as np, torch
from torch.profiler import ProfilerActivity, profile
from lidar_completion.completer import SceneCompleter
sys.path.insert(0, "benchmarks")
from engine_gpu import real_sweep
sweep = real_sweep().numpy()
for name in ("edge", "drive"):
    completer = SceneCompleter.load(f"models/{name}", device="cuda")
    for _ in range(3):
        completer.complete(sweep)
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        completion = completer.complete(sweep)
    print(name, completion.timings, f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))
seen.export_chrome_trace(sys.argv[1])
"""
ONNX = """
import time, numpy as np, torch, sys
import onnxruntime
if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()  # CUDA's libraries from torch's wheels
print("providers:", onnxruntime.get_available_providers())
assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()
from lidar_completion.completer import SceneCompleter
sys.path.insert(0, "benchmarks")
from engine_gpu import real_sweep
sweep = real_sweep().numpy()
ours, onnx = (SceneCompleter.load("models/edge", device="cuda", backend=backend) for backend in ("torch", "onnx"))
for _ in range(3):
    first, second = ours.complete(sweep), onnx.complete(sweep)
print("largest difference", np.abs(first.points[:1000] - second.points[:1000]).max(), first.timings, second.timings)
"""


@dataclass(frozen=True)
class Part:
    """One part of the report: a command, and the most seconds that it may take."""

    name: str
    arguments: list[str]  # of the Python interpreter
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    name: str
    ended: str  # "ok", "failed (1)", "stopped after 60 s", "not started: no time left"
    seconds: float
    output: str  # file


def parts(output: Path) -> list[Part]:
    """All parts, the most important ones first."""
    golden = [str(path) for path in sorted((ROOT / "tests/core/golden").glob("*.npz"))]
    shared = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
    golden += [str(path) for path in sorted((shared / "golden").glob("denoiser_*.npz"))]
    weights = ["--weights", "tests/core/golden/weights.py", "--device", "cuda"]
    target = "import torch; print(*torch.cuda.get_device_capability(), sep='')"
    kernels = ["benchmarks/gpu_kernels.py", "--layers", "few", "--targets", _answer(target) or "90"]
    return [
        Part("environment", ["-c", ENVIRONMENT], 60),
        Part("self-test", ["-c", SELF_TEST], 120),
        Part("golden", ["tests/parity.py", *golden, *weights], 150),
        Part("tests", ["-m", "pytest", "-m", "gpu", "-rs", "tests"], 150),
        Part("profile", ["-c", PROFILE, str(output / "profile.json")], 90),
        Part("engine", ["benchmarks/engine_gpu.py"], 180),
        Part("models", ["benchmarks/shipped_models.py", "--steps", "1,2,4,8"], 90),
        Part("training", ["benchmarks/paper_step.py", "--device", "cuda", "--output", str(output / "paper_step")], 180),
        Part("onnx", ["-c", ONNX], 60),
        Part("kernels", kernels, 90),
        Part("node", ["benchmarks/node_soak.py", "--minutes", "1", "--model", "models/drive"], 150),
    ]


def _answer(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def run(part: Part, output: Path, seconds_left: float) -> Outcome:
    """Run a part with its output in a file; it never raises."""
    log = output / f"{part.name}.txt"
    limit = min(part.seconds, seconds_left)
    if limit <= 0:
        return Outcome(part.name, "not started: no time left", 0.0, "")
    paths = os.pathsep.join([*(str(ROOT / source) for source in SOURCES), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    started = time.monotonic()
    with log.open("w") as file:
        try:
            command = [sys.executable, "-u", *part.arguments]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=limit
            )
            ended = "ok" if done.returncode == 0 else f"failed ({done.returncode})"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
    return Outcome(part.name, ended, round(time.monotonic() - started, 1), log.name)


def summary(outcomes: list[Outcome], output: Path) -> str:
    """One line per part, and the last lines of those that did not end well."""
    lines = [f"{each.name:12} {each.seconds:7.1f} s  {each.ended}" for each in outcomes]
    for each in outcomes:
        if each.ended != "ok" and each.output:
            tail = (output / each.output).read_text(errors="replace").strip().splitlines()[-15:]
            lines += ["", f"--- {each.name}: {each.ended}", *tail]
    return "\n".join(lines) + "\n"


def install(wheels: Path) -> None:
    """Install every wheel of a folder without a network; a failure is printed, and the parts that need it will say so."""
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", *files]
    if files and subprocess.run(command, check=False).returncode:
        print(f"{wheels}: pip failed, see above")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_report"))
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--wheels", type=Path)
    options = parser.parse_args()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    if options.wheels:
        install(options.wheels)
    chosen = parts(output)
    if unknown := set(options.only or ()) - {part.name for part in chosen}:
        parser.error(f"--only: expected some of {', '.join(part.name for part in chosen)}, found {', '.join(unknown)}")
    end, outcomes = time.monotonic() + 60 * options.minutes, []
    for part in chosen:
        if options.only and part.name not in options.only:
            continue
        print(f"{part.name} ...", flush=True)
        outcomes.append(run(part, output, end - time.monotonic()))
        (output / "report.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
        (output / "summary.txt").write_text(summary(outcomes, output))
    print((output / "summary.txt").read_text(), end="")
    return int(any(each.ended != "ok" for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
