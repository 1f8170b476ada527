"""SceneCompleter: completes sparse sweeps into dense scenes. `complete` is the pipeline, one line per stage of the paper."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from lidar_completion.crop import SceneLimits, scene_rows
from lidar_completion.denoiser import scan_denoiser
from lidar_completion.device import StageClock, choose_device
from lidar_completion.downsample import downsample_rows, every_nth_rows
from lidar_completion.errors import ModelError
from lidar_completion.measured import (
    Array,
    MeasuredPoints,
    finite_points,
    prior_within_range,
    scene_limits,
    within_range,
)
from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import load_model
from lidar_completion.neighbours import nearest_within
from lidar_completion.networks import fold_batch_norm, refined_points
from lidar_completion.output_voxels import thinned_to_voxels
from lidar_completion.samplers import SAMPLERS
from lidar_completion.sparse.allocation import keep_memory
from lidar_completion.sparse.compiled import loops_have_the_cores
from lidar_completion.starts import NO_SOURCE, StartPoints, add_start_noise, start_points
from lidar_completion.visibility import COMPLETED, MEASURED, ClearSpace, TrustRules
from lidar_completion.visibility.confidence import point_confidence
from lidar_completion.visibility.output_filter import trusted_rows

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_INTENSITY_DISTANCE_M = 5.0  # points of a prior farther than this from every measured point get the intensity 0


class Options(TypedDict, total=False):
    """Keyword arguments of SceneCompleter.complete. Those in the upper half default to the model card's pipeline."""

    steps: int | None  # denoising steps
    guidance: float | None  # weight of classifier-free guidance
    replication: int | None  # start points per point of the downsampled sweep
    voxel_size_m: float | None  # of the downsampling
    min_range_m: float | None
    max_range_m: float | None
    min_confidence: float | None  # completed points with a lower one are removed; TrustRules can raise it
    output_voxel_m: float | None  # one completed point per voxel of this size, the most confident one; 0: all

    refine: bool  # run the refiner, if the model has one: it replaces each completed point by several (default True)
    trust: TrustRules | None  # which completed points are removed (default: TrustRules())
    max_points: int | None  # limit on all points; measured points first, the rest is thinned evenly (default: none)
    seed: int  # of the noise; the same seed on the same device gives the same scene (default 0)


@dataclass(frozen=True)
class Completion:
    """A completed scene in the sweep's frame: the measured points first, unchanged, then the completed points."""

    points: np.ndarray  # (M, 3) float32 metres
    provenance: np.ndarray  # (M,) uint8: 0 measured, 1 completed
    confidence: np.ndarray  # (M,) float32 in [0, 1]; 1 for measured points
    measured_rows: np.ndarray  # (n,) int64: rows of the input's finite points, which are the first n points
    timings: dict[str, float]  # seconds: preprocess, denoise, postprocess, total
    steps: int
    # (M,) float32 if the input had one; a completed point has that of the measured point that it started from
    intensity: np.ndarray | None = None
    sampled: int = 0  # points that the sampler returned, before any was removed or refined
    # Number of points removed by each rule: those of output_filter.REASONS, max_points, output_voxel
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def completed_points(self) -> np.ndarray:
        """The points that were not measured, (M - n, 3)."""
        return self.points[len(self.measured_rows) :]


