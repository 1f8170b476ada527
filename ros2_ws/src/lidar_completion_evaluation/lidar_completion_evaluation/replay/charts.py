"""Charts over time as SVG text. However many values there are, a chart has at most `COLUMNS` marks a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLUMNS = 500
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1100, 62, 14, 14, 30


@dataclass(frozen=True)
class Series:
    """Values (N,) at times (N,) in seconds. Many values become a band from least to most with their median."""

    name: str
    colour: str
    times: np.ndarray
    values: np.ndarray
    dots: bool = False  # else a line


def time_chart(
    series: Sequence[Series],
    duration_s: float,
    *,
    unit: str,
    height: int = 240,
    whole: bool = False,
    from_zero: bool = True,
    levels: Sequence[tuple[str, float]] = (),
    marks: np.ndarray | None = None,
) -> str:
    """SVG of `series` over 0 … duration_s. levels: named horizontal lines; marks (K,): times of red ticks at the foot.

    whole: ticks at whole numbers only. from_zero: the scale starts at 0, else at the least value.
    """
    values = np.concatenate(
        [np.asarray(each.values, np.float64) for each in series] + [np.array([v for _, v in levels])]
    )
    values = values[np.isfinite(values)]
    low = 0.0 if from_zero or not len(values) else float(values.min())
    ticks = nice_ticks(low, float(values.max()) if len(values) else 1.0, whole)
    scale = _Scale(duration_s, min(low, ticks[0]), max(float(values.max(initial=1e-9)), ticks[-1]), height)
    parts = [_axes(scale, ticks, unit)]
    parts += [_level(scale, name, value, number) for number, (name, value) in enumerate(levels)]
    parts += [_drawn(scale, each) for each in series]
    parts += [_marks(scale, marks)] if marks is not None and len(marks) else []
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def level_bar(
    times: np.ndarray, levels: np.ndarray, duration_s: float, colours: Sequence[str], height: int = 26
) -> str:
    """SVG of a bar over 0 … duration_s: a level (N,) holds from its time to the next; of a column the worst shows."""
    scale = _Scale(duration_s, 0, 1, height + BOTTOM)
    worst = worst_per_column(times, levels, duration_s)
    width = (WIDTH - LEFT - RIGHT) / len(worst)
    edges = np.flatnonzero(np.diff(worst)) + 1
    rectangles = [
        f'<rect x="{LEFT + start * width:.1f}" y="0" width="{(end - start) * width:.2f}" height="{height}" '
        f'fill="{colours[worst[start]]}"/>'
        for start, end in zip([0, *edges], [*edges, len(worst)], strict=True)
        if worst[start] >= 0
    ]
    return f'<svg viewBox="0 0 {WIDTH} {height + BOTTOM}">{"".join(rectangles)}{_time_axis(scale)}</svg>'


def worst_per_column(times: np.ndarray, levels: np.ndarray, duration_s: float, columns: int = COLUMNS) -> np.ndarray:
    """The greatest level (columns,) int that held in each part of 0 … duration_s; -1 before the first."""
    worst = np.full(columns, -1, np.int64)
    start = np.clip((np.asarray(times) / max(duration_s, 1e-9) * columns).astype(np.int64), 0, columns - 1)
    ends = np.append(start[1:], columns - 1)
    for first, last, level in zip(start, ends, levels, strict=True):
        worst[first : last + 1] = np.maximum(worst[first : last + 1], level)
    return worst


def columns_of(times: np.ndarray, values: np.ndarray, duration_s: float, columns: int = COLUMNS) -> np.ndarray:
    """Rows (K, 4) of middle time, least, median and greatest value of the occupied columns of 0 … duration_s."""
    order = np.argsort(times, kind="stable")
    times, values = np.asarray(times, np.float64)[order], np.asarray(values, np.float64)[order]
    column = np.clip((times / max(duration_s, 1e-9) * columns).astype(np.int64), 0, columns - 1)
    pieces = np.split(np.arange(len(times)), np.flatnonzero(np.diff(column)) + 1) if len(times) else []
    rows = [(times[p].mean(), values[p].min(), np.median(values[p]), values[p].max()) for p in pieces]
    return np.array(rows, np.float64).reshape(-1, 4)


def nice_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to seven round numbers of which the first is at most `low` and the last at least `high`."""
    raw = max(high - low, 1e-9) / 4
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    if whole:
        step = max(1.0, float(np.ceil(step)))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Scale:
    duration_s: float
    low: float
    high: float
    height: int

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, seconds / max(self.duration_s, 1e-9)))

    def y(self, value: float) -> float:
        inner = self.height - TOP - BOTTOM
        return TOP + inner * (1 - (value - self.low) / max(self.high - self.low, 1e-9))


