"""The smoke chain from the command line: teacher, refiner, Diffusion-DPO, distillations, export and evaluation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lidar_completion.completer import SceneCompleter
from lidar_completion_training.training_log import read_log

COMMAND = [sys.executable, "-m", "lidar_completion_training", "chain", "smoke", "--scenes", "1"]


@pytest.mark.slow  # takes minutes; run by `make smoke`
def test_smoke_chain_trains_exports_and_evaluates(tmp_path):
    run_chain(tmp_path)
    runs = ("teacher", "refiner", "diffusion_dpo", "score_distillation", "distillation_dpo")
    for run in runs:
        rows = read_log(tmp_path / run / "log.csv")
        assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert (tmp_path / "evaluation/report.html").is_file()
    table = (tmp_path / "evaluation/summary.csv").read_text()
    for row in ("raw", "xy_jittered", "model", '"model, unrefined"'):
        assert f"\n{row},completed,cd," in table
    sweep = np.random.default_rng(0).uniform((-20, -20, -2), (20, 20, 2), (2000, 3)).astype(np.float32)
    clouds = [
        SceneCompleter.load(tmp_path / "model", device="cpu", backend=backend).complete(sweep).completed_points
        for backend in ("torch", "onnx")
    ]
    assert len(clouds[0]) == len(clouds[1]) > 6 * len(sweep)  # the refiner makes six points of one
    states = {run: (tmp_path / run / "state.pt").stat().st_mtime_ns for run in runs}
    run_chain(tmp_path)  # finished runs are skipped
    assert states == {run: (tmp_path / run / "state.pt").stat().st_mtime_ns for run in runs}


def run_chain(runs: Path) -> None:
    command = [*COMMAND, "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
