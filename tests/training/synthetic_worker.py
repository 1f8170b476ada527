"""What a worker process of the synthetic generator does; a module of its own, so that a spawned process finds it."""

import hashlib

import numpy as np

from lidar_completion_training.data.synthetic import SpinningLidar, training_pair

SMALL = dict(half_length_m=45.0, half_depth_m=30.0)
COARSE = SpinningLidar("coarse", tuple(np.linspace(-24, 2, 24)), 360)


def fingerprint(seed: int) -> list[str]:
    """Digests of the sweep, intensity and truth that this process makes of a seed."""
    pair = training_pair(seed, COARSE, threads=1, moving=True, **SMALL)
    return [hashlib.sha256(getattr(pair, name).tobytes()).hexdigest() for name in ("sweep", "intensity", "truth")]
