"""SceneCompleter: a sparse sweep in, a dense scene out, each line one step of the paper."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lidar_completion import scan as sweeps
from lidar_completion.diffusion import SAMPLERS, Denoise, add_noise, dpm_solver, guide, noise_like, sampling_timesteps
from lidar_completion.errors import ModelError, SweepError
from lidar_completion.model.checkpoints import ModelCard, Pipeline, load_model
from lidar_completion.nearest_points import nearest_points
from lidar_completion.networks import Architecture, Condition, Refiner, fold_batch_norm
from lidar_completion.visibility import (
    COMPLETED,
    MEASURED,
    REACH_M,
    TrustRules,
    calibrated_confidence,
    evenly,
    untrusted,
)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Completion:
    """A completed scene in the sweep's frame: the measured points first, unchanged, then the completed ones."""

    points: np.ndarray  # (M, 3) float32 metres
    provenance: np.ndarray  # (M,) uint8: 0 measured, 1 completed
    confidence: np.ndarray  # (M,) float32 in [0, 1]; measured points have 1
    measured_rows: np.ndarray  # (n,) int64: the input's rows that are the first n points (its finite points)
    timings: dict[str, float]  # seconds: preprocess, denoise, postprocess, total
    steps: int
    # (M,) float32 where the input had one; of a completed point that of the nearest measured one
    intensity: np.ndarray | None = None
    # how many points were taken out, by reason: outside (scan.post_crop), those of visibility.untrusted, max_points
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def completed_points(self) -> np.ndarray:
        """The points that were not measured, (M - n, 3)."""
        return self.points[len(self.measured_rows) :]


