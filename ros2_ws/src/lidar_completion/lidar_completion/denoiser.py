"""The denoiser of one scan: what a sampler calls. It adds condition and guidance to the denoising network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lidar_completion.diffusion import guide
from lidar_completion.model.card import ModelCard
from lidar_completion.networks import Architecture, Condition, moved_points
from lidar_completion.samplers import Denoise, Prediction


def scan_denoiser(
    networks: Mapping[str, Any],
    card: ModelCard,
    scan: Tensor,
    scale: Tensor | float = 1.0,
    ray_features: Callable[[Tensor], Tensor] | None = None,
) -> Denoise:
    """The denoiser of one scan (S, 3) for the card's architecture. scale: see samplers.py; ray_features: see Architecture.cloud."""
    if card.architecture.conditioning == "encoder":
        return ScanDenoiser(networks, card.architecture, scan, card.pipeline.guidance)
    if card.pipeline.guidance != 1.0:
        raise ValueError(f"guidance is {card.pipeline.guidance}, but this model has no unconditional branch; use 1")
    return UnionScanDenoiser(networks["denoiser"], card, scan, scale, ray_features)


class ScanDenoiser:
    """Predicts the noise of points around one scan (S, 3).

    For networks with a condition encoder; the condition is encoded once. With a guidance weight of 1 a call is one forward
    pass, with any other weight two, which share the kernel maps and the stem.
    """

    def __init__(
        self, networks: Mapping[str, Any], architecture: Architecture, scan: Tensor, guidance: float = 1.0
    ) -> None:
        self.network, self.architecture, self.scan, self.guidance = networks["denoiser"], architecture, scan, guidance
        self.condition: Condition = networks["encoder"](architecture.cloud(scan, scan))
        self.unconditional: Condition | None = None
        if guidance != 1.0:
            origin = torch.zeros_like(scan[:1])
            self.unconditional = networks["encoder"](architecture.cloud(origin, origin))

    def __call__(self, points: Tensor, t: int) -> Prediction:
        """The prediction for points (N, 3) at timestep t."""
        cloud = self.architecture.cloud(points, self.scan)
        timestep = torch.tensor([t], device=points.device)
        if self.unconditional is None:
            return self._prediction(self.network(cloud, self.condition, timestep))
        stem = self.network.stem_features(cloud)
        conditional = self._prediction(self.network(cloud, self.condition, timestep, stem=stem))
        unconditional = self._prediction(self.network(cloud, self.unconditional, timestep, stem=stem))
        return Prediction(guide(conditional.noise, unconditional.noise, self.guidance), conditional.logit)

    def _prediction(self, output: Tensor) -> Prediction:
        return Prediction(output[:, :3], output[:, 3] if self.architecture.point_confidence else None)


class UnionScanDenoiser:
    """Predicts clean points around one scan (S, 3), and the noise that corresponds to them.

    For networks without a condition encoder ("union"). The network gives M estimates per point, but a further step needs one
    noise per point: the points are divided into M equal parts, and those of part m continue from their estimate m.
    """

    def __init__(
        self,
        network: Any,
        card: ModelCard,
        scan: Tensor,
        scale: Tensor | float,
        ray_features: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.network, self.card, self.scan, self.scale, self.ray_features = network, card, scan, scale, ray_features

    def __call__(self, points: Tensor, t: int) -> Prediction:
        """The prediction for points (N, 3) at timestep t, with all estimates (N * M, 3)."""
        cloud = self.card.architecture.cloud(points, self.scan, self.ray_features)
        offsets, logit = self.network(cloud, torch.tensor([t], device=points.device))  # (N, M, 3), (N, M)

        def noise() -> Tensor:
            continued = torch.cat([part[:, m] for m, part in enumerate(offsets.tensor_split(offsets.shape[1]))])
            return continued / (-float(self.card.schedule.sigma[t]) * self.scale)

        estimates = moved_points(points, offsets).flatten(0, 1)
        return Prediction(noise, logit.flatten() if logit.shape[1] else None, estimates)
