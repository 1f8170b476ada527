import dataclasses
import math

import pytest
import torch

from lidar_completion.networks import (
    Architecture,
    ConditionEncoder,
    Denoiser,
    Refiner,
    VoxelisedCloud,
    fold_batch_norm,
    refined_points,
    timestep_embedding,
)
from lidar_completion.sparse.nearest import nearest_rows_plain

TINY = Architecture(width=0.125, voxel_size_m=0.5)


def cloud(n: int, seed: int = 0, extent_m: float = 8.0) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * 2 * extent_m


def networks(architecture: Architecture = TINY) -> tuple[ConditionEncoder, Denoiser]:
    torch.manual_seed(0)
    encoder, denoiser = ConditionEncoder(architecture), Denoiser(architecture)
    for network in (encoder, denoiser):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return encoder.eval(), denoiser.eval()


def denoise(encoder, denoiser, scan, points, t=300, batch=None):
    condition = encoder(VoxelisedCloud.from_points(scan, 0.5, None if batch is None else batch[0]))
    timestep = torch.tensor([t]) if batch is None else torch.tensor(t)
    return denoiser(VoxelisedCloud.from_points(points, 0.5, None if batch is None else batch[1]), condition, timestep)


@torch.no_grad()
def test_points_of_a_voxel_differ_only_with_point_offsets():
    points = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.1, 0.0], [3.0, 0, 0]])
    for sees, same in ((False, True), (True, False)):
        encoder, denoiser = networks(dataclasses.replace(TINY, point_offsets=sees))
        eps = denoise(encoder, denoiser, cloud(50), points)
        assert torch.equal(eps[0], eps[1]) == same


@torch.no_grad()
def test_result_does_not_depend_on_the_order_of_points():
    encoder, denoiser = networks()
    points, order = cloud(500, 1), torch.randperm(500)
    eps = denoise(encoder, denoiser, cloud(50), points)
    torch.testing.assert_close(denoise(encoder, denoiser, cloud(50), points[order]), eps[order], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 2, 3])
def test_networks_accept_very_few_points(n: int):
    encoder, denoiser = networks()
    assert denoise(encoder, denoiser, cloud(1), cloud(n)).shape == (n, 3)
    assert torch.isfinite(denoise(encoder, denoiser, cloud(n), cloud(1))).all()


