"""The paper's tables from finished models: synthetic test scenes and real drives, intervals, and spread over seeds.

    python benchmarks/paper_tables.py [benchmarks/paper_tables.yaml] [--scenes 100] [--processes 2] [--tables-only]

The YAML lists tables, each with rows: label, models (one folder a seed), steps, guidance, refined, min_confidence, and, to be
shown beside, the published figures. Results are kept per row and scene, so a killed run goes on, torchrun shares the work, and a new model costs only itself. Rows
whose model is missing are shown as such. Writes benchmarks/results/paper_tables.md. Drives: LIDAR_COMPLETION_SHARED.
"""

import argparse
import datetime
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lidar_completion.model.card import CARD_NAME
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import Method, ModelMethod, baseline_methods
from lidar_completion_evaluation.process_group import of_torchrun
from lidar_completion_evaluation.scenes import DriveScenes, SceneSource, SyntheticScenes
from lidar_completion_evaluation.statistics import mean_interval
from lidar_completion_evaluation.summary import RowSummary, Summary, summarise
from lidar_completion_evaluation.truth.ground_truth_map import build_map

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", HERE.parents[1] / "shared"))
DRIVES = ("90", "91")
SETTINGS = SceneSettings(brief=True)
# figure -> (heading, scale, digits)
FIGURES = {
    "cd": ("CD m", 1, 3),
    "jsd_bev": ("JSD", 1, 3),
    "emd_as_published": ("EMD*", 1, 2),
    "f_0.2": ("F@0.2 %", 100, 1),
    "cd_observed": ("CD obs m", 1, 3),
    "f_observed_0.2": ("F obs %", 100, 1),
    "violations": ("free viol %", 100, 2),
    "ghost_rate": ("> 0.5 m %", 100, 2),
}


class TablesError(ValueError):
    """The list of tables has an entry that does not exist or does not fit."""


@dataclass
class TableRow:
    """One row: a label, one model folder per seed (or the name of a baseline), and how the models are used."""

    label: str = ""
    models: list[str] = field(default_factory=list)
    baseline: str = ""
    steps: int | None = None
    guidance: float | None = None
    refined: bool = True
    min_confidence: float = 0.0
    published: list[float | None] = field(default_factory=list)  # CD, JSD, EMD, seconds

    def methods(self, device: str) -> list[Method]:
        """Those of its models that exist."""
        there = [Path(model) for model in self.models if (Path(model) / CARD_NAME).is_file()]
        # named after its whole path: many are called `model`
        name = f"steps {self.steps}, guidance {self.guidance}, refined {self.refined}"
        if self.min_confidence:
            name += f", confidence {self.min_confidence}"
        options = {"guidance": self.guidance}
        return [
            ModelMethod(
                model,
                self.steps,
                self.refined,
                device,
                min_confidence=self.min_confidence,
                options=options,
                name=f"{model}, {name}",
            )
            for model in there
        ]


@dataclass
class PaperTable:
    title: str = ""
    scenes: int = 100  # synthetic ones, at most
    rows: list[TableRow] = field(default_factory=list)


@dataclass
class PaperTables:
    tables: list[PaperTable] = field(default_factory=list)


def main() -> None:
    options = arguments()
    tables = read_tables(options.tables)
    parts = [HEAD.format(date=datetime.date.today(), tables=options.tables.name)]
    for source, output in sources(options):
        if not options.tables_only:
            evaluate_all(tables, source, output, options)
        if of_torchrun().is_first:
            shown = [
                markdown(table, summary_of(table, source, output, options.device), options.device) for table in tables
            ]
            parts.append(f"# {output.name}\n\n" + "\n\n".join(shown))
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text("\n\n".join(parts) + "\n")
    if of_torchrun().is_first:
        print(options.output.read_text())


def evaluate_all(tables: list[PaperTable], source: SceneSource, output: Path, options: argparse.Namespace) -> None:
    """Evaluate what is missing; the scenes that all tables need come first."""
    for count in sorted({table.scenes for table in tables}):
        chosen = {
            method.name: method
            for table in tables
            if table.scenes >= count
            for method in methods_of(table, options.device)
        }
        some = first_scenes(source, count)
        evaluate(
            some,
            list(chosen.values()),
            output,
            settings=SETTINGS,
            processes=options.processes,
            group=of_torchrun(),
            pictures=False,
        )


def summary_of(table: PaperTable, source: SceneSource, output: Path, device: str) -> Summary:
    """The stored results of one table."""
    return summarise(first_scenes(source, table.scenes), methods_of(table, device), output, settings=SETTINGS)


def methods_of(table: PaperTable, device: str) -> list[Method]:
    """The rows of a table, each model once; the baselines always."""
    found = {method.name: method for row in table.rows for method in row.methods(device)}
    return [*baseline_methods(), *found.values()]


