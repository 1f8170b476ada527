"""The report of a replay evaluation as one HTML file: figures, charts over time, and pictures of the worst sweeps."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lidar_completion_evaluation.pictures import Panel, birds_eye, measured_and_imagined
from lidar_completion_evaluation.replay.evaluation import ROWS, Evaluation, ShownSweep
from lidar_completion_evaluation.replay.files import read_diagnostics
from lidar_completion_evaluation.replay.recorded import RecordedCompletion
from lidar_completion_evaluation.replay.result import EvaluatedSweep, ReplayResult
from lidar_completion_evaluation.reports.charts import Series, clock, level_bar, time_chart
from lidar_completion_evaluation.reports.page import png_url, write_page
from lidar_completion_evaluation.scenes import Scene
from lidar_completion_evaluation.truth.rules import distance_to_truth
from lidar_completion_evaluation.view.embed import embedded_view

LEVELS = ("OK", "WARN", "ERROR")
LEVEL_COLOURS = ("#2fa37c", "#e8a33d", "#d1373f")
INK, OURS, RAW, BEST = "#2b50d8", "#0f766e", "#94a3b8", "#c47a1b"
ROW_NAMES = {row: "the node's completion" if row == "completion" else row.replace("_", "-") + " sweep" for row in ROWS}
BEST_BASELINE = "best baseline"
MAX_MESSAGES = 40  # in the table of diagnostics
WRONG_M = 0.5  # red in the pictures of errors

Change = tuple[float, int, str]  # (seconds, level, message) of a diagnostic


@dataclass(frozen=True)
class ReportPicture:
    """A picture at the top of the report."""

    title: str
    text: str
    png: bytes


def write_report(
    evaluation: Evaluation,
    *,
    about: str = "",
    pictures: Sequence[ReportPicture] = (),
    truth: str = "the map of the bag",
    viewed: tuple[RecordedCompletion, Scene | None] | None = None,
) -> Path:
    """Write report.html into the evaluation's folder. about: a sentence on the model; truth: what it was compared with.

    viewed: the completion that is shown in 3-D, with its scene if there are poses; default: the first of evaluation.shown.
    """
    if viewed is None and evaluation.shown:
        viewed = evaluation.shown[0].completion, evaluation.shown[0].scene
    result = evaluation.result
    duration_s = max([1e-3, *(sweep.sent_s + (sweep.latency_s or 0.0) for sweep in result.sweeps)])
    changes = list(_changes(read_diagnostics(evaluation.folder)))
    return write_page(
        evaluation.folder / "report.html",
        "replay",
        evaluation=evaluation,
        result=result,
        about=about,
        truth=truth,
        pictures=[{"title": each.title, "text": each.text, "url": png_url(each.png)} for each in pictures],
        view=_view(*viewed) if viewed else None,
        pace="one at a time" if evaluation.rate == 0 else f"{evaluation.rate:g} × real time",
        duration=clock(round(duration_s, 1), duration_s),
        points=_mean_points(result),
        latency=_latency_table(result),
        choices=_choices(result),
        stages={stage: f"{milliseconds:.1f}" for stage, milliseconds in _stages_ms(result).items()},
        charts=_charts(evaluation, changes, duration_s),
        quality=_quality_table(mean_figures(evaluation.quality)),
        quality_colours=[("completion", OURS), (BEST_BASELINE, BEST), ("raw sweep", RAW)],
        messages=_messages(changes, duration_s),
        more_messages=max(0, len(changes) - MAX_MESSAGES),
        shown=[_card(evaluation, sweep) for sweep in evaluation.shown],
        levels=list(zip(LEVELS, LEVEL_COLOURS, strict=True)),
    )


def mean_figures(quality: Sequence[EvaluatedSweep]) -> dict[str, dict[str, float]]:
    """Mean over the evaluated sweeps: row -> figure -> value; empty without any."""
    rows = quality[0].rows if quality else {}
    return {
        row: {figure: float(np.mean([sweep.rows[row][figure] for sweep in quality])) for figure in figures}
        for row, figures in rows.items()
    }


# --- tables -----------------------------------------------------------------------------------------------------


def _stages_ms(result: ReplayResult) -> dict[str, float]:
    """Milliseconds of the last sweep's stages; empty without a completion."""
    last = result.node.last_sweep
    return {} if last is None else last.stages_ms


