"""Pictures of point clouds: measured points white, imagined points coloured by confidence or by error."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps, colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = "#0b0e14"
PIXELS = 700  # side of a panel: 0.14 m per pixel at 50 m
TITLE_INCH = 0.75  # two lines of text
# As in the shipped RViz and Foxglove layouts: RGB of confidence 0 and 1, linear between them; measured points are white.
CONFIDENCE_COLOURS = ((106, 31, 176), (255, 160, 20))
MEASURED_COLOUR = (255, 255, 255)
TRUTH_COLOUR = (58, 64, 78)
# By distance to the truth in metres: teal, yellow, red.
ERROR_STOPS_M = (0.0, 0.1, 0.2, 0.5, 1.0)
ERROR_COLOURS = ((38, 166, 154), (102, 199, 132), (250, 214, 90), (240, 128, 60), (214, 48, 49))
VIEWS = ("above", "behind")


@dataclass(frozen=True)
class Panel:
    """One cloud of a picture: points (N, 3) metres, a title, and values (N,) for the colour (default: height)."""

    title: str
    points: np.ndarray
    values: np.ndarray | None = None
    colours: str = "viridis"
    limits: tuple[float, float] | None = None  # ends of the colour scale; default: 2nd and 98th percentile
    white: np.ndarray | None = None  # (K, 3) drawn on top in white


def birds_eye(
    panels: list[Panel], path: str | Path | io.BytesIO, extent_m: float = 50.0, size_inch: float = 6.0
) -> None:
    """Draw panels side by side in bird's-eye view, x up, into a PNG."""
    size = (size_inch * len(panels), size_inch + TITLE_INCH)
    figure = Figure(figsize=size, facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw(axes, panel, extent_m)
    figure.savefig(path, dpi=110)


def _draw(axes: Axes, panel: Panel, extent_m: float) -> None:
    axes.imshow(
        _raster(panel, extent_m), extent=(-extent_m, extent_m, -extent_m, extent_m), interpolation="antialiased"
    )
    axes.plot(0, 0, marker="^", color="#ff5555", markersize=7)
    for radius in range(10, int(extent_m) + 1, 10):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="white", alpha=0.12, linewidth=0.6))
    axes.set_axis_off()
    axes.set_title(f"{panel.title}\n{len(panel.points):,} points", color="white", fontsize=12)


def _raster(panel: Panel, extent_m: float) -> np.ndarray:
    """The panel as an image (P, P, 3) float in [0, 1]; the highest point of a pixel is visible, white points on top."""
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
    """Draw points (N, 3) from above into a square image, one pixel each; shade (N, 3), or (3,) for all."""
    pixels = len(image)
    row = np.floor((extent_m - points[:, 0]) / (2 * extent_m) * pixels).astype(int)
    column = np.floor((extent_m - points[:, 1]) / (2 * extent_m) * pixels).astype(int)
    inside = (row >= 0) & (row < pixels) & (column >= 0) & (column < pixels)
    shade = np.broadcast_to(shade, (len(points), 3))
    image[row[inside], column[inside]] = shade[inside]  # the last point of a pixel is visible


def errors_over_truth(
    truth: np.ndarray,
    points: np.ndarray,
    errors_m: np.ndarray | None = None,
    *,
    extent_m: float = 50.0,
    pixels: int = 440,
) -> bytes:
    """PNG of points (N, 3) over the truth (M, 3) in bird's-eye view, x up, sensor frame; fast enough for every scene.

    errors_m (N,): distances to the truth, shown as colour; without them points are white. Each pixel shows its worst point.
    """
    image = np.empty((pixels, pixels, 3), np.uint8)
    image[:] = _rgb(BACKGROUND)
    _paint(image, truth, np.array(TRUTH_COLOUR), extent_m)
    if errors_m is None:
        _paint(image, points, np.array(MEASURED_COLOUR), extent_m)
    else:
        worst_last = np.argsort(errors_m, kind="stable")
        _paint(image, points[worst_last], error_colours(errors_m[worst_last]), extent_m)
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(64).save(buffer, "PNG")
    return buffer.getvalue()


