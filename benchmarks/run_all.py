"""make bench: runs all CPU benchmarks, writes their output to benchmarks/results/, and the engine's table with its limits.

    python benchmarks/run_all.py [--quick] [--only engine ...]

On two idle cores the engine's part takes seven minutes, the whole 26; --quick runs the engine's part alone, with one repeat and
two guided steps, in three minutes. --only takes beginnings of names. Results carry the date and the machine.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", HERE.parents[1] / "shared"))
DRIVES = [SHARED / "data" / "sequences" / name for name in ("90", "91")]
# The slowest cores that the limits were given for, GFLOP/s of two cores; slower ones scale the limits.
GIVEN_FOR = {"float32": 180.0, "bfloat16": 900.0}
Figures = dict[str, Any]


def main() -> None:
    options = arguments()
    commands = {n: c for n, c in all_commands(options.quick).items() if any(n.startswith(o) for o in options.only)}
    if not commands:
        sys.exit(f"nothing begins with {', '.join(options.only)}; there are {', '.join(all_commands(False))}")
    failed = [name for name, command in commands.items() if not run(name, command)]
    if any(name.startswith("engine") for name in commands):
        parts = [name for name in all_commands(options.quick) if name.startswith("engine")]
        summary = table({name: figures(name) for name in parts}, options.quick)  # of each part its newest run
        print(f"\n{summary}")
        (RESULTS / "engine_table.md").write_text(summary)
        plot = subprocess.run([sys.executable, "benchmarks/engine_plot.py"], cwd=HERE.parent)
        failed += ["engine_plot"] if plot.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME")
    return parser.parse_args()


def all_commands(quick: bool) -> dict[str, list[str]]:
    """Name -> command of every benchmark."""
    repeats = ["--repeats", "1" if quick else "3"]
    parts = {
        "engine_stages": ["stages", *repeats],
        "engine_stages_near": ["stages", "--noise", "0.05", *repeats],
        "engine_stages_bfloat16": ["stages", "--bfloat16", *repeats],
        "engine_layers": ["layers"],
        "engine_layers_bfloat16": ["layers", "--bfloat16"],
        "engine_memory": ["memory", "--steps", "2" if quick else "8"],
        "engine_scaling": ["scaling", *(["--points", "6000"] if quick else ["--points", "20000"])],
        "engine_backends": ["backends", *repeats, *(["--points", "2000"] if quick else [])],
    }
    commands = {
        name: [sys.executable, "benchmarks/engine_cpu.py", *part, "--json", str(RESULTS / f"{name}.json")]
        for name, part in parts.items()
    }
    if quick:
        return commands
    commands["shipped_models"] = [sys.executable, "benchmarks/shipped_models.py"]
    commands["tall_structures"] = [sys.executable, "benchmarks/tall_structures.py"]
    commands["synthetic_generator"] = [sys.executable, "benchmarks/synthetic_generator.py"]
    program = str(Path(sys.executable).parent / "lidar-completion")
    evaluate = [program, "evaluate", "--model", "models/edge", "--model", "models/drive", "--steps", "1,2,4"]
    for drive in DRIVES:
        if drive.is_dir():
            commands[f"quality_drive_{drive.name}"] = [*evaluate, "--data", str(drive)]
    return commands


def run(name: str, command: list[str]) -> bool:
    """Run one benchmark, showing what it prints as it comes and keeping it with the date."""
    print(f"\n=== {name}", flush=True)
    (RESULTS / f"{name}.json").unlink(missing_ok=True)  # so that the table cannot show an older run
    lines = []
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode == 0 and lines:
        (RESULTS / f"{name}.txt").write_text(f"{datetime.date.today()}\n{''.join(lines)}")
    return process.returncode == 0


def figures(name: str) -> Figures:
    """The figures of a run; empty where it failed."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def table(runs: dict[str, Figures], quick: bool) -> str:
    """The issue's rows: reference, measured, required, aim, and the required figure scaled to a slower machine."""
    rows = [
        "| two CPU cores, paper size | reference | measured | required | aim | required of this machine | |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, run_name, value, unit, reference, required, aim, precision in ROWS:
        found = runs.get(run_name)
        if not found:
            continue
        measured = value(found)
        factor = max(1.0, GIVEN_FOR[precision] / found["peaks"][precision]) if precision else 1.0
        at_least = unit == "%"
        limit = required if at_least else required * factor
        verdict = "reached" if (measured >= limit if at_least else measured <= limit) else "missed"
        if (measured >= aim) if at_least else (measured <= aim):
            verdict = "aim reached"
        sign = "≥" if at_least else "≤"
        cells = [label, reference, f"**{measured:.3g} {unit}**", f"{sign} {required:g}", f"{sign} {aim:g}"]
        rows.append(f"| {' | '.join(cells)} | {sign} {limit:.3g} | {verdict} |")
    first = next((found for found in runs.values() if found), {})
    peaks = ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in first.get("peaks", {}).items())
    note = " Quick run: one repeat, two guided steps, backends at 20,000 points." if quick else ""
    return (
        "\n".join([f"{first.get('machine', '')}. GEMM peak {peaks}.{note}", "", *rows, ""])
        + f"\nLimits scale with the GEMM peak below {GIVEN_FOR['float32']:.0f} (float32) and {GIVEN_FOR['bfloat16']:.0f} "
        "(bfloat16) GFLOP/s, the slowest cores that they were given for.\n"
    )


