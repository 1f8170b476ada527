"""benchmarks/results/engine_cpu.png from the figures that engine_cpu.py wrote there: scaling, layers, backends.

python benchmarks/engine_plot.py [--results FOLDER]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#2f6db5", "#d98032", "#8a8f98"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    folder = parser.parse_args().results
    panels = {"engine_scaling": (points, steps, width), "engine_layers": (layers,), "engine_backends": (backends,)}
    drawn = [(draw, read(folder, name)) for name, draws in panels.items() for draw in draws]
    drawn = [(draw, found) for draw, found in drawn if found]
    if not drawn:
        raise SystemExit(f"{folder}: no engine_*.json; run engine_cpu.py with --json first")
    figure, axes = plt.subplots(1, len(drawn), figsize=(4.2 * len(drawn), 3.8), squeeze=False, layout="constrained")
    for axis, (draw, found) in zip(axes[0], drawn, strict=True):
        draw(axis, found)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(drawn[0][1]["machine"], fontsize=9, color=GREY)
    figure.savefig(folder / "engine_cpu.png", dpi=110)
    print(f"{folder / 'engine_cpu.png'}: {len(drawn)} panels")


def read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def points(axis: Axes, found: dict[str, Any]) -> None:
    rows = found["scaling"]["points"]
    x, y = [row["points"] for row in rows], [row["cpu_s"] for row in rows]
    axis.loglog(x, y, "o-", color=BLUE, label="measured")
    axis.loglog(x, [y[-1] * each / x[-1] for each in x], "--", color=GREY, label="linear")
    axis.set(title="one forward by points", xlabel="points", ylabel="CPU s a thread")
    axis.legend(frameon=False)


def steps(axis: Axes, found: dict[str, Any]) -> None:
    rows = found["scaling"]["steps"]
    axis.plot([row["steps"] for row in rows], [row["cpu_s"] for row in rows], "o-", color=BLUE)
    axis.set(title="sampler by steps, 10,000 points", xlabel="steps", ylabel="CPU s a thread", ylim=(0, None))


def width(axis: Axes, found: dict[str, Any]) -> None:
    rows = found["scaling"]["width"]
    axis.loglog([row["parameters"] for row in rows], [row["cpu_s"] for row in rows], "o-", color=BLUE)
    for row in rows:
        axis.annotate(
            f"{row['width']:g}", (row["parameters"], row["cpu_s"]), textcoords="offset points", xytext=(4, -10)
        )
    axis.set(title="one forward by width, 20,000 points", xlabel="parameters", ylabel="CPU s a thread")


def layers(axis: Axes, found: dict[str, Any]) -> None:
    peak = found["peaks"]["float32"]
    for size, colour, label in ((27, BLUE, "3x3x3"), (8, ORANGE, "2x2x2"), (1, GREY, "1x1x1")):
        mine = [layer for layer in found["layers"]["layers"] if layer["kernel"] == size]
        axis.scatter(
            [min(layer["channels"]) for layer in mine],
            [layer["values"][2] / max(layer["values"][1], 1e-9) for layer in mine],
            s=[6 + 2 * layer["values"][2] ** 0.5 * 4 for layer in mine],
            color=colour,
            alpha=0.7,
            label=label,
        )
    axis.axhline(peak, color=GREY, linestyle="--", linewidth=1)
    axis.annotate("torch.mm", (3, peak), color=GREY, textcoords="offset points", xytext=(0, 3))
    axis.set(title="layers (area: root of GFLOP)", xlabel="channels, the fewer of in and out", ylabel="GFLOP/s")
    axis.set_ylim(0, None)
    axis.legend(frameon=False)


def backends(axis: Axes, found: dict[str, Any]) -> None:
    paper = found["backends"]["paper"]
    axis.bar(list(paper), [row["clock_s"] for row in paper.values()], color=[BLUE, ORANGE, GREY])
    axis.set(title="one unguided forward by backend", ylabel="s by the clock")


if __name__ == "__main__":
    main()
