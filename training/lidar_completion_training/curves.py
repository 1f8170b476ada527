"""Plots the logs of runs: one panel per logged number, one line per run."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lidar_completion_training.errors import CurvesError
from lidar_completion_training.training_log import LOG_NAME, read_log

MIN_WINDOW = 3  # rows are only drawn behind a running mean that is noticeably smoother than they are


def draw_curves(runs: list[Path], output: Path, names: list[str] | None = None, smooth: float = 0.02) -> None:
    """Draw the logs of run folders into a PNG.

    names: columns to draw (default: all). smooth: window of the running mean as a share of the rows; the rows themselves
    are drawn faintly behind it. CurvesError if a run has no log or no such column.
    """
    logs = {run: _log_of(run) for run in runs}
    found = dict.fromkeys(name for rows in logs.values() for row in rows for name in row if name != "iteration")
    if unknown := [name for name in names or [] if name not in found]:
        raise CurvesError(f"no number {unknown[0]!r} in the logs; they have {', '.join(found)}")
    chosen = names or list(found)
    figure, panels = _panels(len(chosen))
    for axes, name in zip(panels, chosen, strict=False):
        for number, (run, rows) in enumerate(logs.items()):
            _draw_line(axes, rows, name, smooth, f"C{number}", run.resolve().name)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure with at least `count` panels; those beyond it are hidden."""
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(5 * columns, 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _log_of(run: Path) -> list[dict[str, float]]:
    path = run / LOG_NAME if run.is_dir() else run
    if not path.is_file():
        raise CurvesError(f"{path}: no such log; give the folder of a run that was started")
    try:
        rows = read_log(path)
    except ValueError as error:
        raise CurvesError(f"{path}: not a log of numbers ({error})") from error
    if not all("iteration" in row for row in rows):
        raise CurvesError(f"{path}: expected a column `iteration`, found none; give the log of a run")
    if not rows:
        raise CurvesError(f"{path}: the log has no rows yet")
    return rows


def _draw_line(axes: Axes, rows: list[dict[str, float]], name: str, smooth: float, colour: str, label: str) -> None:
    values = np.array([(row["iteration"], row[name]) for row in rows if name in row]).reshape(-1, 2)
    window = max(1, round(smooth * len(values)))
    if window >= MIN_WINDOW:
        axes.plot(*values.T, color=colour, alpha=0.15, linewidth=0.6)
    axes.plot(values[window - 1 :, 0], running_mean(values[:, 1], window), color=colour, linewidth=1.4, label=label)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means (n - window + 1,) of the last `window` of values (n,)."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    return (total[window:] - total[:-window]) / window