def seconds(stage: str) -> Callable[[Figures], float]:
    return lambda found: found["stages"][stage]["clock_s"]


# label, run, value, unit, reference, required, aim, the precision whose peak scales the limit
ROWS: list[tuple[str, str, Callable[[Figures], float], str, str, float, float, str]] = [
    (
        "one guided forward, t = 999, float32",
        "engine_stages",
        seconds("guided forward"),
        "s",
        "77 s",
        25,
        17,
        "float32",
    ),
    ("the same, bfloat16", "engine_stages_bfloat16", seconds("guided forward"), "s", "–", 10, 6, "bfloat16"),
    (
        "its mean error, of the output's std",
        "engine_stages_bfloat16",
        lambda found: 100 * found["stages"]["mean error, share of the output's std"],
        "% (error)",
        "–",
        2,
        2,
        "",
    ),
    (
        "guided, near the surface, float32",
        "engine_stages_near",
        seconds("guided forward"),
        "s",
        "35 s",
        8,
        5,
        "float32",
    ),
    (
        "one unguided forward, t = 999, float32",
        "engine_stages",
        seconds("unguided forward"),
        "s",
        "45 s",
        13,
        9,
        "float32",
    ),
    (
        "peak memory of guided steps",
        "engine_memory",
        lambda found: found["memory"]["peak_gib"][-1],
        "GiB",
        "7.0 GiB",
        3,
        2,
        "",
    ),
    (
        "voxel downsampling of a sweep",
        "engine_stages",
        lambda found: 1e3 * found["stages"]["voxel downsampling"]["clock_s"],
        "ms",
        "2500 ms",
        15,
        8,
        "float32",
    ),
    (
        "kernel maps and nearest tables, t = 999",
        "engine_stages",
        seconds("kernel maps and nearest tables"),
        "s",
        "12 s",
        1.5,
        0.6,
        "float32",
    ),
    (
        "share of the GEMM peak, ≥ 128 channels",
        "engine_layers",
        lambda found: 100 * found["layers"]["share of the peak, >= 128 channels"],
        "%",
        "–",
        55,
        75,
        "",
    ),
    (
        "onnxruntime / ours, paper size",
        "engine_backends",
        lambda found: (
            found["backends"]["paper"]["onnxruntime"]["clock_s"] / found["backends"]["paper"]["cpu"]["clock_s"]
        ),
        "times",
        "–",
        4,
        4,
        "",
    ),
    (
        "onnxruntime / ours, shipped model",
        "engine_backends",
        lambda found: found["backends"]["shipped"]["onnx"] / found["backends"]["shipped"]["torch"],
        "times",
        "–",
        2,
        2,
        "",
    ),
]


if __name__ == "__main__":
    main()
