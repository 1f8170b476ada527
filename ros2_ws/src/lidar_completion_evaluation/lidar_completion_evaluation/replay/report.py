"""The evaluation of a replay as one HTML file: figures, charts over time, and pictures of the worst sweeps, all inside."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from lidar_completion_evaluation.replay.charts import Series, clock, level_bar, time_chart
from lidar_completion_evaluation.replay.evaluation import Evaluation, ShownSweep, read_diagnostics

try:
    import matplotlib  # noqa: F401 (the bird's-eye pictures)
    from jinja2 import Environment, FunctionLoader, select_autoescape
    from markupsafe import Markup
except ImportError as missing:
    install = "pip install 'lidar_completion_ros[report]'"
    raise ImportError(f"the report of an evaluation needs {missing.name}: {install}") from missing

LEVELS = ("OK", "WARN", "ERROR")
LEVEL_COLOURS = ("#2fa37c", "#e8a33d", "#d1373f")
INK, OURS, RAW, BEST = "#2b50d8", "#0f766e", "#94a3b8", "#c47a1b"
ROW_NAMES = {
    "completion": "the node's completion",
    "raw": "raw sweep",
    "jittered": "jittered sweep",
    "interpolated": "interpolated sweep",
    "xy_jittered": "xy-jittered sweep",
}
STAGES = ("preprocess", "denoise", "postprocess", "total")
MOST_MESSAGES = 40  # of the diagnostics' table
WRONG_M = 0.5  # red in the pictures of errors


def write_report(evaluation: Evaluation) -> Path:
    """Write report.html into the evaluation's folder."""
    folder = files("lidar_completion_evaluation") / "replay" / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text()), autoescape=select_autoescape(default=True)
    )
    result = evaluation.result
    duration_s = max([1e-3, *(sweep.sent_s + (sweep.latency_s or 0.0) for sweep in result.sweeps)])
    diagnostics = list(_level_changes(read_diagnostics(evaluation.folder)))
    page = environment.get_template("replay.html.j2").render(
        evaluation=evaluation,
        result=result,
        pace="as fast as it answers" if evaluation.rate == 0 else f"{evaluation.rate:g} × real time",
        duration=clock(round(duration_s, 1), duration_s),
        unanswered=len(result.sweeps) - result.completed,
        latency=_latency_table(evaluation),
        choices=_choices(evaluation),
        stages={stage: result.node_values.get(f"{stage} ms", "") for stage in STAGES},
        charts={name: Markup(svg) for name, svg in _charts(evaluation, diagnostics, duration_s).items()},
        quality=_quality_table(evaluation),
        messages=_messages(diagnostics, duration_s),
        more_messages=max(0, len(diagnostics) - MOST_MESSAGES),
        shown=[_card(evaluation, sweep) for sweep in evaluation.shown],
        colours={"ours": OURS, "raw": RAW, "best": BEST, "ink": INK},
        levels=list(zip(LEVELS, LEVEL_COLOURS, strict=True)),
    )
    path = evaluation.folder / "report.html"
    path.write_text(page)
    return path


# --- tables -----------------------------------------------------------------------------------------------------


def _latency_table(evaluation: Evaluation) -> list[tuple[str, str]]:
    result = evaluation.result
    rows = [(f"p{percentile}", result.latency_ms(percentile)) for percentile in (50, 90, 95, 99)]
    return [(name, f"{value:.0f}") for name, value in [*rows, ("max", result.latency_ms(100))]]


def _choices(evaluation: Evaluation) -> list[tuple[int, int, int, str]]:
    """(steps, replication, sweeps, median latency in ms) for each choice of work that the node made."""
    latencies: dict[tuple[int, int], list[float]] = {}
    for sweep in evaluation.result.sweeps:
        if sweep.steps is not None and sweep.latency_s is not None:
            latencies.setdefault((sweep.steps, sweep.replication or 0), []).append(sweep.latency_s * 1e3)
    return [(*choice, len(each), f"{np.median(each):.0f}") for choice, each in sorted(latencies.items(), reverse=True)]


