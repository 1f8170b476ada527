"""Opens whatever a path holds as a drive: a SemanticKITTI sequence, KITTI-360, a rosbag2, or a folder of clouds."""

from __future__ import annotations

from pathlib import Path

from lidar_completion_evaluation.drives import bags, folder, kitti_360, semantic_kitti
from lidar_completion_evaluation.drives.drive import Drive, DriveError, refuse_foreign_poses
from lidar_completion_evaluation.drives.odometry import with_estimated_poses

AUTO = "auto"  # poses are estimated from the sweeps
POSES_HELP = "pose file (KITTI, TUM or 4x4 rows), or auto: estimate the poses from the sweeps with KISS-ICP"


def open_drive(
    path: str | Path,
    *,
    poses: str | Path | None = None,
    topic: str | None = None,
    odometry_topic: str | None = None,
    kitti_360_drive: str | None = None,
    pose_cache: str | Path = Path("poses_auto.txt"),
    check: bool = True,
) -> Drive:
    """The drive at path.

    poses: a pose file (KITTI, TUM or 4x4 rows), or "auto" to estimate the poses of a bag or folder from its sweeps;
    estimated poses are kept in the file pose_cache. check: read a few sweeps and refuse poses that do not belong to them.
    Raises DriveError with the fix.
    """
    path = Path(path)
    if not path.exists():
        raise DriveError(f"{path}: expected a folder of sweeps or a rosbag2, found nothing there; check the path")
    if str(poses) == AUTO:
        drive = with_estimated_poses(open_sweeps(path, topic=topic), pose_cache)
    else:
        drive = _open(path, poses, topic, odometry_topic, kitti_360_drive)
    if check:
        refuse_foreign_poses(drive)
    return drive


def open_sweeps(path: str | Path, *, topic: str | None = None) -> Drive:
    """The sweeps of a bag or folder as a drive whose poses are all the identity."""
    path = Path(path)
    return bags.sweeps_of_bag(path, topic=topic) if is_bag(path) else folder.sweeps_of_folder(path)


def is_bag(path: Path) -> bool:
    return path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists()


def _open(path: Path, poses, topic, odometry_topic, kitti_360_drive) -> Drive:
    if is_bag(path):
        return bags.open_bag(path, topic=topic, poses=poses, odometry_topic=odometry_topic)
    if (path / "data_3d_raw").is_dir():
        return kitti_360.open_drive(path, kitti_360_drive or kitti_360.FIRST_DRIVE)
    if (path / "velodyne").is_dir() and poses is None:
        return semantic_kitti.open_sequence(path)
    return folder.open_folder(path, poses)
