"""Bird's-eye pictures of clouds: what was measured in white, what was imagined coloured by confidence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

BACKGROUND = "#0b0e14"


@dataclass(frozen=True)
class Panel:
    """One cloud of a picture: points (N, 3) metres, a title, and values (N,) for the colour (default: height)."""

    title: str
    points: np.ndarray
    values: np.ndarray | None = None
    colours: str = "viridis"
    limits: tuple[float, float] | None = None  # of the colour scale; default: 2 % and 98 % of the values
    white: np.ndarray | None = None  # (K, 3) drawn on top in white


def birds_eye(panels: list[Panel], path: str | Path, extent_m: float = 50.0, size_inch: float = 6.0) -> None:
    """Draw panels side by side, seen from above, x forward up, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size_inch * len(panels), size_inch * 1.06), facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw(axes, panel, extent_m)
    figure.savefig(path, dpi=110)


def _draw(axes, panel: Panel, extent_m: float) -> None:  # type: ignore[no-untyped-def]
    axes.set_facecolor(BACKGROUND)
    values = panel.points[:, 2] if panel.values is None else panel.values
    order = np.argsort(panel.points[:, 2], kind="stable")  # higher things on top
    low, high = panel.limits or (np.percentile(values, (2, 98)) if len(values) else (0.0, 1.0))
    points = panel.points[order]
    axes.scatter(
        -points[:, 1], points[:, 0], c=values[order], s=0.35, cmap=panel.colours, vmin=low, vmax=high, linewidths=0
    )
    if panel.white is not None:
        axes.scatter(-panel.white[:, 1], panel.white[:, 0], c="white", s=0.35, linewidths=0)
    axes.plot(0, 0, marker="^", color="#ff5555", markersize=7)
    for radius in (10, 20, 30, 40, 50):
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color="white", alpha=0.12, linewidth=0.6)
    axes.set_xlim(-extent_m, extent_m)
    axes.set_ylim(-extent_m, extent_m)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"{panel.title}\n{len(panel.points):,} points", color="white", fontsize=12)
