"""Speed of the synthetic generator: training pairs and worlds per second, with one and two worker processes.

    python benchmarks/synthetic_generator.py --worlds 6 --processes 1,2

Wall-clock and processor seconds are both printed; on a busy machine processor time is a lower bound for an idle one.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from multiprocessing import get_context

import numpy as np

from lidar_completion_synthetic import RECIPES, SensorMix, mix_of, raycast, simulate_sweep, street, training_pairs
from lidar_completion_synthetic.ground_truth import visible_surface


def main() -> None:
    options = arguments()
    work = {
        "training pairs": (pairs, options.worlds * options.sweeps_per_world),
        "worlds": (worlds, options.worlds),
        "worlds with their ground truth": (worlds_with_truth, options.worlds),
    }
    print(
        f"{options.sensor}, recipe {options.recipe}, {options.sweeps_per_world} sweeps per world, {os.cpu_count()} cores\n"
    )
    print("| | processes | wall-clock s | processor s | per second | per second of processor time |")
    print("|---|---|---|---|---|---|")
    for name, (produce, count) in work.items():
        for processes in options.processes:
            wall, processor = in_processes(produce, count, processes, options)
            rates = f"{count * processes / wall:.1f} | {count * processes / (processor / processes):.1f}"
            print(f"| {name} | {processes} | {wall:.1f} | {processor:.1f} | {rates} |", flush=True)
    print("\n| one thread | processor s |\n|---|---|")
    for name, seconds in stages(options).items():
        print(f"| {name} | {np.mean(seconds):.3f} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=6, help="per process")
    parser.add_argument("--sweeps-per-world", type=int, default=16)
    parser.add_argument(
        "--processes", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2], metavar="N,N"
    )
    parser.add_argument("--sensor", default="HDL-64E", help="name or file of a sensor, or mix")
    parser.add_argument("--recipe", default="town", choices=list(RECIPES))
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------------------
# Work of one process


def pairs(count: int, worker: int, workers: int, options: argparse.Namespace) -> None:
    stream = training_pairs(
        1 + worker, options.sweeps_per_world, options.sensor, seed_step=workers, threads=1, recipe=options.recipe
    )
    for _ in range(count):
        next(stream)


def worlds(count: int, worker: int, workers: int, options: argparse.Namespace) -> None:
    for number in range(count):
        street(1 + worker + number * workers, recipe=options.recipe)


def worlds_with_truth(count: int, worker: int, workers: int, options: argparse.Namespace) -> None:
    stream = training_pairs(1 + worker, 1, options.sensor, seed_step=workers, threads=1, recipe=options.recipe)
    for _ in range(count):
        next(stream)  # one sweep a world


def in_processes(produce: Callable, count: int, processes: int, options: argparse.Namespace) -> tuple[float, float]:
    """Wall-clock seconds from the first start to the last end, and processor seconds of all workers together."""
    context = get_context("spawn")
    barrier, times = context.Barrier(processes), context.Queue()
    arguments = [(produce, count, worker, processes, options, barrier, times) for worker in range(processes)]
    workers = [context.Process(target=_work, args=each) for each in arguments]
    for each in workers:
        each.start()
    spent = [times.get() for _ in workers]
    for each in workers:
        each.join()
    return max(end for _, end, _ in spent) - min(start for start, _, _ in spent), sum(s for _, _, s in spent)


def _work(produce, count, worker, workers, options, barrier, times) -> None:
    raycast.set_threads(1)
    next(training_pairs(worker, 1, options.sensor, threads=1))  # compiles, or reads the cache
    barrier.wait()
    start, processor = time.monotonic(), time.process_time()
    produce(count, worker, workers, options)
    times.put((start, time.monotonic(), time.process_time() - processor))


def stages(options: argparse.Namespace) -> dict[str, list[float]]:
    """Processor seconds of each stage, one value per world."""
    source = mix_of(options.sensor)
    raycast.set_threads(1)
    next(training_pairs(0, 1, source, threads=1))
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Callable):
        start = time.process_time()
        result = work()
        spent.setdefault(name, []).append(time.process_time() - start)
        return result

    for seed in range(1, options.worlds + 1):
        rng = np.random.default_rng(seed)
        mounting = source.draw(rng) if isinstance(source, SensorMix) else source
        world = timed("world", lambda: street(seed, recipe=options.recipe))  # noqa: B023 (called at once)
        timed("ground truth of the whole world", lambda: visible_surface(world, mounting))  # noqa: B023
        pose = mounting.pose_of(world.pose_at(0.0, mounting.height_m))
        for name, far in (("sweep", None), ("sweep to 50 m", 50.0)):
            timed(name, lambda: simulate_sweep(world, pose, mounting, rng, max_range_m=far))  # noqa: B023
    return spent


if __name__ == "__main__":
    main()
