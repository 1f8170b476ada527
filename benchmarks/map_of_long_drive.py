"""Builds the map of a drive of thousands of synthetic sweeps, kills it half way, resumes; prints peak memory and speed.

    python benchmarks/map_of_long_drive.py [--sweeps 5000] [--moving visibility]

A few synthetic sweeps are generated once and repeated farther along the map, so that the time is that of the map and not
of the generator.
"""

import argparse
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lidar_completion.point_cloud_files import read_points, write_points
from lidar_completion_evaluation.drives.drive import Drive, DriveSweep

CAST = 40  # generated sweeps, one metre apart


@dataclass(frozen=True)
class LongDrive(Drive):
    """The generated sweeps of a folder, repeated."""

    folder: Path = field(default=Path())

    def read(self, index: int) -> DriveSweep:
        return DriveSweep(read_points(self.folder / f"{index % CAST:06d}.bin").points)


def cast_sweeps(folder: Path) -> None:
    from lidar_completion_synthetic import SENSORS, simulate_sweep, street

    world, sensor = street(1_000_000_007), SENSORS["HDL-64E"]
    for number in range(CAST):
        pose = world.pose_at(number - CAST / 2, sensor.height_m)
        sweep = simulate_sweep(
            world, pose, sensor, np.random.default_rng(number), speed_m_s=10.0, time_s=0.1 * number, moving=True
        )
        write_points(folder / f"{number:06d}.bin", sweep.points)
        np.save(folder / f"{number:06d}.npy", sweep.pose)


def long_drive(folder: Path, sweeps: int) -> LongDrive:
    lap = np.stack([np.load(folder / f"{number:06d}.npy") for number in range(CAST)])
    poses = np.tile(lap, (-(-sweeps // CAST), 1, 1))[:sweeps].copy()
    way = np.linalg.norm(lap[-1, :2, 3] - lap[0, :2, 3]) + 1.0
    poses[:, 0, 3] += way * (np.arange(sweeps) // CAST)
    return LongDrive("long", tuple(map(str, range(sweeps))), poses, folder)


def build(folder: Path, file: Path, sweeps: int, moving: str) -> None:
    from lidar_completion_evaluation.truth.ground_truth_map import build_map

    start, cpu = time.perf_counter(), time.process_time()
    build_map(long_drive(folder, sweeps), file, moving=moving)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{sweeps} sweeps: {seconds:.0f} s, {sweeps / seconds:.1f} sweeps/s, {time.process_time() - cpu:.0f} s of CPU, "
          f"peak {peak:.2f} GiB, file {file.stat().st_size / 2**20:.0f} MiB, "
          f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=5000)
    parser.add_argument("--moving", default="keep", choices=("keep", "visibility"))
    parser.add_argument("--build", nargs=2, metavar=("FOLDER", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build(Path(arguments.build[0]), Path(arguments.build[1]), arguments.sweeps, arguments.moving)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cast_sweeps(folder)
        options = ["--sweeps", str(arguments.sweeps), "--moving", arguments.moving]
        run = [sys.executable, __file__, *options, "--build", name]
        subprocess.run([*run, str(folder / "whole.npz")], check=True)
        killed = subprocess.Popen([*run, str(folder / "killed.npz")], stderr=subprocess.DEVNULL)
        while len(list(folder.glob("killed.npz.partial/batch-*.npz"))) < arguments.sweeps // 100:
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        subprocess.run([*run, str(folder / "killed.npz")], check=True)
        same = (folder / "whole.npz").read_bytes() == (folder / "killed.npz").read_bytes()
        print("killed half way and started again:", "the same file" if same else "ANOTHER FILE")


if __name__ == "__main__":
    main()
