"""Curves and samples of finished trainings, for docs/experiments.

    python benchmarks/training_pictures.py [--runs runs/ablations] [--output docs/pictures]

distillation_curves.png: log.csv of dpo-0, student-0 and score-0. samples_over_training.png: the trainer's pictures of one
held-out sweep, with its ground truth at the end of each row.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

CURVES = ("score_gap", "auxiliary_error", "student_gradient", "chamfer", "winner_cost", "student_loss")
CURVES_OF = {
    "dpo-0": "Distillation-DPO",
    "student-0": "Distillation-DPO with a direct term",
    "score-0": "score distillation",
}
SAMPLES_OF = {"teacher-0": "teacher", "student-0": "student"}
PANELS = 3  # of a trainer's picture: sweep, sample, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    draw_curves(options.runs).savefig(options.output / "distillation_curves.png", dpi=90)
    draw_samples(options.runs).savefig(options.output / "samples_over_training.png", dpi=65)


def draw_curves(runs: Path) -> plt.Figure:
    """One panel per quantity, one colour per run: iterations faint, the running mean over a tenth of the run bold."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 6.4), layout="constrained")
    for axis, quantity in zip(axes.flat, CURVES, strict=True):
        for colour, (name, label) in enumerate(CURVES_OF.items()):
            log = np.genfromtxt(runs / name / "log.csv", delimiter=",", names=True)
            if quantity in log.dtype.names:
                draw_curve(axis, log["iteration"], log[quantity], f"C{colour}", label)
        axis.set(title=quantity, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    return figure


def draw_curve(axis: Axes, iteration: np.ndarray, value: np.ndarray, colour: str, label: str) -> None:
    """One line and its running mean."""
    length = max(1, len(value) // 10)
    axis.plot(iteration, value, color=colour, alpha=0.2, linewidth=0.7)
    smooth = np.convolve(value, np.ones(length) / length, mode="valid")
    axis.plot(iteration[length - 1 :], smooth, color=colour, label=label)


def draw_samples(runs: Path) -> plt.Figure:
    """One row per run: its samples in the order of training, then the ground truth."""
    rows = {label: panels(sorted((runs / name / "pictures").glob("*.png"))) for name, label in SAMPLES_OF.items()}
    width = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(len(rows), width, figsize=(3.2 * width, 3.6 * len(rows)), layout="constrained")
    figure.set_facecolor("#0b0f16")
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, (title, image) in zip(line, row, strict=False):
            axis.imshow(image)
            axis.set_title(f"{label}, {title}" if title != "truth" else title, color="white")
    return figure


def panels(pictures: list[Path]) -> list[tuple[str, np.ndarray]]:
    """The middle panel of each picture with its iteration, and the last panel of the last picture."""
    found = []
    for path in pictures:
        image = plt.imread(path)
        third = image.shape[1] // PANELS
        below_title = image[image.shape[0] // 12 :]
        found.append((f"iteration {int(path.stem)}", below_title[:, third : 2 * third]))
    return [*found, ("truth", below_title[:, 2 * third :])]


if __name__ == "__main__":
    main()
