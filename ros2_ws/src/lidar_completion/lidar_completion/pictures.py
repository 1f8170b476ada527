"""Bird's-eye pictures of clouds: what was measured in white, what was imagined coloured by confidence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

BACKGROUND = "#0b0e14"
PIXELS = 700  # a side of a panel: 0.14 m a pixel at 50 m


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

    figure = Figure(figsize=(size_inch * len(panels), size_inch * 1.12), facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw(axes, panel, extent_m)
    figure.savefig(path, dpi=110)


def _draw(axes, panel: Panel, extent_m: float) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.patches import Circle

    axes.imshow(_raster(panel, extent_m), extent=(-extent_m, extent_m, -extent_m, extent_m), interpolation="antialiased")
    axes.plot(0, 0, marker="^", color="#ff5555", markersize=7)
    for radius in range(10, int(extent_m) + 1, 10):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="white", alpha=0.12, linewidth=0.6))
    axes.set_axis_off()
    axes.set_title(f"{panel.title}\n{len(panel.points):,} points", color="white", fontsize=12)


def _raster(panel: Panel, extent_m: float) -> np.ndarray:
    """The panel as an image (P, P, 3) float in [0, 1]; where points share a pixel the highest one shows, white on top."""
    from matplotlib import colormaps, colors

    image = np.tile(colors.to_rgb(BACKGROUND), (PIXELS, PIXELS, 1))
    values = panel.points[:, 2] if panel.values is None else panel.values
    low, high = panel.limits or (np.percentile(values, (2, 98)) if len(values) else (0.0, 1.0))
    order = np.argsort(panel.points[:, 2], kind="stable")
    shade = colormaps[panel.colours](np.clip((values[order] - low) / max(high - low, 1e-6), 0, 1))[:, :3]
    _paint(image, panel.points[order], shade, extent_m)
    if panel.white is not None:
        _paint(image, panel.white, np.ones((len(panel.white), 3)), extent_m)
    return image


def _paint(image: np.ndarray, points: np.ndarray, shade: np.ndarray, extent_m: float) -> None:
    row = np.floor((extent_m - points[:, 0]) / (2 * extent_m) * PIXELS).astype(int)
    column = np.floor((extent_m - points[:, 1]) / (2 * extent_m) * PIXELS).astype(int)
    inside = (row >= 0) & (row < PIXELS) & (column >= 0) & (column < PIXELS)
    image[row[inside], column[inside]] = shade[inside]  # of equal pixels the last, highest, stays
