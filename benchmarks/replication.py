"""Quality on the real drives and time for different replication, with and without a refiner.

    python benchmarks/replication.py [models/edge:10,20,30 models/drive:5,10,20] [--steps 1]

Every fifth sweep of drives 90 and 91 (LIDAR_COMPLETION_SHARED), completed points alone. Time: median over the sweeps of drive 90,
every row in turn on each sweep, as a ratio to the first of them. Writes benchmarks/results/replication.md.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from paper_tables import FIGURES, SETTINGS, sources
from shipped_models import processor

from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.methods import ModelMethod
from lidar_completion_evaluation.scenes import SceneSource
from lidar_completion_evaluation.summary import summarise

HERE = Path(__file__).parent
REPLICATION = {"edge": (5, 10, 20, 30, 40), "drive": (3, 5, 8, 10, 15, 20)}
SHOWN = ("cd", "jsd_bev", "f_0.2", "violations", "ghost_rate")
SHOWN_FIGURES = {"points": ("points", 1, 0), **{name: FIGURES[name] for name in SHOWN}}

Row = tuple[Path, int]  # model folder, replication


def main() -> None:
    options = arguments()
    rows = [row for group in options.rows for row in group] or shipped_rows()
    methods = [
        ModelMethod(
            model,
            options.steps,
            options={"replication": replication},
            name=f"{label(model)}, replication {replication}",
        )
        for model, replication in rows
    ]
    evaluated = sources(options)
    ratios = relative_times(methods, evaluated[0][0])
    head = ["", "time", *(heading for heading, _, _ in SHOWN_FIGURES.values())]
    parts = [f"{datetime.date.today()}  {processor()}, {torch.get_num_threads()} threads; {options.steps} step(s)"]
    for source, output in evaluated:
        evaluate(source, methods, output, settings=SETTINGS, pictures=False)
        lines = [head, ["---"] * len(head)]
        for row, ratio in zip(summarise(source, methods, output, settings=SETTINGS).rows, ratios, strict=True):
            means = row.figures["completed"]
            figures = [f"{scale * means[name].mean:,.{digits}f}" for name, (_, scale, digits) in SHOWN_FIGURES.items()]
            lines.append([row.name, f"{ratio:.2f}", *figures])
        parts.append(f"## {output.name}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    text = "\n\n".join(parts) + "\n"
    (HERE / "results/replication.md").write_text(text)
    print(text)


def relative_times(methods: Sequence[ModelMethod], source: SceneSource) -> list[float]:
    """Median seconds a sweep of every row, relative to the first; the first sweep warms up."""
    seconds: list[list[float]] = [[] for _ in methods]
    for method in methods:
        method.prepare(source.load(0))
    for index in range(len(source.names)):
        scene = source.load(index)
        for method, times in zip(methods, seconds, strict=True):
            start = time.perf_counter()
            method.complete(scene)
            times.append(time.perf_counter() - start)
    medians = [statistics.median(times[1:]) for times in seconds]
    return [median / medians[0] for median in medians]


def shipped_rows() -> list[Row]:
    return [
        (HERE.parent / "models" / name, replication) for name, several in REPLICATION.items() for replication in several
    ]


def label(model: Path) -> str:
    """models/edge is edge, runs/ablations/dpo-0/model is dpo-0."""
    return model.parent.name if model.name == "model" else model.name


def model_and_replication(text: str) -> list[Row]:
    model, _, replication = text.rpartition(":")
    return [(Path(model), int(each)) for each in replication.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=model_and_replication, nargs="*", help="MODEL:REPLICATION,REPLICATION,…")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("runs/replication"))
    parser.set_defaults(scenes=0, no_drives=False)
    return parser.parse_args()


if __name__ == "__main__":
    main()
