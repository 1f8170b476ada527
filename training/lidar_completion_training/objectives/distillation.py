"""What score distillation and Distillation-DPO share: student, teacher, auxiliary models, and the terms of their losses.

The student's sample is noised and seen by the teacher (eps_theta) and by an auxiliary model (eps_phi) that is trained on the
student's samples alone; the difference of both is the gradient with respect to the noised sample (Eq. 6, Eq. 18).
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidar_completion.model.card import load_card
from lidar_completion.networks import Condition
from lidar_completion.samplers import SampledPoints
from lidar_completion_training.configuration import Recipe, RecipeError, exported_card
from lidar_completion_training.objectives.chamfer import direct_loss
from lidar_completion_training.objectives.free_space import free_space_violation
from lidar_completion_training.objectives.noising import (
    NoisedCloud,
    drawn_timestep,
    guided,
    noise_error,
    noised,
    predicted,
)
from lidar_completion_training.objectives.preparation import (
    PreparedSweep,
    completion,
    encode,
    needed,
    networks_of,
    nothing_of,
    prepare,
    starting_networks,
)
from lidar_completion_training.objectives.sampling import drawn_timesteps, sampled
from lidar_completion_training.objectives.structural import landmark_term, scene_term
from lidar_completion_training.stream import Sample


@dataclass(frozen=True)
class StudentSample:
    """A completion by the student, with its gradient; the auxiliary model that knows it; its weight in the student's
    gradient: + draws it to the teacher as Eq. 6 does, - drives it away; a seed for its noise."""

    completed: SampledPoints
    auxiliary: str
    weight: float
    seed: int


@dataclass(frozen=True)
class TeachersView:
    """A sweep as teacher and auxiliary models see it: the condition, and the one without a scan where guidance needs it."""

    condition: Condition
    nothing: Condition | None


class Distillation(ABC):
    """Groups: "student" (the denoiser, with train_encoder its encoder) and "auxiliary". Teacher and its encoder are frozen.

    Student and teacher may start from different noise: the student's samples come from the recipe's pipeline, and its
    scores are taken in the teacher's own process.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.settings = recipe.distillation
        start_from = needed(recipe.start_from, recipe.objective)
        self.teacher_folder = recipe.teacher or start_from
        self.process = self._process()
        self.card = exported_card(recipe)
        student = starting_networks(recipe)
        self.networks = nn.ModuleDict({name: network for name, network in student.items() if name != "denoiser"})
        self.networks["student"] = student["denoiser"]
        teacher = self._teacher()
        self.networks["teacher"] = teacher["denoiser"]
        if "encoder" in teacher:
            self.networks["teacher_encoder"] = teacher["encoder"]
        for name in self.auxiliary_names():
            self.networks[name] = copy.deepcopy(self.networks["teacher"])
        self.networks.requires_grad_(False).eval()
        self.trained: dict[str, nn.Module] = {
            "student": nn.ModuleDict({name: self.networks[name] for name in self._student_parts()}),
            "auxiliary": nn.ModuleDict({name: self.networks[name] for name in self.auxiliary_names()}),
        }
        for group in self.trained.values():
            group.requires_grad_(True)
        if self.settings.batch_statistics:
            for name in ("student", "teacher", *self.auxiliary_names()):
                self.networks[name].train()
        self.exported = nn.ModuleDict(
            {name: self.networks["student" if name == "denoiser" else name] for name in student}
        )

    def _teacher(self) -> dict[str, nn.Module]:
        """Denoiser and, where it is not the student's, encoder of the teacher."""
        teacher = networks_of(self.teacher_folder)
        if self.teacher_folder == self.recipe.start_from and not self.settings.train_encoder:
            del teacher["encoder"]
        return teacher

    def _process(self) -> Recipe:
        """The recipe with the noise that the teacher was trained with: scores of another process mean nothing."""
        theirs, recipe = load_card(self.teacher_folder), self.recipe
        for entry in ("voxel_size_m", "local_features", "point_offsets"):  # both look at the same voxelised clouds
            if getattr(theirs.architecture, entry) != getattr(recipe.architecture, entry):
                raise RecipeError(
                    f"architecture.{entry} is {getattr(recipe.architecture, entry)!r}, but that of the teacher "
                    f"{self.teacher_folder} is {getattr(theirs.architecture, entry)!r}; take a teacher that agrees"
                )
        return dataclasses.replace(recipe, pipeline=theirs.pipeline, schedule=theirs.schedule)

    def _student_parts(self) -> tuple[str, ...]:
        return ("student", "encoder") if self.settings.train_encoder else ("student",)

    @abstractmethod
    def auxiliary_names(self) -> tuple[str, ...]:
        """Names of the auxiliary models in `networks`."""

    @abstractmethod
    def samples(
        self, prepared: PreparedSweep, condition: Condition, generator: torch.Generator
    ) -> tuple[list[StudentSample], dict[str, float]]:
        """The student's samples of one sweep, and numbers to log."""

    def losses(self, sample: Sample, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Both losses are taken on the same samples, so one step updates student and auxiliary models (the paper alternates)."""
        prepared = prepare(sample, self.recipe, generator)
        with torch.set_grad_enabled(self.settings.train_encoder):
            condition = encode(self.networks["encoder"], prepared.scan, self.recipe)
        view = self.teachers_view(prepared, condition)
        samples, numbers = self.samples(prepared, condition, generator)
        score_timestep = self.timestep(generator)
        student, auxiliary = prepared.scan.new_zeros(()), prepared.scan.new_zeros(())
        gap = 0.0
        for one in samples:
            score, error, difference = self.score_and_error(one, score_timestep, prepared, view, generator)
            student, auxiliary, gap = student + one.weight * score, auxiliary + error, gap + difference
        direct, of_direct = self.direct_terms([one.completed for one in samples], prepared, generator)
        return {"student": student + direct, "auxiliary": auxiliary}, {
            "auxiliary_error": auxiliary.item() / len(samples),
            "score_gap": gap / len(samples),
            **numbers,
            **of_direct,
        }

    # --- scores --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def teachers_view(self, prepared: PreparedSweep, condition: Condition) -> TeachersView:
        """The conditions that teacher and auxiliary models are given."""
        encoder = self.networks["encoder"]
        if "teacher_encoder" in self.networks:
            encoder = self.networks["teacher_encoder"]
            condition = encode(encoder, prepared.scan, self.recipe)
        guide = self.settings.teacher_guidance != 1.0
        return TeachersView(condition, encode(encoder, nothing_of(prepared.scan), self.recipe) if guide else None)

    def timestep(self, generator: torch.Generator) -> int:
        """A random timestep of scores and auxiliary models."""
        settings, recipe = self.settings, self.process
        last = min(settings.last_score_timestep, recipe.pipeline.start_timestep)
        return drawn_timestep(
            settings.first_score_timestep, last, settings.uniform_in_sigma, recipe.schedule, generator
        )

    def score_and_error(
        self,
        one: StudentSample,
        score_timestep: int,
        prepared: PreparedSweep,
        view: TeachersView,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, float]:
        """The sample's score term (gradient to the student alone), its auxiliary model's error (to that one alone), and
        the mean size of the score difference.

        The auxiliary model has a timestep and noise of its own, as published, or with shared_noise those of the score.
        """
        phi = self.networks[one.auxiliary]
        seeded = torch.Generator(generator.device).manual_seed(one.seed)
        cloud = noised(one.completed.points, prepared.replicated, score_timestep, prepared.scan, self.process, seeded)
        tables = view.condition.nearest_tables(cloud.cloud.pyramid)
        with torch.set_grad_enabled(self.settings.shared_noise):
            eps_phi = predicted(phi, cloud, view.condition, tables)
        theta = self.networks["teacher"]
        eps_theta = guided(theta, cloud, view.condition, tables, view.nothing, self.settings.teacher_guidance)
        score, difference = score_term(eps_theta, eps_phi, cloud, self.settings.metres)
        if self.settings.shared_noise:
            return score, noise_error(eps_phi, cloud, self.settings.metres), difference
        return score, self.auxiliary_error(one, prepared, view, generator), difference

    def auxiliary_error(
        self, one: StudentSample, prepared: PreparedSweep, view: TeachersView, generator: torch.Generator
    ) -> Tensor:
        """|| eps - eps_phi(G_t, P, t) ||^2 of Eq. 20 on the student's sample, which gets no gradient from it."""
        t = self.timestep(generator)
        cloud = noised(one.completed.points.detach(), prepared.replicated, t, prepared.scan, self.process, generator)
        tables = view.condition.nearest_tables(cloud.cloud.pyramid)
        prediction = predicted(self.networks[one.auxiliary], cloud, view.condition, tables)
        return noise_error(prediction, cloud, self.settings.metres)

    # --- beside the scores ---------------------------------------------------------------------------------------------

    def direct_terms(
        self, completed: list[SampledPoints], prepared: PreparedSweep, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted terms that compare samples with the truth or the sweep, and the mean of each."""
        settings, direct = self.settings, self.recipe.direct

        def chamfer(one: SampledPoints) -> Tensor:
            return direct_loss(one.points, one.logit, prepared.truth, direct, generator)[0]

        def free_space(one: SampledPoints) -> Tensor:
            return free_space_violation(one.points, prepared.near, prepared.origin, self.recipe.free_space, generator)

        terms = {
            "chamfer": (settings.chamfer_weight, chamfer),
            "scene": (
                settings.scene_weight,
                lambda one: scene_term(one.points, prepared.truth, direct.queries, generator),
            ),
            "landmark": (settings.landmark_weight, lambda one: landmark_term(one.points, prepared.truth, generator)),
            "free_space": (settings.free_space_weight, free_space),
        }
        total, numbers = prepared.scan.new_zeros(()), {}
        for name, (weight, term) in terms.items():
            if weight:
                value = torch.stack([term(one) for one in completed]).mean()
                total, numbers[name] = total + weight * value, value.item()
        return total, numbers

    # --- samples -------------------------------------------------------------------------------------------------------

    def timesteps(self, generator: torch.Generator) -> list[int]:
        """The passes of the student's samples of one sweep."""
        return drawn_timesteps(self.settings.steps, self.settings.stop_early, self.recipe, generator)

    def student_sample(
        self, prepared: PreparedSweep, condition: Condition, timesteps: list[int], start_noise: float, seed: int
    ) -> SampledPoints:
        """One completion by the student from lambda = start_noise (Eq. 19), everything drawn from the seed."""
        generator = torch.Generator(prepared.scan.device).manual_seed(seed)
        return sampled(self.networks["student"], condition, prepared, timesteps, self.recipe, generator, start_noise)

    def preview(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A completion of the sample's sweep by the student, (N, 3)."""
        return completion(self.card, self.exported, sample, generator)


def score_term(eps_theta: Tensor, eps_phi: Tensor, cloud: NoisedCloud, metres: bool) -> tuple[Tensor, float]:
    """A number whose gradient with respect to the noised sample is (eps_theta - eps_phi) / 3N (Eq. 6, Eq. 18); mean size of that difference.

    The released code multiplies (x_noised - x) instead of x_noised, and x cancels: its gradient is exactly 0.
    """
    difference = (eps_theta - eps_phi).detach()
    if metres:
        difference = difference * cloud.scale
    return (difference * cloud.points).mean(), difference.abs().mean().item()


def drawn_seed(generator: torch.Generator) -> int:
    """A seed for a generator of its own, so that two samples can share a noise."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