def first_scenes(source: SceneSource, count: int) -> SceneSource:
    """The first `count` synthetic scenes; drives are short and stay whole."""
    return replace(source, count=min(count, source.count)) if isinstance(source, SyntheticScenes) else source


HEAD = """{date}, rows of {tables}. Completed points alone. [a, b]: 95 % bootstrap interval over scenes (for a drive too narrow:
neighbouring sweeps are alike); ±: standard deviation over seeds, where a row has several; s: median seconds of a scene, on a
machine with other load, so only roughly comparable. EMD\\* is the published figure, not an earth
mover's distance. Last column: what the paper publishes on SemanticKITTI (CD / JSD / EMD / s), another network on other data."""


def read_tables(path: Path) -> list[PaperTable]:
    """The tables of a YAML file."""
    try:
        tables: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PaperTables), OmegaConf.load(path)))
    except (OmegaConfBaseException, OSError) as error:
        raise TablesError(f"{path}: {str(error).splitlines()[0]}") from error
    for row in (row for table in tables.tables for row in table.rows):
        if bool(row.models) == bool(row.baseline):
            raise TablesError(
                f"{path}: row {row.label!r}: expected models or baseline, found {row.models or 'neither'}"
            )
    return tables.tables


def add_source_options(parser: argparse.ArgumentParser, scenes: int, results: Path = Path("runs/paper_tables")) -> None:
    """The options of `sources` for a benchmark that always takes the drives; scenes: the default number of synthetic scenes."""
    parser.add_argument("--scenes", type=int, default=scenes, help="synthetic test scenes; 0: none")
    parser.add_argument("--results", type=Path, default=results, help="folder with the drives' maps")
    parser.set_defaults(no_drives=False)


def sources(options: argparse.Namespace) -> list[tuple[SceneSource, Path]]:
    """The scenes and the folders of their results: synthetic test scenes, and the real drives if available."""
    found: list[tuple[SceneSource, Path]] = []
    if options.scenes:
        found.append((SyntheticScenes(options.scenes), options.results / "synthetic"))
    for name in DRIVES if not options.no_drives else ():
        folder = SHARED / "data/sequences" / name
        if folder.is_dir():
            output = options.results / f"drive_{name}"
            output.mkdir(parents=True, exist_ok=True)
            drive = open_drive(folder)
            found.append((DriveScenes(drive, build_map(drive, output / "map.npz", moving="keep")), output))
    return found


# --- tables ---------------------------------------------------------------------------------------------------------


def markdown(table: PaperTable, summary: Summary, device: str = "auto") -> str:
    """One table in the paper's form."""
    by_name = {row.name: row for row in summary.rows}
    head = ["", *(heading for heading, _, _ in FIGURES.values()), "s", "seeds", "scenes", "published"]
    lines = [head, ["---"] * len(head)]
    for row in table.rows:
        names = [row.baseline] if row.baseline else [method.name for method in row.methods(device)]
        lines.append(line_of(row, [by_name[name] for name in names if name in by_name and by_name[name].scenes]))
    return f"## {table.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def line_of(row: TableRow, seeds: list[RowSummary]) -> list[str]:
    """A row's cells from the results of its seeds."""
    published = " / ".join("–" if value is None else f"{value:g}" for value in row.published)
    if not seeds:
        return [row.label, *["–"] * len(FIGURES), "–", "missing", "–", published]
    cells = [
        cell([seed.values(figure) for seed in seeds], scale, digits) for figure, (_, scale, digits) in FIGURES.items()
    ]
    seconds = np.median([result["seconds"] for seed in seeds for result in seed.scenes.values()])
    scenes = min(len(seed.scenes) for seed in seeds)
    count = (
        "–" if row.baseline else f"{len(seeds)}" + (f" of {len(row.models)}" if len(row.models) > len(seeds) else "")
    )
    return [row.label, *cells, f"{seconds:.2f}", count, f"{scenes}", published]


def cell(seeds: list[dict[str, float]], scale: float, digits: int) -> str:
    """Mean over the scenes of all seeds (each value the mean over seeds), standard deviation over seeds, interval."""
    common = sorted(set.intersection(*(set(values) for values in seeds)))
    if not common:
        return "–"
    values = scale * np.array([[seed[scene] for scene in common] for seed in seeds])
    interval = mean_interval(values.mean(axis=0).tolist())
    spread = f" ± {values.mean(axis=1).std(ddof=1):.{digits}f}" if len(seeds) > 1 else ""
    return f"{interval.mean:.{digits}f}{spread} [{interval.lower:.{digits}f}, {interval.upper:.{digits}f}]"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, nargs="?", default=HERE / "paper_tables.yaml")
    parser.add_argument("--scenes", type=int, default=100, help="synthetic test scenes; 0: none")
    parser.add_argument("--no-drives", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("runs/paper_tables"), help="results by row and scene")
    parser.add_argument("--output", type=Path, default=HERE / "results/paper_tables.md")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tables-only", action="store_true", help="evaluate nothing, write the stored results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