class SceneCompleter:
    """A loaded model, ready for sweeps. Holds no state between them."""

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
        """Load a model folder. device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"; backend: "torch", or "onnx"
        where the model was exported; precision: "float32", or "bfloat16" for the products of wide layers (backend torch).

        Raises ModelError where the model is missing or damaged, ValueError for an unusable device, backend or precision.
        """
        if backend not in ("torch", "onnx"):
            raise ValueError(f"backend is 'torch' or 'onnx', not {backend!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {' or '.join(map(repr, PRECISIONS))}, not {precision!r}")
        if backend == "onnx" and precision != "float32":
            raise ValueError(
                f"precision {precision!r} needs the backend 'torch'; exported networks compute in 'float32'"
            )
        target = choose_device(device)
        card, networks = load_model(model)
        missing = {"encoder", "denoiser"} - networks.keys()
        if missing:
            raise ModelError(f"{model}: the card lists no {' and no '.join(sorted(missing))}; completing needs both")
        if backend == "onnx":
            from lidar_completion.model.onnx_network import load_onnx_networks

            return cls(card, load_onnx_networks(model, card, target, or_cpu=device == "auto"), target, backend)
        wide_dtype = PRECISIONS[precision]
        folded = {name: fold_batch_norm(network, wide_dtype).to(target) for name, network in networks.items()}
        return cls(card, folded, target, backend, precision)

    @torch.inference_mode()
    def complete(
        self,
        points: np.ndarray | Tensor,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        replication: int | None = None,
        voxel_size_m: float | None = None,
        min_range_m: float | None = None,
        max_range_m: float | None = None,
        refine: bool = True,
        intensity: np.ndarray | Tensor | None = None,
        trust: TrustRules | None = None,
        max_points: int | None = None,
        prior: np.ndarray | Tensor | None = None,
        seed: int = 0,
    ) -> Completion:
        """Complete one sweep (N, 3) float32, metres, sensor frame; None means the model card's value.

        intensity (N,) of the sweep gives one to completed points; trust: which of them are taken out again (None: TrustRules());
        max_points: at most so many points in all, the measured ones first, the rest thinned evenly; prior (P, 3): what the sweep before
        left, in this sweep's frame (temporal.prior_of), which stands for the first of steps + 1 steps. The same seed on the same device
        gives the same scene. Raises SweepError where nothing can be completed.
        """
        settings = self.card.pipeline
        steps = settings.steps if steps is None else steps
        guidance = settings.guidance if guidance is None else guidance
        copies = settings.replication if replication is None else replication
        voxel_size_m = settings.downsample_voxel_m if voxel_size_m is None else voxel_size_m
        min_range_m = settings.min_range_m if min_range_m is None else min_range_m
        max_range_m = settings.max_range_m if max_range_m is None else max_range_m
        clock = StageClock(self.device)
        generator = torch.Generator(self.device).manual_seed(seed)

        sweep = as_sweep(points).to(self.device)
        measured_rows = sweeps.finite_rows(sweep)
        measured = sweep[measured_rows]
        near_rows = measured_rows[sweeps.range_rows(measured, min_range_m, max_range_m)]
        near = sweep[near_rows]
        if not len(near):
            raise SweepError(
                f"none of {len(sweep)} points ({len(measured)} finite) lies between {min_range_m} and {max_range_m} m from the sensor"
            )
        scan_rows = near_rows[thinned_rows(near, settings, voxel_size_m)]
        scan = sweep[scan_rows]
        clock.stop("preprocess")

        anchors, source = anchor(scan, copies, prior, min_range_m, max_range_m)
        timesteps = self.timesteps(steps, known=bool(source[-1] < 0))
        scale = settings.noise_scale(anchors)
        start = add_noise(anchors, scale * noise_like(anchors, generator), start_level(self.card, timesteps[0]))
        denoise = self.denoiser(scan, guidance)
        completed = self.sample(denoise, anchors, start, timesteps, generator, scale)
        clock.stop("denoise")

        inside = sweeps.post_crop(completed, near, max_range_m).nonzero().squeeze(1)
        removed = {"outside": len(completed) - len(inside)}
        completed, source = completed.index_select(0, inside), source.index_select(0, inside)
        logit = None if denoise.logit is None else denoise.logit.index_select(0, inside)
        if refine and "refiner" in self.networks:
            completed, logit = self.refine(completed, scan)
            source = source.repeat_interleave(Refiner.OFFSETS)
        confidence = point_confidence(logit, completed, scan, self.card)
        # what is nearer is the vehicle itself, or (0, 0, 0) where nothing came back
        rays = measured[measured.norm(dim=1) > min_range_m]
        kept, refuted = untrusted(completed, scan, confidence, rays, trust or TrustRules())
        removed |= refuted
        kept, measured_rows, removed["max_points"] = capped(kept, measured_rows, max_points)
        completed, confidence, source = (each.index_select(0, kept) for each in (completed, confidence, source))
        light = intensities(intensity, sweep, measured_rows, scan_rows, completed, source)
        cloud, provenance, certainty, rows = label(sweep[measured_rows], measured_rows, completed, confidence)
        clock.stop("postprocess")
        return Completion(cloud, provenance, certainty, rows, clock.timings(), steps, light, removed)

    def denoiser(self, scan: Tensor, guidance: float = 1.0) -> "ScanDenoiser":
        """The noise of points around a scan (N, 3)."""
        return ScanDenoiser(self.networks, self.card.architecture, scan, guidance)

    def refine(self, points: Tensor, scan: Tensor) -> tuple[Tensor, Tensor | None]:
        """The refined cloud (6N, 3) of completed points (N, 3): every point plus its six offsets; and the logit (6N,) of each
        where the architecture judges points."""
        return refined(points, self.networks["refiner"](self.card.architecture.cloud(points, scan)))

    def timesteps(self, steps: int, known: bool = False) -> list[int]:
        """The timesteps of `steps` steps; `known`: something stands for the first of steps + 1, so that they start lower."""
        settings = self.card.pipeline
        if known and settings.sampler == "dpm_solver":
            raise ValueError(
                "prior: the sampler dpm_solver cannot start from it; leave it out, or take a model with another sampler"
            )
        return sampling_timesteps(settings.sampler, steps + known, self.card.schedule, settings.start_timestep)[known:]

    def sample(
        self,
        denoise: Denoise,
        anchors: Tensor,
        start: Tensor,
        timesteps: list[int],
        generator: torch.Generator,
        scale: Tensor | float = 1.0,
    ) -> Tensor:
        """The clean points (N, 3) that the card's sampler reaches from `start`, which lies around `anchors` (N, 3)."""
        settings, schedule = self.card.pipeline, self.card.schedule
        if settings.sampler == "dpm_solver":
            return dpm_solver(denoise, anchors, start, timesteps, schedule, generator)
        return SAMPLERS[settings.sampler](denoise, anchors, start, timesteps, schedule, generator, scale)