def error_colours(errors_m: np.ndarray) -> np.ndarray:
    """RGB (N, 3) uint8 of distances (N,) in metres."""
    channels = [np.interp(errors_m, ERROR_STOPS_M, channel) for channel in zip(*ERROR_COLOURS, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def measured_and_imagined(
    measured: np.ndarray,
    completed: np.ndarray,
    confidence: np.ndarray,
    *,
    view: str = "behind",
    extent_m: float = 50.0,
    size: tuple[int, int] = (1100, 640),
) -> bytes:
    """PNG as in RViz: measured points (N, 3) white and in front, completed points (M, 3) coloured by confidence (M,).

    Sensor frame, metres, x forward. view: "above" (x up, `extent_m` from the sensor to the nearest edge), or "behind", a
    camera behind and above the vehicle. size: width and height in pixels.
    """
    if view not in VIEWS:
        raise ValueError(f"view: expected {' or '.join(VIEWS)}, found {view!r}")
    width, height = size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = _rgb(BACKGROUND)
    for points, colours in (
        (completed, confidence_colours(confidence)),
        (measured, np.tile(np.array(MEASURED_COLOUR, np.uint8), (len(measured), 1))),
    ):
        column, row, inverse_depth = (
            _seen_from_above(points, extent_m, size) if view == "above" else _seen(points, size)
        )
        far_first = np.argsort(inverse_depth, kind="stable")
        _splat(image, column[far_first], row[far_first], colours[far_first])
    picture = Image.fromarray(image)
    _legend(picture, len(measured), len(completed))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def confidence_colours(confidence: np.ndarray) -> np.ndarray:
    """RGB (M, 3) uint8 of confidences (M,) in [0, 1]."""
    low, high = np.array(CONFIDENCE_COLOURS, np.float64)
    share = np.clip(np.nan_to_num(confidence), 0.0, 1.0)[:, None]
    return np.round(low + share * (high - low)).astype(np.uint8)


def _seen_from_above(points: np.ndarray, extent_m: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Column, row (pixels, float) and height of points (N, 3) in bird's-eye view, x up."""
    scale = min(size) / (2 * extent_m)
    return size[0] / 2 - points[:, 1] * scale, size[1] / 2 - points[:, 0] * scale, points[:, 2]


def _seen(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Column, row (pixels, float) and inverse depth (1/m) of points (N, 3) for a camera 14 m behind and 9 m above the sensor."""
    eye, target = np.array([-14.0, 0.0, 9.0]), np.array([12.0, 0.0, -1.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    from_eye = np.asarray(points, np.float64) - eye
    depth = from_eye @ forward
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse_depth = np.where(depth > 1.0, 1.0 / depth, np.nan)  # NaN: behind the camera, not drawn
    focal = 0.62 * size[0]
    down = np.cross(forward, right)
    return (
        size[0] / 2 + focal * (from_eye @ right) * inverse_depth,
        size[1] / 2 + focal * (from_eye @ down) * inverse_depth,
        inverse_depth,
    )


def _splat(image: np.ndarray, column: np.ndarray, row: np.ndarray, colours: np.ndarray) -> None:
    """Draw each point as 2x2 pixels; the last point of a pixel is visible."""
    seen = np.isfinite(column) & np.isfinite(row)
    left, top = np.floor(column[seen]).astype(np.int64), np.floor(row[seen]).astype(np.int64)
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = left + right, top + below
        inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
        image[y[inside], x[inside]] = colours[seen][inside]


def _legend(picture: Image.Image, measured: int, completed: int) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    left, top, bar = 14, 12, 120
    draw.rectangle((0, 0, left + bar + 265, top + 44), fill=BACKGROUND)
    draw.rectangle((left, top + 3, left + 14, top + 13), fill=MEASURED_COLOUR)
    draw.text((left + 22, top), f"measured: {measured:,} points", fill=MEASURED_COLOUR, font=font)
    colours = confidence_colours(np.linspace(0, 1, bar))
    for x, colour in enumerate(colours):
        draw.line((left + x, top + 27, left + x, top + 37), fill=tuple(map(int, colour)))
    draw.text(
        (left + bar + 8, top + 24), f"imagined, confidence 0 to 1: {completed:,}", fill=MEASURED_COLOUR, font=font
    )
