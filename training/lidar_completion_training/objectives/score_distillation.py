"""Score distillation (Eq. 6): one sample per sweep, one auxiliary model. ScoreLiDAR's structural terms are options."""

from lidar_completion_training.objectives.distillation import Distillation, StudentSample
from lidar_completion_training.objectives.step import Step


class ScoreDistillation(Distillation):
    """E[(eps_theta(x_t, t) - eps_phi(x_t, t)) dx_t/deta], eps_phi trained on the student's samples."""

    def auxiliary_names(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def samples(self, step: Step) -> tuple[list[StudentSample], dict[str, float]]:
        """One sample of weight 1."""
        timesteps = self.timesteps(step.generator)
        completed = self.student_sample(step, timesteps, start_noise=1.0, seed=step.seed())
        return [StudentSample(completed, "auxiliary", 1.0, step.seed())], {"passes": float(len(timesteps))}
