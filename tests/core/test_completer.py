from pathlib import Path

import numpy as np
import pytest
import torch

from lidar_completion.completer import Completion, SceneCompleter, intensities
from lidar_completion.errors import ModelError, SweepError
from lidar_completion.model.checkpoints import ModelCard, Pipeline, build_networks, save_model
from lidar_completion.networks import Architecture
from lidar_completion.scan import voxel_downsample
from lidar_completion.visibility import COMPLETED, TrustRules, calibrated_confidence


def sweep(n: int = 400, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    angle, distance = random.uniform(0, 2 * np.pi, n), random.uniform(4, 30, n)
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle), random.uniform(-1.8, 2, n)]).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def completer(tiny_model: Path) -> SceneCompleter:
    return SceneCompleter.load(tiny_model, device="cpu")


def same(a: Completion, b: Completion) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("points", "provenance", "confidence"))


def test_measured_points_come_first_bit_for_bit(completer: SceneCompleter):
    points = sweep()
    points[[3, 50]] = np.nan
    points[7] = [100, 0, 0]  # out of range: not completed from, but still measured
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
def test_no_state_between_scans(tiny_model: Path, guidance: float, steps: int):
    both = SceneCompleter.load(tiny_model, device="cpu")
    for points in (sweep(seed=1), sweep(seed=2), sweep(seed=1)):
        fresh = SceneCompleter.load(tiny_model, device="cpu")
        options = {"guidance": guidance, "steps": steps, "seed": 5}
        assert same(both.complete(points, **options), fresh.complete(points, **options))


def test_two_threads_give_what_one_gives(completer: SceneCompleter):
    """The whole of it, on enough points that every loop is shared: in `make test` all else runs on one thread."""
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


def test_seed_decides_and_nothing_else(completer: SceneCompleter):
    first = completer.complete(sweep(), seed=1)
    torch.randn(100)  # the global generator is not ours
    assert same(first, completer.complete(sweep(), seed=1))
    assert not same(first, completer.complete(sweep(), seed=2))


def test_numpy_and_torch_in_any_float_type(completer: SceneCompleter):
    points = sweep()
    result = completer.complete(points)
    for form in (torch.from_numpy(points), points.astype(np.float64), np.asfortranarray(points), points[::1]):
        assert same(result, completer.complete(form))


def test_an_array_that_cannot_be_written(completer: SceneCompleter):
    points = sweep()
    points.flags.writeable = False
    before = points.copy()
    completer.complete(points)
    np.testing.assert_array_equal(points, before)


def test_overrides(completer: SceneCompleter):
    few = completer.complete(sweep(), replication=1, steps=3)
    many = completer.complete(sweep(), replication=8)
    assert few.steps == 3
    assert len(many.completed_points) > 4 * len(few.completed_points)
    near = completer.complete(sweep(), max_range_m=10.0)
    assert np.linalg.norm(near.completed_points, axis=1).max() < 10


def test_guidance_of_one_costs_one_forward_a_step(completer: SceneCompleter):
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
def test_guided_noise_is_the_two_branches_mixed(completer: SceneCompleter):
    points = torch.from_numpy(sweep())
    free, strong, plain = (completer.denoiser(points, w)(points + 0.3, 400) for w in (0.0, 3.5, 1.0))
    torch.testing.assert_close(strong, free + 3.5 * (plain - free), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3), np.float32), "none of 0 points"),
        (np.full((5, 3), np.nan, np.float32), "none of 5 points \\(0 finite\\)"),
        (np.full((5, 3), 0.1, np.float32), "none of 5 points \\(5 finite\\) lies between 3.5 and 50"),
        (np.zeros((5, 4), np.float32), "shape \\(5, 4\\)"),
        (np.zeros(3, np.float32), "shape \\(3,\\)"),
    ],
)
def test_sweeps_with_nothing_to_complete(completer: SceneCompleter, points: np.ndarray, message: str):
    with pytest.raises(SweepError, match=message):
        completer.complete(points)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_hardly_any_points(completer: SceneCompleter, n: int):
    result = completer.complete(sweep(n))
    assert len(result.measured_rows) == n
    assert np.isfinite(result.points).all()


def test_refiner_gives_six_points_for_one(tmp_path: Path):
    card = ModelCard(
        name="refined",
        architecture=Architecture(width=0.125, voxel_size_m=0.5),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
        networks=("encoder", "denoiser", "refiner"),
    )
    save_model(tmp_path, card, build_networks(card))
    completer = SceneCompleter.load(tmp_path, device="cpu")
    everything = TrustRules(free_space=None, below_ground_m=None)
    assert len(completer.complete(sweep(), trust=everything).completed_points) == 6 * len(
        completer.complete(sweep(), trust=everything, refine=False).completed_points
    )


