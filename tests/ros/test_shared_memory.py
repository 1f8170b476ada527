"""Shared memory of Fast DDS that a killed process leaves behind is removed when the node starts; that of others stays."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lidar_completion_ros.shared_memory import LOCK_NAME, SHARED_MEMORY, remove_dead_segments

PARTICIPANT = """
import time
import rclpy
rclpy.init()
node = rclpy.create_node("holds_shared_memory")
print("ready", flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs /dev/shm")


@contextmanager
def participant():
    """A process with a Fast DDS participant, and the lock files of its segments."""
    before = set(SHARED_MEMORY.iterdir())
    process = subprocess.Popen([sys.executable, "-c", PARTICIPANT], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        new = {path for path in set(SHARED_MEMORY.iterdir()) - before if LOCK_NAME.fullmatch(path.name)}
        locks = [path for path in new if holds(process.pid, path)]
        assert locks
        yield process, locks
    finally:
        process.kill()
        process.communicate()


def holds(pid, path):
    return any(file.resolve() == path for file in Path(f"/proc/{pid}/fd").iterdir())


def segment_of(lock):
    return lock.with_name(lock.name.removesuffix("_el"))


def make_older(locks):
    for lock in locks:
        os.utime(lock, (time.time() - 3600,) * 2)


def test_segments_of_a_killed_process_are_removed(ros):
    with participant() as (dying, dead), participant() as (_, living):
        dying.kill()
        dying.wait()
        make_older([*dead, *living])
        assert all(segment_of(lock).exists() for lock in dead)
        command = [sys.executable, "-m", "lidar_completion_ros", "--ros-args", "-p", "model:=/no/such/model"]
        node = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert re.search(r"removed \d+ shared-memory segments? of dead processes \(\d+ MB\)", node.stderr), node.stderr
        assert not [path for lock in dead for path in (lock, segment_of(lock)) if path.exists()]
        assert all(lock.exists() and segment_of(lock).exists() for lock in living)


def test_only_old_unlocked_segments_are_removed(tmp_path):
    old, young, port = (
        tmp_path / name for name in ("fastrtps_" + "a" * 16, "fastrtps_" + "b" * 16, "fastrtps_port7400")
    )
    for segment in (old, young, port):
        segment.write_bytes(bytes(1000))
        segment.with_name(f"{segment.name}_el").touch()
    outside = tmp_path / "outside"
    outside.touch()
    link = tmp_path / ("fastrtps_" + "c" * 16 + "_el")
    link.symlink_to(outside)
    make_older([tmp_path / f"{segment.name}_el" for segment in (old, port)])
    make_older([outside])
    removed = remove_dead_segments(tmp_path)
    assert (removed.segments, removed.size_bytes) == (1, 1000)
    assert {path.name for path in tmp_path.iterdir()} == {
        young.name, f"{young.name}_el", port.name, f"{port.name}_el", "outside", link.name,
    }  # fmt: skip
