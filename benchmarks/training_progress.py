"""Quality after each stage of a training, on the real drives and on synthetic test scenes.

    python benchmarks/training_progress.py runs/edge/first:2000 runs/edge/second:4200 [--reference models/edge] [--scenes 10]

RUN:SAMPLES names the folder of a run and the training samples that its model has seen, earlier stages included. Every fifth sweep of
drives 90 and 91 (LIDAR_COMPLETION_SHARED), completed points alone, one step, the same
replication for all runs. Writes benchmarks/results/training_progress.md and .png;
dashed lines show the reference.
"""

import argparse
import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from paper_tables import add_source_options, sources
from shipped_models import processor

from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import ModelMethod
from lidar_completion_evaluation.scenes import SceneSource
from lidar_completion_evaluation.summary import FIGURES, summarise
from lidar_completion_training.runs import MODEL_NAME

RESULTS = Path(__file__).parent / "results"
SETTINGS = SceneSettings(brief=True, published_emd=False)
SHOWN = (
    "cd",
    "f_0.2",
    "ghost_rate",
    "violations",
    "jsd_bev",
    "missing_to_prediction",
    "near_to_prediction",
)  # the first four are drawn
Figures = dict[str, dict[str, float]]  # name of a row -> figure -> mean


def main() -> None:
    options = arguments()
    names = {f"{samples:,} samples": samples for _, samples in options.runs}
    methods = [
        ModelMethod(run / MODEL_NAME, 1, name=name, options={"replication": options.replication})
        for (run, _), name in zip(options.runs, names, strict=True)
    ]
    reference = ModelMethod(options.reference, 1, name=options.reference.name)
    found = {output.name: figures(source, [*methods, reference], output) for source, output in sources(options)}
    parts = [f"{datetime.date.today()}  {processor()}; replication {options.replication}; means over scenes"]
    parts += [f"## {name}\n\n{table(rows)}" for name, rows in found.items()]
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "training_progress.md").write_text(text)
    print(text)
    draw(found, names, reference.name)


def figures(source: SceneSource, methods: list[ModelMethod], output: Path) -> Figures:
    evaluate(source, methods, output, settings=SETTINGS, pictures=False)
    rows = summarise(source, methods, output, settings=SETTINGS).rows
    return {
        row.name: {name: value.mean for name, value in row.figures["completed"].items()}
        for row in rows
        if "completed" in row.figures
    }


def table(rows: Figures) -> str:
    head = ["", *(FIGURES[figure][0] for figure in SHOWN)]
    lines = [head, ["---"] * len(head)]
    for name, means in rows.items():
        lines.append([name, *(f"{FIGURES[figure][1] * means[figure]:.{FIGURES[figure][2]}f}" for figure in SHOWN)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found: dict[str, Figures], samples: dict[str, int], reference: str) -> None:
    """A panel for each figure, a line for each source of scenes."""
    panels = SHOWN[:4]
    sheet, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.4), layout="constrained")
    for axis, figure in zip(axes, panels, strict=True):
        heading, scale, *_ = FIGURES[figure]
        for colour, (source, rows) in enumerate(found.items()):
            values = [scale * rows[name][figure] for name in samples]
            axis.plot(list(samples.values()), values, "o-", color=f"C{colour}", label=source.replace("_", " "))
            axis.axhline(scale * rows[reference][figure], color=f"C{colour}", linestyle="--", linewidth=1)
        axis.set(title=heading, xlabel="training samples", xlim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    sheet.savefig(RESULTS / "training_progress.png", dpi=110)


def run_and_samples(text: str) -> tuple[Path, int]:
    run, _, samples = text.rpartition(":")
    return Path(run), int(samples)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=run_and_samples, nargs="+", metavar="RUN:SAMPLES")
    parser.add_argument("--reference", type=Path, default=RESULTS.parents[1] / "models/edge")
    parser.add_argument("--replication", type=int, default=9, help="of all runs, as exported models may differ in it")
    add_source_options(parser, scenes=10, results=Path("runs/training_progress"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
