"""Distillation-DPO, Eq. 16-20: pairs of the student's samples, the better one by a metric wins."""

import torch
from torch import Tensor

from lidar_completion.networks import Condition
from lidar_completion_training.configuration import Recipe, RecipeError
from lidar_completion_training.objectives.distillation import Distillation, StudentSample, drawn_seed
from lidar_completion_training.objectives.preference import checked_metric, cost
from lidar_completion_training.objectives.preparation import PreparedSweep

# Of winner and loser in the student's gradient. Eq. 18 as printed and the released code are each other's opposite.
SIGNS = {"released": (1.0, -1.0), "equation": (-1.0, 1.0)}


class DistillationDPO(Distillation):
    """Grad(eta) = E 1/omega [(eps_theta - eps_phi^l)(G_t^l) dG_t^l/deta - (eps_theta - eps_phi^w)(G_t^w) dG_t^w/deta], or its
    opposite (sign), and score_distillation_weight times Eq. 6 for both samples, since Eq. 11 has both terms."""

    def __init__(self, recipe: Recipe) -> None:
        settings = recipe.distillation
        checked_metric(settings.metric, "distillation.metric")
        if settings.sign not in SIGNS:
            raise RecipeError(f"distillation.sign is {settings.sign!r}; it can be one of {', '.join(SIGNS)}")
        if settings.auxiliary_models not in (1, 2):
            raise RecipeError(f"distillation.auxiliary_models is {settings.auxiliary_models}; it can be 1 or 2")
        super().__init__(recipe)

    def auxiliary_names(self) -> tuple[str, ...]:
        return ("winner", "loser") if self.recipe.distillation.auxiliary_models == 2 else ("auxiliary",)

    def samples(
        self, prepared: PreparedSweep, condition: Condition, generator: torch.Generator
    ) -> tuple[list[StudentSample], dict[str, float]]:
        """Winner and loser of two samples of the sweep, one from lambda = 1, the other from second_start_noise (Eq. 19)."""
        settings = self.settings
        timesteps = self.timesteps(generator)
        seed, other = drawn_seed(generator), drawn_seed(generator)
        pair = [
            self.student_sample(prepared, condition, timesteps, start_noise, start_seed)
            for start_noise, start_seed in (
                (1.0, seed),
                (settings.second_start_noise, seed if settings.same_start_noise else other),
            )
        ]
        costs = self.costs([one.points for one in pair], prepared, drawn_seed(generator))
        winner = 0 if costs[0] <= costs[1] else 1
        seed, other = drawn_seed(generator), drawn_seed(generator)
        names, weights = self.auxiliary_names(), self.weights()
        samples = [
            StudentSample(pair[winner], names[0], weights[0], seed),
            StudentSample(pair[1 - winner], names[-1], weights[1], seed if settings.same_score_noise else other),
        ]
        return samples, {
            "passes": float(len(timesteps)),
            "winner_cost": costs[winner],
            "loser_cost": costs[1 - winner],
            "second_wins": float(winner),
        }

    def costs(self, pair: list[Tensor], prepared: PreparedSweep, seed: int) -> list[float]:
        """What the metric says of each sample, both on the same random points."""
        settings, clamp_m = self.settings, self.recipe.direct.clamp_m
        return [
            cost(settings.metric, points, prepared.truth, settings.metric_points, clamp_m, generator)
            for points in pair
            for generator in [torch.Generator(points.device).manual_seed(seed)]
        ]

    def weights(self) -> tuple[float, float]:
        """Of winner and loser in the student's gradient: the pair's term with its sign, and plain score distillation."""
        settings = self.settings
        plain = settings.score_distillation_weight
        winner, loser = (sign * settings.pair_weight + plain for sign in SIGNS[settings.sign])
        return winner, loser
