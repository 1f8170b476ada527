"""Worker processes of the synthetic generator: `python synthetic_worker.py fork 5 6` prints what each makes of a seed.

A program of its own: spawned workers find its module, and forked ones have a parent that has not used numba's threads yet.
"""

import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from lidar_completion_training.data.synthetic import SpinningLidar, training_pair

SMALL = dict(half_length_m=45.0, half_depth_m=30.0)
COARSE = SpinningLidar("coarse", tuple(np.linspace(-24, 2, 24)), 360)


def fingerprint(seed: int) -> list[str]:
    """Digests of the sweep, intensity and truth that this process makes of a seed."""
    pair = training_pair(seed, COARSE, threads=1, moving=True, **SMALL)
    return [hashlib.sha256(getattr(pair, name).tobytes()).hexdigest() for name in ("sweep", "intensity", "truth")]


if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context(sys.argv[1])) as workers:
        print(json.dumps(list(workers.map(fingerprint, map(int, sys.argv[2:])))))
