"""Opens the drive at a path, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lidar_completion_evaluation.drives import bags, folder, kitti_360, semantic_kitti
from lidar_completion_evaluation.drives.drive import Drive, DriveError
from lidar_completion_evaluation.drives.foreign_poses import refuse_foreign_poses
from lidar_completion_evaluation.drives.odometry import with_estimated_poses

AUTO = "auto"  # poses are estimated from the sweeps


@dataclass(frozen=True)
class DriveOptions:
    """What a format may need to know besides the path; each format reads the options that apply to it."""

    poses: str | Path | None = None  # pose file of a folder or bag, or "auto"
    topic: str | None = None  # PointCloud2 topic of a bag
    odometry_topic: str | None = None  # odometry or pose topic of a bag
    kitti_360_drive: str | None = None  # default: kitti_360.FIRST_DRIVE
    bin_columns: int = 4  # float32 values per point of the .bin files of a folder
    pose_cache: str | Path = Path("poses_auto.txt")  # file of estimated poses


@dataclass(frozen=True)
class Format:
    """A drive format: how a path of it is recognised, and how it is opened."""

    name: str
    recognises: Callable[[Path, DriveOptions], bool]
    open: Callable[[Path, DriveOptions], Drive]


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag2."""
    return path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists()


# The first format that recognises the path opens it.
FORMATS = (
    Format(
        "rosbag2",
        lambda path, options: is_bag(path),
        lambda path, options: bags.open_bag(
            path, topic=options.topic, poses=options.poses, odometry_topic=options.odometry_topic
        ),
    ),
    Format(
        "KITTI-360",
        lambda path, options: kitti_360.is_kitti_360(path),
        lambda path, options: kitti_360.open_drive(path, options.kitti_360_drive),
    ),
    Format(
        "SemanticKITTI",
        lambda path, options: (path / "velodyne").is_dir() and options.poses is None and options.bin_columns == 4,
        lambda path, options: semantic_kitti.open_sequence(path),
    ),
    Format(
        "folder of point clouds",
        lambda path, options: True,
        lambda path, options: folder.open_folder(path, options.poses, bin_columns=options.bin_columns),
    ),
)


def open_drive(path: str | Path, options: DriveOptions | None = None, *, check: bool = True, **given: Any) -> Drive:
    """The drive at path. Raises DriveError.

    Options are a DriveOptions, or its fields as keywords. poses="auto" estimates the poses of a bag or folder from its
    sweeps and keeps them in the file pose_cache. check: read a few sweeps and reject poses that do not belong to them.
    """
    path, options = Path(path), options or DriveOptions(**given)
    if not path.exists():
        raise DriveError(f"{path}: expected a folder of sweeps or a rosbag2, found nothing there; check the path")
    if str(options.poses) == AUTO:
        drive = with_estimated_poses(open_sweeps(path, topic=options.topic), options.pose_cache)
    else:
        drive = next(each for each in FORMATS if each.recognises(path, options)).open(path, options)
    if check:
        refuse_foreign_poses(drive)
    return drive


def open_sweeps(path: str | Path, *, topic: str | None = None) -> Drive:
    """The sweeps of a bag or folder as a drive whose poses are all the identity."""
    path = Path(path)
    return bags.sweeps_of_bag(path, topic=topic) if is_bag(path) else folder.sweeps_of_folder(path)
