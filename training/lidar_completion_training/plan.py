"""The text of `--plan`: what a recipe would do on a given number of processes."""

from pathlib import Path
from typing import Any

from lidar_completion_training.configuration import Recipe
from lidar_completion_training.learning_rate import learning_rate
from lidar_completion_training.schedule import Schedule, schedule_of
from lidar_completion_training.state import load_state


def plan_text(recipe: Recipe, processes: int, run: Path) -> str:
    """Sweeps, steps and learning rates; also hours and memory, if the run's state has measured them."""
    schedule = schedule_of(recipe, processes)
    rows = {
        "objective": f"{recipe.objective} ({recipe.name})",
        "variant": schedule.variant or "as in the recipe",
        "sweeps": _sweeps(recipe, schedule),
        "processes": f"{processes}, {schedule.accumulation} sweeps each per step (global batch {schedule.global_batch})",
        "steps": f"{schedule.iterations:,}",
        "learning rate": _learning_rate(schedule),
        **_measured(load_state(run), schedule, run),
    }
    return "\n".join(f"{name:14} {value}" for name, value in rows.items())


def _sweeps(recipe: Recipe, schedule: Schedule) -> str:
    if not recipe.epochs:
        return f"{schedule.iterations * schedule.global_batch:,}"
    total = round(recipe.epochs * schedule.sweeps_per_epoch)
    return f"{recipe.epochs:g} epochs of {schedule.sweeps_per_epoch:,}: {total:,}"


def _learning_rate(schedule: Schedule) -> str:
    optimiser = schedule.optimiser
    last = learning_rate(optimiser, max(0, schedule.iterations - 1), schedule.iterations)
    decay = "cosine"
    if optimiser.decay == "steps":
        decay = f"x {optimiser.step_factor:g} every {optimiser.step_iterations:,} steps"
    factors = "".join(f", {group} x {factor:g}" for group, factor in optimiser.group_factors.items())
    return f"{optimiser.kind}, {optimiser.learning_rate:.4g}, {decay}, {last:.4g} at the end{factors}"


def _measured(state: dict[str, Any] | None, schedule: Schedule, run: Path) -> dict[str, str]:
    timing = (state or {}).get("timing")
    if not timing or not timing["steps"]:
        unknown = f"unknown; train a few steps in {run} first"
        return {"hours": unknown, "memory": unknown}
    seconds = timing["seconds"] / timing["steps"]
    return {
        "hours": f"{schedule.iterations * seconds / 3600:.2f} at {seconds:.3g} s per step (measured in {run})",
        "memory": f"{timing['peak_bytes'] / 2**30:.2f} GiB per process at most (measured in {run})",
    }
