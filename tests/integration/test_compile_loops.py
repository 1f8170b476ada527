"""python -m lidar_completion.compile_loops leaves nothing to compile for the first sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion_training.recipe_files import load_recipe

ROOT = Path(__file__).parents[2]
EDGE_RECIPE = ROOT / "training/lidar_completion_training/recipes/edge/1_first.yaml"
# Numba counts, for each loop of the process, what it took from its cache and what it compiled
COMPLETE = """
import gc, sys
import numpy as np
from lidar_completion.compile_loops import synthetic_sweep
from lidar_completion.completer import SceneCompleter
from lidar_completion.mounting import SensorView
from numba.core.dispatcher import Dispatcher
sweep = synthetic_sweep() * np.float32(1.3)
for model in sys.argv[1:]:
    SceneCompleter.load(model, device="cpu").complete(sweep, intensity=np.zeros(len(sweep), np.float32))
SensorView.of(sweep)
loops = [each for each in gc.get_objects() if isinstance(each, Dispatcher) and "lidar_completion" in each.py_func.__module__]
print(sum(sum(loop.stats.cache_hits.values()) for loop in loops))
print(*sorted({loop.__name__ for loop in loops if loop.stats.cache_misses}))
"""


@pytest.mark.slow
def test_the_first_sweep_compiles_nothing(tmp_path: Path):
    recipe = load_recipe(EDGE_RECIPE)
    architecture = recipe.architecture
    card = ModelCard("union", architecture=architecture, pipeline=recipe.pipeline, networks=architecture.networks)
    torch.manual_seed(0)
    save_model(tmp_path / "union", card, build_networks(card))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-m", "lidar_completion.compile_loops"], cwd=ROOT, env=environment, check=True)
    models = ["models/edge", "models/drive", str(tmp_path / "union")]
    run = subprocess.run(
        [sys.executable, "-c", COMPLETE, *models], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    taken, compiled = run.stdout.split("\n")[:2]
    assert int(taken) > 30
    assert compiled == ""