class ScanDenoiser:
    """eps(points, t) of one scan (S, 3): the condition is encoded once, here, and both branches share every kernel map.

    A guidance weight of 1 costs one forward a step, any other two. logit (N,): what the network thinks of each point of the last
    call, where its architecture judges points (point_confidence), else None.
    """

    def __init__(
        self, networks: Mapping[str, Any], architecture: Architecture, scan: Tensor, guidance: float = 1.0
    ) -> None:
        self.network, self.architecture, self.scan, self.guidance = networks["denoiser"], architecture, scan, guidance
        self.condition: Condition = networks["encoder"](architecture.cloud(scan, scan))
        self.nothing: Condition | None = None
        self.logit: Tensor | None = None
        if guidance != 1.0:
            origin = torch.zeros_like(scan[:1])
            self.nothing = networks["encoder"](architecture.cloud(origin, origin))

    def __call__(self, points: Tensor, t: int) -> Tensor:
        cloud = self.architecture.cloud(points, self.scan)
        timestep = torch.tensor([t], device=points.device)
        out = self.network(cloud, self.condition, timestep)
        if self.architecture.point_confidence:
            self.logit = out[:, 3]
        noise: Tensor = out[:, :3]
        if self.nothing is None:
            return noise
        return guide(noise, self.network(cloud, self.nothing, timestep)[:, :3], self.guidance)


def refined(points: Tensor, answers: Tensor) -> tuple[Tensor, Tensor | None]:
    """Points (N, 3) plus a refiner's offsets, (6N, 3), and their logits (6N,), of its answers (N, 6, 3 or 4); None of three."""
    logit = answers[..., 3].flatten() if answers.shape[2] > 3 else None
    return (points[:, None] + answers[..., :3]).flatten(0, 1), logit


def point_confidence(logit: Tensor | None, completed: Tensor, scan: Tensor, card: ModelCard) -> Tensor:
    """Probability (N,) of lying within 0.2 m of a surface: what the network says itself, else the card's table."""
    if logit is not None:
        return torch.sigmoid(logit)
    to_scan, _ = nearest_points(completed, scan, REACH_M)
    return calibrated_confidence(completed, to_scan, card.confidence)


def start_level(card: ModelCard, timestep: int | None = None) -> float:
    """Standard deviation in metres of the noise that a sample starts with, lambda sqrt(1 - abar_t) (Eq. 19); t is the card's if None."""
    settings = card.pipeline
    timestep = settings.start_timestep if timestep is None else timestep
    level = 1.0 if settings.published_start else float(card.schedule.sigma[timestep])
    return settings.start_noise * level