def _mean_points(result: ReplayResult) -> dict[str, str]:
    answered = [sweep for sweep in result.sweeps if sweep.points_out is not None]
    count = max(1, len(answered))
    return {
        "input": f"{sum(sweep.points_in for sweep in answered) / count:,.0f}",
        "output": f"{sum(sweep.points_out or 0 for sweep in answered) / count:,.0f}",
    }


def _latency_table(result: ReplayResult) -> list[tuple[str, str]]:
    rows = [(f"p{percentile}", result.latency_ms(percentile)) for percentile in (50, 90, 95, 99)]
    return [(name, f"{value:.0f}") for name, value in [*rows, ("max", result.latency_ms(100))]]


def _choices(result: ReplayResult) -> list[tuple[int, int, int, str]]:
    """(steps, replication, sweeps, median latency in ms) for each combination that the node used."""
    latencies: dict[tuple[int, int], list[float]] = {}
    for sweep in result.sweeps:
        if sweep.steps is not None and sweep.latency_s is not None:
            latencies.setdefault((sweep.steps, sweep.replication or 0), []).append(sweep.latency_ms)
    return [(*choice, len(each), f"{np.median(each):.0f}") for choice, each in sorted(latencies.items(), reverse=True)]


def _quality_table(means: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One line per row, the completion first."""
    widest = max((figures["cd"] for figures in means.values()), default=1.0)
    return [
        {
            "name": ROW_NAMES[row],
            "ours": row == "completion",
            "cd": figures["cd"],
            "value": f"{figures['cd']:.3f} m",
            "f": f"{100 * figures['f']:.1f}",
            "width": 100 * figures["cd"] / widest,
            "colour": OURS if row == "completion" else RAW,
            "against_raw": f"{100 * (figures['cd'] / means['raw']['cd'] - 1):+.0f} %",
        }
        for row, figures in means.items()
    ]


def _changes(diagnostics: Iterator[Change]) -> Iterator[Change]:
    """The diagnostics that differ from the previous one in more than numbers."""
    before = None
    for seconds, level, message in diagnostics:
        kind = (level, re.sub(r"\d+(\.\d+)?", "#", message))
        if kind != before:
            yield seconds, level, message
        before = kind


def _messages(changes: list[Change], duration_s: float) -> list[dict[str, str]]:
    """The first changes, and how often each message occurred."""
    often = Counter(message for _, _, message in changes)
    return [
        {
            "at": clock(round(max(seconds, 0.0), 1), duration_s),
            "level": LEVELS[min(level, 2)],
            "colour": LEVEL_COLOURS[min(level, 2)],
            "message": message,
            "often": f"{often[message]}×" if often[message] > 1 else "",
        }
        for seconds, level, message in changes[:MAX_MESSAGES]
    ]


# --- charts -----------------------------------------------------------------------------------------------------


def _charts(evaluation: Evaluation, changes: list[Change], duration_s: float) -> dict[str, Markup]:
    sweeps = evaluation.result.sweeps
    sent = np.array([sweep.sent_s for sweep in sweeps])
    latency = np.array([sweep.latency_ms for sweep in sweeps])
    percentiles = [(f"p{each} {evaluation.result.latency_ms(each):.0f} ms", evaluation.result.latency_ms(each)) for each in (50, 99)]  # fmt: skip
    charts = {
        "latency": time_chart(
            [Series("latency", INK, sent, latency, dots=True)],
            duration_s,
            label="latency, ms",
            levels=[level for level in percentiles if np.isfinite(level[1])],
            marks=sent[np.isnan(latency)],
        ),
        "levels": level_bar(
            np.array([seconds for seconds, _, _ in changes]),
            np.array([min(level, 2) for _, level, _ in changes], np.int64),
            duration_s,
            LEVEL_COLOURS,
        ),
    }
    for name in ("steps", "replication"):
        values = np.array([np.nan if getattr(sweep, name) is None else getattr(sweep, name) for sweep in sweeps])
        series = [Series(name, INK, sent, values, dots=True)]
        charts[name] = time_chart(series, duration_s, label=name, height_inch=1.3, whole=True)
    if evaluation.quality:
        charts |= _quality_charts(evaluation.quality, duration_s)
    return charts


def _quality_charts(quality: list[EvaluatedSweep], duration_s: float) -> dict[str, Markup]:
    at = np.array([sweep.sent_s for sweep in quality])
    dots = len(quality) < 3  # a line needs more
    charts = {}
    for figure, best, label, scale in (("cd", np.min, "CD, m", 1), ("f", np.max, "F at 0.2 m, %", 100)):
        values = {row: scale * np.array([sweep.rows[row][figure] for sweep in quality]) for row in ROWS}
        best_baseline = best([values[row] for row in ROWS if row != "completion"], axis=0)
        series = [
            Series(BEST_BASELINE, BEST, at, best_baseline, dots),
            Series("raw sweep", RAW, at, values["raw"], dots),
            Series("completion", OURS, at, values["completion"], dots),
        ]
        charts[figure] = time_chart(series, duration_s, label=label, from_zero=figure == "cd")
    return charts


# --- pictures ---------------------------------------------------------------------------------------------------


def _card(evaluation: Evaluation, sweep: ShownSweep) -> dict[str, Any]:
    played = evaluation.result.sweeps[sweep.number]
    facts = [f"{played.points_in:,} points in, {played.points_out or 0:,} out", f"latency {played.latency_ms:.0f} ms"]
    if played.steps:
        facts.append(f"{played.steps} step{'s' * (played.steps > 1)}")
    if sweep.rows:
        ours, raw = sweep.rows["completion"], sweep.rows["raw"]
        facts += [
            f"CD {ours['cd']:.3f} m (raw {raw['cd']:.3f})",
            f"F {100 * ours['f']:.1f} % (raw {100 * raw['f']:.1f})",
            f"{100 * ours['violations']:.1f} % in free space",
        ]
    return {
        "number": sweep.number,
        "stamp": f"{sweep.completion.stamp_ns / 1e9:.3f}",
        "why": sweep.why,
        "facts": facts,
        "pictures": [(caption, png_url(png)) for caption, png in _pictures(sweep)],
    }


def _view(completion: RecordedCompletion, scene: Scene | None) -> dict[str, Any]:
    """The rotatable view of one sweep."""
    distance = None if scene is None else distance_to_truth(completion.completed, scene.truth)
    clouds = (completion.measured, completion.completed, completion.confidence)
    return {
        "stamp": f"{completion.stamp_ns / 1e9:.3f}",
        "html": Markup(embedded_view(*clouds, distance_m=distance)),
    }


def _pictures(sweep: ShownSweep) -> Iterator[tuple[str, bytes]]:
    clouds = (sweep.completion.measured, sweep.completion.completed, sweep.completion.confidence)
    yield "Measured points white, imagined points coloured by confidence; from behind", measured_and_imagined(*clouds, size=(900, 560))  # fmt: skip
    yield "The same from above, 50 m around the sensor", measured_and_imagined(*clouds, view="above", size=(560, 560))
    if sweep.scene is not None and sweep.compared is not None:
        buffer, truth = io.BytesIO(), sweep.scene.truth
        points, distance_m = sweep.compared.points, sweep.compared.distances.prediction_to_truth
        errors = Panel("distance to the truth", points, distance_m, "RdYlGn_r", (0.0, WRONG_M))
        birds_eye([errors, Panel("truth", truth, np.zeros(len(truth)), "gray", (-1.0, 1.0))], buffer)
        yield f"Distance to the truth: green 0, red {WRONG_M:g} m and more; right: the truth", buffer.getvalue()
