"""The common parts of score distillation and Distillation-DPO: networks, scores and auxiliary losses.

A student's sample is noised and given to the teacher (eps_theta) and to an auxiliary model (eps_phi), which is trained only
on the student's samples. Their difference is the gradient with respect to the noised sample (Eq. 6, Eq. 18).
"""

import contextlib
import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.model.card import load_card
from lidar_completion.samplers import SampledPoints
from lidar_completion_training.cards import exported_card
from lidar_completion_training.configuration import Recipe
from lidar_completion_training.errors import RecipeError
from lidar_completion_training.objectives.networks import begin, completion, networks_of, required, starting_networks
from lidar_completion_training.objectives.noising import (
    NoisedCloud,
    draw_timestep,
    noise_error,
    noised,
    predict_guided_noise,
    predict_noise,
)
from lidar_completion_training.objectives.precision import without_autocast
from lidar_completion_training.objectives.sampling import complete, draw_timesteps
from lidar_completion_training.objectives.step import Step, encode, no_scan
from lidar_completion_training.objectives.sweep import PreparedSweep
from lidar_completion_training.objectives.truth_terms import truth_terms
from lidar_completion_training.stream import Sample


@dataclass(frozen=True)
class StudentSample:
    """A completion by the student, with gradient."""

    completed: SampledPoints
    auxiliary: str  # the auxiliary model that learns on it
    weight: float  # weight of its score in the student's gradient; positive (Eq. 6): towards the teacher
    seed: int  # seed of the noise at which its score is taken
    where: Tensor | None = (
        None  # (N,) bool: the points that count, for the score and for the auxiliary model; None: all
    )


