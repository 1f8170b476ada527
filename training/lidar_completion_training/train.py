"""The training loop: resumable to the step, an average of the weights, a log, a model folder at the end."""

import contextlib
import copy
import csv
import dataclasses
import math
import os
import pickle
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lidar_completion.checkpoints import ModelCard, build_networks, save_model
from lidar_completion_training.configuration import Recipe, exported_card, model_card
from lidar_completion_training.data.stream import samples
from lidar_completion_training.objectives.direct import DirectCompletion

STATE_NAME = "state.pt"
LOG_NAME = "log.csv"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says from where it can be taken up again."""


class Trainer:
    """One run in one folder. Iteration i uses sample i and a generator seeded by (seed, i): a resumed run is the same run."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.card = model_card(recipe)
        torch.manual_seed(recipe.seed)
        self.networks = nn.ModuleDict(build_networks(self.card))
        open_gates(self.networks["denoiser"])
        self.average = copy.deepcopy(self.networks).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.networks.parameters(), lr=recipe.optimiser.learning_rate)
        self.objective = DirectCompletion(recipe.direct, self.card)
        self.iteration = 0

    def run(self) -> None:
        """Train from where the folder's state is to the last iteration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        stream = samples(self.recipe.data, self.iteration)
        progress = tqdm(total=self.recipe.iterations, initial=self.iteration, unit="sweep", smoothing=0.05)
        self.networks.train()
        while self.iteration < self.recipe.iterations:
            numbers = self.step(next(stream))
            progress.update()
            progress.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()}, refresh=False)
            if self.iteration % self.recipe.save_every == 0 or self.iteration == self.recipe.iterations:
                self.save()
        progress.close()

    def step(self, sample) -> dict[str, float]:  # type: ignore[no-untyped-def]
        """One optimiser step; returns what was logged."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        loss, numbers = self.objective(self.networks["encoder"], self.networks["denoiser"], sample, generator)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in iteration {self.iteration}; start again with a lower optimiser.learning_rate: "
                f"{self.folder / STATE_NAME} holds the last good state"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), self.recipe.optimiser.gradient_clip)
        self.optimiser.step()
        self.iteration += 1
        self._update_average()
        numbers = {"loss": loss.item(), **numbers}
        self._log(numbers)
        return numbers

    def save(self) -> None:
        """Write the state so that a kill at any moment leaves a whole file."""
        state = {
            "iteration": self.iteration,
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "recipe": dataclasses.asdict(self.recipe),
        }
        unfinished = self.folder / (STATE_NAME + ".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self.folder / STATE_NAME)

    def resume(self) -> None:
        """Take up the folder's state, where there is one; a log that ran ahead of it is cut back."""
        path = self.folder / STATE_NAME
        if not path.is_file():
            (self.folder / LOG_NAME).unlink(missing_ok=True)
            return
        try:
            state = torch.load(path, weights_only=True)
            self.networks.load_state_dict(state["networks"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.iteration = state["iteration"]
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(
                f"{path}: does not fit this recipe or is damaged ({reason}); use another --run folder"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / LOG_NAME).read_text().splitlines(keepends=True)
            (self.folder / LOG_NAME).write_text("".join(lines[: self.iteration + 1]))

    def export(self, target: Path) -> ModelCard:
        """Write the averaged weights as a model folder, in float16."""
        return save_model(target, exported_card(self.recipe), dict(self.average.items()), dtype=torch.float16)

    def _update_average(self) -> None:
        decay = min(self.recipe.optimiser.average_decay, self.iteration / (self.iteration + 10))
        mine = self.networks.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(mine[name], 1.0 - decay)
            else:
                value.copy_(mine[name])

    def _log(self, numbers: dict[str, float]) -> None:
        path = self.folder / LOG_NAME
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["iteration", *numbers])
            writer.writerow([self.iteration, *(f"{value:.6g}" for value in numbers.values())])


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to final_fraction of it."""
    settings = recipe.optimiser
    if iteration < settings.warm_up_iterations:
        return settings.learning_rate * (iteration + 1) / settings.warm_up_iterations
    done = (iteration - settings.warm_up_iterations) / max(1, recipe.iterations - settings.warm_up_iterations)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)


def open_gates(denoiser: nn.Module) -> None:
    """Start every gate near 1 instead of near 0, so that a fresh network lets its features through."""
    for name, module in denoiser.named_children():
        if name.startswith("latemp_"):
            nn.init.ones_(module[2].bias)