def _quality_table(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Mean Chamfer distance and F-score of every row over the judged sweeps, the completion first."""
    if not evaluation.quality:
        return []
    means = {name: float(np.mean([row[name] for row in evaluation.quality])) for name in evaluation.quality[0]}
    widest = max(means[f"{row} cd"] for row in ROW_NAMES)
    return [
        {
            "name": name,
            "ours": row == "completion",
            "cd": f"{means[f'{row} cd']:.3f}",
            "f": f"{100 * means[f'{row} f']:.1f}",
            "width": f"{100 * means[f'{row} cd'] / widest:.1f}",
            "against_raw": f"{100 * (means[f'{row} cd'] / means['raw cd'] - 1):+.0f} %",
        }
        for row, name in ROW_NAMES.items()
    ]


def _level_changes(diagnostics: Iterator[tuple[float, int, str, dict[str, str]]]) -> Iterator[tuple[float, int, str]]:
    """(seconds, level, message) of those diagnostics that say something else than the one before, numbers aside."""
    before = None
    for seconds, level, message, _ in diagnostics:
        kind = (level, re.sub(r"\d+(\.\d+)?", "#", message))
        if kind != before:
            yield seconds, level, message
        before = kind


def _messages(changes: list[tuple[float, int, str]], duration_s: float) -> list[dict[str, str]]:
    """The first changes, and how often each message came in all."""
    often = Counter(message for _, _, message in changes)
    return [
        {
            "at": clock(round(max(seconds, 0.0), 1), duration_s),
            "level": LEVELS[min(level, 2)],
            "colour": LEVEL_COLOURS[min(level, 2)],
            "message": message,
            "often": f"{often[message]}×" if often[message] > 1 else "",
        }
        for seconds, level, message in changes[:MOST_MESSAGES]
    ]


# --- charts -----------------------------------------------------------------------------------------------------


def _charts(evaluation: Evaluation, changes: list[tuple[float, int, str]], duration_s: float) -> dict[str, str]:
    sweeps = evaluation.result.sweeps
    sent = np.array([sweep.sent_s for sweep in sweeps])
    latency = np.array([np.nan if sweep.latency_s is None else sweep.latency_s * 1e3 for sweep in sweeps])
    steps = np.array([np.nan if sweep.steps is None else sweep.steps for sweep in sweeps])
    copies = np.array([np.nan if sweep.replication is None else sweep.replication for sweep in sweeps])
    levels = [(f"p{p} {evaluation.result.latency_ms(p):.0f} ms", evaluation.result.latency_ms(p)) for p in (50, 99)]
    charts = {
        "latency": time_chart(
            [Series("ms", INK, sent, latency, dots=True)],
            duration_s,
            unit="ms",
            levels=[level for level in levels if np.isfinite(level[1])],
            marks=sent[np.isnan(latency)],
        ),
        "steps": time_chart(
            [Series("steps", INK, sent, steps, dots=True)], duration_s, unit="", height=110, whole=True
        ),
        "copies": time_chart(
            [Series("replication", INK, sent, copies, dots=True)], duration_s, unit="", height=110, whole=True
        ),
        "levels": level_bar(
            np.array([seconds for seconds, _, _ in changes]),
            np.array([min(level, 2) for _, level, _ in changes], np.int64),
            duration_s,
            LEVEL_COLOURS,
        ),
    }
    if evaluation.quality:
        charts |= _quality_charts(evaluation.quality, duration_s)
    return charts


def _quality_charts(quality: list[dict[str, float]], duration_s: float) -> dict[str, str]:
    at = np.array([row["sent_s"] for row in quality])

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in quality])

    trivial = [row for row in ROW_NAMES if row != "completion"]
    series = {
        "cd": [("best of the rows that know nothing", BEST, np.min([column(f"{row} cd") for row in trivial], axis=0))],
        "f": [("best of the rows that know nothing", BEST, np.max([column(f"{row} f") for row in trivial], axis=0))],
    }
    for figure, each in series.items():
        each += [("raw sweep", RAW, column(f"raw {figure}")), ("completion", OURS, column(f"completion {figure}"))]
    return {
        "cd": time_chart(
            [Series(name, colour, at, values) for name, colour, values in series["cd"]], duration_s, unit="m"
        ),
        "f": time_chart(
            [Series(name, colour, at, 100 * values) for name, colour, values in series["f"]],
            duration_s,
            unit="%",
            from_zero=False,
        ),
    }


# --- pictures ---------------------------------------------------------------------------------------------------


def _card(evaluation: Evaluation, sweep: ShownSweep) -> dict[str, Any]:
    played = evaluation.result.sweeps[sweep.number]
    facts = [
        f"{played.points_in:,} points in, {played.points_out or 0:,} out",
        f"latency {(played.latency_s or 0.0) * 1e3:.0f} ms",
        *([f"{played.steps} step{'s' * (played.steps > 1)}"] if played.steps else []),
    ]
    if sweep.judgement is not None:
        figures = sweep.judgement.figures
        facts += [
            f"CD {figures['completion cd']:.3f} m (raw {figures['raw cd']:.3f})",
            f"F {100 * figures['completion f']:.1f} % (raw {100 * figures['raw f']:.1f})",
            f"{100 * figures['violations']:.1f} % in space seen free",
        ]
    return {
        "number": sweep.number,
        "stamp": f"{sweep.completion.stamp_ns / 1e9:.3f}",
        "why": sweep.why,
        "facts": facts,
        "pictures": [(caption, _data_url(png)) for caption, png in _pictures(sweep)],
    }


def _pictures(sweep: ShownSweep) -> Iterator[tuple[str, bytes]]:
    from lidar_completion_evaluation.pictures import Panel, birds_eye, measured_and_imagined

    completion = sweep.completion
    clouds = (completion.measured, completion.completed, completion.confidence)
    yield "Measured white, imagined by confidence; from behind", measured_and_imagined(*clouds, size=(900, 560))
    yield "The same from above, 50 m around", measured_and_imagined(*clouds, view="above", size=(560, 560))
    if sweep.judgement is not None:
        judged = sweep.judgement
        buffer = io.BytesIO()
        errors = Panel("", judged.judged, judged.errors_m, "RdYlGn_r", (0.0, WRONG_M))
        birds_eye([errors, Panel("", judged.truth, np.zeros(len(judged.truth)), "gray", (-1.0, 1.0))], buffer)
        yield f"Distance to the truth: green 0, red {WRONG_M:g} m and more; beside it the truth", buffer.getvalue()


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
