"""The scenes that a model completes best and worst, in one picture each: what it saw, and what it made of it.

    lidar-completion evaluate --data synthetic-test --scenes 100 --model models/edge --steps 1 --output runs/good_and_bad/synthetic
    python benchmarks/good_and_bad_scenes.py runs/good_and_bad/* --row "edge, 1 step"

Takes folders of evaluations. Scenes are ranked by CD over that of the best baseline on the same scene: below 1
the model helps. Above: the sweep (white) over the truth (grey). Below: the completion, coloured by distance to the truth,
0 teal, 0.2 m yellow, 1 m red. Writes docs/pictures/good_scenes.png and bad_scenes.png.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.results import picture_file, result_file

PICTURES = Path(__file__).parents[1] / "docs/pictures"
SCENES = 3
CAPTION = 52  # pixels


@dataclass(frozen=True)
class ScoredScene:
    """A scene of an evaluation: the model's figures and the lowest CD of the baselines."""

    evaluation: Path
    scene: str
    cd: float
    f: float
    baseline_cd: float

    @property
    def ratio(self) -> float:
        return self.cd / self.baseline_cd

    def column(self, row: str) -> Image.Image:
        """Sweep above completion, with a caption."""
        parts = [Image.open(picture_file(self.evaluation, name, self.scene)).convert("RGB") for name in ("sweep", row)]
        width, height = parts[0].size
        column = Image.new("RGB", (width, CAPTION + 2 * height + 6), "white")
        text = (
            f"{self.evaluation.name}, {self.scene}\n"
            f"CD {self.cd:.3f} m (best baseline {self.baseline_cd:.3f}), F {100 * self.f:.0f} %"
        )
        ImageDraw.Draw(column).multiline_text((4, 6), text, fill="black", font=ImageFont.load_default(15))
        for number, part in enumerate(parts):
            column.paste(part, (0, CAPTION + number * (height + 6)))
        return column


def main() -> None:
    options = arguments()
    ranked = sorted(scored(options.evaluations, options.row), key=lambda each: each.ratio)
    if len(ranked) < 2 * SCENES:
        raise SystemExit(f"{len(ranked)} scenes have {options.row!r} and all baselines; expected {2 * SCENES} or more")
    worse = sum(each.ratio > 1 for each in ranked)
    print(f"{len(ranked)} scenes; {worse} of them are worse than the best baseline of their own")
    for name, chosen in (("good", ranked[:SCENES]), ("bad", ranked[-SCENES:])):
        path = options.output / f"{name}_scenes.png"
        side_by_side([each.column(options.row) for each in chosen]).save(path, optimize=True)
        print(path, *(f"{each.evaluation.name}/{each.scene} {each.ratio:.2f}" for each in chosen), sep="\n  ")


def scored(evaluations: list[Path], row: str) -> list[ScoredScene]:
    """All scenes of the evaluations that have the row and every baseline."""
    found = []
    for evaluation in evaluations:
        for path in sorted(result_file(evaluation, row, "any").parent.glob("*.json")):
            model = figures(path)
            baselines = [figures(result_file(evaluation, name, path.stem)) for name in BASELINES]
            if model and all(baselines):
                lowest = min(each["cd"] for each in baselines)
                found.append(ScoredScene(evaluation, path.stem, model["cd"], model["f_0.2"], lowest))
    return found


def figures(path: Path) -> dict[str, float]:
    """The figures of the completed points; empty where the scene failed or is missing."""
    return json.loads(path.read_text()).get("completed", {}) if path.is_file() else {}


def side_by_side(columns: list[Image.Image]) -> Image.Image:
    """One picture of all columns."""
    gap = 8
    width = sum(column.width for column in columns) + gap * (len(columns) - 1)
    picture, left = Image.new("RGB", (width, columns[0].height), "white"), 0
    for column in columns:
        picture.paste(column, (left, 0))
        left += column.width + gap
    return picture


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluations", type=Path, nargs="+", help="folders of lidar-completion evaluate --output")
    parser.add_argument("--row", default="edge, 1 step")
    parser.add_argument("--output", type=Path, default=PICTURES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
