"""make bench: every benchmark of the CPU, its output into benchmarks/results/. On two idle cores about half an hour."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", HERE.parents[1] / "shared"))
DRIVES = [SHARED / "data" / "sequences" / name for name in ("90", "91")]


def main() -> None:
    python = [sys.executable]
    evaluate = [str(Path(sys.executable).parent / "lidar-completion"), "evaluate", "--model", "models/edge", "--steps", "1,2"]
    commands = {
        "shipped_model": [*python, "benchmarks/shipped_model.py"],
        "engine_stages": [*python, "benchmarks/engine_cpu.py", "stages"],
        "engine_stages_near": [*python, "benchmarks/engine_cpu.py", "stages", "--noise", "0.05"],
        "engine_stages_bfloat16": [*python, "benchmarks/engine_cpu.py", "stages", "--bfloat16"],
        "engine_layers": [*python, "benchmarks/engine_cpu.py", "layers"],
        "engine_scaling": [*python, "benchmarks/engine_cpu.py", "scaling"],
        "synthetic_generator": [*python, "benchmarks/synthetic_generator.py"],
        "quality_synthetic": [*evaluate, "--data", "synthetic-test", "--scenes", "30"],
    }
    for drive in DRIVES:
        if drive.is_dir():
            commands[f"quality_drive_{drive.name}"] = [*evaluate, "--data", str(drive)]
    failed = [name for name, command in commands.items() if not run(name, command)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, command: list[str]) -> bool:
    """Run one benchmark, showing what it prints and keeping it with the date."""
    print(f"\n=== {name}", flush=True)
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    if done.returncode == 0:
        (HERE / "results" / f"{name}.txt").write_text(f"{datetime.date.today()}\n{done.stdout}")
    return done.returncode == 0


if __name__ == "__main__":
    main()
