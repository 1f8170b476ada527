"""Stored results as means with intervals and paired differences; tables as text and CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import Method
from lidar_completion_evaluation.published import PublishedRow
from lidar_completion_evaluation.results import stored_results
from lidar_completion_evaluation.scenes import SceneSource
from lidar_completion_evaluation.statistics import Interval, PairedDifference, mean_interval, paired_difference

# figure -> (heading, unit scale, digits, better)
FIGURES: dict[str, tuple[str, float, int, str]] = {
    "cd": ("CD m", 1, 3, "lower"),
    "cd_clamped": ("CD to 1 m", 1, 3, "lower"),
    "f_0.2": ("F@0.2 %", 100, 1, "higher"),
    "cd_observed": ("CD obs m", 1, 3, "lower"),
    "f_observed_0.2": ("F obs %", 100, 1, "higher"),
    "violations": ("free viol %", 100, 2, "lower"),
    "ghost_rate": ("ghost %", 100, 2, "lower"),
    "missing_to_prediction": ("missing m", 1, 3, "lower"),
    "near_to_prediction": ("near m", 1, 3, "lower"),
    "iou_observed": ("IoU obs 0.2 %", 100, 1, "higher"),
    "jsd_bev": ("JSD", 1, 3, "lower"),
    "emd_as_published": ("EMD*", 1, 2, "lower"),
    "w1": ("W1 m", 1, 3, "lower"),
    "jsd_3d": ("JSD 3-D", 1, 3, "lower"),
    "rmse_as_published": ("RMSE* m", 1, 3, "lower"),
    "iou_0.5": ("IoU 0.5 %", 100, 1, "higher"),
    "iou_0.2": ("IoU 0.2 %", 100, 1, "higher"),
    "iou_0.1": ("IoU 0.1 %", 100, 1, "higher"),
    "precision_as_published": ("P* %", 1, 1, "higher"),
    "recall_as_published": ("R* %", 1, 1, "higher"),
    "f_as_published": ("F* %", 1, 1, "higher"),
}
# Main figures of the paper, figures for driving, figures for holes in the sweep, and the paper's other figures.
PAPER = ("cd", "jsd_bev", "emd_as_published", "w1")
DRIVING = ("cd_clamped", "f_0.2", "cd_observed", "f_observed_0.2", "violations", "ghost_rate")
HOLES = ("missing_to_prediction", "near_to_prediction", "iou_observed")
FURTHER = (
    "jsd_3d",
    "rmse_as_published",
    "iou_0.5",
    "iou_0.2",
    "iou_0.1",
    "precision_as_published",
    "recall_as_published",
    "f_as_published",
)
PAIRED = ("cd", "jsd_bev", *DRIVING)


@dataclass(frozen=True)
class RowSummary:
    """One method over its scenes: figures[section][name], section "completed" or "with_measured"."""

    name: str
    kind: str  # of the method
    figures: dict[str, dict[str, Interval]]
    seconds: Interval | None
    scenes: dict[str, dict]  # scene -> stored result
    failed: dict[str, str]  # scene -> reason

    def values(self, figure: str, section: str = "completed") -> dict[str, float]:
        """scene -> figure, for the scenes that have it."""
        found = ((scene, result[section].get(figure)) for scene, result in self.scenes.items())
        return {scene: value for scene, value in found if value is not None}


@dataclass(frozen=True)
class Summary:
    """All rows and their scenes."""

    source: dict[str, Any]  # SceneSource.describe()
    scenes: list[str]
    rows: list[RowSummary]
    published: tuple[PublishedRow, ...] = ()
    protocol: str = "default"

    @cached_property
    def best_baseline(self) -> RowSummary | None:
        """The baseline with the lowest mean CD."""
        rows = [row for row in self.rows if row.kind == "baseline" and "cd" in row.figures["completed"]]
        return min(rows, key=lambda row: row.figures["completed"]["cd"].mean, default=None)

    @cached_property
    def focus(self) -> RowSummary:
        """The row whose scenes are shown: the first model, else the first folder, else the best baseline."""
        return next((row for row in self.rows if row.kind != "baseline"), self.best_baseline or self.rows[0])

    def against_baseline(self, row: RowSummary, figure: str = "cd") -> PairedDifference | None:
        """The row minus the best baseline, scene by scene."""
        if self.best_baseline is None or row is self.best_baseline:
            return None
        return paired_difference(row.values(figure), self.best_baseline.values(figure))


def summarise(
    source: SceneSource,
    methods: Sequence[Method],
    output: Path,
    *,
    settings: SceneSettings | None = None,
    published: Sequence[PublishedRow] = (),
) -> Summary:
    """Means, intervals and failures of the stored results with these settings."""
    settings = settings or SceneSettings()
    rows = [_row(source, method, output, settings) for method in methods]
    return Summary(source.describe(), list(source.names), rows, tuple(published), settings.protocol.name)


def _row(source: SceneSource, method: Method, output: Path, settings: SceneSettings) -> RowSummary:
    found = stored_results(source, method, output, settings)
    failed = {name: result["failed"] for name, result in found.items() if "failed" in result}
    scenes = {name: result for name, result in found.items() if name not in failed}
    figures = {section: _means(scenes.values(), section) for section in ("completed", "with_measured")}
    seconds = mean_interval([result["seconds"] for result in scenes.values()]) if scenes else None
    return RowSummary(method.name, method.kind, figures, seconds, scenes, failed)


def _means(results: Iterable[dict], section: str) -> dict[str, Interval]:
    gathered: dict[str, list[float]] = {}
    for result in results:
        for name, value in result[section].items():
            if isinstance(value, int | float):
                gathered.setdefault(name, []).append(value)
    return {name: mean_interval(values) for name, values in gathered.items()}


# --- tables -----------------------------------------------------------------------------------------------------


def text_table(summary: Summary, section: str = "completed") -> str:
    """All tables, with 95 % intervals. Those of the completed points include the difference to the best baseline, the
    paper's other figures, and distances by place."""
    if section != "completed":
        return "\n\n".join(_text_table(summary, section, names) for names in (PAPER, DRIVING))
    tables = [_text_table(summary, section, names) for names in (PAPER, DRIVING, HOLES, FURTHER)]
    return "\n\n".join([*tables, *(_band_table(summary, *table) for table in BAND_TABLES)])


