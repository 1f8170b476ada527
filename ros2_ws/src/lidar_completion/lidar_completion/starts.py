"""Start points: the points from which a completion is sampled, before noise is added to them.

There is one function for each source: copies of the scan, a temporal prior (points kept from the completion of the
previous sweep, see temporal.py), and holes of the scan (holes.py). start_points concatenates them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.diffusion import add_scaled_noise, noise_like
from lidar_completion.downsample import every_nth_rows
from lidar_completion.holes import hole_columns
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.visibility import ClearSpace

NO_SOURCE = -1


@dataclass(frozen=True)
class StartPoints:
    """points (N, 3) in metres; source (N,) int64: the row of the scan that a point is a copy of, or NO_SOURCE."""

    points: Tensor
    source: Tensor
    has_prior: bool = False  # some of the points come from a temporal prior


def start_points(
    scan: Tensor, pipeline: Pipeline, prior: Tensor | None = None, clear_space: ClearSpace | None = None
) -> StartPoints:
    """The start points of a scan (S, 3): those of its holes, then about pipeline.replication * S others.

    These others are copies of the scan; with a prior (P, 3), half of them come from the prior. clear_space: that of the sweep,
    if the architecture uses it; start points above the ground of holes are limited to what it hides.
    """
    starts = scan_and_prior(scan, pipeline.replication, prior)
    return joined(hole_starts(scan, pipeline, clear_space), starts) if pipeline.hole_starts else starts


def scan_and_prior(scan: Tensor, replication: int, prior: Tensor | None) -> StartPoints:
    """About replication * S start points: copies of the scan (S, 3), or half copies, half points of the prior (P, 3)."""
    if prior is None or not len(prior):
        return scan_copies(scan, replication)
    half = max(1, replication // 2)
    return joined(scan_copies(scan, half), prior_points(prior, max(1, replication - half) * len(scan)))


def scan_copies(scan: Tensor, replication: int) -> StartPoints:
    """The scan (S, 3), `replication` times over."""
    return StartPoints(replicate(scan, replication), torch.arange(len(scan), device=scan.device).repeat(replication))


def prior_points(prior: Tensor, limit: int) -> StartPoints:
    """The points of the prior (P, 3), thinned to at most `limit`."""
    points = prior[every_nth_rows(len(prior), limit, prior.device)]
    return StartPoints(points, _no_source(points), has_prior=True)


def hole_starts(scan: Tensor, pipeline: Pipeline, clear_space: ClearSpace | None) -> StartPoints:
    """pipeline.hole_starts start points at each level of each hole of the scan (S, 3)."""
    levels, beyond_m = pipeline.hole_levels, pipeline.hole_beyond_m
    columns = hole_columns(scan, pipeline.max_range_m, pipeline.hole_cell_m, levels, beyond_m, clear_space)
    points = replicate(columns, pipeline.hole_starts)
    return StartPoints(points, _no_source(points))


def joined(first: StartPoints, second: StartPoints) -> StartPoints:
    """The start points of both."""
    return StartPoints(
        torch.cat([first.points, second.points]),
        torch.cat([first.source, second.source]),
        first.has_prior or second.has_prior,
    )


def _no_source(points: Tensor) -> Tensor:
    return torch.full_like(points[:, 0], NO_SOURCE, dtype=torch.int64)


def replicate(points: Tensor, replication: int) -> Tensor:
    """The cloud (N, 3) repeated as a whole, (N * replication, 3), in the order of the published code."""
    return points.repeat(replication, 1)


def add_start_noise(
    starts: StartPoints, scan: Tensor, card: ModelCard, timestep: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Start points (N, 3) with the noise of `timestep` added (Eq. 19), and the scale (N, 3) of that noise; scan (S, 3)."""
    scale = noise_scale(starts, scan, card.pipeline)
    return add_scaled_noise(
        starts.points, scale, noise_like(starts.points, generator), card.start_sigma(timestep)
    ), scale


def noise_scale(starts: StartPoints, scan: Tensor, pipeline: Pipeline) -> Tensor:
    """pipeline.noise_scale of the start points, (N, 3). Copies of a point of the scan (S, 3) share one computation."""
    scale = pipeline.noise_scale(scan).index_select(0, starts.source.clamp(min=0))
    others = (starts.source == NO_SOURCE).nonzero().squeeze(1)
    return scale.index_copy_(0, others, pipeline.noise_scale(starts.points.index_select(0, others)))
