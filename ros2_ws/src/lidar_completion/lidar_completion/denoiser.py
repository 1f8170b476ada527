"""The denoiser of one scan: condition and guidance around the denoising network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lidar_completion.diffusion import guide
from lidar_completion.networks import Architecture, Condition
from lidar_completion.samplers import Prediction


class ScanDenoiser:
    """Predicts the noise of points around one scan (S, 3).

    The condition is encoded once. A guidance weight of 1 costs one forward per call, any other weight two, which share the
    kernel maps and the stem.
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
