"""Compiled tiles against plain PyTorch, for the tile shapes of all supported processors."""

import pytest
import torch

from lidar_completion.sparse import convolution_cpu, tiles_cpu, vector_instructions
from lidar_completion.sparse.convolution import convolve
from lidar_completion.sparse.coordinates import pack, unique_voxels
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid


def neighbours(n: int, extent: int = 8) -> KernelMap:
    xyz = torch.randint(-extent, extent, (n, 3), generator=torch.Generator().manual_seed(n))
    return VoxelPyramid.build(unique_voxels(pack(xyz))[0]).neighbours(0)


@torch.no_grad()
@pytest.mark.parametrize("wide_vectors", [True, False])
@pytest.mark.parametrize("channels", [(3, 8), (5, 24), (32, 32), (24, 40), (17, 96), (48, 112)])
@pytest.mark.parametrize("n", [1, 3, 700])
def test_every_shape_of_tile(monkeypatch: pytest.MonkeyPatch, wide_vectors: bool, channels: tuple[int, int], n: int):
    if wide_vectors and not vector_instructions.WIDE_VECTORS:
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setattr(tiles_cpu, "WIDE_VECTORS", wide_vectors)
    table = neighbours(n)
    features, kernel = torch.randn(table.num_in, channels[0]), torch.randn(27, *channels) / channels[0] ** 0.5
    bias, residual = torch.randn(channels[1]), torch.randn(table.num_out, channels[1])
    expected = (convolve(features, kernel, table, "torch") + bias + residual).relu()
    ours = convolution_cpu.convolve_fused(features, kernel, table, bias, residual, relu=True)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_bfloat16_tiles_are_bfloat16_products_summed_in_float32():
    if not convolution_cpu.PAIR_PRODUCTS:
        pytest.skip("this processor has no AVX512-BF16, or better")
    table = neighbours(500)
    features, kernel = torch.randn(table.num_in, 64), torch.randn(27, 64, 96).bfloat16() / 8
    expected = convolve(features.bfloat16().float(), kernel.float(), table, "torch")
    torch.testing.assert_close(convolution_cpu.convolve_fused(features, kernel, table), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pair_products", [True, False])
def test_fused_pointwise_kernel(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, pair_products: bool):
    monkeypatch.setattr(convolution_cpu, "PAIR_PRODUCTS", pair_products and convolution_cpu.PAIR_PRODUCTS)
    features, kernel, bias = torch.randn(1000, 24), (torch.randn(24, 16) / 5).to(dtype), torch.randn(16)
    expected = (features.to(dtype).float() @ kernel.float() + bias).relu()
    ours = convolution_cpu.pointwise_fused(features, kernel, bias, relu=True)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0.05)


@torch.no_grad()
def test_blocks_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch):
    table = neighbours(900)
    features, kernel = torch.randn(table.num_in, 32), torch.randn(27, 32, 32)
    one = convolution_cpu.convolve_fused(features, kernel, table)
    monkeypatch.setattr(tiles_cpu, "CACHE_BYTES", 1)
    assert torch.equal(convolution_cpu.convolve_fused(features, kernel, table), one)
