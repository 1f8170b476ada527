"""The demonstration, end to end: the shipped sample through a real node over DDS, evaluated and reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'lidar_completion_ros[ros]'")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def sample(tmp_path):
    """The shipped sample with a twentieth of its truth, which is evaluated in less time."""
    folder = shutil.copytree(ROOT / "samples/street", tmp_path / "street")
    with np.load(folder / "truth.npz") as truth:
        fewer = {name: values[::20] if values.ndim else values for name, values in truth.items()}
    np.savez(folder / "truth.npz", **fewer)
    return folder


def test_demo_completes_the_shipped_drive(tiny_model, sample, tmp_path):
    command = [sys.executable, "demo/run.py", "--bag", str(sample), "--model", str(tiny_model)]
    # a domain of its own, so that no node of another test answers
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(101 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,  # generous for a busy machine
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "6 played, 6 completed, 0 dropped" in done.stdout
    for row in ("raw sweep", "jittered sweep", "interpolated sweep", "xy-jittered sweep", "completion"):
        assert row in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "6 / 6" in page
    assert page.count("data:image/png;base64,") >= 2
    for picture in ("birds_eye.png", "confidence.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 20_000


def test_demo_reports_missing_bag(tiny_model, tmp_path):
    command = [sys.executable, "demo/run.py", "--bag", str(tmp_path / "nothing"), "--model", str(tiny_model)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "nothing" in done.stderr
