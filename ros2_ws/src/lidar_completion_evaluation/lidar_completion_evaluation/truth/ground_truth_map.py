"""The ground-truth map of a drive of any length, on disk, in tiles."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lidar_completion.files import atomic_write
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep
from lidar_completion_evaluation.process_group import ALONE, ProcessGroup
from lidar_completion_evaluation.truth.deskewed_drive import deskewed
from lidar_completion_evaluation.truth.moving import VisibilityCheck, VisibilityRules
from lidar_completion_evaluation.truth.rules import DRIVE_RULES, MapRules, first_per_voxel, map_points

NPY_HEADER_BYTES = 256  # more than the header of any array of points
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
    group: ProcessGroup = ALONE,
) -> Path:
    """Write the map of a drive to `file` (.npz, one array per tile) and return its path. Raises DriveError.

    Memory use: one batch of sweeps, then one tile. Finished batches are kept in `file`.partial, so an interrupted run resumes
    after the last of them and gives the same file, byte for byte. An existing file with the same settings is reused.
    moving: how points on moving objects are removed: "labels" drops points labelled as moving or unlabelled, "visibility"
    drops points that other sweeps see through, "keep" keeps all points; "auto" uses labels if the drive has them, else visibility.
    deskew: deskew each sweep (for raw drives; KITTI odometry sweeps are deskewed already).
    The processes of the group share the batches, and the first one merges them; all return when the map is written.
    """
    if moving not in MOVING:
        raise DriveError(f"moving: expected one of {', '.join(MOVING)}, found {moving!r}; choose one of them")
    file = Path(file)
    read: Callable[[int], DriveSweep] = (lambda index: deskewed(drive, index)) if deskew else drive.read
    moving = _resolve_moving(moving, read(0), drive)
    settings = _map_settings(drive, rules, moving, deskew, batch_sweeps, visibility)
    if file.exists() and map_settings(file) == settings:
        return file
    group.wait_for_all()  # so that all processes have looked for the file before one writes it
    with group.first_before_others():
        work = _work_folder(file, settings)
    check = VisibilityCheck(drive, visibility, read) if moving == "visibility" else None
    starts = range(0, len(drive), batch_sweeps)
    shown = progress and group.is_first
    with tqdm(total=len(drive), unit="sweep", desc=f"map of {drive.name}", disable=not shown) as bar:
        for start in group.share_of(starts):
            batch = range(start, min(start + batch_sweeps, len(drive)))
            if not _batch_file(work, start).exists():
                _write_batch(_batch_file(work, start), _batch_points(drive, batch, read, rules, check, bar), rules)
            else:
                bar.update(len(batch))
    group.wait_for_all()
    if group.is_first:
        _merge_batches([_batch_file(work, start) for start in starts], file, settings, rules, progress)
        shutil.rmtree(work)
    group.wait_for_all()
    return file


class GroundTruthMap:
    """A map file, mapped into memory. No tile is kept: all processes that read the file share the system's cache of it."""

    def __init__(self, file: str | Path) -> None:
        self.settings = map_settings(file)
        self._edge = TILE_VOXELS * self.settings["rules"]["voxel_size_m"]
        self._bytes = np.memmap(file, np.uint8, "r")
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.startswith("tile_")]
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DriveError(f"{file}: expected uncompressed tiles, found compressed ones; build the map again")
        self._places = {member.filename.removesuffix(".npy"): self._place_of(member) for member in members}

    def around(self, centre: np.ndarray, radius_m: float) -> np.ndarray:
        """Points (M, 3) float64 in the map frame of every tile within radius_m (in x or y) of the centre (3,)."""
        low = np.floor((np.asarray(centre)[:2] - radius_m) / self._edge).astype(int)
        high = np.floor((np.asarray(centre)[:2] + radius_m) / self._edge).astype(int)
        near = [_tile_name(x, y) for x in range(low[0], high[0] + 1) for y in range(low[1], high[1] + 1)]
        return self._points([name for name in near if name in self._places])

    def all(self) -> np.ndarray:
        """Every point of the map (M, 3) float64."""
        return self._points(sorted(self._places))

    def _points(self, names: list[str]) -> np.ndarray:
        offsets = [self._offsets(name) for name in names]
        ends = np.cumsum([0, *map(len, offsets)])
        points = np.empty((ends[-1], 3))
        for name, tile, start, end in zip(names, offsets, ends, ends[1:], strict=False):
            corner = np.array([*map(int, name.split("_")[1:]), 0]) * self._edge
            np.add(tile, corner, out=points[start:end])
        return points

    def _offsets(self, name: str) -> np.ndarray:
        """The points (M, 3) float32 of a tile from its corner, in the file's own memory."""
        member = self._bytes[self._places[name]]
        header = io.BytesIO(member[:NPY_HEADER_BYTES].tobytes())
        np.lib.format.read_magic(header)
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
        return np.frombuffer(member, dtype, offset=header.tell()).reshape(shape)

    def _place_of(self, member: zipfile.ZipInfo) -> slice:
        """The bytes of a member: a local header of 30 bytes, a name and an extra field precede them."""
        name_and_extra = self._bytes[member.header_offset + 26 : member.header_offset + 30].view("<u2").sum()
        start = member.header_offset + 30 + int(name_and_extra)
        return slice(start, start + member.file_size)


