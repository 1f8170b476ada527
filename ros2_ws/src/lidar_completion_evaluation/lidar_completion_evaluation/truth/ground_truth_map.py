"""The truth of a drive: all its sweeps in one map, one point per voxel, without what moves; and the map as a sweep sees it.

In memory for short drives (`aggregated_truth`), on disk in tiles for drives of any length (`build_map`, `GroundTruthMap`).
The rules are the reference's (LiDiff's data preparation) and are all configuration.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lidar_completion.files import atomic_write
from lidar_completion_evaluation.drives.drive import Drive, DriveError, Sweep, transform
from lidar_completion_evaluation.truth.deskewed_drive import deskewed
from lidar_completion_evaluation.truth.moving import VisibilityCheck, VisibilityRules


@dataclass(frozen=True)
class MapRules:
    """Which points a map holds, and which of them are the truth for one sweep. Metres; ranges from the sensor."""

    voxel_size_m: float = 0.1
    min_range_m: float = 3.5  # nearer points are the vehicle itself
    max_map_range_m: float | None = None  # farther points of a sweep stay out of the map; None: all go in, as published
    max_range_m: float = 50.0
    min_z_m: float = -4.0  # in the sensor frame of the judged sweep
    max_z_m: float = 4.4
    view_cell_m: float | None = (
        None  # keep only the truth in cubic cells of this edge that the sweep touches; None: all
    )


# As published: the truth is cut to the 10 m cells that the sweep has points in.
PUBLISHED_RULES = MapRules(view_cell_m=10.0)
# The whole surroundings within 50 m, as in the trivial rows of the design: harder, as whole streets may be unseen.
DRIVE_RULES = MapRules()


def aggregated_truth(drive: Drive, rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """All sweeps of a drive in the map frame, one measured point per voxel (the first), (M, 3) float64 metres.

    Labelled points that move or have no class are left out. Holds the whole map in memory: see build_map for long drives.
    """
    return merged_sweeps(((drive.read(index), pose) for index, pose in enumerate(drive.T_map_sensor)), rules)


def merged_sweeps(sweeps: Iterable[tuple[Sweep, np.ndarray]], rules: MapRules = DRIVE_RULES) -> np.ndarray:
    """Sweeps with their poses (4, 4), map from sensor, in one cloud (M, 3) float64: see aggregated_truth."""
    kept = np.zeros((0, 3))
    for sweep, T_map_sensor in sweeps:
        points = map_points(sweep, T_map_sensor, rules)
        kept = first_per_voxel(np.concatenate([kept, first_per_voxel(points, rules.voxel_size_m)]), rules.voxel_size_m)
    return kept


def truth_for_sweep(
    points_map: np.ndarray, T_map_sensor: np.ndarray, rules: MapRules = DRIVE_RULES, sweep: np.ndarray | None = None
) -> np.ndarray:
    """The truth of one sweep in its sensor frame, (M, 3) float32: the map around it, cut by range, height and view.

    points_map (M, 3) in the map frame; sweep (N, 3) in the sensor frame is needed where the rules name a view cell.
    """
    near = np.abs(points_map - T_map_sensor[:3, 3]).max(axis=1) < rules.max_range_m
    points_map = points_map[near]
    points = transform(np.linalg.inv(T_map_sensor), points_map)
    inside = window_mask(points, rules)
    if rules.view_cell_m is not None:
        if sweep is None:
            raise ValueError(
                "sweep: expected the points of the sweep, found None; the rules cut the map to its view cells"
            )
        inside &= in_view_cells(points, sweep, rules)
    return points[inside].astype(np.float32)


def map_points(sweep: Sweep, T_map_sensor: np.ndarray, rules: MapRules) -> np.ndarray:
    """What a sweep adds to the map: finite, static, far enough from the vehicle; (K, 3) float64 in the map frame."""
    keep = np.isfinite(sweep.points).all(axis=1)
    distance = np.linalg.norm(np.where(keep[:, None], sweep.points, 0), axis=1)
    keep &= distance > rules.min_range_m
    if rules.max_map_range_m is not None:
        keep &= distance < rules.max_map_range_m
    if sweep.static is not None:
        keep &= sweep.static
    return transform(T_map_sensor, sweep.points[keep])


def in_range(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """The finite points between the two ranges, as a model sees them."""
    points = points[np.isfinite(points).all(axis=1)]
    distance = np.linalg.norm(points, axis=1)
    return points[(distance > rules.min_range_m) & (distance < rules.max_range_m)]


def in_window(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """The points (N, 3) where the truth of a sweep is known: finite, within the range limit and the height window."""
    return points[window_mask(points, rules)]


def window_mask(points: np.ndarray, rules: MapRules) -> np.ndarray:
    """Which points (N, 3) lie where the truth of a sweep is known, (N,) bool; what is not finite does not."""
    inside = np.linalg.norm(points, axis=1) < rules.max_range_m
    return inside & (points[:, 2] > rules.min_z_m) & (points[:, 2] < rules.max_z_m)


def first_per_voxel(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """The first point of every voxel, in the order of the input."""
    if not len(points):
        return points
    _, first = np.unique(cell_keys(points, voxel_size_m), return_index=True)
    return points[np.sort(first)]


def cell_keys(points: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """One int64 per point: its voxel's three indices in 21 bits each (±104 km at 0.1 m)."""
    index = np.floor(points / voxel_size_m).astype(np.int64) + (1 << 20)
    return (index[:, 0] << 42) | (index[:, 1] << 21) | index[:, 2]


