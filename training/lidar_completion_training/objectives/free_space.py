"""A penalty on completed points between the sensor and its measurements: that space was observed to be free."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_completion_training.configuration import FreeSpaceRecipe
from lidar_completion_training.objectives.chamfer import nearest_rows, random_rows


def free_space_violation(
    completed: Tensor, sweep: Tensor, origin: Tensor, recipe: FreeSpaceRecipe, generator: torch.Generator
) -> Tensor:
    """Mean clamped distance in metres by which random completed points lie in front of the measurement on their ray.

    completed (N, 3), sweep (M, 3), origin (3,) of the rays. Points on no ray, and those less than a margin in front of the
    measurement, count as 0. The gradient moves a point outwards along its ray.
    """
    points = completed[random_rows(len(completed), recipe.queries, generator)] - origin
    rays = sweep - origin
    with torch.no_grad():
        directions, ray_directions = F.normalize(points, dim=1), F.normalize(rays, dim=1)
        within = 2.0 * math.sin(math.radians(recipe.within_deg) / 2.0)
        nearest = nearest_rows(directions, ray_directions, cell_m=within)
        chord = (directions - ray_directions[nearest]).norm(dim=1)
        on_ray = chord < within
    in_front = rays[nearest].norm(dim=1) - recipe.margin_m - points.norm(dim=1)
    return (in_front.clamp(0.0, recipe.clamp_m) * on_ray).mean()