@torch.no_grad()
def test_batch_equals_separate_scans():
    encoder, denoiser = networks()
    scans, points = [cloud(60, s) for s in (0, 1)], [cloud(400, s) for s in (2, 3)]
    items = [torch.arange(2).repeat_interleave(n) for n in (60, 400)]
    together = denoise(encoder, denoiser, torch.cat(scans), torch.cat(points), [100, 900], items)
    alone = [denoise(encoder, denoiser, s, p, t) for s, p, t in zip(scans, points, (100, 900), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_gates_on_condition_voxels_equal_gates_on_all_voxels():
    """The exact saving: computing a gate a condition voxel and gathering it equals computing it a voxel."""
    encoder, denoiser = networks()
    points = VoxelisedCloud.from_points(cloud(500, 1), 0.5)
    condition = encoder(VoxelisedCloud.from_points(cloud(60), 0.5))
    embedding = timestep_embedding(torch.tensor([77]), denoiser.embedding_channels)
    table = condition.nearest_tables(points.pyramid)[0]
    item = torch.zeros_like(table)
    gathered = denoiser.gate_table("stage1", condition, embedding, item[: len(condition.voxels)])[table]
    wide = dataclasses.replace(condition, features=condition.features[table])
    torch.testing.assert_close(gathered, denoiser.gate_table("stage1", wide, embedding, item))


@torch.no_grad()
def test_five_tables_serve_eight_gates():
    encoder, denoiser = networks()
    points = VoxelisedCloud.from_points(cloud(500, 1), 0.5)
    condition = encoder(VoxelisedCloud.from_points(cloud(60), 0.5))
    t = torch.tensor([5])
    given = denoiser(points, condition, t, condition.nearest_tables(points.pyramid))
    assert torch.equal(given, denoiser(points, condition, t))


@torch.no_grad()
def test_repeated_points_at_the_origin_equal_one_point():
    encoder, _ = networks()
    one, many = (encoder(VoxelisedCloud.from_points(torch.zeros(n, 3), 0.5)) for n in (1, 180))
    assert torch.equal(one.features, many.features)
    assert torch.equal(one.voxels.keys, many.voxels.keys)


def test_every_parameter_gets_a_gradient():
    encoder, denoiser = networks()
    encoder.train(), denoiser.train()
    loss = denoise(encoder, denoiser, cloud(200), cloud(500, 1)).square().mean()
    loss.backward()
    silent = [n for m in (encoder, denoiser) for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_training_on_one_voxel_keeps_the_running_statistics():
    encoder, denoiser = networks()
    encoder.train(), denoiser.train()
    before = denoiser.up1[0].net[1].bn.running_mean.clone()
    denoise(encoder, denoiser, cloud(1), cloud(1)).sum().backward()
    assert torch.equal(before, denoiser.up1[0].net[1].bn.running_mean)


@torch.no_grad()
def test_refiner_moves_points_by_less_than_a_metre():
    torch.manual_seed(0)
    offsets, logit = Refiner(TINY).eval()(VoxelisedCloud.from_points(cloud(100), 0.5))
    assert (offsets.shape, logit.shape) == ((100, 6, 3), (100, 0))
    assert offsets.abs().max() <= 1


@torch.no_grad()
def test_refiner_with_offsets_and_confidence():
    torch.manual_seed(0)
    scoring = dataclasses.replace(TINY, point_offsets=True, point_confidence=True)
    refiner, points = Refiner(scoring).eval(), VoxelisedCloud.from_points(cloud(100), 5.0)
    refiner.last[2].bias[3] = 7.0  # the logit of the first offset, which no tanh may limit
    outputs, logit = refiner(points)
    assert (outputs.shape, logit.shape) == ((100, 6, 3), (100, 6))
    assert outputs.abs().max() <= 1
    assert logit[:, 0].min() > 1
    first, second = (points.point_row == points.point_row.mode().values).nonzero().squeeze(1)[:2]
    assert not torch.equal(outputs[first], outputs[second])


@pytest.mark.parametrize("logits", [0, 6])
def test_compiled_and_plain_refined_points_agree(logits: int):
    """Offsets as views of a wider tensor, as the refiner returns them."""
    points, outputs, logit = cloud(40), torch.randn(40, 6, 4), torch.randn(40, logits)
    refined, of_refined = refined_points(points, outputs[..., :3], logit)
    plain, of_plain = refined_points(points, outputs.requires_grad_()[..., :3], logit)
    assert torch.equal(refined, plain)
    assert (of_refined is None and of_plain is None) if not logits else torch.equal(of_refined, of_plain)


def test_timestep_embedding_matches_its_definition():
    frequencies = torch.exp(-torch.arange(6) * torch.log(torch.tensor(10000.0)) / 5)
    expected = torch.cat([torch.sin(250 * frequencies), torch.cos(250 * frequencies)])
    torch.testing.assert_close(timestep_embedding(torch.tensor([250]), 12)[0], expected, atol=2e-5, rtol=0)
    assert timestep_embedding(torch.tensor([1, 2]), 7).shape == (2, 7)


@pytest.mark.parametrize("width", [0.125, 0.3, 0.5, 1.0])
def test_widths_are_truncated(width: int):
    assert Architecture(width=width).channels == tuple(int(c * width) for c in (32, 32, 64, 128, 256, 256, 128, 96, 96))


def trained_like(network: torch.nn.Module) -> torch.nn.Module:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("width", [0.125, 0.25, 1.0])
def test_folding_batch_norms_keeps_the_output(width: int):
    torch.manual_seed(0)
    architecture = Architecture(width=width, voxel_size_m=0.5)
    scan, points = VoxelisedCloud.from_points(cloud(60), 0.5), VoxelisedCloud.from_points(cloud(300, 1), 0.5)
    encoder, denoiser, refiner = (trained_like(kind(architecture)) for kind in (ConditionEncoder, Denoiser, Refiner))
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    t = torch.tensor([500])
    plain = denoiser(points, encoder(scan), t), refiner(points)[0]
    folded = fold_batch_norm(denoiser)(points, fold_batch_norm(encoder)(scan), t), fold_batch_norm(refiner)(points)[0]
    for a, b in zip(plain, folded, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.std()) + 1e-5)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


@torch.no_grad()
def test_bfloat16_error_is_below_two_percent():
    torch.manual_seed(0)
    architecture = Architecture(width=1.0, voxel_size_m=0.5)
    scan, points = VoxelisedCloud.from_points(cloud(60), 0.5), VoxelisedCloud.from_points(cloud(300, 1), 0.5)
    encoder, denoiser = (trained_like(kind(architecture)) for kind in (ConditionEncoder, Denoiser))
    exact = denoiser(points, encoder(scan), torch.tensor([500]))
    encoder, denoiser = (fold_batch_norm(network, torch.bfloat16) for network in (encoder, denoiser))
    rounded = denoiser(points, encoder(scan), torch.tensor([500]))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).abs().mean() / exact.std()) < 0.02


