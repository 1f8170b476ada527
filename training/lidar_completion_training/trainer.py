"""The training loop: resumable at any step, on one or many processes.

A run is a folder: recipe.yaml, state.pt, log.csv, pictures/. Sample number n is always the same sweep, and its random
numbers are seeded by (seed, n). Every step takes the next `global_batch` samples; process r of W takes every W-th of them,
starting at the r-th. So a killed run resumes exactly, and the steps do not depend on the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm

from lidar_completion.files import atomic_write
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import DataWorkerError, DivergedError, RecipeError, TrainingError
from lidar_completion_training.learning_rate import learning_rate
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.objectives.sweep import PreparedSweep, generator_after, prepare_in_worker
from lidar_completion_training.preview import Preview
from lidar_completion_training.processes import (
    average_buffers,
    average_numbers,
    averaged_losses,
    check_agreement,
    launch_fabric,
    make_deterministic,
    without_averaging,
)
from lidar_completion_training.schedule import schedule_of
from lidar_completion_training.state import STATE_NAME, TrainingState, changed_entries, load_state
from lidar_completion_training.stream import Open, Sample, samples
from lidar_completion_training.training_log import TrainingLog

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECIPE_NAME = "recipe.yaml"
# Entries that may change in a resumed run without a message.
MAY_CHANGE = ("name", "iterations", "epochs", "save_every", "picture_every", "export", "data.workers")


class Trainer:
    """One run in one folder."""

    def __init__(
        self, recipe: Recipe, folder: Path, fabric: Fabric | None = None, open_stream: Open | None = None
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.open_stream = open_stream  # default: the stream of data.source
        self.fabric = fabric or launch_fabric()
        if recipe.precision != "32-true" and self.fabric.device.type == "cpu":
            raise RecipeError(f"precision is {recipe.precision}, which needs a GPU; a CPU trains in 32-true")
        if recipe.deterministic:
            make_deterministic()
        self.schedule = schedule_of(recipe, self.fabric.world_size)
        self.objective = objective_of(recipe)
        self.objective.networks.to(self.fabric.device)
        self.losses = averaged_losses(self.fabric, self.objective)
        self.state = TrainingState(self.objective, recipe, self.fabric.device)
        self.state.variant = self.schedule.variant
        self.log = TrainingLog(folder)
        self.preview = Preview(folder, recipe.data, self.fabric.device)
        self.saved_iteration: int | None = None

    @property
    def iteration(self) -> int:
        """Optimiser steps so far."""
        return self.state.iteration

    def run(self, minutes: float | None = None, progress: bool = True) -> bool:
        """Train from the folder's state to the last iteration, or for a number of minutes; True when it is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        stream = self._stream()
        with self._explained(), self._progress(progress) as bar:
            while self.iteration < self.schedule.iterations and not self._time_is_up(end):
                began = time.monotonic()
                numbers = self.step(list(islice(stream, self.schedule.accumulation)))
                self.state.measure(time.monotonic() - began, self.fabric.device)
                self._record(numbers)
                bar.set_postfix({name: f"{value:.3g}" for name, value in list(numbers.items())[:4]}, refresh=False)
                bar.update()
            if self.saved_iteration != self.iteration:
                self.save()
        return self.iteration >= self.schedule.iterations

    def _stream(self) -> Iterator[Sample | PreparedSweep]:
        """This process's samples from the next step on, prepared by data workers."""
        prepare, on_gpu = partial(prepare_in_worker, self.recipe), self.fabric.device.type == "cuda"
        return samples(
            self.recipe.data,
            self._first_sample(),
            self.fabric.world_size,
            prepare=prepare,
            pinned=on_gpu,
            open_stream=self.open_stream,
        )

    # --- one step ----------------------------------------------------------------------------------------------------

    def step(self, batch: list[Sample | PreparedSweep]) -> dict[str, float]:
        """One optimiser step on this process's sweeps; returns the numbers of the log."""
        rates = self._set_learning_rates()
        self.objective.networks.zero_grad(set_to_none=True)
        numbers = mean_of([self.accumulate(place, sample) for place, sample in enumerate(batch)])
        numbers = average_numbers(self.fabric, numbers)
        numbers |= {f"{group}_gradient": self._clip(group) for group in self.state.optimisers}
        for optimiser in self.state.optimisers.values():
            self.state.scaler.step(optimiser)
        self.state.scaler.update()
        average_buffers(self.fabric, self.objective.trained.values())
        self.state.iteration += 1
        self.state.samples += self.schedule.global_batch
        self.state.update_average(self.recipe.optimiser.average_decay)
        return numbers | rates

    def accumulate(self, place: int, sample: Sample | PreparedSweep) -> dict[str, float]:
        """Add the gradient of one sweep, at index `place` of this process's batch; returns its losses and numbers.

        That of the last sweep also averages the gradients over processes.
        """
        number = self._first_sample() + place * self.fabric.world_size
        generator = generator_after(sample, self.recipe, number, self.fabric.device)
        last = place + 1 == self.schedule.accumulation
        with contextlib.nullcontext() if last else without_averaging(self.losses):
            losses, numbers = self.losses(sample.to(self.fabric.device), generator)
            for group, loss in losses.items():
                if not torch.isfinite(loss):
                    raise DivergedError(f"the loss of the {group} is {loss.item()} on sample {number}")
            total = torch.stack([*losses.values()]).sum() / self.schedule.accumulation
            self.state.scaler.scale(total).backward()
        return {f"{group}_loss": loss.item() for group, loss in losses.items()} | numbers

    def _clip(self, group: str) -> float:
        """Clip the group's gradient; returns its norm before."""
        scaler = self.state.scaler
        scaler.unscale_(self.state.optimisers[group])
        parameters = self.objective.trained[group].parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.gradient_clip).item()
        if not math.isfinite(norm) and not scaler.is_enabled():  # a scaler skips such a step and halves its scale
            raise DivergedError(f"the gradient of the {group} is {norm}")
        return norm

    def _set_learning_rates(self) -> dict[str, float]:
        rate = learning_rate(self.schedule.optimiser, self.iteration, self.state.decay_iterations)
        for group, optimiser in self.state.optimisers.items():
            for parameters in optimiser.param_groups:
                parameters["lr"] = rate * self.recipe.optimiser.group_factors.get(group, 1.0)
        return {"learning_rate": rate}

    def _first_sample(self) -> int:
        """Number of this process's first sample of the step."""
        return self.state.samples + self.fabric.global_rank

    def _time_is_up(self, end: float) -> bool:
        """Whether the time is up, decided by the first process for all."""
        return end < math.inf and bool(self.fabric.broadcast(time.monotonic() > end))

    # --- the run's folder ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Continue from the folder's state, if there is one, and cut the log back to it."""
        saved = load_state(self.folder, self.fabric.device)
        if saved is not None:
            self.state.restore(saved, self.folder / STATE_NAME)
            self.saved_iteration = self.iteration
            self._report_changes(saved)
        self.state.decay_iterations = (
            self.recipe.optimiser.decay_iterations or self.state.decay_iterations or self.schedule.iterations
        )
        self._check_agreement()
        if self.fabric.is_global_zero:
            self.log.cut(self.iteration)
            with atomic_write(self.folder / RECIPE_NAME) as temporary:
                temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self.recipe))))
        self.fabric.barrier()

    def save(self) -> None:
        """Write the state; a kill at any moment leaves a complete file, the new one or the previous one."""
        self._check_agreement()
        self.saved_iteration = self.iteration
        if self.fabric.is_global_zero:
            self.state.save(self.folder, self.recipe, self.fabric.world_size)

    def _check_agreement(self) -> None:
        """Raise TrainingError if processes have different iterations or weights: their gradients must not be averaged."""
        if self.fabric.world_size > 1:
            facts = {"iteration": self.iteration, "sample": self.state.samples, "weights": self.state.fingerprint()}
            check_agreement(self.fabric, facts, str(self.folder))

    def _record(self, numbers: dict[str, float]) -> None:
        recipe = self.recipe
        if self.fabric.is_global_zero:
            self.log.append(self.iteration, numbers)
            if recipe.picture_every and self.iteration % recipe.picture_every == 0:
                self.preview.draw(self.objective, self.iteration)
        if self.iteration % recipe.save_every == 0:
            self.save()

    def _report_changes(self, saved: dict[str, Any]) -> None:
        changes = changed_entries(saved["recipe"], dataclasses.asdict(self.recipe))
        if (before := saved.get("processes", self.fabric.world_size)) != self.fabric.world_size:
            changes["processes"] = (before, self.fabric.world_size)
        for name, (old, new) in changes.items():
            if not name.startswith(MAY_CHANGE):
                self.fabric.print(f"{self.folder}: resumed with {name} {new!r}; it was {old!r} until {self.iteration}")

    def _progress(self, shown: bool) -> tqdm:
        return tqdm(
            total=self.schedule.iterations,
            initial=self.iteration,
            unit="step",
            desc=self.recipe.objective,
            smoothing=0.05,
            disable=not (shown and self.fabric.is_global_zero),
        )

    # --- errors ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors that a user can act on into a TrainingError with the remedy and the state to resume from."""
        try:
            yield
        except DivergedError as error:
            raise self._stopped(str(error), "lower optimiser.learning_rate or optimiser.gradient_clip") from error
        except DataWorkerError as error:
            fix = "most often it was killed for memory; use fewer data.workers, or free some memory"
            raise self._stopped(f"a data worker died ({error})", fix) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            fix = "use fewer points (pipeline.replication, a larger pipeline.downsample_voxel_m) or a smaller width"
            raise self._stopped(f"out of memory ({str(error).splitlines()[0]})", fix) from error

    def _stopped(self, what: str, fix: str) -> TrainingError:
        if self.saved_iteration is None:
            state = "no state was saved yet; the same command starts again"
        else:
            state = f"{self.folder / STATE_NAME} holds iteration {self.saved_iteration}; the same command resumes there"
        return TrainingError(f"{self.folder}: {what} in iteration {self.iteration}: {fix}. {state}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; PyTorch's CPU allocator has no specific exception type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
