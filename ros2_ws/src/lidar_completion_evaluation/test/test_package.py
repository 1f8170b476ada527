"""What `colcon test` checks of an installed package; the repository's own tests are in tests/."""

import numpy as np

from lidar_completion_evaluation.baselines import TRIVIAL


def test_the_baselines_complete_a_sweep_without_a_model():
    sweep = np.random.default_rng(0).uniform(-20, 20, (500, 3)).astype(np.float32)
    for name, complete in TRIVIAL.items():
        assert len(complete(sweep, 0)) >= 500, name
