"""The log of a training run, log.csv: one row per step. A resumed run cuts it back to the state it resumes from."""

import csv
from pathlib import Path

from lidar_completion.files import atomic_write

LOG_NAME = "log.csv"


class TrainingLog:
    """Rows of iteration and numbers. A number that appears later gets its own column, empty in earlier rows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME
        self.columns: list[str] = []

    def cut(self, iteration: int) -> None:
        """Remove rows after `iteration`, and a last row that is incomplete."""
        rows = [row for row in read_log(self.path) if row["iteration"] <= iteration] if self.path.exists() else []
        if rows:
            with self.path.open(newline="") as file:
                columns = next(csv.reader(file))
            self._write(columns, rows)
        else:
            self.path.unlink(missing_ok=True)

    def append(self, iteration: int, numbers: dict[str, float]) -> None:
        """Append one row to the file."""
        new = [name for name in ("iteration", *numbers) if name not in self.columns]
        if new:
            self._write([*self.columns, *new], read_log(self.path) if self.columns else [])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(_as_text({"iteration": iteration, **numbers}))

    def _write(self, columns: list[str], rows: list[dict[str, float]]) -> None:
        with atomic_write(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(map(_as_text, rows))
        self.columns = columns


def _as_text(row: dict[str, float]) -> dict[str, str]:
    return {name: str(int(value)) if name == "iteration" else f"{value:.6g}" for name, value in row.items()}


def read_log(path: Path) -> list[dict[str, float]]:
    """The complete rows of a log as numbers. Empty cells are left out of their row."""
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(complete.splitlines()))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]