# --- maps on disk -----------------------------------------------------------------------------------------------

TILE_VOXELS = 512  # 51.2 m at 0.1 m: a sweep touches about nine tiles
MOVING = ("auto", "labels", "visibility", "keep")


def build_map(
    drive: Drive,
    file: str | Path,
    rules: MapRules = DRIVE_RULES,
    *,
    moving: str = "auto",
    deskew: bool = False,
    batch_sweeps: int = 50,
    visibility: VisibilityRules | None = None,
    progress: bool = True,
) -> Path:
    """Write the map of a drive of any length to `file` (.npz, one array per tile) and return its path.

    Memory holds one batch of sweeps, then one tile. Finished batches lie in `file`.partial: a run that was killed goes on
    after the last of them, and ends with the same file, byte for byte. An existing file of the same settings is kept.
    moving: "labels" leaves out points that are labelled as moving or not at all, "visibility" those that other sweeps look
    through, "keep" none; "auto" takes labels where the drive has them, else visibility.
    deskew: take the sensor's motion out of each sweep (raw drives only: KITTI odometry sweeps are compensated already).
    """
    if moving not in MOVING:
        raise DriveError(f"moving: expected one of {', '.join(MOVING)}, found {moving!r}; choose one of them")
    file = Path(file)
    read: Callable[[int], Sweep] = (lambda index: deskewed(drive, index)) if deskew else drive.read
    moving = _chosen(moving, read(0), drive)
    settings = _map_settings(drive, rules, moving, deskew, batch_sweeps, visibility)
    if file.exists() and map_settings(file) == settings:
        return file
    work = _work_folder(file, settings)
    check = VisibilityCheck(drive, visibility, read) if moving == "visibility" else None
    starts = range(0, len(drive), batch_sweeps)
    with tqdm(total=len(drive), unit="sweep", desc=f"map of {drive.name}", disable=not progress) as bar:
        for start in starts:
            batch = range(start, min(start + batch_sweeps, len(drive)))
            if not _batch_file(work, start).exists():
                _write_batch(_batch_file(work, start), _batch_points(drive, batch, read, rules, check, bar), rules)
            else:
                bar.update(len(batch))
    _merge_batches([_batch_file(work, start) for start in starts], file, settings, rules, progress)
    shutil.rmtree(work)
    return file


class GroundTruthMap:
    """A map file, read tile by tile; a bounded number of tiles stays in memory."""

    def __init__(self, file: str | Path, max_tiles: int = 36) -> None:
        self.settings = map_settings(file)
        self._archive = np.load(file)
        self._edge = TILE_VOXELS * self.settings["rules"]["voxel_size_m"]
        self._names = {name for name in self._archive.files if name.startswith("tile_")}
        self._tiles: OrderedDict[str, np.ndarray] = OrderedDict()
        self._max_tiles = max_tiles

    def around(self, centre: np.ndarray, radius_m: float) -> np.ndarray:
        """Points (M, 3) float64 in the map frame of every tile within radius_m (in x or y) of the centre (3,)."""
        low = np.floor((np.asarray(centre)[:2] - radius_m) / self._edge).astype(int)
        high = np.floor((np.asarray(centre)[:2] + radius_m) / self._edge).astype(int)
        near = [_tile_name(x, y) for x in range(low[0], high[0] + 1) for y in range(low[1], high[1] + 1)]
        tiles = [self._tile(name) for name in near if name in self._names]
        return np.concatenate(tiles) if tiles else np.zeros((0, 3))

    def all(self) -> np.ndarray:
        """Every point of the map (M, 3) float64."""
        return np.concatenate([self._tile(name) for name in sorted(self._names)])

    def _tile(self, name: str) -> np.ndarray:
        if name not in self._tiles:
            corner = np.array([*map(int, name.split("_")[1:]), 0]) * self._edge
            self._tiles[name] = self._archive[name] + corner
            if len(self._tiles) > self._max_tiles:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(name)
        return self._tiles[name]


