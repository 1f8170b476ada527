"""A load step: other processes use every core for a while. How soon is the latency budget kept, how soon is the work back?

    python benchmarks/node_load_step.py [--budgets 500] [--before 40] [--load 30] [--after 40] [--drive FOLDER | --bag BAG]

Prints the sweeps around both edges and writes them to benchmarks/results/node_load_step.txt. Kept: late sweeps under load,
from the fourth on. Recovered: number of sweeps after the load until one gets as much work as the median before it, or the
next smaller choice.
"""

import argparse
import datetime
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
from node_soak import ROOT, Answer, Run, drive, heading, sweeps_to_play

WITHIN = 3  # sweeps in which the budget is to be kept again
COARSENESS = 0.85  # of neighbouring choices


def main() -> None:
    options = arguments()
    sweeps = sweeps_to_play(options)
    lines = [heading(options, sweeps)]
    for budget_ms in options.budgets:
        load = Load()
        run = drive(
            sweeps,
            options.before + options.load + options.after,
            {"latency_budget_ms": float(budget_ms), "model": options.model},
            {options.before: load.start, options.before + options.load: load.stop},
        )
        load.stop()
        lines += report(budget_ms, run, load)
    print("\n".join(lines))
    options.results.write_text(f"{datetime.date.today()}\n" + "\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=lambda text: [int(each) for each in text.split(",")], default=[500])
    parser.add_argument("--before", type=float, default=40.0, help="seconds")
    parser.add_argument("--load", type=float, default=30.0, help="seconds")
    parser.add_argument("--after", type=float, default=40.0, help="seconds")
    parser.add_argument("--drive", type=Path)
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "node_load_step.txt")
    return parser.parse_args()


class Load:
    """A process per core that does nothing but count."""

    def __init__(self) -> None:
        self.from_s = self.to_s = float("inf")  # time.time()
        self._processes: list[multiprocessing.Process] = []

    def start(self) -> None:
        self._processes = [multiprocessing.get_context("spawn").Process(target=count, daemon=True) for _ in range(os.cpu_count() or 1)]  # fmt: skip
        for each in self._processes:
            each.start()
        self.from_s = time.time()

    def stop(self) -> None:
        for each in self._processes:
            each.terminate()
        if self._processes:
            self.to_s = time.time()
        self._processes = []


def count() -> None:
    number = 0
    while True:
        number += 1


def report(budget_ms: int, run: Run, load: Load) -> list[str]:
    answers = [answer for _, answer in sorted(run.answers.items())]
    before = [each for each in answers if each.stamp_s < load.from_s][5:]
    under = [each for each in answers if load.from_s <= each.stamp_s < load.to_s]
    after = [each for each in answers if each.stamp_s >= load.to_s]
    if not (before and under and after):
        sys.exit(f"too short: {len(before)} answers before, {len(under)} under, {len(after)} after the load")
    usual = float(np.median([work(each) for each in before]))
    late = sum(each.latency_ms > budget_ms for each in under[WITHIN:])
    recovered = next((place for place, each in enumerate(after, 1) if work(each) >= COARSENESS * usual - 1e-9), None)
    return [
        f"budget {budget_ms} ms: late sweeps before {share_late(before, budget_ms)}, under load {share_late(under, budget_ms)} "
        f"(of these after the first {WITHIN}: {late}), after {share_late(after, budget_ms)}; "
        f"recovered {'never' if recovered is None else f'with sweep {recovered}'} after the load",
        f"  late under load: {late_places(under, budget_ms)}",
        f"  before:     {sequence(before[-8:])}",
        f"  under load: {sequence(under[:12])} ... {sequence(under[-3:])}",
        f"  after:      {sequence(after[:16])}",
        "  (steps x replication: latency in ms)",
    ]


def work(answer: Answer) -> int:
    return answer.steps * answer.replication


def share_late(answers: list[Answer], budget_ms: int) -> str:
    return f"{sum(each.latency_ms > budget_ms for each in answers)} of {len(answers)}"


def late_places(answers: list[Answer], budget_ms: int) -> str:
    """Which answers are late, counted from 1."""
    late = [f"{place} ({sequence([each])})" for place, each in enumerate(answers, 1) if each.latency_ms > budget_ms]
    return ", ".join(late) or "none"


def sequence(answers: list[Answer]) -> str:
    return ", ".join(f"{each.steps}x{each.replication}: {each.latency_ms:.0f}" for each in answers)


if __name__ == "__main__":
    main()