def test_refined_points_have_the_refiners_own_confidence(tmp_path: Path):
    card = ModelCard(
        name="judging",
        architecture=Architecture(width=0.125, voxel_size_m=0.5, point_confidence=True),
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


def test_bfloat16_completes_the_same_scene_within_its_rounding(tmp_path: Path):
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
        eps = [completer.denoiser(points)(points + 0.3, 400) for completer in (exact, rounded)]
    assert not torch.equal(*eps)
    assert float((eps[0] - eps[1]).abs().mean() / eps[0].std()) < 0.02


def test_unusable_choices(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="backend"):
        SceneCompleter.load(tiny_model, backend="tensorrt")
    with pytest.raises(ValueError, match="precision is 'float32' or 'bfloat16', not 'float8'"):
        SceneCompleter.load(tiny_model, precision="float8")
    with pytest.raises(ValueError, match="'bfloat16' needs the backend 'torch'"):
        SceneCompleter.load(tiny_model, backend="onnx", precision="bfloat16")
    with pytest.raises(ValueError, match="not one of auto, cpu, cuda"):
        SceneCompleter.load(tiny_model, device="gpu")
    with pytest.raises(ModelError, match="no such file"):
        SceneCompleter.load(tmp_path / "nowhere")
    card = ModelCard(name="half", architecture=Architecture(width=0.125), networks=("encoder",))
    save_model(tmp_path, card, build_networks(card))
    with pytest.raises(ModelError, match="no denoiser; completing needs both"):
        SceneCompleter.load(tmp_path)


def test_confidence_is_interpolated_and_held_beyond_the_rings():
    table = {"range_m": [10.0, 20.0, 40.0], "probability": [0.9, 0.7, 0.1]}
    points = torch.tensor([[5.0, 0, 0], [15, 0, 0], [0, 30, 0], [0, 0, 80]])
    to_scan = torch.zeros(4)
    torch.testing.assert_close(calibrated_confidence(points, to_scan, table), torch.tensor([0.9, 0.8, 0.4, 0.1]))
    assert calibrated_confidence(points, to_scan, {}).tolist() == [0.5] * 4


def test_measured_points_keep_their_intensity_and_completed_ones_get_one_of_the_scan(completer: SceneCompleter):
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


def test_intensity_of_the_point_it_comes_from_or_of_the_nearest():
    cloud = torch.tensor([[9.0, 9, 9], [0, 0, 0], [5, 0, 0], [7, 0, 0]])
    given = np.array([1.0, 2, 3, 4])
    completed, source = torch.tensor([[5.1, 0, 0], [5.1, 0, 0], [0, 90, 0]]), torch.tensor([0, -1, -1])
    found = intensities(given, cloud, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), completed, source)
    assert found is not None
    assert found.tolist() == [1, 2, 3, 2, 3, 0]


@pytest.mark.parametrize("most", [50, 410, 500])
def test_at_most_so_many_points_the_measured_first(completer: SceneCompleter, most: int):
    everything = completer.complete(sweep())
    result = completer.complete(sweep(), max_points=most)
    assert len(result.points) == most
    assert len(result.measured_rows) == min(most, 400)
    assert result.removed["max_points"] == len(everything.points) - most
    np.testing.assert_array_equal(result.points[: len(result.measured_rows)], sweep()[result.measured_rows])


def test_a_perfectly_flat_ground_is_not_completed_and_says_so(completer: SceneCompleter):
    flat = sweep() * np.array([1, 1, 0], np.float32)
    result = completer.complete(flat)  # post_crop keeps heights between mean - 2 std and max: none here
    assert len(result.completed_points) == 0
    assert result.removed["outside"] > 0


def test_what_is_not_trusted_goes(completer: SceneCompleter):
    everything = completer.complete(sweep(), trust=TrustRules(free_space=None, below_ground_m=None))
    assert sum(everything.removed.values()) == everything.removed["outside"]
    box = TrustRules(free_space=None, below_ground_m=None, ego_box_m=(-8, -8, -8, 8, 8, 8))
    result = completer.complete(sweep(), trust=box)
    assert result.removed["ego_box"] == len(everything.points) - len(result.points) > 0
    assert result.removed["outside"] == everything.removed["outside"]
    assert len(result.measured_rows) == 400
    doubted = completer.complete(sweep(), trust=TrustRules(min_confidence=0.6))  # an uncalibrated model says 0.5
    assert len(doubted.completed_points) == 0
