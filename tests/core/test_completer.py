"""SceneCompleter: the whole pipeline on a small model with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_channels import TINY_CHANNELS

from lidar_completion.completer import Completion, SceneCompleter, source_intensity
from lidar_completion.denoiser import ScanDenoiser
from lidar_completion.downsample import voxel_downsample
from lidar_completion.errors import ModelError, SweepError
from lidar_completion.measured import MeasuredPoints
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion.networks import Architecture
from lidar_completion.visibility import COMPLETED, TrustRules
from lidar_completion.visibility.confidence import calibrated_confidence


def sweep(n: int = 400, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    angle, distance = random.uniform(0, 2 * np.pi, n), random.uniform(4, 30, n)
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle), random.uniform(-1.8, 2, n)]).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def completer(tiny_model: Path) -> SceneCompleter:
    return SceneCompleter.load(tiny_model, device="cpu")


def denoiser_of(completer: SceneCompleter, scan: torch.Tensor, guidance: float = 1.0) -> ScanDenoiser:
    return ScanDenoiser(completer.networks, completer.card.architecture, scan, guidance)


def same(a: Completion, b: Completion) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("points", "provenance", "confidence"))


def test_measured_points_come_first_and_are_unchanged(completer: SceneCompleter):
    points = sweep()
    points[[3, 50]] = np.nan
    points[7] = [100, 0, 0]  # out of range: no start point, but still a measured point
    points[8] = [-0.0, 1e-30, 0.5]
    result = completer.complete(points)
    kept = np.isfinite(points).all(axis=1).nonzero()[0]
    np.testing.assert_array_equal(result.measured_rows, kept)
    assert result.points[: len(kept)].tobytes() == points[kept].tobytes()
    assert (result.provenance[: len(kept)] == 0).all()
    assert (result.provenance[len(kept) :] == 1).all()
    assert (result.confidence[: len(kept)] == 1).all()


def test_types_ranges_and_timings(completer: SceneCompleter):
    result = completer.complete(sweep())
    assert (result.points.dtype, result.provenance.dtype, result.confidence.dtype) == (np.float32, np.uint8, np.float32)
    assert result.measured_rows.dtype == np.int64
    assert len(result.points) == len(result.provenance) == len(result.confidence)
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
    assert np.isfinite(result.points).all()
    assert set(result.timings) == {"preprocess", "denoise", "postprocess", "total"}
    stages = sum(seconds for stage, seconds in result.timings.items() if stage != "total")
    assert result.timings["total"] == pytest.approx(stages)
    np.testing.assert_array_equal(result.completed_points, result.points[result.provenance == 1])


@pytest.mark.parametrize(("guidance", "steps"), [(1.0, 1), (3.5, 2)])
def test_keeps_no_state_between_sweeps(tiny_model: Path, guidance: float, steps: int):
    both = SceneCompleter.load(tiny_model, device="cpu")
    for points in (sweep(seed=1), sweep(seed=2), sweep(seed=1)):
        fresh = SceneCompleter.load(tiny_model, device="cpu")
        options = {"guidance": guidance, "steps": steps, "seed": 5}
        assert same(both.complete(points, **options), fresh.complete(points, **options))


def test_result_does_not_depend_on_the_number_of_threads(completer: SceneCompleter):
    """On enough points that every loop is shared between threads; `make test` runs everything else on one thread."""
    points, before, results = sweep(9_000), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(completer.complete(points, trust=TrustRules()))
    finally:
        torch.set_num_threads(before)
    one, two = results
    assert np.array_equal(one.provenance, two.provenance)
    np.testing.assert_allclose(two.points, one.points, atol=1e-4)
    np.testing.assert_allclose(two.confidence, one.confidence, atol=1e-4)


def test_result_depends_on_the_seed_alone(completer: SceneCompleter):
    first = completer.complete(sweep(), seed=1)
    torch.randn(100)  # the global generator has no influence
    assert same(first, completer.complete(sweep(), seed=1))
    assert not same(first, completer.complete(sweep(), seed=2))


def test_accepts_numpy_and_torch_of_any_float_type(completer: SceneCompleter):
    points = sweep()
    result = completer.complete(points)
    for form in (torch.from_numpy(points), points.astype(np.float64), np.asfortranarray(points), points[::1]):
        assert same(result, completer.complete(form))


def test_accepts_a_read_only_array(completer: SceneCompleter):
    points = sweep()
    points.flags.writeable = False
    before = points.copy()
    completer.complete(points)
    np.testing.assert_array_equal(points, before)


def test_options_override_the_card(completer: SceneCompleter):
    few = completer.complete(sweep(), replication=1, steps=3)
    many = completer.complete(sweep(), replication=8)
    assert few.steps == 3
    assert len(many.completed_points) > 4 * len(few.completed_points)
    near = completer.complete(sweep(), max_range_m=10.0)
    assert np.linalg.norm(near.completed_points, axis=1).max() < 10
    defaults = completer.complete(sweep(), steps=None, replication=None, voxel_size_m=None, trust=None, max_points=None)
    assert same(defaults, completer.complete(sweep()))
    with pytest.raises(TypeError, match="colour"):
        completer.complete(sweep(), colour=1)
    with pytest.raises(ModelError, match=r"pipeline.steps is 0; expected"):
        completer.complete(sweep(), steps=0)


def test_guidance_weight_of_one_costs_one_forward_per_step(completer: SceneCompleter):
    calls: list[int] = []
    hook = completer.networks["denoiser"].register_forward_hook(lambda *_: calls.append(1))
    try:
        completer.complete(sweep(), guidance=1.0, steps=2)
        assert len(calls) == 2
        completer.complete(sweep(), guidance=3.5, steps=2)
        assert len(calls) == 6
    finally:
        hook.remove()


@torch.inference_mode()
def test_guided_noise_mixes_both_branches(completer: SceneCompleter):
    points = torch.from_numpy(sweep())
    free, strong, plain = (denoiser_of(completer, points, w)(points + 0.3, 400).noise for w in (0.0, 3.5, 1.0))
    torch.testing.assert_close(strong, free + 3.5 * (plain - free), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3), np.float32), "none of 0 points"),
        (np.full((5, 3), np.nan, np.float32), "none of 5 points is finite"),
        (np.full((5, 3), 0.1, np.float32), "none of the sweep's 5 finite points lies between 3.5 and 50"),
        (np.zeros((5, 4), np.float32), "shape \\(5, 4\\)"),
        (np.zeros(3, np.float32), "shape \\(3,\\)"),
    ],
)
def test_rejects_sweeps_without_usable_points(completer: SceneCompleter, points: np.ndarray, message: str):
    with pytest.raises(SweepError, match=message):
        completer.complete(points)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_completes_sweeps_of_a_few_points(completer: SceneCompleter, n: int):
    result = completer.complete(sweep(n))
    assert len(result.measured_rows) == n
    assert np.isfinite(result.points).all()


def test_refiner_gives_six_points_per_point(tmp_path: Path):
    card = ModelCard(
        name="refined",
        architecture=Architecture(own_channels=TINY_CHANNELS, voxel_size_m=0.5),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
        networks=("encoder", "denoiser", "refiner"),
    )
    save_model(tmp_path, card, build_networks(card))
    completer = SceneCompleter.load(tmp_path, device="cpu")
    everything = TrustRules(free_space=None, below_ground_m=None)
    assert len(completer.complete(sweep(), trust=everything).completed_points) == 6 * len(
        completer.complete(sweep(), trust=everything, refine=False).completed_points
    )


def test_refined_points_have_the_confidence_of_the_refiner(tmp_path: Path):
    card = ModelCard(
        name="scoring",
        architecture=Architecture(own_channels=TINY_CHANNELS, voxel_size_m=0.5, point_confidence=True),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
        networks=("encoder", "denoiser", "refiner"),
    )
    networks = build_networks(card)
    with torch.no_grad():
        networks["refiner"].last[2].weight.zero_()
        networks["refiner"].last[2].bias.copy_(torch.tensor([0.1, 0.0, 0.0, -3.0]).repeat(6))
    save_model(tmp_path, card, networks)
    completer = SceneCompleter.load(tmp_path, device="cpu")
    everything = TrustRules(free_space=None, below_ground_m=None)
    rough, refined = (completer.complete(sweep(), trust=everything, refine=refine) for refine in (False, True))
    assert np.allclose(refined.confidence[refined.provenance == COMPLETED], 1 / (1 + np.exp(3.0)))
    assert not np.allclose(rough.confidence[rough.provenance == COMPLETED], 1 / (1 + np.exp(3.0)))
    moved = refined.completed_points.reshape(-1, 6, 3) - rough.completed_points[:, None]
    assert np.allclose(moved, [np.tanh(0.1), 0, 0], atol=1e-5)


def test_bfloat16_agrees_with_float32_within_its_precision(tmp_path: Path):
    torch.manual_seed(0)
    card = ModelCard(
        name="wide",
        architecture=Architecture(own_channels=(8, 8, 16, 64, 128, 128, 64, 16, 8), voxel_size_m=0.5),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
    )
    save_model(tmp_path, card, build_networks(card))
    exact, rounded = (SceneCompleter.load(tmp_path, device="cpu", precision=p) for p in ("float32", "bfloat16"))
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    points = torch.from_numpy(sweep())
    with torch.inference_mode():
        eps = [denoiser_of(completer, points)(points + 0.3, 400).noise for completer in (exact, rounded)]
    assert not torch.equal(*eps)
    assert float((eps[0] - eps[1]).abs().mean() / eps[0].std()) < 0.02


def test_rejects_unusable_load_options(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="backend"):
        SceneCompleter.load(tiny_model, backend="tensorrt")
    with pytest.raises(ValueError, match="precision is 'float8'; expected 'float32' or 'bfloat16'"):
        SceneCompleter.load(tiny_model, precision="float8")
    with pytest.raises(ValueError, match="'bfloat16' needs the backend 'torch'"):
        SceneCompleter.load(tiny_model, backend="onnx", precision="bfloat16")
    with pytest.raises(ValueError, match="not one of auto, cpu, cuda"):
        SceneCompleter.load(tiny_model, device="gpu")
    with pytest.raises(ModelError, match="no such file"):
        SceneCompleter.load(tmp_path / "nowhere")
    card = ModelCard(name="half", architecture=Architecture(width=0.125), networks=("encoder",))
    save_model(tmp_path, card, build_networks(card))
    with pytest.raises(ModelError, match="no denoiser; completion needs encoder and denoiser"):
        SceneCompleter.load(tmp_path)


def test_confidence_by_range_is_interpolated():
    table = {"range_m": [10.0, 20.0, 40.0], "probability": [0.9, 0.7, 0.1]}
    points = torch.tensor([[5.0, 0, 0], [15, 0, 0], [0, 30, 0], [0, 0, 80]])
    to_scan = torch.zeros(4)
    torch.testing.assert_close(calibrated_confidence(points, to_scan, table), torch.tensor([0.9, 0.8, 0.4, 0.1]))
    assert calibrated_confidence(points, to_scan, {}).tolist() == [0.5] * 4


def test_measured_points_keep_their_intensity_and_completed_points_get_one(completer: SceneCompleter):
    points, intensity = sweep(), np.arange(400, dtype=np.float32)
    points[5] = np.nan
    result = completer.complete(points, intensity=intensity)
    measured = len(result.measured_rows)
    assert result.intensity is not None
    assert result.intensity[:measured].tobytes() == intensity[result.measured_rows].tobytes()
    assert len(result.intensity) == len(result.points)
    scan = voxel_downsample(torch.from_numpy(points[result.measured_rows]), 0.5).numpy()
    known = {intensity[(points == point).all(axis=1)][0] for point in scan}
    assert set(result.intensity[measured:]) <= known
    assert completer.complete(points).intensity is None
    with pytest.raises(SweepError, match=r"intensity has shape \(3,\)"):
        completer.complete(points, intensity=intensity[:3])


def test_completed_points_have_the_intensity_of_their_source_or_of_the_nearest_point():
    points = torch.tensor([[0.0, 0, 0], [5, 0, 0], [7, 0, 0]])
    scan = MeasuredPoints(points, torch.arange(3), torch.tensor([2.0, 3, 4]))
    completed = torch.tensor([[5.1, 0, 0], [5.1, 0, 0], [0, 90, 0]])
    assert source_intensity(completed, torch.tensor([0, -1, -1]), scan).tolist() == [2, 3, 0]


@pytest.mark.parametrize("limit", [50, 410, 500])
def test_limits_the_number_of_points(completer: SceneCompleter, limit: int):
    everything = completer.complete(sweep())
    result = completer.complete(sweep(), max_points=limit)
    assert len(result.points) == limit
    assert len(result.measured_rows) == min(limit, 400)
    assert result.removed["max_points"] == len(everything.points) - limit
    np.testing.assert_array_equal(result.points[: len(result.measured_rows)], sweep()[result.measured_rows])


def test_points_outside_the_scene_are_counted(completer: SceneCompleter):
    flat = sweep() * np.array([1, 1, 0], np.float32)
    result = completer.complete(flat)  # scene_rows keeps heights between mean - 2 std and max: none here
    assert len(result.completed_points) == 0
    assert result.removed["outside"] > 0


def test_removes_points_that_fail_the_trust_rules(completer: SceneCompleter):
    everything = completer.complete(sweep(), trust=TrustRules(free_space=None, below_ground_m=None))
    assert sum(everything.removed.values()) == everything.removed["outside"]
    box = TrustRules(free_space=None, below_ground_m=None, ego_box_m=(-8, -8, -8, 8, 8, 8))
    result = completer.complete(sweep(), trust=box)
    assert result.removed["ego_box"] == len(everything.points) - len(result.points) > 0
    assert result.removed["outside"] == everything.removed["outside"]
    assert len(result.measured_rows) == 400
    doubted = completer.complete(sweep(), trust=TrustRules(min_confidence=0.6))  # a model without a table reports 0.5
    assert len(doubted.completed_points) == 0