def _axes(scale: _Scale, ticks: Sequence[float], unit: str) -> str:
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(tick):.1f}" y2="{scale.y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{scale.y(tick) + 4:.1f}" text-anchor="end">{tick:g}'
        f"{' ' + escape(unit) if tick == ticks[-1] else ''}</text>"
        for tick in ticks
    ]
    return "".join(lines) + _time_axis(scale)


def _time_axis(scale: _Scale) -> str:
    ticks = [tick for tick in nice_ticks(0, scale.duration_s) if tick <= scale.duration_s * 1.0001]
    return "".join(
        f'<text class="tick" x="{scale.x(tick):.1f}" y="{scale.height - 10}" text-anchor="middle">'
        f"{clock(tick, scale.duration_s)}</text>"
        for tick in ticks
    )


def clock(seconds: float, duration_s: float) -> str:
    """A time of a drive as its axis writes it: seconds in a short one, minutes:seconds in a longer one."""
    return f"{seconds:g} s" if duration_s < 120 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _level(scale: _Scale, name: str, value: float, number: int) -> str:
    y = scale.y(value)
    text_x = WIDTH - RIGHT - 4 - 110 * number  # side by side, as levels may lie close to each other
    return (
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{text_x}" y="{y - 4:.1f}" text-anchor="end">{escape(name)}</text>'
    )


def _drawn(scale: _Scale, series: Series) -> str:
    finite = np.isfinite(series.values)
    times, values = np.asarray(series.times)[finite], np.asarray(series.values, np.float64)[finite]
    if len(times) > COLUMNS:
        rows = columns_of(times, values, scale.duration_s)
        band = [(t, most) for t, _, _, most in rows] + [(t, least) for t, least, _, _ in rows[::-1]]
        return (
            f'<polygon points="{_points(scale, band)}" fill="{series.colour}" opacity=".28"/>'
            f'<polyline points="{_points(scale, rows[:, [0, 2]])}" fill="none" stroke="{series.colour}" stroke-width="1.5"/>'
        )
    if series.dots:
        return "".join(
            f'<circle cx="{scale.x(t):.1f}" cy="{scale.y(v):.1f}" r="3.2" fill="{series.colour}">'
            f"<title>{escape(series.name)} {v:.4g}</title></circle>"
            for t, v in zip(times, values, strict=True)
        )
    pairs = list(zip(times, values, strict=True))
    dots = "".join(
        f'<circle cx="{scale.x(t):.1f}" cy="{scale.y(v):.1f}" r="2.6" fill="{series.colour}"/>' for t, v in pairs
    )
    return (
        f'<polyline points="{_points(scale, pairs)}" fill="none" stroke="{series.colour}" stroke-width="1.8"/>'
        f"{dots if len(pairs) <= 80 else ''}"
    )


def _points(scale: _Scale, pairs) -> str:  # type: ignore[no-untyped-def]
    return " ".join(f"{scale.x(t):.1f},{scale.y(v):.1f}" for t, v in pairs)


def _marks(scale: _Scale, times: np.ndarray) -> str:
    foot = scale.height - BOTTOM
    columns = np.unique(np.round([scale.x(each) for each in times]))
    return "".join(
        f'<line x1="{x:g}" x2="{x:g}" y1="{foot - 12}" y2="{foot}" stroke="#d1373f" stroke-width="1.6"/>'
        for x in columns
    )
