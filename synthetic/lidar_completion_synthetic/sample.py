"""The sample recording that ships with the project: a short drive through a test world, with poses and ground truth.

    python -m lidar_completion_synthetic.sample samples/street

writes street.mcap and metadata.yaml (rosbag2, topic /velodyne_points, PointXYZIRT with 22 bytes per point, the layout of the Velodyne
driver), poses.txt (TUM format: stamp x y z qx qy qz qw, map from sensor) and truth.npz (map frame, quantised to 2 cm: see read_truth).
The map frame is the sensor frame of the first sweep.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from .dataset import TEST_SEED
from .ground_truth import visible_surface
from .lidar import SENSORS, SimulatedSweep, simulate_sweep
from .world import street

SEED = TEST_SEED + 500_000  # used by no test pair
SWEEPS = 6
INTERVAL_S = 0.2
SPEED_M_S = 8.0
START_S = 1_700_000_000
# Half the columns of a real sweep and coordinates quantised to 1/256 m (the sensor resolves 2 mm) keep the recording small.
SENSOR = replace(SENSORS["HDL-64E"], columns=1042)
STEP_M = 1 / 256
TRUTH_STEP_M = 0.02
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "ring", "time"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u2", "<f4"],
        "offsets": [0, 4, 8, 12, 16, 18],
        "itemsize": 22,
    }
)


def sample_drive() -> tuple[list[SimulatedSweep], list[float], np.ndarray, np.ndarray]:
    """Sweeps, stamps in seconds, poses (SWEEPS, 4, 4) map from sensor, and truth (M, 3) float32 in the map frame."""
    world = street(SEED, kind="terraces")
    sweeps, stamps = [], []
    for number in range(SWEEPS):
        time_s = number * INTERVAL_S
        pose = world.pose_at((time_s - SWEEPS * INTERVAL_S / 2) * SPEED_M_S, SENSOR.height_m)
        rng = np.random.default_rng([SEED, number])
        sweeps.append(simulate_sweep(world, pose, SENSOR, rng, speed_m_s=SPEED_M_S, moving=True, time_s=time_s))
        stamps.append(START_S + time_s)
    map_from_world = np.linalg.inv(sweeps[0].pose)
    poses = np.array([map_from_world @ s.pose for s in sweeps])
    truth = visible_surface(world, SENSOR)
    near = np.min([np.linalg.norm(truth - s.pose[:3, 3], axis=1) for s in (sweeps[0], sweeps[-1])], axis=0) < 50
    return sweeps, stamps, poses, (truth[near] @ map_from_world[:3, :3].T + map_from_world[:3, 3]).astype(np.float32)


def write_sample(folder: Path) -> None:
    """Writes the sample to a folder. Raises FileExistsError if it contains a recording already."""
    if (folder / "metadata.yaml").exists():
        raise FileExistsError(f"{folder}: expected no recording, found metadata.yaml; remove the folder first")
    sweeps, stamps, poses, truth = sample_drive()
    write_record(folder, sweeps, stamps)
    rows = [
        f"{stamp:.3f} " + " ".join(f"{v:.6f}" for v in (*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()))
        for stamp, pose in zip(stamps, poses, strict=True)
    ]
    (folder / "poses.txt").write_text("# stamp x y z qx qy qz qw: map from velodyne\n" + "\n".join(rows) + "\n")
    steps = np.rint(truth / TRUTH_STEP_M).astype(np.int16)
    x, y, z = steps[np.lexsort(steps.T[::-1])].T  # sorted columns compress well
    np.savez_compressed(folder / "truth.npz", x=x, y=y, z=z, step_m=TRUTH_STEP_M)


def read_truth(path: Path) -> np.ndarray:
    """Ground truth (M, 3) float32 of truth.npz: map frame, metres."""
    stored = np.load(path)
    return np.column_stack([stored[axis] for axis in "xyz"]).astype(np.float32) * np.float32(stored["step_m"])


def point_cloud(sweep: SimulatedSweep, turn_s: float = 0.1) -> np.ndarray:
    """Points of a sweep as (N,) records of POINT.

    Intensity 0-255. Time in seconds relative to the middle of the turn, which is also the time of stamp and pose.
    """
    cloud = np.zeros(len(sweep.points), POINT)
    for axis, name in enumerate("xyz"):
        cloud[name] = np.rint(sweep.points[:, axis] / STEP_M) * STEP_M
    cloud["intensity"] = np.rint(sweep.intensity * 255)
    cloud["ring"], cloud["time"] = sweep.ring, sweep.time - turn_s / 2
    return cloud


def write_record(
    folder: Path,
    sweeps: list[SimulatedSweep],
    stamps: list[float],
    topic: str = "/velodyne_points",
    frame: str = "velodyne",
) -> None:
    """Writes sweeps as a rosbag2 recording (MCAP, zstd-compressed chunks) with metadata.yaml."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(topic, "sensor_msgs/msg/PointCloud2", typestore=store)
        for sweep, stamp in zip(sweeps, stamps, strict=True):
            message = _message(store, point_cloud(sweep), stamp, frame)
            writer.write(connection, round(stamp * 1e9), store.serialize_cdr(message, connection.msgtype))


def _message(store: Any, cloud: np.ndarray, stamp: float, frame: str) -> Any:
    """sensor_msgs/PointCloud2."""
    types = store.types
    field = types["sensor_msgs/msg/PointField"]
    code = {"<f4": 7, "<u2": 4}
    fields = [field(name, offset, code[kind.str], 1) for name, (kind, offset, *_) in (POINT.fields or {}).items()]
    nanoseconds = round(stamp * 1e9)
    time = types["builtin_interfaces/msg/Time"](nanoseconds // 10**9, nanoseconds % 10**9)
    return types["sensor_msgs/msg/PointCloud2"](
        types["std_msgs/msg/Header"](time, frame), 1, len(cloud), fields, False, POINT.itemsize, POINT.itemsize * len(cloud),
        np.frombuffer(cloud.tobytes(), np.uint8), True,
    )  # fmt: skip


if __name__ == "__main__":
    write_sample(Path(sys.argv[1] if len(sys.argv) > 1 else "samples/street"))
