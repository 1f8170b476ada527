"""A drive from a folder of cloud files with a pose file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lidar_completion.point_cloud_files import read_points, suffixes
from lidar_completion_evaluation.drives.drive import Drive, DriveError, DriveSweep, identity_poses
from lidar_completion_evaluation.drives.poses import poses_of_sweeps


@dataclass(frozen=True)
class FolderDrive(Drive):
    """Clouds of any supported format in one folder, in the order of their names."""

    files: tuple[Path, ...] = ()
    bin_columns: int = 4

    def read(self, index: int) -> DriveSweep:
        cloud = read_points(self.files[index], bin_columns=self.bin_columns)
        return DriveSweep(cloud.points, cloud.intensity)


def open_folder(folder: str | Path, poses: str | Path | None = None, *, bin_columns: int = 4) -> FolderDrive:
    """Open a folder of .bin/.ply/.pcd/.npy/.npz clouds (or its subfolder velodyne/) with one sensor pose per cloud.

    poses: a KITTI, TUM or 4x4 file with one row per cloud in the order of the names; default: poses.txt in the folder.
    """
    drive = sweeps_of_folder(folder, bin_columns=bin_columns)
    T_map_sensor = poses_of_sweeps(poses or Path(folder) / "poses.txt", [file.name for file in drive.files])
    return replace(drive, T_map_sensor=T_map_sensor)


def sweeps_of_folder(folder: str | Path, *, bin_columns: int = 4) -> FolderDrive:
    """The clouds of a folder (or its subfolder velodyne/) as a drive whose poses are all the identity."""
    folder = Path(folder)
    files = cloud_files(cloud_folder(folder))
    names = tuple(file.stem for file in files)
    return FolderDrive(folder.name, names, identity_poses(len(files)), tuple(files), bin_columns)


def cloud_folder(folder: Path) -> Path:
    """The folder that holds the clouds: its subfolder velodyne/ if there is one (KITTI), otherwise itself."""
    return folder / "velodyne" if (folder / "velodyne").is_dir() else folder


def cloud_files(folder: Path) -> list[Path]:
    """The clouds of a folder by name: all of one format, without gaps if the names are numbers."""
    if not folder.is_dir():
        raise DriveError(f"{folder}: expected a folder of sweeps, found nothing there; check the path")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes() and file.name[0] != ".")
    if not files:
        raise DriveError(
            f"{folder}: expected sweeps ({', '.join(suffixes())}), found none; check the path or the download"
        )
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise DriveError(f"{folder}: expected sweeps of one format, found {', '.join(kinds)}; keep one of them")
    _refuse_gaps(folder, files)
    return files


def _refuse_gaps(folder: Path, files: Sequence[Path]) -> None:
    if not all(file.stem.isdigit() for file in files):
        return
    for before, after in itertools.pairwise(files):
        if int(after.stem) != int(before.stem) + 1:
            raise DriveError(
                f"{folder}: expected the sweep {int(before.stem) + 1:0{len(before.stem)}d} after {before.name}, "
                f"found {after.name}; copy the missing sweeps (poses are matched by order)"
            )
