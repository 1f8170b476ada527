"""The published benchmarks as configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lidar_completion_evaluation.drives import kitti_360
from lidar_completion_evaluation.drives.drive import Drive
from lidar_completion_evaluation.drives.semantic_kitti import open_sequence, refuse_other_length
from lidar_completion_evaluation.truth.rules import PUBLISHED_RULES, MapRules


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's data, ground-truth rules, evaluated sweeps and published table."""

    name: str
    open: Callable[[Path], Drive]
    published: str  # key of published.PUBLISHED
    rules: MapRules = PUBLISHED_RULES
    every: int = 1  # the published evaluation uses every sweep
    moving: str = "labels"
    drop_moving_input: bool = False  # in the published evaluation the model gets the whole sweep


def _semantic_kitti_08(root: Path) -> Drive:
    """root: the folder with sequences/08, or the sequence itself."""
    folder = root / "sequences" / "08" if (root / "sequences").is_dir() else root
    drive = open_sequence(folder)
    refuse_other_length(drive, "08")
    return drive


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("semantic-kitti-08", _semantic_kitti_08, "semantic-kitti"),
        # KITTI-360 has no labels per sweep, so moving objects are removed by visibility. The paper does not say which drive it uses.
        Benchmark("kitti-360", kitti_360.open_drive, "kitti-360", moving="visibility"),
    )
}
