"""python -m lidar_completion.compile_loops leaves nothing to compile for the first sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETE = """
import numpy as np
from lidar_completion.compile_loops import synthetic_sweep
from lidar_completion.completer import SceneCompleter
sweep = synthetic_sweep() * np.float32(1.3)
for model in ("edge", "drive"):
    SceneCompleter.load(f"models/{model}", device="cpu").complete(sweep)
"""


@pytest.mark.slow
def test_the_first_sweep_compiles_nothing(tmp_path: Path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    code = []
    for arguments in (["-m", "lidar_completion.compile_loops"], ["-c", COMPLETE]):
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True)
        code.append(sorted(path.name for path in tmp_path.rglob("*.nbc")))
    assert code[0]
    assert code[0] == code[1]