def anchor(
    scan: Tensor, copies: int, prior: np.ndarray | Tensor | None, min_range_m: float, max_range_m: float
) -> tuple[Tensor, Tensor]:
    """What noise is added to, about `copies` times the scan (S, 3), and which row of it each is, -1 for points of the prior.

    Without a prior (P, 3) the replicated scan p*; with one, half of that and then as many points of the prior within range.
    """
    rows = torch.arange(len(scan), device=scan.device)
    if prior is not None:
        prior = sweeps.crop_range(sweeps.remove_invalid(as_sweep(prior).to(scan.device)), min_range_m, max_range_m)
    if prior is None or not len(prior):
        return sweeps.replicate(scan, copies), rows.repeat(copies)
    half = max(1, copies // 2)
    prior = prior[evenly(len(prior), max(1, copies - half) * len(scan), scan.device)]
    source = torch.cat([rows.repeat(half), torch.full_like(prior[:, 0], -1, dtype=torch.int64)])
    return torch.cat([sweeps.replicate(scan, half), prior]), source


def downsample(points: Tensor, settings: Pipeline, voxel_size_m: float) -> Tensor:
    """Thin a cropped sweep as the model expects it."""
    return points[thinned_rows(points, settings, voxel_size_m)]


def thinned_rows(points: Tensor, settings: Pipeline, voxel_size_m: float) -> Tensor:
    """Rows (S,) int64 of what downsample keeps."""
    if settings.downsampling == "farthest":
        return sweeps.farthest_point_rows(points, settings.farthest_points)
    return sweeps.voxel_rows(points, voxel_size_m)


def capped(completed: Tensor, measured: Tensor, max_points: int | None) -> tuple[Tensor, Tensor, int]:
    """Rows of completed and of measured points thinned evenly to max_points in all, measured points first; and how many went."""
    if max_points is None:
        return completed, measured, 0
    count = len(completed) + len(measured)
    measured = measured[evenly(len(measured), max_points, measured.device)]
    completed = completed[evenly(len(completed), max_points - len(measured), completed.device)]
    return completed, measured, count - len(completed) - len(measured)


FAR_M = 5.0  # a completed point of a prior farther than this from every measured one has the intensity 0


def intensities(
    given: np.ndarray | Tensor | None,
    sweep: Tensor,
    measured_rows: Tensor,
    scan_rows: Tensor,
    completed: Tensor,
    source: Tensor,
) -> np.ndarray | None:
    """Intensity (n + C,) float32: of the measured points as given, of completed ones (C, 3) that of the point they come from.

    given (N,), one a point of the sweep (N, 3); measured_rows (n,) and scan_rows (S,) in it; source (C,) rows of the thinned scan, -1 for
    points that come from a prior: these get that of the nearest point of the scan. None where none is given.
    """
    if given is None:
        return None
    given = torch.as_tensor(given).to(sweep.device, torch.float32)
    if given.shape != sweep.shape[:1]:
        raise SweepError(
            f"intensity has shape {tuple(given.shape)}, expected one value for each of {len(sweep)} points"
        )
    from_prior = (source < 0).nonzero().squeeze(1)
    of_scan, source = given[scan_rows], source.clone()
    source[from_prior] = nearest_points(completed[from_prior], sweep[scan_rows], FAR_M)[1]
    of_completed = torch.where(source < 0, 0.0, of_scan[source])
    return torch.cat([given[measured_rows], of_completed]).cpu().numpy()


Labelled = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def label(measured: Tensor, rows: Tensor, completed: Tensor, confidence: Tensor) -> Labelled:
    """Points, provenance, confidence and measured rows of a completion, as numpy arrays."""
    counts = (len(measured), len(completed))
    provenance = np.repeat(np.array([MEASURED, COMPLETED], dtype=np.uint8), counts)
    trust = torch.cat([torch.ones_like(measured[:, 0]), confidence])
    return torch.cat([measured, completed]).cpu().numpy(), provenance, trust.cpu().numpy(), rows.cpu().numpy()


def as_sweep(points: np.ndarray | Tensor) -> Tensor:
    """A float32 tensor (N, 3) of the input, without a copy where it already is one; SweepError for other shapes."""
    if isinstance(points, np.ndarray) and not points.flags.writeable:
        points = points.copy()  # PyTorch cannot promise not to write to it, and warns
    tensor = torch.as_tensor(points)
    if tensor.dim() != 2 or tensor.shape[1] != 3:
        raise SweepError(f"a sweep is an array (N, 3), this one has shape {tuple(tensor.shape)}")
    return tensor.to(torch.float32)


def choose_device(device: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda" or "cuda:N"; ValueError where it cannot be used, with the reason."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: PyTorch finds no CUDA device here; use 'cpu' or 'auto'")
    return chosen


class StageClock:
    """Seconds of each stage, waiting for the GPU where there is one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def stop(self, stage: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._stages[stage] = now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        return {**self._stages, "total": self._last - self._first}
