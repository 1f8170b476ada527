"""The log of a training run, log.csv: a row a step, cut back to the state that a resumed run goes on from."""

import csv
from pathlib import Path

from lidar_completion.files import atomic_write

LOG_NAME = "log.csv"


class TrainingLog:
    """Rows of iteration and numbers. A number that comes up later gets a column of its own, empty in earlier rows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME
        self.columns: list[str] = []

    def cut(self, iteration: int) -> None:
        """Drop what lies behind `iteration`, and a last row that a kill left half written."""
        rows = [row for row in read_log(self.path) if row["iteration"] <= iteration] if self.path.exists() else []
        if rows:
            with self.path.open(newline="") as file:
                columns = next(csv.reader(file))
            self._write(columns, rows)
        else:
            self.path.unlink(missing_ok=True)

    def append(self, iteration: int, numbers: dict[str, float]) -> None:
        """Write one row at once."""
        new = [name for name in ("iteration", *numbers) if name not in self.columns]
        if new:
            self._write([*self.columns, *new], read_log(self.path) if self.columns else [])
        row = {"iteration": iteration, **{name: f"{value:.6g}" for name, value in numbers.items()}}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _write(self, columns: list[str], rows: list[dict[str, float]]) -> None:
        with atomic_write(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:
                numbers = {name: f"{value:.6g}" for name, value in row.items() if name != "iteration"}
                writer.writerow({"iteration": int(row["iteration"]), **numbers})
        self.columns = columns


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a log as numbers, those that are whole. A number that a row lacks is missing from it."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(whole.splitlines()))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]
