"""What `colcon test` checks of the installed package; most tests are in tests/ of the repository."""

import numpy as np

from lidar_completion_evaluation.baselines import BASELINES


def test_the_baselines_complete_a_sweep_without_a_model():
    sweep = np.random.default_rng(0).uniform(-20, 20, (500, 3)).astype(np.float32)
    for name, complete in BASELINES.items():
        assert len(complete(sweep, 0)) >= 500, name