class CompletedPoints(NamedTuple):
    """Completed points (C, 3), the network's logit (C,), if it has one, and the scan's row that they started from.

    Each entry of source (C / per_start,), a row or -1, holds for `per_start` consecutive points.
    """

    points: Tensor
    logit: Tensor | None
    source: Tensor
    per_start: int = 1

    def at(self, rows: Tensor) -> "CompletedPoints":
        """The points of these rows (n,) int64."""
        logit = None if self.logit is None else self.logit.index_select(0, rows)
        return CompletedPoints(self.points.index_select(0, rows), logit, self.source_of(rows))

    def source_of(self, rows: Tensor) -> Tensor:
        """The scan's row (n,) that the points of these rows (n,) started from, or -1."""
        return self.source.index_select(0, rows if self.per_start == 1 else rows // self.per_start)


class SceneCompleter:
    """A loaded model. It holds no state between sweeps."""

    def __init__(
        self,
        card: ModelCard,
        networks: Mapping[str, Any],
        device: torch.device,
        backend: str = "torch",
        precision: str = "float32",
    ) -> None:
        self.card = card
        self.networks = networks
        self.device = device
        self.backend = backend
        self.precision = precision

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", backend: str = "torch", precision: str = "float32"
    ) -> "SceneCompleter":
        """Load a model folder.

        device: "auto" (CUDA if available), "cpu", "cuda", "cuda:1". backend: "torch", or "onnx" if the model was exported.
        precision: "float32", or "bfloat16" for the products of wide layers (backend torch only).
        Raises ModelError if the model is missing or damaged, ValueError for an unusable device, backend or precision.
        """
        if backend not in ("torch", "onnx"):
            raise ValueError(f"backend is {backend!r}; expected 'torch' or 'onnx'")
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected {' or '.join(map(repr, PRECISIONS))}")
        if backend == "onnx" and precision != "float32":
            raise ValueError(f"precision {precision!r} needs the backend 'torch'; exported networks use 'float32'")
        target = choose_device(device)
        if target.type == "cpu":
            keep_memory()
        card, networks = load_model(model)
        needed = card.architecture.networks
        if missing := sorted(set(needed) - networks.keys()):
            raise ModelError(
                f"{model}: the card lists no {' and no '.join(missing)}; completion needs {' and '.join(needed)}"
            )
        if backend == "onnx":
            from lidar_completion.model.onnx_network import load_onnx_networks

            return cls(card, load_onnx_networks(model, card, target, or_cpu=device == "auto"), target, backend)
        wide_dtype = PRECISIONS[precision]
        folded = {name: fold_batch_norm(network, wide_dtype).to(target) for name, network in networks.items()}
        return cls(card, folded, target, backend, precision)

    @torch.inference_mode()
    @loops_have_the_cores()
    def complete(
        self, points: Array, *, intensity: Array | None = None, prior: Array | None = None, **options: Unpack[Options]
    ) -> Completion:
        """Complete a sweep (N, 3) in metres in the sensor frame; keywords as in Options. intensity (N,) of the sweep;
        prior (P, 3): points from temporal.recall. Raises SweepError if there is nothing to complete."""
        card, settings = resolve_options(self.card, options)
        clock, generator = StageClock(self.device), torch.Generator(self.device).manual_seed(settings.seed)
        sweep = finite_points(points, intensity, self.device)
        near = within_range(sweep, card.pipeline)
        scan = near.at(downsample_rows(near.points, card.pipeline))
        rays = sweep.rays(card.pipeline)
        space = ClearSpace.from_returns(rays) if card.architecture.ray_features else None
        clock.stop("preprocess")
        starts = start_points(scan.points, card.pipeline, prior_within_range(prior, card.pipeline, self.device), space)
        timesteps = card.sampling_timesteps(after_prior=starts.has_prior)
        noised, scale = add_start_noise(starts, scan.points, card, timesteps[0], generator)
        denoised = self.denoise(card, scan.points, starts, noised, timesteps, generator, scale, space)
        clock.stop("denoise")
        inside, limits = self.crop(denoised, scene_limits(near, card.pipeline), settings.refine)
        completed = self.refine(inside, scan.points, space) if settings.refine else inside
        confidence = point_confidence(completed.logit, completed.points, scan.points, card)
        kept, removed = trusted_rows(completed.points, scan.points, confidence, rays, settings.trust, space, limits)
        kept, thinned = thinned_to_voxels(completed.points, confidence, kept, card.pipeline.output_voxel_m)
        measured, kept, removed["max_points"] = limit_points(sweep, kept, settings.max_points)
        arrays = label(measured, completed, kept, confidence, scan)
        clock.stop("postprocess")
        removed |= {"outside": removed["outside"] + len(denoised.points) - len(inside.points), "output_voxel": thinned}
        counts: dict[str, Any] = {"steps": card.pipeline.steps, "sampled": len(denoised.points)}
        return Completion(**arrays, **counts, timings=clock.timings(), removed=removed)

    def denoise(
        self,
        card: ModelCard,
        scan: Tensor,
        starts: StartPoints,
        noised: Tensor,
        timesteps: list[int],
        generator: torch.Generator,
        scale: Tensor | float = 1.0,
        clear_space: ClearSpace | None = None,
    ) -> CompletedPoints:
        """Sample from noised start points (C, 3) with the card's sampler, conditioned on the scan (S, 3).

        clear_space: that of the sweep, for architectures with ray_features. A start point gives offsets_per_point points.
        """
        ray_features = None if clear_space is None else clear_space.ray_features
        predict = scan_denoiser(self.networks, card, scan, scale, ray_features)
        sampler = SAMPLERS[card.pipeline.sampler].sample
        sample = sampler(predict, starts.points, noised, timesteps, card.schedule, generator, scale)
        return CompletedPoints(sample.points, sample.logit, starts.source, card.architecture.offsets_per_point)

    def crop(
        self, denoised: CompletedPoints, limits: SceneLimits, refine: bool
    ) -> tuple[CompletedPoints, SceneLimits | None]:
        """The points inside the limits, and no limits for the output filter.

        If that filter follows at once, it crops in the same pass: then all points, and the limits. So it does after the refiner of
        a union network; the published refiner gets cropped points.
        """
        published_refiner = refine and "refiner" in self.networks and self.card.architecture.conditioning == "encoder"
        if denoised.logit is not None and not published_refiner:
            return denoised, limits
        return denoised.at(scene_rows(denoised.points, limits)), None

    def refine(
        self, completed: CompletedPoints, scan: Tensor, clear_space: ClearSpace | None = None
    ) -> CompletedPoints:
        """Several points for each completed point, if the model has a refiner; scan (S, 3); clear_space as in denoise."""
        if "refiner" not in self.networks:
            return completed
        ray_features = None if clear_space is None else clear_space.ray_features
        offsets, logits = self.networks["refiner"](self.card.architecture.cloud(completed.points, scan, ray_features))
        points, logit = refined_points(completed.points, offsets, logits)
        return CompletedPoints(points, logit, completed.source, completed.per_start * offsets.shape[1])


