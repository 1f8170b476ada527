"""The training loop: resumable to the step, on one process or many, an average of the weights, a log, a model at the end.

A run is a folder: recipe.yaml, state.pt, log.csv, pictures/. Sample number n is always the same sweep and its generator is
seeded by (seed, n); step i takes the samples i*B*W ... (i+1)*B*W - 1 with B = recipe.batch and W processes, so a run that
was killed goes on as if nothing had happened, and W processes do what one does with W times the batch.
"""

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from lidar_completion.files import atomic_write
from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion_training.configuration import DataRecipe, OptimiserRecipe, Recipe, RecipeError, exported_card
from lidar_completion_training.objectives import objective_of
from lidar_completion_training.processes import average_buffers, average_gradients, average_numbers, fabric_of
from lidar_completion_training.stream import Sample, sample_of, samples, worker_start
from lidar_completion_training.training_log import TrainingLog

STATE_NAME = "state.pt"
RECIPE_NAME = "recipe.yaml"
PICTURES_NAME = "pictures"
PICTURE_SCENE = 0  # of the held-back synthetic scenes
MAY_CHANGE = ("name", "iterations", "save_every", "picture_every", "export", "data.workers")  # without a word


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and from where it can be taken up again."""


class Trainer:
    """One run in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, fabric: Fabric | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        self.fabric = fabric or fabric_of(recipe.precision)
        if recipe.precision != "32-true" and self.fabric.device.type == "cpu":
            # the compiled loops stay in float32 there: autocast would round what is between them and save nothing
            raise RecipeError(f"precision is {recipe.precision}, which needs a GPU; a CPU trains in 32-true")
        self.objective = objective_of(recipe)
        self.objective.networks.to(self.fabric.device)
        self.average = copy.deepcopy(self.objective.exported).requires_grad_(False)
        self.optimisers = {
            group: optimiser_of(recipe.optimiser, module) for group, module in self.objective.trained.items()
        }
        self.scaler = torch.amp.GradScaler(self.fabric.device.type, enabled=recipe.precision == "16-mixed")
        self.log = TrainingLog(folder)
        self.iteration = 0
        self.saved_iteration: int | None = None

    def run(self, minutes: float | None = None, progress: bool = True) -> bool:
        """Train from where the folder's state is to the last iteration, or for so many minutes; True when all is done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        stream = self._stream()
        with self._explained(), self._progress(progress) as bar:
            while self.iteration < self.recipe.iterations and not self._is_over(end):
                numbers = self.step(list(islice(stream, self.recipe.batch)))
                self._record(numbers)
                bar.set_postfix({name: f"{value:.3g}" for name, value in list(numbers.items())[:4]}, refresh=False)
                bar.update()
            if self.saved_iteration != self.iteration:
                self.save()
        return self.iteration >= self.recipe.iterations

    def step(self, batch: list[Sample]) -> dict[str, float]:
        """One optimiser step on this process's sweeps; returns the numbers of the log."""
        rates = self._set_learning_rates()
        self.objective.networks.zero_grad(set_to_none=True)
        numbers = average_numbers(self.fabric, mean_of([self._backward(n, sample) for n, sample in enumerate(batch)]))
        average_gradients(self.fabric, (p for module in self.objective.trained.values() for p in module.parameters()))
        numbers |= {f"{group}_gradient": self._clip(group) for group in self.optimisers}
        for optimiser in self.optimisers.values():
            self.scaler.step(optimiser)
        self.scaler.update()
        average_buffers(self.fabric, self.objective.trained.values())
        self.iteration += 1
        self._update_average()
        return numbers | rates

    def _backward(self, place: int, sample: Sample) -> dict[str, float]:
        """Gradients of one sweep are added to those of the batch."""
        number = self._first_sample() + place * self.fabric.world_size
        generator = torch.Generator(self.fabric.device).manual_seed(self.recipe.seed * 1_000_003 + number)
        with self.fabric.autocast():
            losses, numbers = self.objective.losses(sample.to(self.fabric.device), generator)
        for group, loss in losses.items():
            if not torch.isfinite(loss):
                raise TrainingError(
                    self._message(f"the loss of the {group} is {loss.item()} on sample {number}", DIVERGED)
                )
        self.scaler.scale(sum(losses.values()) / self.recipe.batch).backward()
        return {f"{group}_loss": loss.item() for group, loss in losses.items()} | numbers

    def _clip(self, group: str) -> float:
        """Norm of the group's gradient before it is clipped."""
        self.scaler.unscale_(self.optimisers[group])
        parameters = self.objective.trained[group].parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.gradient_clip).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # a scaler skips the step and halves its scale
            raise TrainingError(self._message(f"the gradient of the {group} is {norm}", DIVERGED))
        return norm

    def _set_learning_rates(self) -> dict[str, float]:
        rate = learning_rate(self.recipe.optimiser, self.iteration, self.recipe.iterations)
        for group, optimiser in self.optimisers.items():
            for parameters in optimiser.param_groups:
                parameters["lr"] = rate * self.recipe.optimiser.group_factors.get(group, 1.0)
        return {"learning_rate": rate}

    def _update_average(self) -> None:
        decay = min(self.recipe.optimiser.average_decay, self.iteration / (self.iteration + 10))
        mine = self.objective.exported.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(mine[name], 1.0 - decay)
            else:
                value.copy_(mine[name])

    # --- samples -----------------------------------------------------------------------------------------------------

    def _first_sample(self) -> int:
        """Number of the sample that this process takes first in this step."""
        return self.iteration * self.recipe.batch * self.fabric.world_size + self.fabric.global_rank

    def _stream(self) -> Iterator[Sample]:
        return samples(self.recipe.data, self._first_sample(), self.fabric.world_size)

    # --- what stays of a run -----------------------------------------------------------------------------------------

    def _record(self, numbers: dict[str, float]) -> None:
        every = self.recipe
        if self.fabric.is_global_zero:
            self.log.append(self.iteration, numbers)
            if every.picture_every and self.iteration % every.picture_every == 0:
                self.draw(self.folder / PICTURES_NAME / f"{self.iteration:06d}.png")
        if self.iteration % every.save_every == 0:
            self.save()

    def save(self) -> None:
        """Write the state so that a kill at any moment leaves a whole file, this one or the one before."""
        self.saved_iteration = self.iteration
        if not self.fabric.is_global_zero:
            return
        state = {
            "iteration": self.iteration,
            "networks": self.objective.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": {group: optimiser.state_dict() for group, optimiser in self.optimisers.items()},
            "scaler": self.scaler.state_dict(),
            "recipe": dataclasses.asdict(self.recipe),
        }
        with atomic_write(self.folder / STATE_NAME, durable=True) as temporary:
            torch.save(state, temporary)

    def resume(self) -> None:
        """Take up the folder's state, where there is one; a log that ran ahead of it is cut back."""
        state = load_state(self.folder, self.fabric.device)
        if state is not None:
            try:
                self.objective.networks.load_state_dict(state["networks"])
                self.average.load_state_dict(state["average"])
                for group, optimiser in self.optimisers.items():
                    optimiser.load_state_dict(state["optimisers"][group])
                self.scaler.load_state_dict(state["scaler"])
            except (RuntimeError, KeyError, ValueError) as error:
                reason = f"does not fit this recipe ({str(error).splitlines()[0]})"
                raise TrainingError(f"{self.folder / STATE_NAME}: {reason}; use another --run folder") from error
            self.iteration = self.saved_iteration = state["iteration"]
            self._say_changes(state["recipe"])
        if self.fabric.is_global_zero:
            self.log.cut(self.iteration)
            (self.folder / RECIPE_NAME).write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self.recipe))))
        self.fabric.barrier()

    def _say_changes(self, before: dict[str, Any]) -> None:
        now = dataclasses.asdict(self.recipe)
        for name, (old, new) in differences(before, now).items():
            if not name.startswith(MAY_CHANGE):
                self.fabric.print(
                    f"{self.folder}: goes on with {name} {new!r}, which was {old!r} until {self.iteration}"
                )

    @cached_property
    def _picture_sample(self) -> Sample:
        return picture_sample(self.recipe.data).to(self.fabric.device)

    def draw(self, path: Path) -> None:
        """The picture of one held-back scene as the networks complete it now: sweep, completion, truth from above."""
        from lidar_completion_evaluation.pictures import Panel, birds_eye

        sample = self._picture_sample
        generator = torch.Generator(self.fabric.device).manual_seed(0)
        with self.fabric.autocast():
            completed = self.objective.preview(sample, generator)
        clouds = {"sweep": sample.sweep, f"iteration {self.iteration}": completed, "truth": sample.truth}
        path.parent.mkdir(parents=True, exist_ok=True)
        limits = (-2.5, 3.0)
        panels = [Panel(title, cloud.float().cpu().numpy(), limits=limits) for title, cloud in clouds.items()]
        birds_eye(panels, path, size_inch=4.0)

    def _progress(self, shown: bool) -> tqdm:
        return tqdm(
            total=self.recipe.iterations,
            initial=self.iteration,
            unit="step",
            desc=self.recipe.objective,
            smoothing=0.05,
            disable=not (shown and self.fabric.is_global_zero),
        )

    def _is_over(self, end: float) -> bool:
        """Whether the time is up, for all processes at once."""
        return end < math.inf and bool(self.fabric.broadcast(time.monotonic() > end))

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors that a user can do something about, with what that is and where the run can be taken up."""
        try:
            yield
        except TrainingError:
            raise
        except (EOFError, ConnectionError) as error:  # it died while a sweep was fetched from it
            what = f"a data worker died ({type(error).__name__})"
            raise TrainingError(self._message(what, DEAD_WORKER)) from error
        except (RuntimeError, MemoryError, ValueError) as error:
            text = str(error)
            if isinstance(error, ValueError):
                if "finite" not in text:
                    raise
                raise TrainingError(self._message(f"the networks' values are not finite ({text})", DIVERGED)) from error
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
                raise TrainingError(self._message(f"out of memory ({text.splitlines()[0]})", OUT_OF_MEMORY)) from error
            if "DataLoader worker" in text:
                raise TrainingError(
                    self._message(f"a data worker died ({text.splitlines()[0]})", DEAD_WORKER)
                ) from error
            raise

    def _message(self, what: str, fix: str) -> str:
        if self.saved_iteration is None:
            back = "nothing was saved yet, the same command begins again"
        else:
            back = f"{self.folder / STATE_NAME} holds iteration {self.saved_iteration}, the same command goes on from there"
        return f"{self.folder}: {what} in iteration {self.iteration}: {fix}. {back}"


DIVERGED = "lower optimiser.learning_rate or optimiser.gradient_clip"
OUT_OF_MEMORY = "take fewer points (pipeline.replication, a larger pipeline.downsample_voxel_m) or a smaller width"
DEAD_WORKER = "it was killed, most often for memory; take fewer data.workers, or free some memory"


def load_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The saved state of a run's folder; None where there is none, TrainingError where it cannot be read."""
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not {"iteration", "networks", "average"} <= state.keys():
            raise TypeError("holds something else than a run's state")
    except Exception as error:  # what the unpickler meets in a damaged file may be anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TrainingError(
            f"{path}: damaged ({reason}); remove it to begin again, or use another --run folder"
        ) from error
    return state


