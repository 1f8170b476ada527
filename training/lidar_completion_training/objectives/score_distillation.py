"""Score distillation, Eq. 6: one sample a sweep, one auxiliary model (ScoreLiDAR without its structural terms, which are options)."""

import torch

from lidar_completion.networks import Condition
from lidar_completion_training.objectives.distillation import Distillation, StudentSample, drawn_seed
from lidar_completion_training.objectives.preparation import PreparedSweep


class ScoreDistillation(Distillation):
    """E[(eps_theta(x_t, t) - eps_phi(x_t, t)) dx_t/deta], eps_phi trained on the student's samples."""

    def auxiliary_names(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def samples(
        self, prepared: PreparedSweep, condition: Condition, generator: torch.Generator
    ) -> tuple[list[StudentSample], dict[str, float]]:
        """One sample of weight 1."""
        timesteps = self.timesteps(generator)
        completed = self.student_sample(prepared, condition, timesteps, 1.0, drawn_seed(generator))
        return [StudentSample(completed, "auxiliary", 1.0, drawn_seed(generator))], {"passes": float(len(timesteps))}