def shown_figures(summary: Summary, section: str, names: Iterable[str]) -> list[str]:
    """The names that at least one row has."""
    return [name for name in names if any(name in row.figures[section] for row in summary.rows)]


def _text_table(summary: Summary, section: str, names: tuple[str, ...]) -> str:
    shown = shown_figures(summary, section, names)
    with_tail = names is PAPER and section == "completed"
    head = ["method", *(FIGURES[name][0] for name in shown)]
    lines = [[row.name, *(_cell(row, name, section) for name in shown)] for row in summary.rows]
    if with_tail:
        head += ["CD - best baseline", "s/scene", "scenes"]
        lines = [line + _tail(summary, row) for line, row in zip(lines, summary.rows, strict=True)]
        lines += [_published_line(row, shown) for row in summary.published]
    return _aligned([head, *lines])


def _band_table(summary: Summary, title: str, bands: str, figure: Callable[[dict], float | None]) -> str:
    """Mean over scenes of a figure within each band."""
    evaluated = [row for row in summary.rows if row.scenes]
    if not evaluated:
        return ""
    edges = [
        (band["lower_m"], band["upper_m"]) for band in next(iter(evaluated[0].scenes.values()))["completed"][bands]
    ]
    lines = [[title, *(f"over {low:g} m" if high is None else f"{low:g} to {high:g} m" for low, high in edges)]]
    for row in evaluated:
        tables = [result["completed"][bands] for result in row.scenes.values()]
        found = ([figure(table[place]) for table in tables] for place in range(len(edges)))
        known = ([value for value in values if value is not None] for values in found)
        lines.append([row.name, *(f"{sum(values) / len(values):.3f}" if values else "–" for values in known)])
    return _aligned(lines)


