"""Distillation-DPO (Eq. 16-20): pairs of the student's samples, ranked by a metric."""

import torch

from lidar_completion.samplers import SampledPoints
from lidar_completion_training.configuration import Recipe, check_choice
from lidar_completion_training.objectives.cell_preference import CELL_METRICS, rank_cells
from lidar_completion_training.objectives.distillation import Distillation, StudentSample
from lidar_completion_training.objectives.preference import Preference
from lidar_completion_training.objectives.step import Step

# Weights of winner and loser in the student's gradient. Eq. 18 as printed and the released code have opposite signs.
SIGNS = {"released": (1.0, -1.0), "equation": (-1.0, 1.0)}


class DistillationDPO(Distillation):
    """Pairs are ranked as scenes (Preference), or in every cell (preference_cell_m): then a completion's points count with the
    winner's model where it wins and with the loser's where it loses.

    Grad(eta) = E 1/omega [(eps_theta - eps_phi^l)(G_t^l) dG_t^l/deta - (eps_theta - eps_phi^w)(G_t^w) dG_t^w/deta] (Eq. 18),
    or its opposite (`sign`), plus score_distillation_weight times Eq. 6 for both samples: Eq. 11 has both terms."""

    def __init__(self, recipe: Recipe) -> None:
        settings = recipe.distillation
        check_choice("distillation.cell_metric", settings.cell_metric, tuple(CELL_METRICS))
        self.preference = Preference(settings.metric, settings.metric_points, "distillation")
        super().__init__(recipe)

    def auxiliary_names(self) -> tuple[str, ...]:
        return ("winner", "loser") if self.recipe.distillation.auxiliary_models == 2 else ("auxiliary",)

    def samples(self, step: Step) -> tuple[list[StudentSample], dict[str, float]]:
        """Winner and loser of two samples, one from lambda = 1, the other from second_start_noise (Eq. 19).

        With preference_cell_m, both samples twice: where they win and where they lose.
        """
        settings = self.settings
        timesteps = self.timesteps(step.generator)
        seed, other = step.seed(), step.seed()
        second_seed = seed if settings.same_start_noise else other
        pair = [
            self.student_sample(step, timesteps, 1.0, seed),
            self.student_sample(step, timesteps, settings.second_start_noise, second_seed),
        ]
        if settings.preference_cell_m:
            samples, numbers = self.samples_by_cell(pair, step)
            return samples, {"passes": float(len(timesteps)), **numbers}
        ranking = self.preference.rank(pair[0].points, pair[1].points, step)
        seed, other = step.seed(), step.seed()
        names, weights = self.auxiliary_names(), self.weights()
        samples = [
            StudentSample(pair[ranking.winner], names[0], weights[0], seed),
            StudentSample(
                pair[1 - ranking.winner], names[-1], weights[1], seed if settings.same_score_noise else other
            ),
        ]
        return samples, {
            "passes": float(len(timesteps)),
            "winner_cost": ranking.winner_cost,
            "loser_cost": ranking.loser_cost,
            "second_wins": float(ranking.winner),
        }

    def samples_by_cell(self, pair: list[SampledPoints], step: Step) -> tuple[list[StudentSample], dict[str, float]]:
        """Each completion of the pair with the points of the cells that it wins, and with those of the cells that it loses."""
        settings, names, weights = self.settings, self.auxiliary_names(), self.weights()
        seed, other = step.seed(), step.seed()
        seeds = (seed, seed if settings.same_score_noise else other)
        ranking = rank_cells(pair[0].points, pair[1].points, step, settings.preference_cell_m, settings.cell_metric)
        samples = [
            StudentSample(one, name, weight, seed, outcomes == outcome)
            for one, outcomes, seed in zip(pair, ranking, seeds, strict=True)
            for outcome, name, weight in ((1, names[0], weights[0]), (-1, names[-1], weights[1]))
        ]
        share = torch.cat(ranking).float()
        return samples, {
            "decided": share.abs().mean().item(),
            "first_wins": (ranking.first == 1).float().mean().item(),
        }

    def weights(self) -> tuple[float, float]:
        """Weights of winner and loser: the pair's term with its sign, plus plain score distillation."""
        settings = self.settings
        winner, loser = (
            sign * settings.pair_weight + settings.score_distillation_weight for sign in SIGNS[settings.sign]
        )
        return winner, loser