def map_settings(file: str | Path) -> dict:
    """What a map file was made from and how; DriveError where the file is no map."""
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("settings.json"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DriveError(f"{file}: expected a ground-truth map, found {error}; remove it and build it again") from error


def _chosen(moving: str, first: Sweep, drive: Drive) -> str:
    if moving == "labels" and first.static is None:
        raise DriveError(f"{drive.name}: expected labels of moving points, found none; take moving='visibility'")
    return ("visibility" if first.static is None else "labels") if moving == "auto" else moving


def _map_settings(drive, rules, moving, deskew, batch_sweeps, visibility) -> dict:
    poses = hashlib.sha256(np.ascontiguousarray(drive.T_map_sensor).tobytes()).hexdigest()
    settings = {
        "drive": drive.name,
        "sweeps": len(drive),
        "poses_sha256": poses,
        "rules": asdict(rules),
        "moving": moving,
        "visibility": asdict(visibility or VisibilityRules()) if moving == "visibility" else None,
        "deskew": deskew,
        "batch_sweeps": batch_sweeps,
    }
    return json.loads(json.dumps(settings))  # as it will be read back: tuples are lists


def _work_folder(file: Path, settings: dict) -> Path:
    """The folder of finished batches; those of other settings are thrown away."""
    work = file.with_name(file.name + ".partial")
    note = work / "settings.json"
    if work.exists() and (not note.exists() or json.loads(note.read_text()) != settings):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    with atomic_write(note) as partial:
        partial.write_text(json.dumps(settings, indent=1))
    return work


def _batch_file(work: Path, start: int) -> Path:
    return work / f"batch-{start:07d}.npz"


def _batch_points(drive, batch: range, read, rules: MapRules, check: VisibilityCheck | None, bar: tqdm) -> np.ndarray:
    parts = []
    for index in batch:
        sweep = read(index)
        if check is not None:
            sweep = Sweep(sweep.points, static=check.static(index, sweep.points))
        parts.append(first_per_voxel(map_points(sweep, drive.T_map_sensor[index], rules), rules.voxel_size_m))
        bar.update(1)
    return first_per_voxel(np.concatenate(parts), rules.voxel_size_m)


def _write_batch(path: Path, points: np.ndarray, rules: MapRules) -> None:
    # The tile follows from the voxel, not from the coordinate, so that no rounding puts one voxel into two tiles.
    tile = np.floor(points[:, :2] / rules.voxel_size_m).astype(np.int64) // TILE_VOXELS
    tiles, row = np.unique(tile, axis=0, return_inverse=True)
    row = row.ravel()
    order = np.argsort(row, kind="stable")
    pieces = np.split(points[order], np.cumsum(np.bincount(row, minlength=len(tiles)))[:-1]) if len(tiles) else []
    arrays = {_tile_name(x, y): piece for (x, y), piece in zip(tiles, pieces, strict=True)}
    with atomic_write(path) as partial:
        np.savez(partial, **arrays)


def _merge_batches(batches: list[Path], file: Path, settings: dict, rules: MapRules, progress: bool) -> None:
    archives = [np.load(batch) for batch in batches]
    holders: dict[str, list] = {}
    for archive in archives:
        for name in archive.files:
            holders.setdefault(name, []).append(archive)
    if not holders:
        raise DriveError(f"{settings['drive']}: expected points beyond {rules.min_range_m} m, found none in any sweep")

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.writestr(zipfile.ZipInfo("settings.json"), json.dumps(settings))
            for name in tqdm(sorted(holders), unit="tile", desc="tiles", disable=not progress):
                points = np.concatenate([holder[name] for holder in holders[name]])
                points = first_per_voxel(points, rules.voxel_size_m)
                corner = np.array([*map(int, name.split("_")[1:]), 0]) * TILE_VOXELS * rules.voxel_size_m
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, (points - corner).astype(np.float32))

    with atomic_write(file) as partial:
        write(partial)
    for archive in archives:
        archive.close()


def _tile_name(x: int, y: int) -> str:
    return f"tile_{x}_{y}"


def in_view_cells(points: np.ndarray, sweep: np.ndarray, rules: MapRules) -> np.ndarray:
    """Which points (M, 3) share a cubic cell with a point of the sweep (N, 3), both in the sensor frame; (M,) bool.

    As in the published evaluation the grid starts half a cell below the smallest coordinates of the sweep, which is
    cropped by the larger range only.
    """
    edge = rules.view_cell_m
    near = np.linalg.norm(sweep, axis=1) < rules.max_range_m  # False for what is not finite
    start = sweep[near].min(axis=0) - edge / 2
    seen = np.unique(cell_keys(sweep[near] - start, edge))
    return np.isin(cell_keys(points - start, edge), seen)
