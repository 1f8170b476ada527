"""The report of an evaluation: tables, charts and pictures of the worst and best scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lidar_completion_evaluation.pictures import ERROR_COLOURS, ERROR_STOPS_M
from lidar_completion_evaluation.reports.charts import style, svg
from lidar_completion_evaluation.reports.page import png_file_url, write_page
from lidar_completion_evaluation.results import picture_file
from lidar_completion_evaluation.summary import (
    DRIVING,
    FIGURES,
    FURTHER,
    HOLES,
    PAPER,
    RowSummary,
    Summary,
    shown_figures,
)

BASELINE_COLOURS = ("#94a3b8", "#475569", "#c8a768", "#8a5a2b", "#84a98c", "#52796f")
MAIN = (PAPER[0], *DRIVING, *HOLES, *PAPER[1:])
MODEL_COLOURS = ("#0f766e", "#b4338a", "#2563eb", "#d9680b", "#6d28d9", "#15803d", "#be123c", "#0e7490")


def write_report(
    summary: Summary, output: Path, *, scenes_each: int = 4, title: str = "Scene completion: evaluation"
) -> Path:
    """Write output/report.html with pictures of the scenes_each worst and best scenes of the focus row; returns its path."""
    return write_page(
        output / "report.html",
        "evaluation",
        title=title,
        date=date.today().isoformat(),
        summary=summary,
        tables=[_table(summary, section, MAIN) for section in ("completed", "with_measured")],
        further=_table(summary, "completed", FURTHER),
        also=_also(summary),
        charts=_charts(summary),
        scenes=_scene_cards(summary, output, scenes_each),
        all_scenes=_all_scenes(summary),
        failures=[(row.name, scene, why) for row in summary.rows for scene, why in row.failed.items()],
        legend=_legend(),
        colours=_colours(summary),
    )


# --- tables -----------------------------------------------------------------------------------------------------


def _table(summary: Summary, section: str, names: tuple[str, ...]) -> dict[str, Any]:
    shown = shown_figures(summary, section, names)
    best = {name: _best_row(summary, section, name) for name in shown}
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "cells": [_cell(row, section, name, best[name] is row) for name in shown],
            "paired": _paired(summary, row),
            "seconds": None if row.seconds is None else f"{row.seconds.mean:.2f}",
            "scenes": len(row.scenes),
            "failed": len(row.failed),
        }
        for row in summary.rows
    ]
    published = [
        {
            "name": row.name,
            "cells": [_number(getattr(row, name, None), name) for name in shown],
            "seconds": f"{row.seconds:.2f}",
        }
        for row in (summary.published if section == "completed" else ())
    ]
    heads = [(FIGURES[name][0], FIGURES[name][3]) for name in shown]
    return {
        "section": section,
        "heads": heads,
        "rows": rows,
        "published": published,
        "whiskers": [
            {"heading": heading, "bars": _whiskers(summary, section, figure)}
            for figure, heading in (
                ("cd", "Chamfer distance"),
                ("cd_clamped", "Chamfer distance, distances clamped to 1 m"),
            )
        ],
    }


def _best_row(summary: Summary, section: str, name: str) -> RowSummary | None:
    rows = [row for row in summary.rows if name in row.figures[section]]
    sign = 1 if FIGURES[name][3] == "lower" else -1
    return min(rows, key=lambda row: sign * row.figures[section][name].mean, default=None)


def _cell(row: RowSummary, section: str, name: str, best: bool) -> dict[str, Any]:
    interval = row.figures[section].get(name)
    if interval is None:
        return {"value": "–", "interval": "", "best": False}
    return {
        "value": _number(interval.mean, name),
        "interval": f"{_number(interval.lower, name)} – {_number(interval.upper, name)}" if interval.n > 1 else "",
        "best": best,
    }


def _number(value: float | None, name: str) -> str:
    _, scale, digits, _ = FIGURES[name]
    return "–" if value is None else f"{scale * value:.{digits}f}"


def _also(summary: Summary) -> list[dict[str, str]]:
    """The focus row compared with the best baseline, for other figures than CD."""
    shown = []
    for name in ("cd_clamped", "f_0.2", "cd_observed", "f_observed_0.2", "violations"):
        paired = summary.against_baseline(summary.focus, name)
        if paired is not None:
            heading, scale, digits, better = FIGURES[name]
            interval, sign = paired.difference, 1 if better == "lower" else -1
            good, bad = (interval.upper < 0, interval.lower > 0)[::sign]
            shown.append(
                {
                    "name": heading,
                    "text": f"{scale * interval.mean:+.{digits}f}",
                    "interval": f"{scale * interval.lower:+.{digits}f} … {scale * interval.upper:+.{digits}f}",
                    "verdict": "better" if good else "worse" if bad else "open",
                }
            )
    return shown


def _paired(summary: Summary, row: RowSummary) -> dict[str, Any] | None:
    paired = summary.against_baseline(row)
    if paired is None or summary.best_baseline is None:
        return None
    interval, base = paired.difference, summary.best_baseline.figures["completed"]["cd"].mean
    verdict = "better" if interval.upper < 0 else "worse" if interval.lower > 0 else "open"
    return {
        "text": f"{interval.mean:+.3f}",
        "percent": f"{100 * interval.mean / base:+.0f} %",
        "interval": f"{interval.lower:+.3f} … {interval.upper:+.3f}",
        "verdict": verdict,
        "wins": f"{100 * paired.lower_on:.0f} %",
    }


def _whiskers(summary: Summary, section: str, figure: str) -> list[dict[str, Any]]:
    """Bars of a figure in metres with their intervals, in percent of the widest."""
    rows = [row for row in summary.rows if figure in row.figures[section]]
    if not rows:
        return []
    widest = 1.05 * max(row.figures[section][figure].upper for row in rows)
    colours = _colours(summary)
    bars = []
    for row in rows:
        cd = row.figures[section][figure]
        bars.append(
            {
                "name": row.name,
                "value": f"{cd.mean:.3f} m",
                "width": 100 * cd.mean / widest,
                "lower": 100 * cd.lower / widest,
                "span": max(100 * (cd.upper - cd.lower) / widest, 0.2),
                "colour": colours[row.name],
            }
        )
    return bars


def _colours(summary: Summary) -> dict[str, str]:
    colours, baselines, others = {}, 0, 0
    for row in summary.rows:
        if row.kind == "baseline":
            colours[row.name], baselines = BASELINE_COLOURS[baselines % len(BASELINE_COLOURS)], baselines + 1
        else:
            colours[row.name], others = MODEL_COLOURS[others % len(MODEL_COLOURS)], others + 1
    return colours


# --- charts -----------------------------------------------------------------------------------------------------


def _charts(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "title": "By distance from the sensor",
            "text": "Accuracy: share of completed points within 0.2 m of a true surface. Completeness: share of true points "
            "within 0.2 m of a completed one.",
            "svg": _band_chart(summary, "by_range", "range from the sensor, m"),
        },
        {
            "title": "By height",
            "text": "Height in the sensor frame. With a roof sensor the road is near -1.7 m.",
            "svg": _band_chart(summary, "by_height", "height above the sensor, m"),
        },
        {
            "title": "Distribution of errors",
            "text": "Share of points whose nearest neighbour in the other cloud is closer than the distance.",
            "svg": _curve_chart(summary),
        },
    ]


def _band_chart(summary: Summary, bands: str, label: str) -> Markup:
    def draw(axes: Sequence[Axes], row: RowSummary, style: dict) -> None:
        tables = [result["completed"][bands] for result in row.scenes.values()]
        edges = [tables[0][0]["lower_m"], *(band["upper_m"] for band in tables[0])]
        centres = np.arange(len(tables[0]))
        for axis, figure in zip(axes, ("accuracy", "completeness"), strict=True):
            axis.plot(centres, [_mean(table[n][figure] for table in tables) for n in centres], **style)
            axis.set_xticks(centres, [f"{low:g} – {high:g}" for low, high in pairwise(edges)])
            axis.set_xlabel(label)

    return _two_panels(summary, draw, ("accuracy", "completeness"))


def _curve_chart(summary: Summary) -> Markup:
    def draw(axes: Sequence[Axes], row: RowSummary, style: dict) -> None:
        curves = [result["completed"]["curve"] for result in row.scenes.values()]
        for axis, figure in zip(axes, ("precision", "recall"), strict=True):
            axis.plot(curves[0]["m"], np.mean([curve[figure] for curve in curves], axis=0), **style)
            axis.set_xlabel("distance, m")
            axis.set_xscale("log")
            axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
            axis.minorticks_off()

    return _two_panels(summary, draw, ("completed → truth (precision)", "truth → completed (recall)"))


def _two_panels(summary: Summary, draw: Callable[..., None], titles: tuple[str, str]) -> Markup:
    figure = Figure(figsize=(9.2, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = _colours(summary)
    for row in summary.rows:
        if row.scenes:
            line = {"linestyle": "--", "linewidth": 1.4} if row.kind == "baseline" else {"linewidth": 2.2}
            draw(axes, row, line | {"marker": "o", "markersize": 3, "color": colours[row.name], "label": row.name})
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10, loc="left", color="#374151")
        style(axis).yaxis.set_major_formatter(PercentFormatter(1.0))
    return svg(figure)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan  # a gap in the line


# --- scenes -----------------------------------------------------------------------------------------------------


def _scene_cards(summary: Summary, output: Path, each: int) -> list[dict[str, Any]]:
    ranked = sorted(summary.focus.values("cd").items(), key=lambda item: -item[1])
    count = min(each, (len(ranked) + 1) // 2)
    best = list(reversed(ranked[len(ranked) - min(count, len(ranked) - count) :]))
    groups = (("worst", ranked[:count]), ("best", best))
    return [
        {"group": group, "rank": rank, "name": name, "pictures": _scene_pictures(summary, output, name)}
        for group, chosen in groups
        for rank, (name, _) in enumerate(chosen, start=1)
    ]


def _scene_pictures(summary: Summary, output: Path, scene: str) -> list[dict[str, Any]]:
    pictures: list[dict[str, Any]] = [
        {"title": "sweep over the truth", "image": png_file_url(picture_file(output, "sweep", scene)), "figures": []}
    ]
    for row in summary.rows:
        if scene in row.scenes and row.name != "raw":
            figures = row.scenes[scene]["completed"]
            shown = [("CD", _number(figures["cd"], "cd") + " m"), ("F@0.2", _number(figures["f_0.2"], "f_0.2") + " %")]
            shown.append(("free-space violations", _number(figures["violations"], "violations") + " %"))
            image = png_file_url(picture_file(output, row.name, scene))
            pictures.append({"title": row.name, "image": image, "figures": shown, "focus": row is summary.focus})
    return pictures


def _all_scenes(summary: Summary) -> list[dict[str, Any]]:
    lines = []
    for scene in summary.scenes:
        values = [row.scenes[scene]["completed"]["cd"] if scene in row.scenes else None for row in summary.rows]
        if any(value is not None for value in values):
            best = min(value for value in values if value is not None)
            cells = [{"text": "–" if value is None else f"{value:.3f}", "best": value == best} for value in values]
            lines.append({"name": scene, "cells": cells})
    return lines


def _legend() -> list[tuple[str, str]]:
    return [
        (f"{stop:g} m" + (" and more" if stop == ERROR_STOPS_M[-1] else ""), f"rgb{colour}")
        for stop, colour in zip(ERROR_STOPS_M, ERROR_COLOURS, strict=True)
    ]
