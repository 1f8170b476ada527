"""Charts of the reports as SVG text for HTML pages, drawn with matplotlib.

Text is not converted to paths. Series of more than MAX_MARKS points are rasterised, to limit the size of the page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

MAX_MARKS = 500
COLUMNS = 500  # columns of a level bar
WIDTH_INCH = 11.0
SVG_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lidar_completion", "font.family": "sans-serif"}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
TEXT, GRID, BAD = "#4b5563", "#e5e7eb", "#d1373f"


@dataclass(frozen=True)
class Series:
    """Values (N,) at times (N,) in seconds, as a line, or as dots; NaN values are gaps."""

    name: str
    colour: str
    times: np.ndarray
    values: np.ndarray
    dots: bool = False


def svg(figure: Figure) -> Markup:
    """The figure as an SVG element."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SVG_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA, dpi=110)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def style(axes: Axes) -> Axes:
    """Give axes the common style of all charts."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=TEXT)
    axes.xaxis.label.set(size=9, color=TEXT)
    axes.yaxis.label.set(size=9, color=TEXT)
    return axes


def time_chart(
    series: Sequence[Series],
    duration_s: float,
    *,
    label: str,
    height_inch: float = 2.4,
    whole: bool = False,
    from_zero: bool = True,
    levels: Sequence[tuple[str, float]] = (),
    marks: np.ndarray | None = None,
) -> Markup:
    """Series over 0 … duration_s. levels: named horizontal lines; marks (K,): times of red ticks at the bottom.

    whole: only whole numbers on the vertical axis; from_zero: the axis starts at 0.
    """
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    axes = style(figure.subplots())
    for each in series:
        marker: dict[str, Any] = (
            {"linestyle": "none", "marker": "o", "markersize": 3.2} if each.dots else {"linewidth": 1.6}
        )
        rasterized = len(each.times) > MAX_MARKS
        axes.plot(each.times, each.values, color=each.colour, label=each.name, rasterized=rasterized, **marker)
    for number, (name, value) in enumerate(levels):
        axes.axhline(value, color="#7b86a0", linestyle="--", linewidth=1)
        axes.annotate(name, (1.0 - 0.12 * number, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=TEXT)  # fmt: skip
    axes.margins(y=0.12)
    if from_zero:
        axes.set_ylim(bottom=0)
    if marks is not None and len(marks):
        axes.vlines(marks, 0, 0.05, transform=axes.get_xaxis_transform(), color=BAD, linewidth=1.4, rasterized=len(marks) > MAX_MARKS)  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole))
    axes.set_ylabel(label)
    _time_axis(axes, duration_s)
    return svg(figure)


def level_bar(times: np.ndarray, levels: np.ndarray, duration_s: float, colours: Sequence[str]) -> Markup:
    """A bar over 0 … duration_s: each level (N,) int holds from its time (N,) to the next one."""
    figure = Figure(figsize=(WIDTH_INCH, 0.7), layout="constrained")
    axes = figure.subplots()
    worst = worst_per_column(times, levels, duration_s)
    shown = np.ma.masked_less(worst[None], 0)
    axes.imshow(shown, cmap=ListedColormap(list(colours)), vmin=-0.5, vmax=len(colours) - 0.5, aspect="auto",
                extent=(0, duration_s, 0, 1), interpolation="nearest")  # fmt: skip
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=8, colors=TEXT)
    _time_axis(axes, duration_s)
    return svg(figure)


def worst_per_column(times: np.ndarray, levels: np.ndarray, duration_s: float, columns: int = COLUMNS) -> np.ndarray:
    """The maximum level (columns,) int in each part of 0 … duration_s, so that short levels stay visible; -1: none yet."""
    worst = np.full(columns, -1, np.int64)
    start = np.clip((np.asarray(times) / max(duration_s, 1e-9) * columns).astype(np.int64), 0, columns - 1)
    ends = np.append(start[1:], columns - 1)
    for first, last, level in zip(start, ends, levels, strict=True):
        worst[first : last + 1] = np.maximum(worst[first : last + 1], level)
    return worst


def clock(seconds: float, duration_s: float) -> str:
    """A time label: seconds in a short drive, minutes:seconds in a longer one."""
    return f"{seconds:g} s" if duration_s < 120 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _time_axis(axes: Axes, duration_s: float) -> None:
    margin = 0.01 * max(duration_s, 1e-3)
    axes.set_xlim(-margin, duration_s + margin)
    steps = [1, 2, 5, 10] if duration_s < 120 else [1, 1.5, 3, 6, 10]
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(round(seconds, 6), duration_s)))
