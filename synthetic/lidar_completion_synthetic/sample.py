"""The sample that ships with the project: a short drive through a held-back world, as a rosbag2 record, poses, and ground truth.

    python -m lidar_completion_synthetic.sample samples/street

writes street.mcap and metadata.yaml (topic /velodyne_points, PointXYZIRT with 22 bytes a point, as the Velodyne driver publishes
it), poses.txt (TUM: stamp x y z qx qy qz qw, map from sensor) and truth.npz (map frame, in steps of 2 cm: see read_truth). The map frame is
the frame of the first pose.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .ground_truth import visible_surface
from .lidar import SENSORS, Sweep, scan
from .scenes import TEST_SEED
from .world import street

SEED = TEST_SEED + 500_000  # no test pair has it
SWEEPS = 6
INTERVAL_S = 0.2
SPEED_M_S = 8.0
START_S = 1_700_000_000
# Half the columns of a real sweep and coordinates in steps of 1/256 m (the sensor's own step is 2 mm) keep the record small.
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


def sample_drive() -> tuple[list[Sweep], list[float], np.ndarray, np.ndarray]:
    """Sweeps, their stamps in seconds, poses (SWEEPS, 4, 4) map from sensor, and truth (M, 3) float32 in the map frame."""
    world = street(SEED, kind="terraces")
    sweeps, stamps = [], []
    for number in range(SWEEPS):
        time_s = number * INTERVAL_S
        pose = world.pose_at((time_s - SWEEPS * INTERVAL_S / 2) * SPEED_M_S, SENSOR.height_m)
        rng = np.random.default_rng([SEED, number])
        sweeps.append(scan(world, pose, SENSOR, rng, speed_m_s=SPEED_M_S, moving=True, time_s=time_s))
        stamps.append(START_S + time_s)
    map_from_world = np.linalg.inv(sweeps[0].pose)
    poses = np.array([map_from_world @ s.pose for s in sweeps])
    truth = visible_surface(world, SENSOR)
    near = np.min([np.linalg.norm(truth - s.pose[:3, 3], axis=1) for s in (sweeps[0], sweeps[-1])], axis=0) < 50
    return sweeps, stamps, poses, (truth[near] @ map_from_world[:3, :3].T + map_from_world[:3, 3]).astype(np.float32)


def write_sample(folder: Path) -> None:
    """Writes the sample into a folder that holds none yet; raises FileExistsError otherwise."""
    if (folder / "metadata.yaml").exists():
        raise FileExistsError(f"{folder}: expected no record there, found metadata.yaml; remove the folder first")
    sweeps, stamps, poses, truth = sample_drive()
    write_record(folder, sweeps, stamps)
    rows = [
        f"{stamp:.3f} " + " ".join(f"{v:.6f}" for v in (*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()))
        for stamp, pose in zip(stamps, poses, strict=True)
    ]
    (folder / "poses.txt").write_text("# stamp x y z qx qy qz qw: map from velodyne\n" + "\n".join(rows) + "\n")
    steps = np.rint(truth / TRUTH_STEP_M).astype(np.int16)
    x, y, z = steps[np.lexsort(steps.T[::-1])].T  # sorted columns pack well
    np.savez_compressed(folder / "truth.npz", x=x, y=y, z=z, step_m=TRUTH_STEP_M)


def read_truth(path: Path) -> np.ndarray:
    """Ground truth (M, 3) float32 in metres, map frame, of truth.npz."""
    stored = np.load(path)
    return np.column_stack([stored[axis] for axis in "xyz"]).astype(np.float32) * np.float32(stored["step_m"])


def point_cloud(sweep: Sweep, turn_s: float = 0.1) -> np.ndarray:
    """Points of a sweep as (N,) records of POINT; intensity 0-255, time in seconds from the middle of the turn, which the stamp and the pose mean."""
    cloud = np.zeros(len(sweep.points), POINT)
    for axis, name in enumerate("xyz"):
        cloud[name] = np.rint(sweep.points[:, axis] / STEP_M) * STEP_M
    cloud["intensity"] = np.rint(sweep.intensity * 255)
    cloud["ring"], cloud["time"] = sweep.ring, sweep.time - turn_s / 2
    return cloud


def write_record(
    folder: Path, sweeps: list[Sweep], stamps: list[float], topic: str = "/velodyne_points", frame: str = "velodyne"
) -> None:
    """Sweeps as a rosbag2 record (mcap, chunks packed with zstd) in folder/, with metadata.yaml."""
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


def _message(store, cloud: np.ndarray, stamp: float, frame: str):
    types = store.types
    field = types["sensor_msgs/msg/PointField"]
    code = {"<f4": 7, "<u2": 4}
    fields = [field(n, POINT.fields[n][1], code[POINT.fields[n][0].str], 1) for n in POINT.names]
    nanoseconds = round(stamp * 1e9)
    time = types["builtin_interfaces/msg/Time"](nanoseconds // 10**9, nanoseconds % 10**9)
    return types["sensor_msgs/msg/PointCloud2"](
        types["std_msgs/msg/Header"](time, frame), 1, len(cloud), fields, False, POINT.itemsize, POINT.itemsize * len(cloud),
        np.frombuffer(cloud.tobytes(), np.uint8), True,
    )  # fmt: skip


if __name__ == "__main__":
    write_sample(Path(sys.argv[1] if len(sys.argv) > 1 else "samples/street"))
