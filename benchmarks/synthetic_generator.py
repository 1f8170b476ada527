"""Speed of the synthetic generator: worlds, ground truth, sweeps, and whole training pairs a second.

    python benchmarks/synthetic_generator.py --worlds 6 --threads 2

Wall-clock and processor seconds are both printed: on a busy machine the second says what an idle one would need at least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from lidar_completion_training.data.synthetic import SENSORS, raycast, scan, street, training_pair, training_pairs
from lidar_completion_training.data.synthetic.ground_truth import visible_surface


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Wall-clock seconds, processor seconds, result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - processor, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--sweeps-per-world", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sensor", default="HDL-64E", choices=list(SENSORS))
    options = parser.parse_args()
    sensor = SENSORS[options.sensor]
    raycast.set_threads(options.threads)
    training_pair(0, sensor)  # compiles, or reads the cache
    spent: dict[str, list[tuple[float, float]]] = {"world": [], "ground truth": [], "sweep": [], "sweep to 50 m": []}
    for seed in range(1, options.worlds + 1):
        wall, processor, world = timed(lambda seed=seed: street(seed))
        spent["world"].append((wall, processor))
        spent["ground truth"].append(timed(lambda world=world: visible_surface(world, sensor))[:2])
        rng = np.random.default_rng(seed)
        for name, far in (("sweep", None), ("sweep to 50 m", 50.0)):
            spent[name].append(
                timed(lambda w=world, f=far, r=rng: scan(w, w.pose_at(0.0), sensor, r, max_range_m=f))[:2]
            )
    count = options.worlds * options.sweeps_per_world
    pairs = training_pairs(1, options.sweeps_per_world, sensor)
    wall, processor, _ = timed(lambda: [next(pairs) for _ in range(count)])
    print("| | wall-clock s | processor s |\n|---|---|---|")
    for name, rows in spent.items():
        print(f"| {name} | {np.mean([r[0] for r in rows]):.3f} | {np.mean([r[1] for r in rows]):.3f} |")
    print(f"| training pair, {options.sweeps_per_world} a world | {wall / count:.3f} | {processor / count:.3f} |")
    print(f"{count / wall:.1f} training pairs a second")


if __name__ == "__main__":
    main()
