"""The union network: shapes, compiled head, completion, model card and ONNX export."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lidar_completion.completer import SceneCompleter
from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, Pipeline, load_card
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion.networks import Architecture, UnionDenoiser, UnionRefiner, fold_batch_norm
from lidar_completion.sparse.heads import (
    point_estimates,
    point_estimates_plain,
    point_outputs,
    point_outputs_plain,
)
from lidar_completion.visibility import ClearSpace, TrustRules

UNION = Architecture(
    voxel_size_m=0.5,
    own_channels=(8, 8, 16, 8, 8),
    head_width=8,
    local_features=True,
    point_confidence=True,
    conditioning="union",
    ray_features=True,
    offsets_per_point=3,
    blocks=(1, 2, 1, 1),
    stem_layers=1,
    skips="added",
)
PIPELINE = Pipeline(downsample_voxel_m=0.5, replication=2, noise_per_metre=0.015, noise_min=0.05, hole_starts=1)


def sweep(n: int = 3000, seed: int = 0) -> torch.Tensor:
    """A ring-shaped flat street with walls."""
    random = np.random.default_rng(seed)
    angle, distance = random.uniform(0, 2 * np.pi, n), random.uniform(4, 30, n)
    height = np.where(random.random(n) < 0.8, -1.7, random.uniform(-1.7, 3, n))
    points = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), height])
    return torch.from_numpy(points.astype(np.float32))


def card(networks: tuple[str, ...] = ("denoiser",), **changes) -> ModelCard:
    architecture = dataclasses.replace(UNION, **changes)
    return ModelCard("union", architecture=architecture, pipeline=PIPELINE, networks=networks)


def ray_features(scan: torch.Tensor):
    return ClearSpace.from_returns(scan).ray_features


def saved(folder, **changes):
    torch.manual_seed(0)
    save_model(folder, card(**changes), build_networks(card(**changes)))
    return folder


@pytest.mark.parametrize("width", [8, 20, 32])
@pytest.mark.parametrize(("estimates", "outputs"), [(3, 12), (2, 6), (1, 4), (4, 16), (6, 24), (16, 64), (20, 80)])
def test_compiled_and_plain_head_agree(width: int, estimates: int, outputs: int):
    generator = torch.Generator().manual_seed(0)
    hidden, by_offset, last, bias = (
        torch.randn(*shape, generator=generator) for shape in ((50, width), (width, 3), (outputs, width), (outputs,))
    )
    row, offset = torch.randint(50, (20_003,), generator=generator), torch.rand(20_003, 3, generator=generator)
    arguments = (hidden, row, offset, by_offset, last, bias, estimates)
    compiled, plain = point_estimates(*arguments), point_estimates_plain(*arguments)
    shapes = ((20_003, estimates, 3), (20_003, outputs - 3 * estimates))
    for one, other, shape in zip(compiled, plain, shapes, strict=True):
        assert one.shape == shape
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    joined = point_outputs(*arguments[:-1])
    torch.testing.assert_close(joined, point_outputs_plain(*arguments[:-1]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_folded_batch_norm_gives_the_same_output_with_all_options():
    scan = sweep(800)
    points, rays = scan.repeat(2, 1) + 0.1, ray_features(scan)
    for changes in ({}, {"skips": "concatenated"}, {"blocks": ()}, {"stem_layers": 2}, {"ray_features": False}):
        architecture = dataclasses.replace(UNION, **changes)
        torch.manual_seed(0)
        network = UnionDenoiser(architecture).eval()
        cloud = architecture.cloud(points, scan, rays)
        offsets, logit = network(cloud, torch.tensor([999]))
        assert offsets.shape == (len(points), 3, 3)
        assert logit.shape == (len(points), 3)
        folded = fold_batch_norm(network)(cloud, torch.tensor([999]))
        torch.testing.assert_close(folded[0], offsets, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(folded[1], logit, atol=1e-4, rtol=1e-4)


def test_all_parameters_get_a_gradient():
    scan = sweep(800)
    network = UnionDenoiser(UNION).train()
    cloud = UNION.cloud(scan.repeat(2, 1), scan, ray_features(scan))
    offsets, logit = network(cloud, torch.tensor([500]))
    (offsets.square().sum() + logit.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_estimates_of_an_untrained_network_differ():
    torch.manual_seed(0)
    bias = UnionDenoiser(UNION).last.bias.detach()[:9].view(3, 3)
    assert float(torch.pdist(bias).min()) > 0.5  # voxels


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_start_point_gives_several_points_reproducibly(tmp_path, steps: int):
    completer = SceneCompleter.load(saved(tmp_path / "m"), device="cpu")
    points = sweep().numpy()
    first, second = (completer.complete(points, steps=steps, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    sampled = len(first.completed_points) + sum(first.removed.values())
    assert sampled % 3 == 0
    assert sampled > 3 * 2 * 100
    assert first.confidence.min() >= 0
    assert first.confidence.max() <= 1


def test_min_confidence_of_the_card_can_be_raised_by_trust_rules_and_overridden(tmp_path):
    torch.manual_seed(0)
    strict = dataclasses.replace(card(), pipeline=dataclasses.replace(PIPELINE, min_confidence=0.5))
    save_model(tmp_path / "m", strict, build_networks(strict))
    completer = SceneCompleter.load(tmp_path / "m", device="cpu")
    completed = completer.complete(sweep().numpy())
    assert completed.confidence.min() >= 0.5
    assert completed.removed["low_confidence"] > 0
    assert completer.complete(sweep().numpy(), trust=TrustRules()).confidence.min() >= 0.5
    stricter = completer.complete(sweep().numpy(), trust=TrustRules(min_confidence=0.6))
    assert stricter.removed["low_confidence"] > completed.removed["low_confidence"]
    assert completer.complete(sweep().numpy(), min_confidence=0.0).removed["low_confidence"] == 0


def test_intensity_of_points_from_holes_is_that_of_a_near_return_or_zero(tmp_path):
    completer = SceneCompleter.load(saved(tmp_path / "m"), device="cpu")
    points = sweep().numpy()
    completed = completer.complete(points, intensity=np.full(len(points), 7, np.float32))
    assert set(np.unique(completed.intensity)) <= {0.0, 7.0}  # 0: from a hole, farther than 5 m from any return


def test_ray_features_need_the_clear_space_of_the_sweep():
    with pytest.raises(ValueError, match="ray_features"):
        UNION.cloud(sweep(100), sweep(100))


def test_saves_and_loads_a_model_without_encoder_and_rejects_guidance(tmp_path):
    folder = saved(tmp_path / "m")
    assert load_card(folder).architecture == UNION
    assert load_card(folder).networks == ("denoiser",)
    with pytest.raises(ValueError, match="unconditional"):
        SceneCompleter.load(folder, device="cpu").complete(sweep().numpy(), guidance=2.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"conditioning": "gates"}, "conditioning"),
        ({"local_features": False}, "local_features"),
        ({"own_channels": (8, 8, 8, 8)}, "own_channels"),
        ({"blocks": (1, 1)}, "blocks"),
        ({"skips": "none"}, "skips"),
        ({"own_channels": (8, 8, 16, 16, 8)}, "symmetric"),
        ({"offsets_per_point": 0}, "offsets_per_point"),
        ({"conditioning": "encoder"}, "union"),
    ],
)
def test_rejects_invalid_architectures(changes, text):
    with pytest.raises(ModelError, match=text):
        dataclasses.replace(UNION, **changes)


def test_cards_without_the_entries_of_the_union_network_load_with_their_defaults(tmp_path):
    old = ModelCard("old", architecture=Architecture(width=0.125, voxel_size_m=0.5))
    save_model(tmp_path / "m", old, build_networks(old))
    values = json.loads((tmp_path / "m/model.json").read_text())
    for name in ("conditioning", "ray_features", "offsets_per_point", "blocks", "stem_layers", "skips"):
        del values["architecture"][name]
    for name in ("hole_starts", "hole_cell_m", "min_confidence"):
        del values["pipeline"][name]
    (tmp_path / "m/model.json").write_text(json.dumps(values))
    assert load_card(tmp_path / "m").architecture == old.architecture
    assert load_card(tmp_path / "m").pipeline == old.pipeline


def test_a_refiner_replaces_each_estimate_by_several_points(tmp_path):
    completer = SceneCompleter.load(saved(tmp_path / "m", networks=("denoiser", "refiner")), device="cpu")
    points, keep_all = sweep().numpy(), TrustRules(free_space=None, below_ground_m=None)
    coarse, refined = (completer.complete(points, seed=3, refine=refine, trust=keep_all) for refine in (False, True))
    assert refined.sampled == coarse.sampled
    assert len(refined.completed_points) > 2 * len(coarse.completed_points)
    assert (len(refined.completed_points) + sum(refined.removed.values())) > 2.5 * coarse.sampled
    distances = cdist(refined.completed_points[::50], coarse.completed_points).min(axis=1)
    assert np.median(distances) < 0.5  # an untrained refiner spreads points by INITIAL_SPREAD voxels of 0.5 m


@torch.no_grad()
def test_a_refiner_with_the_weights_of_a_denoiser_is_that_denoiser_at_its_timestep():
    torch.manual_seed(0)
    denoiser, refiner = UnionDenoiser(UNION).eval(), UnionRefiner(UNION).eval()
    refiner.load_state_dict(denoiser.state_dict())
    scan = sweep(800)
    cloud = UNION.cloud(scan.repeat(2, 1) + 0.1, scan, ray_features(scan))
    offsets, logit = denoiser(cloud, torch.tensor([UnionRefiner.TIMESTEP]))
    refined = refiner(cloud)
    torch.testing.assert_close(refined[0], offsets)
    torch.testing.assert_close(refined[1], logit)
    without = UnionRefiner(dataclasses.replace(UNION, point_confidence=False)).eval()
    assert [each.shape for each in without(cloud)] == [(1600, 3, 3), (1600, 0)]


@pytest.mark.parametrize(
    ("skips", "networks"),
    [("added", ("denoiser",)), ("concatenated", ("denoiser",)), ("added", ("denoiser", "refiner"))],
)
def test_onnx_and_torch_complete_the_same_scene(tmp_path, skips: str, networks: tuple[str, ...]):
    pytest.importorskip("onnxruntime")
    from lidar_completion.model.onnx_export import export_model

    folder = saved(tmp_path / "m", networks=networks, skips=skips)
    export_model(folder)
    points = sweep().numpy()
    one, other = (
        SceneCompleter.load(folder, device="cpu", backend=backend).complete(points, seed=1)
        for backend in ("torch", "onnx")
    )
    assert one.points.shape == other.points.shape
    np.testing.assert_allclose(one.points, other.points, atol=2e-3)
