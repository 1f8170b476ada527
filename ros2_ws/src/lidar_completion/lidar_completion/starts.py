"""Start points: where a sample starts, before noise is added to them.

Each source of start points is one function here: copies of the scan, a temporal prior (points kept from the
completion of the previous sweep, see temporal.py), and holes of the scan (holes.py). start_points concatenates them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lidar_completion.diffusion import add_scaled_noise, noise_like
from lidar_completion.downsample import every_nth_rows
from lidar_completion.holes import hole_points
from lidar_completion.model.card import ModelCard, Pipeline

NO_SOURCE = -1


@dataclass(frozen=True)
class StartPoints:
    """points (N, 3) metres, and for each the row of the scan that it copies (N,) int64, or NO_SOURCE."""

    points: Tensor
    source: Tensor
    has_prior: bool = False  # some of the points come from a temporal prior


def start_points(scan: Tensor, pipeline: Pipeline, prior: Tensor | None = None) -> StartPoints:
    """About pipeline.replication * S start points for a scan (S, 3), and pipeline.hole_starts for each of its holes.

    Without a prior the former are copies of the scan. With a prior (P, 3), half of them are copies of the scan and the rest
    are taken from the prior.
    """
    starts = scan_and_prior(scan, pipeline.replication, prior)
    return joined(hole_starts(scan, pipeline), starts) if pipeline.hole_starts else starts


def scan_and_prior(scan: Tensor, replication: int, prior: Tensor | None) -> StartPoints:
    """About replication * S start points: copies of the scan (S, 3), half of them replaced by points of the prior, if any."""
    if prior is None or not len(prior):
        return scan_copies(scan, replication)
    half = max(1, replication // 2)
    return joined(scan_copies(scan, half), prior_points(prior, max(1, replication - half) * len(scan)))


def scan_copies(scan: Tensor, replication: int) -> StartPoints:
    """The scan (S, 3), repeated."""
    return StartPoints(replicate(scan, replication), torch.arange(len(scan), device=scan.device).repeat(replication))


def prior_points(prior: Tensor, limit: int) -> StartPoints:
    """The prior (P, 3), thinned to at most `limit` points."""
    points = prior[every_nth_rows(len(prior), limit, prior.device)]
    return StartPoints(points, _no_source(points), has_prior=True)


def hole_starts(scan: Tensor, pipeline: Pipeline) -> StartPoints:
    """The centres of the scan's holes, repeated."""
    points = replicate(hole_points(scan, pipeline.max_range_m, pipeline.hole_cell_m), pipeline.hole_starts)
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
    """pipeline.noise_scale of the start points, (N, 3), computed only once for all copies of a point of the scan (S, 3)."""
    scale = pipeline.noise_scale(scan).index_select(0, starts.source.clamp(min=0))
    others = (starts.source == NO_SOURCE).nonzero().squeeze(1)
    return scale.index_copy_(0, others, pipeline.noise_scale(starts.points.index_select(0, others)))
