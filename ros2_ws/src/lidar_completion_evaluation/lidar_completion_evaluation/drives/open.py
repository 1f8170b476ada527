"""Opens whatever a path holds as a drive: a SemanticKITTI sequence, KITTI-360, a rosbag2, or a folder of clouds."""

from __future__ import annotations

from pathlib import Path

from lidar_completion_evaluation.drives.drive import Drive, DriveError, refuse_foreign_poses
from lidar_completion_evaluation.drives.folder import open_folder


def open_drive(
    path: str | Path,
    *,
    poses: str | Path | None = None,
    topic: str | None = None,
    odometry_topic: str | None = None,
    kitti_360_drive: str | None = None,
    check: bool = True,
) -> Drive:
    """The drive at path. poses: a pose file for folders (KITTI, TUM or 4x4 rows) and bags (TUM).

    check: read a few sweeps and refuse poses that do not belong to them. Raises DriveError with the fix.
    """
    path = Path(path)
    if not path.exists():
        raise DriveError(f"{path}: expected a folder of sweeps or a rosbag2, found nothing there; check the path")
    drive = _open(path, poses, topic, odometry_topic, kitti_360_drive)
    if check:
        refuse_foreign_poses(drive)
    return drive


def _open(path: Path, poses, topic, odometry_topic, kitti_360_drive) -> Drive:
    if path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists():
        from lidar_completion_evaluation.drives.bags import open_bag

        return open_bag(path, topic=topic, poses=poses, odometry_topic=odometry_topic)
    if (path / "data_3d_raw").is_dir():
        from lidar_completion_evaluation.drives import kitti_360

        return kitti_360.open_drive(path, kitti_360_drive or kitti_360.FIRST_DRIVE)
    if (path / "velodyne").is_dir() and poses is None:
        from lidar_completion_evaluation.drives.semantic_kitti import open_sequence

        return open_sequence(path)
    return open_folder(path, poses)