def export_run(
    recipe: Recipe,
    folder: Path,
    target: Path,
    more: dict[str, nn.Module] | None = None,
    base: Path | None = None,
) -> ModelCard:
    """Write the averaged weights of a run's state as a model folder, in float16, with further networks such as a refiner,
    and without those of a base (see save_model).

    Raises TrainingError where the run has no state.
    """
    state = load_state(folder)
    if state is None:
        raise TrainingError(f"{folder / STATE_NAME}: no such file; train first, or check the path of the run")
    average: dict[str, Tensor] = state["average"]
    names = tuple(dict.fromkeys(name.split(".")[0] for name in average))
    card = dataclasses.replace(exported_card(recipe), networks=names)
    networks = nn.ModuleDict(build_networks(card))
    networks.load_state_dict(average)
    return save_model(target, card, {**dict(networks.items()), **(more or {})}, dtype=torch.float16, base=base)


def optimiser_of(recipe: OptimiserRecipe, module: nn.Module) -> torch.optim.Optimizer:
    """Adam or SGD over the module's parameters; the rate is set before every step."""
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[recipe.kind](module.parameters(), lr=recipe.learning_rate)


def learning_rate(settings: OptimiserRecipe, iteration: int, iterations: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to final_fraction of it, or a factor every step_iterations."""
    if iteration < settings.warm_up_iterations:
        return settings.learning_rate * (iteration + 1) / settings.warm_up_iterations
    if settings.decay == "steps":
        return settings.learning_rate * settings.step_factor ** (iteration // settings.step_iterations)
    done = (iteration - settings.warm_up_iterations) / max(1, iterations - settings.warm_up_iterations)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)


def picture_sample(recipe: DataRecipe) -> Sample:
    """The held-back synthetic scene of the pictures, made by a data worker."""
    scene = DataLoader([PICTURE_SCENE], None, num_workers=1, collate_fn=partial(_test_sample, recipe), **worker_start())
    return next(iter(scene))


def _test_sample(recipe: DataRecipe, scene: int) -> Sample:
    from lidar_completion_synthetic import test_pair

    pair = test_pair(scene, recipe.sensor, threads=1, recipe=recipe.world)
    return sample_of(pair.sweep, pair.truth, recipe.view_cell_m, pair.origin)


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means of numbers over a batch, each over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Entries of nested dictionaries that are not equal: place -> (before, now)."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in before.keys() | now.keys():
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found[prefix + name] = (old, new)
    return dict(sorted(found.items()))