class Distillation(ABC):
    """Groups: "student" (the denoiser, with train_encoder also its encoder) and "auxiliary". Teacher and its encoder are frozen.

    Student and teacher may have different forward processes: the student's samples come from the recipe's pipeline, and
    scores are taken in the teacher's process.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.settings = recipe.distillation
        start_from = required(recipe.start_from, recipe.objective)
        self.teacher_folder = recipe.teacher or start_from
        self.teacher_recipe = with_process_of(self.teacher_folder, recipe)
        self.card = exported_card(recipe)
        student = starting_networks(recipe)
        self.networks = self._networks(student)
        parts = ("student", "encoder") if self.settings.train_encoder else ("student",)
        self.trained: dict[str, nn.Module] = {
            "student": nn.ModuleDict({name: self.networks[name] for name in parts}),
            "auxiliary": nn.ModuleDict({name: self.networks[name] for name in self.auxiliary_names()}),
        }
        for group in self.trained.values():
            group.requires_grad_(True)
        if self.settings.batch_norm == "sweep":
            for name in ("student", "teacher", *self.auxiliary_names()):
                self.networks[name].train()
        self.exported = nn.ModuleDict(
            {name: self.networks["student" if name == "denoiser" else name] for name in student}
        )

    def _networks(self, student: dict[str, nn.Module]) -> nn.ModuleDict:
        """All networks, frozen and in eval mode: the student's, teacher, and auxiliary models that start as the teacher."""
        networks = nn.ModuleDict({name: network for name, network in student.items() if name != "denoiser"})
        networks["student"] = student["denoiser"]
        teacher = networks_of(self.teacher_folder)
        networks["teacher"] = teacher["denoiser"]
        if self.teacher_folder != self.recipe.start_from or self.settings.train_encoder:
            networks["teacher_encoder"] = teacher["encoder"]
        for name in self.auxiliary_names():
            networks[name] = copy.deepcopy(networks["teacher"])
        return networks.requires_grad_(False).eval()

    @abstractmethod
    def auxiliary_names(self) -> tuple[str, ...]:
        """Names of the auxiliary models in `networks`."""

    @abstractmethod
    def samples(self, step: Step) -> tuple[list[StudentSample], dict[str, float]]:
        """The student's samples of one sweep, and numbers to log."""

    @without_autocast
    def losses(
        self, sample: Sample | PreparedSweep, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Student: sum of weight * score term, plus the terms against the ground truth. Auxiliary: sum of Eq. 20.

        Both are taken on the same samples, so that one step updates student and auxiliary models; the paper alternates.
        """
        with torch.set_grad_enabled(self.settings.train_encoder):
            step = begin(self.networks, sample, self.recipe, generator)
        scoring = self.scoring_step(step)
        samples, numbers = self.samples(step)
        t = self.score_timestep(generator)
        student, auxiliary, gap = step.scan.new_zeros(()), step.scan.new_zeros(()), 0.0
        for one in samples:
            score, error, difference = self.score_and_error(one, t, scoring)
            student, auxiliary, gap = student + one.weight * score, auxiliary + error, gap + difference
        others, more = truth_terms([one.completed for one in samples], step)
        return {"student": student + others, "auxiliary": auxiliary}, {
            "auxiliary_error": auxiliary.item() / len(samples),
            "score_gap": gap / len(samples),
            **numbers,
            **more,
        }

    # --- scores --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def scoring_step(self, step: Step) -> Step:
        """The step for teacher and auxiliary models: the teacher's process and encoder; with guidance, also no_scan."""
        encoder, condition = self.networks["encoder"], step.condition
        if "teacher_encoder" in self.networks:
            encoder = self.networks["teacher_encoder"]
            condition = encode(encoder, step.scan, self.recipe)
        guided = self.settings.teacher_guidance != 1.0
        unconditional = encode(encoder, no_scan(step.scan), self.recipe) if guided else None
        return dataclasses.replace(step, recipe=self.teacher_recipe, condition=condition, unconditional=unconditional)

    def score_timestep(self, generator: torch.Generator) -> int:
        """A random timestep for scores and auxiliary models."""
        settings, recipe = self.settings, self.teacher_recipe
        last = min(settings.last_score_timestep, recipe.pipeline.start_timestep)
        return draw_timestep(settings.first_score_timestep, last, settings.uniform_in_sigma, recipe.schedule, generator)

    def score_and_error(self, one: StudentSample, t: int, step: Step) -> tuple[Tensor, Tensor, float]:
        """The sample's score term (gradient only to the student), its auxiliary model's error (gradient only to that
        model), and the mean magnitude of the score difference.

        The auxiliary model's error has its own timestep and noise, as published; with shared_noise, those of the score.
        """
        shared, weighted = self.settings.shared_noise, self.settings.weight_by_noise_scale
        cloud = noised(one.completed.points, step.sweep.replicated, t, step.seeded(one.seed))
        with torch.set_grad_enabled(shared):
            eps_phi = predict_noise(self.networks[one.auxiliary], cloud, step)
        eps_theta = predict_guided_noise(self.networks["teacher"], cloud, step, self.settings.teacher_guidance)
        score, difference = score_term(eps_theta, eps_phi, cloud, weighted, one.where)
        error = noise_error(eps_phi, cloud, weighted, one.where) if shared else self.auxiliary_error(one, step)
        return score, error, difference

    def auxiliary_error(self, one: StudentSample, step: Step) -> Tensor:
        """||eps - eps_phi(G_t, P, t)||^2 on the student's sample (Eq. 20); no gradient reaches the sample."""
        t = self.score_timestep(step.generator)
        cloud = noised(one.completed.points.detach(), step.sweep.replicated, t, step)
        with self.updating(one.auxiliary) as auxiliary:
            prediction = predict_noise(auxiliary, cloud, step)
        return noise_error(prediction, cloud, self.settings.weight_by_noise_scale, one.where)

    # --- samples -------------------------------------------------------------------------------------------------------

    def timesteps(self, generator: torch.Generator) -> list[int]:
        """The timesteps of the student's samples of one sweep."""
        return draw_timesteps(self.settings.steps, self.settings.stop_early, self.recipe, generator)

    def student_sample(self, step: Step, timesteps: list[int], start_noise: float, seed: int) -> SampledPoints:
        """One completion by the student from lambda = start_noise (Eq. 19); the seed determines all random numbers."""
        with self.updating("student") as student:
            return complete(student, step.seeded(seed), timesteps, start_noise)

    @contextlib.contextmanager
    def updating(self, name: str) -> Iterator[nn.Module]:
        """A network during the passes of its own update: in train mode if batch_norm is "released", else unchanged."""
        network = self.networks[name]
        released = self.settings.batch_norm == "released"
        if released:
            network.train()
        try:
            yield network
        finally:
            if released:
                network.eval()

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion (N, 3) of the sample's sweep by the student."""
        return completion(self.card, self.exported, sample, generator)


def with_process_of(teacher: str, recipe: Recipe) -> Recipe:
    """The recipe with the teacher's forward process, the only one for which the teacher's scores are valid."""
    card = load_card(teacher)
    for entry in ("voxel_size_m", "local_features", "point_offsets"):  # both networks see the same voxelised clouds
        mine, theirs = getattr(recipe.architecture, entry), getattr(card.architecture, entry)
        if mine != theirs:
            raise RecipeError(
                f"architecture.{entry} is {mine!r}, but the teacher {teacher} has {theirs!r}; choose a teacher with the same value"
            )
    return dataclasses.replace(recipe, pipeline=card.pipeline, schedule=card.schedule)


def score_term(
    eps_theta: Tensor,
    eps_phi: Tensor,
    cloud: NoisedCloud,
    weight_by_noise_scale: bool,
    where: Tensor | None = None,
) -> tuple[Tensor, float]:
    """A scalar whose gradient with respect to the noised sample is (eps_theta - eps_phi) / 3N (Eq. 6, Eq. 18), and the
    mean magnitude of that difference. Points outside `where` (N,) bool get no gradient.

    The released code multiplies by (x_noised - x) instead of x_noised: x cancels, and its gradient is exactly 0.
    """
    difference = (eps_theta - eps_phi).detach()
    if weight_by_noise_scale:
        difference = difference * cloud.scale
    if where is not None:
        difference = difference * where[:, None]
    return (difference * cloud.points).mean(), difference.abs().mean().item()