class Settings(NamedTuple):
    """Options that are not part of the model card's pipeline, with their defaults."""

    refine: bool = True
    trust: TrustRules = TrustRules()
    max_points: int | None = None
    seed: int = 0


def resolve_options(card: ModelCard, options: Options) -> tuple[ModelCard, Settings]:
    """The card with its pipeline as the options override it, and the other settings; None means the default."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "voxel_size_m" in given:
        given["downsample_voxel_m"] = given.pop("voxel_size_m")
    settings = {name: given.pop(name) for name in Settings._fields if name in given}
    pipeline = dataclasses.replace(card.pipeline, **given)
    trust = settings.get("trust", TrustRules())
    min_confidence = max(trust.min_confidence, pipeline.min_confidence)
    settings["trust"] = dataclasses.replace(trust, min_confidence=min_confidence)
    return dataclasses.replace(card, pipeline=pipeline), Settings(**settings)


def limit_points(
    measured: MeasuredPoints, completed_rows: Tensor, max_points: int | None
) -> tuple[MeasuredPoints, Tensor, int]:
    """Measured points and rows of completed points, thinned evenly to max_points in all; and how many were removed.

    Measured points are removed only if they alone exceed the limit.
    """
    if max_points is None:
        return measured, completed_rows, 0
    count, device = len(measured) + len(completed_rows), completed_rows.device
    measured = measured.at(every_nth_rows(len(measured), max_points, device))
    completed_rows = completed_rows[every_nth_rows(len(completed_rows), max_points - len(measured), device)]
    return measured, completed_rows, count - len(measured) - len(completed_rows)


def label(
    measured: MeasuredPoints, completed: CompletedPoints, kept: Tensor, confidence: Tensor, scan: MeasuredPoints
) -> dict[str, Any]:
    """The arrays of a Completion: measured points, then the completed points of rows `kept` (K,); confidence (C,) of all."""
    certain = torch.ones_like(measured.points[:, 0])
    points = joined(measured.points, completed.points, kept)
    intensity = None
    if measured.intensity is not None:
        known = source_intensity(points[len(measured) :], completed.source_of(kept), scan)
        intensity = torch.cat([measured.intensity, known]).cpu().numpy()
    return {
        "points": points.cpu().numpy(),
        "provenance": np.repeat(np.array([MEASURED, COMPLETED], dtype=np.uint8), (len(measured), len(kept))),
        "confidence": joined(certain, confidence, kept).cpu().numpy(),
        "measured_rows": measured.rows.cpu().numpy(),
        "intensity": intensity,
    }


def joined(first: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """The values `first`, then those of `rows`; as torch.cat([first, values[rows]]), with one copy less."""
    out = first.new_empty(len(first) + len(rows), *first.shape[1:])
    out[: len(first)] = first
    torch.index_select(values, 0, rows, out=out[len(first) :])
    return out


def source_intensity(points: Tensor, source: Tensor, scan: MeasuredPoints) -> Tensor:
    """Intensity (C,) of completed points (C, 3): that of the scan's point of row source (C,), which they started from.

    Points that started from a prior get that of the nearest point of the scan, or 0 if it is far away.
    """
    assert scan.intensity is not None
    unknown = (source == NO_SOURCE).nonzero().squeeze(1)
    if len(unknown):
        nearest = nearest_within(points[unknown], scan.points, MAX_INTENSITY_DISTANCE_M)[1]
        source = source.index_copy(0, unknown, nearest)
    return torch.where(source < 0, 0.0, scan.intensity[source])