def _band_cd(band: dict) -> float | None:
    """Metres; None if prediction or truth has no point in the band."""
    there, back = band["mean_to_truth_m"], band["mean_to_prediction_m"]
    return None if there is None or back is None else (there + back) / 2


def _band_to_prediction(band: dict) -> float | None:
    return band["mean_to_prediction_m"]


BAND_TABLES = (
    ("CD by range from the sensor", "by_range", _band_cd),
    ("CD by height above the sensor", "by_height", _band_cd),
    ("Truth to completion by height above the sensor", "by_height", _band_to_prediction),
    ("Truth to completion by distance from the nearest return", "by_gap", _band_to_prediction),
)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) if column == 0 else word.rjust(width) for column, (word, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _cell(row: RowSummary, name: str, section: str) -> str:
    _, scale, digits, _ = FIGURES[name]
    interval = row.figures[section].get(name)
    if interval is None:
        return "–"
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (interval.mean, interval.lower, interval.upper))
    return f"{mean} [{low}, {high}]"


def _tail(summary: Summary, row: RowSummary) -> list[str]:
    paired = summary.against_baseline(row)
    difference = "–"
    if paired is not None:
        interval = paired.difference
        difference = f"{interval.mean:+.3f} [{interval.lower:+.3f}, {interval.upper:+.3f}]"
    elif row is summary.best_baseline:
        difference = "best baseline"
    seconds = "–" if row.seconds is None else f"{row.seconds.mean:.2f}"
    return [difference, seconds, f"{len(row.scenes)}" + (f" ({len(row.failed)} failed)" if row.failed else "")]


def _published_line(row: PublishedRow, shown: list[str]) -> list[str]:
    values = {name: getattr(row, name, None) for name in shown}
    cells = [f"{value:.{FIGURES[name][2]}f}" if value is not None else "–" for name, value in values.items()]
    return [f"{row.name} (published)", *cells, "–", f"{row.seconds:.2f}", "published"]


def write_csv(summary: Summary, folder: Path) -> list[Path]:
    """summary.csv (every mean with its interval), scenes.csv (every figure of every scene), paired.csv (all pairs)."""
    files = {
        "summary.csv": [("row", "section", "figure", "mean", "lower", "upper", "scenes"), *_summary_lines(summary)],
        "scenes.csv": [("row", "scene", "section", "figure", "value"), *_scene_lines(summary)],
        "paired.csv": [
            ("row", "minus", "figure", "mean", "lower", "upper", "lower_on_share", "scenes"),
            *_paired_lines(summary),
        ],
    }
    for name, lines in files.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return [folder / name for name in files]


def _summary_lines(summary: Summary) -> Iterator[tuple]:
    for row in summary.rows:
        for section, figures in row.figures.items():
            for name, value in figures.items():
                yield row.name, section, name, value.mean, value.lower, value.upper, value.n
    for published in summary.published:
        for name in ("cd", "jsd_bev", "emd_as_published", "seconds"):
            if getattr(published, name) is not None:
                yield published.name, "published", name, getattr(published, name), "", "", ""


def _scene_lines(summary: Summary) -> Iterator[tuple]:
    for row in summary.rows:
        for scene, result in row.scenes.items():
            for section in ("completed", "with_measured"):
                for name, value in result[section].items():
                    if isinstance(value, int | float):
                        yield row.name, scene, section, name, value
        for scene, reason in row.failed.items():
            yield row.name, scene, "failed", reason, ""


def _paired_lines(summary: Summary) -> Iterator[tuple]:
    for row in summary.rows:
        for other in summary.rows:
            for figure in PAIRED if row is not other else ():
                paired = paired_difference(row.values(figure), other.values(figure))
                if paired is not None:
                    value = paired.difference
                    yield row.name, other.name, figure, value.mean, value.lower, value.upper, paired.lower_on, value.n
