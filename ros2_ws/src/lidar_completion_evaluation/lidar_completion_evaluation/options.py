"""Typed options of the command `evaluate`: one object per source of data, and one for the methods."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol as Interface

from lidar_completion.model.card import load_card
from lidar_completion.model.public_checkpoints import convert_public_checkpoints
from lidar_completion_evaluation.benchmarks import BENCHMARKS, Benchmark
from lidar_completion_evaluation.drives import kitti_360
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import Method, ModelMethod, PredictionFolder, baseline_methods
from lidar_completion_evaluation.process_group import of_torchrun
from lidar_completion_evaluation.protocols import DEFAULT, PROTOCOLS
from lidar_completion_evaluation.published import PUBLISHED, PublishedRow
from lidar_completion_evaluation.scenes import DriveScenes, SceneSource, SyntheticScenes
from lidar_completion_evaluation.truth.ground_truth_map import build_map
from lidar_completion_evaluation.truth.rules import DRIVE_RULES, PUBLISHED_RULES

REFINEMENT = {"yes": (True,), "no": (False,), "both": (True, False)}


class DataOptions(Interface):
    """A source of scenes. `work` is the folder for a map that has to be built."""

    @property
    def name(self) -> str:
        """Name of the default output folder."""

    def open(self, work: Path) -> SceneSource:
        """The scenes. Raises ValueError (DriveError) for unusable data."""


@dataclass(frozen=True)
class SyntheticData:
    """Held-out scenes of the synthetic street world."""

    sensor: str = "HDL-64E"  # name or TOML file
    scenes: int = 100
    view_cells: bool = True  # restrict the truth to the cells that the sweep touches, as published
    height_m: float | None = None
    tilt_deg: float = 0.0
    every_ring: int = 1
    world: str = "town"
    name: str = "synthetic-test"

    def open(self, work: Path) -> SceneSource:
        from lidar_completion_synthetic import check_source

        check_source(self.sensor, self.world)
        rules = PUBLISHED_RULES if self.view_cells else DRIVE_RULES
        return SyntheticScenes(
            self.scenes, self.sensor, self.height_m, self.tilt_deg, self.every_ring, self.world, rules=rules
        )


@dataclass(frozen=True)
class DriveData:
    """Every n-th sweep of a drive of any format; the truth is the map of all its sweeps."""

    path: Path
    options: DriveOptions = field(default_factory=DriveOptions)
    moving: str = "keep"  # see build_map
    deskew: bool = False
    view_cells: bool = False
    every: int = 5
    scenes: int | None = None
    every_ring: int = 1
    tilt_deg: float = 0.0
    map_file: Path | None = None  # an existing map of this drive; default: built in `work`

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def open(self, work: Path) -> SceneSource:
        rules = PUBLISHED_RULES if self.view_cells else DRIVE_RULES
        group = of_torchrun()
        with group.first_before_others():  # the first estimates poses
            drive = open_drive(self.path, replace(self.options, pose_cache=work / self.options.pose_cache))
        truth = self.map_file or build_map(
            drive, work / "map.npz", rules, moving=self.moving, deskew=self.deskew, group=group
        )
        return DriveScenes(
            drive, truth, rules, self.every, self.scenes, every_ring=self.every_ring, tilt_deg=self.tilt_deg
        )


@dataclass(frozen=True)
class BenchmarkData:
    """A published benchmark, which fixes everything but the location of the data."""

    benchmark: Benchmark
    root: Path
    every: int | None = None
    scenes: int | None = None

    @classmethod
    def of(cls, name: str, root: Path, drive: str | None, every: int | None, scenes: int | None) -> BenchmarkData:
        """The benchmark of this name, on `drive` of KITTI-360 if there is one."""
        return cls(find_benchmark(name), root / kitti_360.SWEEPS / drive if drive else root, every, scenes)

    @property
    def name(self) -> str:
        of_drive = self.root.absolute().parent.name == kitti_360.SWEEPS
        return f"{self.benchmark.name}-{self.root.absolute().name}" if of_drive else self.benchmark.name

    def open(self, work: Path) -> SceneSource:
        chosen = self.benchmark
        drive = chosen.open(self.root)
        truth = build_map(drive, work / "map.npz", chosen.rules, moving=chosen.moving, group=of_torchrun())
        every = self.every or chosen.every
        return DriveScenes(
            drive, truth, chosen.rules, every=every, limit=self.scenes, drop_moving_input=chosen.drop_moving_input
        )


@dataclass(frozen=True)
class MethodOptions:
    """Which rows are evaluated."""

    models: tuple[Path, ...] = ()  # model folders, or public checkpoints (.ckpt; several files as A.ckpt+B.ckpt)
    steps: tuple[int, ...] = ()  # denoising steps of every model; empty: the model card's
    refinement: str = "yes"  # yes, no, or both
    predictions: tuple[Path, ...] = ()
    device: str = "auto"
    backend: str = "torch"
    seed: int = 0
    baselines: str = "all"  # none, or names separated by commas

    def __post_init__(self) -> None:
        if self.refinement not in REFINEMENT:
            raise ValueError(f"--refinement: expected yes, no or both, found {self.refinement!r}")
        if any(not 1 <= count <= 1000 for count in self.steps):
            raise ValueError(f"--steps: expected 1 to 1000, found {', '.join(map(str, self.steps))}")

    def open(self, work: Path) -> list[Method]:
        """One row per model, number of steps and refinement; public checkpoints are converted into `work` once."""
        device = of_torchrun().device(self.device)
        models = [
            ModelMethod(folder, steps, refine, device, self.backend, self.seed)
            for folder in (_model_folder(model, work / "converted") for model in self.models)
            for steps in self.steps or (None,)
            for refine in (REFINEMENT[self.refinement] if "refiner" in load_card(folder).networks else (True,))
        ]
        rows = [*baseline_methods(self.seed, self.baselines), *models, *map(PredictionFolder, self.predictions)]
        if not rows:
            raise ValueError("--baselines none leaves nothing to evaluate; add --model or --predictions")
        return rows


@dataclass(frozen=True)
class RunOptions:
    """How the evaluation runs, and what it computes and shows."""

    output: Path | None = None  # default: runs/evaluate/NAME
    protocol: str = DEFAULT.name
    published: str = ""  # published table to show; default: the benchmark's
    transport: bool = False
    pictures: bool = True
    processes: int = 1

    def __post_init__(self) -> None:
        for option, value, known in (("protocol", self.protocol, PROTOCOLS), ("published", self.published, PUBLISHED)):
            if value and value not in known:
                raise ValueError(f"--{option}: expected one of {', '.join(known)}, found {value!r}")

    @property
    def scene_settings(self) -> SceneSettings:
        """What is computed for every scene."""
        return SceneSettings(protocol=PROTOCOLS[self.protocol], transport=self.transport)

    def published_rows(self, source: DataOptions) -> tuple[PublishedRow, ...]:
        """The published rows to show: the requested table, or the benchmark's."""
        table = self.published or (source.benchmark.published if isinstance(source, BenchmarkData) else "")
        return PUBLISHED.get(table, ())


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises ValueError."""
    if name not in BENCHMARKS:
        raise ValueError(f"--benchmark: expected one of {', '.join(BENCHMARKS)}, found {name!r}")
    return BENCHMARKS[name]


def _model_folder(model: Path, converted: Path) -> Path:
    """The model folder itself, or the folder of the converted public checkpoints."""
    if model.is_dir():
        return model
    files = [Path(name) for name in str(model).split("+")]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"--model: expected a model folder or a checkpoint, found no {missing[0]}; check the path")
    folder = converted / "+".join(file.stem for file in files)
    card = folder / "model.json"
    if not card.exists() or card.stat().st_mtime < max(file.stat().st_mtime for file in files):
        convert_public_checkpoints(files, folder)
    return folder
