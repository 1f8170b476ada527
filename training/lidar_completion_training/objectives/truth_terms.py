"""Optional terms of a distillation that compare the student's samples with the ground truth or the sweep."""

from collections.abc import Callable

import torch
from torch import Tensor

from lidar_completion.samplers import SampledPoints
from lidar_completion_training.objectives.chamfer import clamped_chamfer
from lidar_completion_training.objectives.free_space import free_space_violation
from lidar_completion_training.objectives.step import Step
from lidar_completion_training.objectives.structural import landmark_term, scene_term


def truth_terms(samples: list[SampledPoints], step: Step) -> tuple[Tensor, dict[str, float]]:
    """Sum over terms of weight * mean over samples, and each term's mean."""
    total, numbers = step.scan.new_zeros(()), {}
    for name, term in TERMS.items():
        weight = getattr(step.recipe.distillation, f"{name}_weight")
        if weight:
            value = torch.stack([term(one, step) for one in samples]).mean()
            total, numbers[name] = total + weight * value, value.item()
    return total, numbers


def chamfer(one: SampledPoints, step: Step) -> Tensor:
    """The loss of the direct objective, in metres."""
    return clamped_chamfer(one.points, one.logit, step.sweep.truth, step.recipe.direct, step.generator)[0]


def scene(one: SampledPoints, step: Step) -> Tensor:
    """ScoreLiDAR's scene-wise term, in square metres."""
    return scene_term(one.points, step.sweep.truth, step.recipe.direct.queries, step.generator)


def landmark(one: SampledPoints, step: Step) -> Tensor:
    """ScoreLiDAR's point-wise term, in square metres."""
    return landmark_term(one.points, step.sweep.truth, step.generator)


def free_space(one: SampledPoints, step: Step) -> Tensor:
    """Mean clamped distance in front of the measurements, in metres."""
    return free_space_violation(one.points, step.sweep.near, step.sweep.origin, step.recipe.free_space, step.generator)


TERMS: dict[str, Callable[[SampledPoints, Step], Tensor]] = {  # weighted by distillation.<name>_weight
    "chamfer": chamfer,
    "scene": scene,
    "landmark": landmark,
    "free_space": free_space,
}
