"""What more copies of the scan are worth: quality on the real drives, and time.

    python benchmarks/replication.py [--model models/edge] [--steps 1] [--copies 10,15,20,25,30,40]

Every fifth sweep of drives 90 and 91 (LIDAR_COMPLETION_SHARED), completed points alone. Time: median over the sweeps of drive 90,
every number of copies in turn on each sweep, as a ratio to the first of them. Writes benchmarks/results/replication.md.
"""

import argparse
import datetime
import statistics
import time
from pathlib import Path

import torch
from paper_tables import RULES, sources
from shipped_model import processor

from lidar_completion.completer import SceneCompleter
from lidar_completion_training.evaluate import ModelMethod, evaluate
from lidar_completion_training.summary import summarise

HERE = Path(__file__).parent
FIGURES = {"cd": 1, "to_truth": 1, "to_prediction": 1, "f_0.2": 100, "violations": 100}


def main() -> None:
    options = arguments()
    methods = [
        ModelMethod(
            options.model,
            options.steps,
            options={"replication": copies},
            name=f"{options.model.name}, {options.steps} steps, {copies} copies",
        )
        for copies in options.copies
    ]
    ratios = relative_times(options)
    head = ["copies", "time", "points", "CD m", "to truth m", "to completion m", "F@0.2 %", "in free space %"]
    parts = [
        f"{datetime.date.today()}  {processor()}, {torch.get_num_threads()} threads; {options.model.name}, {options.steps} step(s)"
    ]
    for source, output in sources(options):
        evaluate(source, methods, output, rules=RULES, pictures=False)
        lines = [head, ["---"] * len(head)]
        for row, copies in zip(summarise(source, methods, output, rules=RULES).rows, options.copies, strict=True):
            means = row.figures["completed"]
            figures = [f"{scale * means[name].mean:.3f}" for name, scale in FIGURES.items()]
            lines.append([str(copies), f"{ratios[copies]:.2f}", f"{means['points'].mean:,.0f}", *figures])
        parts.append(f"## {output.name}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    text = "\n\n".join(parts) + "\n"
    (HERE / "results/replication.md").write_text(text)
    print(text)


def relative_times(options: argparse.Namespace) -> dict[int, float]:
    """Median seconds a sweep for every number of copies, relative to the first."""
    completer = SceneCompleter.load(options.model)
    source, _ = sources(options)[0]
    seconds: dict[int, list[float]] = {copies: [] for copies in options.copies}
    for index in range(len(source.names)):
        sweep = source.load(index).sweep
        for copies in options.copies:
            start = time.perf_counter()
            completer.complete(sweep, steps=options.steps, replication=copies)
            seconds[copies].append(time.perf_counter() - start)
    medians = {copies: statistics.median(times[1:]) for copies, times in seconds.items()}
    return {copies: value / medians[options.copies[0]] for copies, value in medians.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE.parent / "models/edge")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument(
        "--copies", type=lambda text: [int(each) for each in text.split(",")], default=[10, 15, 20, 25, 30, 40]
    )
    parser.add_argument("--results", type=Path, default=Path("runs/replication"))
    parser.set_defaults(scenes=0, no_drives=False)
    return parser.parse_args()


if __name__ == "__main__":
    main()