def test_local_features_describe_points_and_scan_from_the_centre_of_their_voxel():
    points = torch.tensor([[0.1, 0.0, 0.0], [0.3, 0.0, 0.2], [4.0, 3.0, -1.0]])
    scan = torch.tensor([[-0.2, 0.4, 0.0], [8.0, 0.0, 0.0]])
    cloud = VoxelisedCloud.from_points_and_scan(points, scan, 1.0)
    rows = {tuple(xyz): row for row, xyz in enumerate(cloud.pyramid.levels[0].coordinates[:, 1:].tolist())}
    assert set(rows) == {(0, 0, 0), (4, 3, -1), (8, 0, 0)}
    both = cloud.features[rows[0, 0, 0]]
    torch.testing.assert_close(both[:6], torch.tensor([0.4, 0.0, 0.2, -0.4, 0.8, 0.0]))
    torch.testing.assert_close(both[6:], torch.tensor([math.log(3) / 2, 1.0, 0.0, 0.0]))
    alone = cloud.features[rows[4, 3, -1]]
    torch.testing.assert_close(alone[3:], torch.tensor([0.0, 0.0, 0.0, math.log(2) / 2, 0.0, -1 / 3, 0.2]))
    assert cloud.features[rows[8, 0, 0]][7] == 1
    assert cloud.features[rows[8, 0, 0]][6] == 0
    assert cloud.point_row.tolist() == [rows[0, 0, 0], rows[0, 0, 0], rows[4, 3, -1]]
    torch.testing.assert_close(cloud.point_offset, points - points.round())


def test_local_features_and_confidence_change_inputs_and_outputs():
    own = Architecture(
        own_channels=(8, 8, 8, 16, 16, 16, 8, 8, 8), voxel_size_m=0.5, local_features=True, point_confidence=True
    )
    scan = torch.rand(30, 3) * 5
    points = scan.repeat(4, 1) + 0.3 * torch.randn(120, 3)
    encoder, denoiser = ConditionEncoder(own).eval(), Denoiser(own).eval()
    out = denoiser(own.cloud(points, scan), encoder(own.cloud(scan, scan)), torch.tensor([999]))
    assert out.shape == (120, 4)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("head_width", [20, 64])
def test_compiled_head_equals_its_layers(confidence: bool, head_width: int):
    architecture = dataclasses.replace(TINY, point_offsets=True, point_confidence=confidence, head_width=head_width)
    _, denoiser = networks(architecture)
    points = VoxelisedCloud.from_points(cloud(700, 1), 0.5)
    features = torch.randn(len(points.features), architecture.channels[8])
    layers = denoiser.point_outputs(features, points)
    assert layers.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(denoiser.point_outputs(features, points), layers.detach(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_branches_of_guidance_can_share_the_stem():
    encoder, denoiser = (fold_batch_norm(network) for network in networks())
    points, t = VoxelisedCloud.from_points(cloud(300, 1), 0.5), torch.tensor([400])
    condition = encoder(VoxelisedCloud.from_points(cloud(50), 0.5))
    stem = denoiser.stem_features(points)
    assert torch.equal(denoiser(points, condition, t, stem=stem), denoiser(points, condition, t))


@pytest.mark.parametrize(
    ("n", "scan", "extent_m"), [(1, 2, 3), (2, 300, 20), (600, 2, 40), (3000, 400, 12), (500, 500, 2)]
)
def test_nearest_tables_of_a_pyramid_equal_those_of_its_levels(n: int, scan: int, extent_m: float):
    points = VoxelisedCloud.from_points(cloud(n, 1, extent_m), 0.5)
    encoder, _ = networks()
    with torch.no_grad():
        condition = encoder(VoxelisedCloud.from_points(cloud(scan, 2, extent_m), 0.5))
    for ours, level in zip(condition.nearest_tables(points.pyramid), points.pyramid.levels, strict=True):
        queries, places = level.coordinates[:, 1:], condition.voxels.coordinates[:, 1:]
        assert torch.equal(ours, nearest_rows_plain(queries, places))
