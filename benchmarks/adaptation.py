"""`lidar-completion-train adapt` on each real drive, and the fine-tuned model on the other one.

    python benchmarks/adaptation.py [--model models/edge] [--control 4] [iterations=400]

Drives 90 and 91 (LIDAR_COMPLETION_SHARED). The result is evaluated on every fifth sweep of the other drive, with the map of that whole drive. A refused
model is evaluated as well and marked as refused. Resumes; writes benchmarks/results/adaptation.md.
"""

import argparse
import datetime
import os
from pathlib import Path

import torch
from shipped_models import processor

from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.methods import ModelMethod
from lidar_completion_evaluation.scenes import DriveScenes
from lidar_completion_evaluation.summary import summarise
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_training.adaptation.adapt import BRIEF, AdaptSettings, adapt
from lidar_completion_training.errors import AdaptationRefused
from lidar_completion_training.state import load_state

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", HERE.parents[1] / "shared"))
DRIVES = ("90", "91")
SHOWN = {  # figure of the evaluation -> heading, unit scale, digits
    "cd": ("CD m", 1, 4),
    "f_0.2": ("F at 0.2 m %", 100, 1),
    "ghost_rate": ("farther than 0.5 m from any surface %", 100, 2),
    "ghost_rate_observed": ("of these in observed space %", 100, 2),
    "violations": ("in free space %", 100, 2),
    "missing_to_prediction": ("truth more than 1 m from any return: miss m", 1, 3),
}


def main() -> None:
    options = arguments()
    parts = [f"# Adaptation to a drive, {datetime.date.today()}\n\n{processor()}, {torch.get_num_threads()} thread(s)"]
    for drive, other in (DRIVES, DRIVES[::-1]):
        folder = options.results / drive
        verdict = adapted(options, drive, folder)
        state = load_state(folder / "run")
        timing = state["timing"]
        parts.append(
            f"## Adapted to drive {drive}, evaluated on drive {other}\n\n{verdict}\n\n"
            f"{timing['steps']} steps in {timing['seconds'] / 60:.0f} minutes.\n\n"
            + judged(other, options.model, folder / "candidate", options)
        )
    text = "\n\n".join(parts) + "\n"
    options.output.write_text(text)
    print(text)


def adapted(options: argparse.Namespace, drive: str, folder: Path) -> str:
    """Adapt to a drive; returns what the command found."""
    settings = AdaptSettings(
        SHARED / "data/sequences" / drive,
        options.model,
        folder,
        folder / "model",
        control_scenes=options.control,
        drive_share=options.share,
        minutes=options.minutes,
        overrides=tuple(options.overrides),
    )
    try:
        adapt(settings)
    except AdaptationRefused as refused:
        rose = [line.strip() for line in str(refused).splitlines() if line.startswith("  ")]
        return "Refused: " + "; ".join(rose) + "."
    return "Accepted."


def judged(drive: str, before: Path, after: Path, options: argparse.Namespace) -> str:
    """A table of both models on every fifth sweep of a drive."""
    opened, output = open_drive(SHARED / "data/sequences" / drive), options.results / f"judged_on_{drive}"
    source = DriveScenes(opened, build_map(opened, output / "map.npz", moving="keep"), every=5)
    methods = [ModelMethod(before, name="before"), ModelMethod(after, name="after")]
    evaluate(source, methods, output, settings=BRIEF, pictures=False)
    lines = [["", *(heading for heading, _, _ in SHOWN.values())], ["---"] * (len(SHOWN) + 1)]
    for row in summarise(source, methods, output, settings=BRIEF).rows:
        means = row.figures["completed"]
        lines.append(
            [row.name, *(f"{scale * means[name].mean:.{digits}f}" for name, (_, scale, digits) in SHOWN.items())]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="entry=value of the recipe, such as iterations=100")
    parser.add_argument("--model", type=Path, default=HERE.parent / "models/edge")
    parser.add_argument("--control", type=int, default=4, help="synthetic scenes")
    parser.add_argument("--share", type=float, default=0.5, help="of the drive in the training sweeps")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--results", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--output", type=Path, default=HERE / "results/adaptation.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