def check_map(file: str | Path, drive: Drive) -> None:
    """Raise DriveError unless the map was built from the poses of this drive."""
    found = map_settings(file)
    if found.get("poses_sha256") != poses_sha256(drive):
        raise DriveError(
            f"{file}: expected a map of {drive.name} with these poses, found one of {found.get('drive')} with other poses; "
            "pass the drive's own map, or build it: lidar-completion map"
        )


def poses_sha256(drive: Drive) -> str:
    """Identifies the poses of a drive."""
    return hashlib.sha256(np.ascontiguousarray(drive.T_map_sensor).tobytes()).hexdigest()


def map_settings(file: str | Path) -> dict:
    """The settings that a map file was built with. Raises DriveError if the file is not a map."""
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("settings.json"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DriveError(f"{file}: expected a ground-truth map, found {error}; remove it and build it again") from error


def _resolve_moving(moving: str, first: DriveSweep, drive: Drive) -> str:
    if moving == "labels" and first.static is None:
        raise DriveError(f"{drive.name}: expected labels of moving points, found none; use moving='visibility'")
    return ("visibility" if first.static is None else "labels") if moving == "auto" else moving


def _map_settings(
    drive: Drive, rules: MapRules, moving: str, deskew: bool, batch_sweeps: int, visibility: VisibilityRules | None
) -> dict:
    settings = {
        "drive": drive.name,
        "sweeps": len(drive),
        "poses_sha256": poses_sha256(drive),
        "rules": asdict(rules),
        "moving": moving,
        "visibility": asdict(visibility or VisibilityRules()) if moving == "visibility" else None,
        "deskew": deskew,
        "batch_sweeps": batch_sweeps,
    }
    return json.loads(json.dumps(settings))  # as it is read back: tuples become lists


def _work_folder(file: Path, settings: dict) -> Path:
    """The folder of finished batches; batches with other settings are deleted."""
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


def _batch_points(
    drive: Drive,
    batch: range,
    read: Callable[[int], DriveSweep],
    rules: MapRules,
    check: VisibilityCheck | None,
    bar: tqdm,
) -> np.ndarray:
    parts = []
    for index in batch:
        sweep = read(index)
        if check is not None:
            sweep = DriveSweep(sweep.points, static=check.static(index, sweep.points))
        parts.append(first_per_voxel(map_points(sweep, drive.T_map_sensor[index], rules), rules.voxel_size_m))
        bar.update(1)
    return first_per_voxel(np.concatenate(parts), rules.voxel_size_m)


def _write_batch(path: Path, points: np.ndarray, rules: MapRules) -> None:
    with atomic_write(path) as partial:
        np.savez(partial, **_tiles(points, rules))  # type: ignore[arg-type]


def _tiles(points: np.ndarray, rules: MapRules) -> dict[str, np.ndarray]:
    """The points (N, 3) of each tile, by the tile's name."""
    # The tile is computed from the voxel, not from the coordinate, so that rounding cannot split a voxel between tiles.
    tile = np.floor(points[:, :2] / rules.voxel_size_m).astype(np.int64) // TILE_VOXELS
    tiles, row = np.unique(tile, axis=0, return_inverse=True)
    row = row.ravel()
    order = np.argsort(row, kind="stable")
    pieces = np.split(points[order], np.cumsum(np.bincount(row, minlength=len(tiles)))[:-1]) if len(tiles) else []
    return {_tile_name(x, y): piece for (x, y), piece in zip(tiles, pieces, strict=True)}


def _merge_batches(batches: list[Path], file: Path, settings: dict, rules: MapRules, progress: bool) -> None:
    archives = [np.load(batch) for batch in batches]
    holders: dict[str, list] = {}
    for archive in archives:
        for name in archive.files:
            holders.setdefault(name, []).append(archive)
    if not holders:
        raise DriveError(f"{settings['drive']}: expected points beyond {rules.min_range_m} m, found none in any sweep")
    names = tqdm(sorted(holders), unit="tile", desc="tiles", disable=not progress)
    pieces = ((name, np.concatenate([holder[name] for holder in holders[name]])) for name in names)
    _write_map(file, settings, rules, ((name, first_per_voxel(each, rules.voxel_size_m)) for name, each in pieces))
    for archive in archives:
        archive.close()


def write_surface(points: np.ndarray, file: Path, drive: Drive, rules: MapRules = DRIVE_RULES) -> Path:
    """Write a known surface (M, 3), map frame of the drive, as its map, with every point kept; returns the path."""
    settings = {"drive": drive.name, "poses_sha256": poses_sha256(drive), "rules": asdict(rules), "surface": "exact"}
    _write_map(file, settings, rules, sorted(_tiles(points, rules).items()))
    return file


def _write_map(file: Path, settings: dict, rules: MapRules, tiles: Iterable[tuple[str, np.ndarray]]) -> None:
    """Tiles hold float32 offsets from their corner, so that precision does not depend on the length of the drive."""
    with atomic_write(file) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(zipfile.ZipInfo("settings.json"), json.dumps(settings))
        for name, points in tiles:
            corner = np.array([*map(int, name.split("_")[1:]), 0]) * TILE_VOXELS * rules.voxel_size_m
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, (points - corner).astype(np.float32))


def _tile_name(x: int, y: int) -> str:
    return f"tile_{x}_{y}"
