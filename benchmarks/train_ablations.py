"""Trains everything behind the paper's tables with the small recipes, one run after the other; finished runs are skipped.

    python benchmarks/train_ablations.py --list
    python benchmarks/train_ablations.py --minutes 60 [--only 'dpo*'] [--share 0.1]

A run is runs/ablations/NAME, its model runs/ablations/NAME/model. The same command resumes a run that was killed or stopped
by --minutes. --share scales all numbers of iterations. Three seeds where the tables have them, one elsewhere.
benchmarks/paper_tables.py evaluates the models.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lidar_completion_training.configuration import Recipe
from lidar_completion_training.export import export_to
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.runs import MODEL_NAME, has_model, is_trained, recipe_path
from lidar_completion_training.state import STATE_NAME

SEEDS = (0, 1, 2)
DIRECT, TEACHER, DIFFUSION_DPO, SCORE, DPO, STUDENT, REFINER = (
    f"small/{number}_{name}.yaml"
    for number, name in enumerate(
        ("direct", "teacher", "diffusion_dpo", "score_distillation", "distillation_dpo", "student", "refiner"), start=1
    )
)
LONGER = ("iterations=300", "optimiser.learning_rate=5e-4", "optimiser.warm_up_iterations=20")
REFINER_LONGER = (
    "iterations=400",
    "optimiser.learning_rate=7e-4",
    "optimiser.warm_up_iterations=20",
    "data.first_seed=40000000",
)
# Models that need no training: a run's, exported with one refiner for all such rows, as the paper uses LiDiff's for all ...
REFINED = ("teacher-0", "dpo-0", "student-0")
# ... or sampled differently: (run, suffix of the new name, entry). The noise at t = 470 and 276 is 3/4 and 1/2 of that at 999.
RESAMPLED = (
    ("teacher-0", "few-step", "export.sampler=few_step"),
    ("refiner", "few-step", "export.sampler=few_step"),
    ("refiner", "ancestral", "export.sampler=ancestral"),
    ("student-0", "from-470", "pipeline.start_timestep=470"),
    ("student-0", "from-276", "pipeline.start_timestep=276"),
)
WORLDS_PER_SEED = 10_000_000  # no two seeds see the same street


@dataclass(frozen=True)
class Training:
    """A run: its recipe, the runs whose models it starts from, and changed entries."""

    name: str
    recipe: str
    start_from: str = ""
    teacher: str = ""
    entries: tuple[str, ...] = ()

    def overrides(self, runs: Path, share: float) -> list[str]:
        """The overrides on its command line."""
        models = {"start_from": self.start_from, "teacher": self.teacher}
        named = [f"{entry}={runs / name / MODEL_NAME}" for entry, name in models.items() if name]
        iterations = load_recipe_file(self.recipe).iterations
        changed = next((int(e.split("=")[1]) for e in self.entries if e.startswith("iterations=")), iterations)
        return [*self.entries, *named, f"name={self.name}", f"iterations={max(1, round(share * changed))}"]

    def waits_for(self, runs: Path) -> list[str]:
        """Runs that must finish first."""
        names = [name for name in (self.start_from, self.teacher) if name]
        return [name for name in names if not has_model(runs / name)]


def load_recipe_file(recipe: str) -> Recipe:
    """A recipe without its start model, which may not exist yet."""
    return load_recipe(recipe_path(Path(recipe)), ["start_from=null", "teacher=null"])


def seeded(seed: int) -> tuple[str, ...]:
    """Overrides for another seed of noise and streets."""
    return (f"seed={seed}", f"data.first_seed={seed * WORLDS_PER_SEED}")


def trainings() -> list[Training]:
    """All runs, headline rows first, each after those that it starts from."""
    found = [Training("direct", DIRECT)]
    for seed in SEEDS:
        found += [
            Training(f"teacher-{seed}", TEACHER, "direct", entries=seeded(seed)),
            Training(f"dpo-{seed}", DPO, f"teacher-{seed}", entries=seeded(seed)),
            Training(f"score-{seed}", SCORE, f"teacher-{seed}", entries=seeded(seed)),
        ]
    same_replication = "export.replication=20"  # the shipped model has more
    found += [
        Training(f"student-{seed}", STUDENT, "direct", f"teacher-{seed}", (*seeded(seed), same_replication))
        for seed in SEEDS
    ]
    found.append(Training("direct-1", DIRECT, entries=seeded(1)))
    found.append(
        Training("direct-longer", DIRECT, "direct", entries=(*LONGER, *seeded(3)))
    )  # for as long as its students
    found.append(Training("teacher-dpo", DIFFUSION_DPO, "teacher-0"))  # Table 5
    found.append(Training("dpo-of-teacher-dpo", DPO, "teacher-dpo"))
    changes = {
        **{f"dpo-lambda-{value}": f"second_start_noise={value}" for value in (1.05, 1.2, 1.5, 2.0)},  # Table 4
        **{f"dpo-{metric}": f"metric={metric}" for metric in ("cd", "jsd", "w1", "f_score")},  # Table 6
        "dpo-one-auxiliary": "auxiliary_models=1",  # Table 7
        "dpo-sign-of-equation": "sign=equation",
    }
    found += [Training(name, DPO, "teacher-0", entries=(f"distillation.{entry}",)) for name, entry in changes.items()]
    clean = "noise_prediction.clean_estimate=true"
    found.append(Training("teacher-0-clean", TEACHER, "direct", entries=(*seeded(0), clean)))
    free_space = "distillation.free_space_weight=1.0"
    found.append(
        Training("student-0-free-space", STUDENT, "direct", "teacher-0", (*seeded(0), same_replication, free_space))
    )
    found.append(Training("refiner", REFINER, "student-0"))
    for sampler in ("few_step", "deterministic"):  # the same, 400 more steps on completions in four steps
        entries = (f"pipeline.sampler={sampler}", "pipeline.steps=4", f"export.sampler={sampler}", "export.steps=4")
        name = f"refiner-on-{sampler.replace('_', '-')}"
        found.append(Training(name, REFINER, "refiner", entries=(*entries, *REFINER_LONGER)))
    return found


def main() -> None:
    options = arguments()
    chosen = [each for each in trainings() if fnmatch(each.name, options.only)]
    if options.list:
        for each in chosen:
            print(f"{state(each, options):12} {each.name:22} {each.recipe:34} {' '.join(each.entries)}")
        return
    end = time.monotonic() + 60 * options.minutes
    for each in chosen:
        if state(each, options) in ("trained", "given"):
            continue
        if time.monotonic() >= end:
            print("the time is up; the same command resumes")
            return
        if missing := each.waits_for(options.runs):
            print(f"{each.name}: waits for {', '.join(missing)}")
            continue
        print(f"=== {each.name}", flush=True)
        subprocess.run(command(each, options, (end - time.monotonic()) / 60), check=True)
    write_others(options.runs)


def write_others(runs: Path) -> None:
    """Write runs/NAME-refined/model and runs/NAME-SUFFIX/model of trained runs, where they are missing."""
    if has_model(runs / "refiner"):
        for name in REFINED:
            write_other(runs, name, "refined", refiner=runs / "refiner" / MODEL_NAME)
    for name, suffix, entry in RESAMPLED:
        write_other(runs, name, suffix, overrides=[entry])


def write_other(runs: Path, name: str, suffix: str, **changes: Any) -> None:
    """Export one run again, changed, as runs/NAME-SUFFIX/model."""
    output = runs / f"{name}-{suffix}" / MODEL_NAME
    if has_model(runs / name) and (runs / name / STATE_NAME).is_file() and not output.exists():
        export_to(runs / name, output, **changes)


def command(training: Training, options: argparse.Namespace, minutes: float) -> list[str]:
    """The command line of one training."""
    objective = load_recipe_file(training.recipe).objective.replace("_", "-")
    run = options.runs / training.name
    places = ["--recipe", training.recipe, "--run", str(run), "--output", str(run / MODEL_NAME)]
    limits = ["--minutes", f"{minutes:.2f}", "--device", options.device]
    overrides = [*training.overrides(options.runs, options.share), *options.entries]
    return [sys.executable, "-m", "lidar_completion_training", objective, *places, *limits, *overrides]


def state(training: Training, options: argparse.Namespace) -> str:
    """trained, given (a model was copied there), started, ready, or waiting."""
    run = options.runs / training.name
    iterations = int(training.overrides(options.runs, options.share)[-1].split("=")[1])
    if is_trained(run, iterations):
        return "trained"
    if (run / STATE_NAME).is_file():
        return "started"
    if has_model(run):
        return "given"
    return "waiting" if training.waits_for(options.runs) else "ready"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="limit of this call, for all trainings together"
    )
    parser.add_argument("--only", default="*", help="names of trainings, with * and ?")
    parser.add_argument("--share", type=float, default=1.0, help="factor on every number of iterations")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--list", action="store_true", help="list the trainings and their progress")
    parser.add_argument("entries", nargs="*", help="entry=value for every recipe, such as data.workers=8")
    return parser.parse_args()


if __name__ == "__main__":
    main()
