"""The CSV files of a replay evaluation: sweeps.csv, quality.csv, diagnostics.csv."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from lidar_completion_evaluation.replay.result import Diagnostic, EvaluatedSweep, ReplayResult

# Figures that are written beside the level and the message.
DIAGNOSTIC_FIGURES = ("steps", "latency_p95_ms", "received", "completed", "dropped", "refused")


class _CsvFile:
    """A CSV file that is written row by row and appears with its first row."""

    name: str

    def __init__(self, folder: Path) -> None:
        self._path = folder / self.name
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, head: list[str], row: list[Any]) -> None:
        if self._file is None:
            self._file = self._path.open("w", newline="")
            csv.writer(self._file).writerow(head)
        csv.writer(self._file).writerow(row)
        self._file.flush()


class DiagnosticsFile(_CsvFile):
    """Every diagnostic of a replay."""

    name = "diagnostics.csv"

    def write(self, diagnostic: Diagnostic) -> None:
        """Append one diagnostic."""
        report, counts = diagnostic.report, diagnostic.report.counts
        steps = report.last_sweep.steps if report.last_sweep else ""
        latency = f"{report.status.latency_p95_ms:.1f}"
        figures = [steps, latency, counts.received, counts.completed, counts.dropped, counts.refused]
        row = [f"{diagnostic.at_s:.3f}", report.level, report.message, *figures]
        self._write(["seconds", "level", "message", *DIAGNOSTIC_FIGURES], row)


class QualityFile(_CsvFile):
    """The figures of every evaluated sweep; no file if none was evaluated."""

    name = "quality.csv"

    def write(self, sweep: EvaluatedSweep) -> None:
        """Append one sweep; columns are ROW_cd, ROW_f, and precision, recall, violations of the completion."""
        figures = {
            name if name in ("precision", "recall", "violations") else f"{row}_{name}": value
            for row, values in sweep.rows.items()
            for name, value in values.items()
        }
        numbers = [f"{value:.6g}" for value in (sweep.sent_s, *figures.values())]
        self._write(["number", "sent_s", *figures], [sweep.number, *numbers])


def write_sweeps(folder: Path, result: ReplayResult) -> None:
    """sweeps.csv: one row per sweep; values without a completion are empty."""
    with (folder / "sweeps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["number", "stamp_ns", "sent_s", "points_in", "points_out", "latency_ms", "steps", "replication"]
        )
        for number, sweep in enumerate(result.sweeps):
            latency = "" if sweep.latency_s is None else f"{sweep.latency_ms:.1f}"
            answer = [
                "" if each is None else each for each in (sweep.points_out, latency, sweep.steps, sweep.replication)
            ]
            writer.writerow([number, sweep.stamp_ns, f"{sweep.sent_s:.3f}", sweep.points_in, *answer])


def read_diagnostics(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(seconds, level, message) of every diagnostic of the replay, in order."""
    path = folder / DiagnosticsFile.name
    if not path.exists():
        return
    with path.open(newline="") as file:
        for row in itertools.islice(csv.reader(file), 1, None):
            yield float(row[0]), int(row[1]), row[2]
