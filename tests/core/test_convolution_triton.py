"""Triton kernels against the plain implementation: interpreted on tiny clouds, compiled on larger ones with -m gpu."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, VoxelisedCloud, fold_batch_norm
from lidar_completion.sparse.convolution import backend_of, convolve
from lidar_completion.sparse.coordinates import Voxels, pack, unique_voxels
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid, child_map_plain, submanifold_map_plain
from lidar_completion.sparse.nearest import nearest_rows, nearest_rows_plain, nearest_rows_together

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which Triton compiles: -m gpu")


def pyramid(n: int, items: int = 1, extent: int = 6, device: str = "cpu") -> VoxelPyramid:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randint(-extent, extent, (n, 3), generator=generator)
    keys = pack(xyz, torch.randint(0, items, (n,), generator=generator))
    return VoxelPyramid.build(unique_voxels(keys.to(device))[0])


def tabled(levels: VoxelPyramid, kind: str) -> KernelMap:
    if kind == "neighbours":
        return submanifold_map_plain(levels.levels[0])
    down = child_map_plain(levels.levels[0], levels.levels[1], levels.parents[0])
    return down if kind == "down" else down.transposed


def both(table: KernelMap, c_in: int, c_out: int, features_dtype=torch.float32, kernel_dtype=torch.float32):
    """Values and gradients of the plain path in float64, and of Triton."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(table.num_in, c_in, generator=generator).to(table.table.device, features_dtype)
    kernel = (torch.randn(table.volume, c_in, c_out, generator=generator) / c_in**0.5).to(features.device, kernel_dtype)
    weight = torch.randn(table.num_out, c_out, generator=generator).to(features.device, features_dtype)
    rows = []
    for name in ("torch", "triton"):
        leaves = [x.double() if name == "torch" else x.clone() for x in (features, kernel)]
        leaves = [x.requires_grad_() for x in leaves]
        out = convolve(*leaves, table, name)
        rows.append((out, *torch.autograd.grad(out, leaves, weight.to(out.dtype))))
    return rows


def assert_close_to_plain(rows, tolerance: float) -> None:
    for plain, fast in zip(*rows, strict=True):
        assert float((fast - plain).detach().abs().max()) <= tolerance * max(1.0, float(plain.detach().std()))


@interpreted
@pytest.mark.parametrize(
    ("kind", "channels"),
    [("neighbours", (3, 8)), ("neighbours", (40, 24)), ("down", (13, 7)), ("up", (16, 33)), ("neighbours", (128, 128))],
)
def test_values_and_gradients(kind: str, channels: tuple[int, int]):
    """(128, 128) takes three passes and several tiles; the others have channels that fill no block."""
    assert_close_to_plain(both(tabled(pyramid(70, 2), kind), *channels), 1e-5)


@interpreted
@pytest.mark.parametrize("features_dtype", [torch.float16, torch.float32])
def test_half_precision(features_dtype: torch.dtype):
    """Not bfloat16, which Triton's interpreter multiplies as if its bits were integers."""
    rows = both(tabled(pyramid(40), "down"), 16, 24, features_dtype, torch.float16)
    assert [each.dtype for each in rows[1]] == [features_dtype, features_dtype, torch.float16]
    assert_close_to_plain(rows, 5e-3)


@interpreted
@torch.no_grad()
@pytest.mark.parametrize(("bias", "residual", "relu"), [(1, 0, 1), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("channels", [(8, 16), (128, 128)])
def test_epilogue(bias: int, residual: int, relu: int, channels: tuple[int, int]):
    table = tabled(pyramid(40), "neighbours")
    features, kernel = torch.randn(table.num_in, channels[0]), torch.randn(27, *channels) / channels[0] ** 0.5
    extra = {
        "bias": torch.randn(channels[1]) if bias else None,
        "residual": torch.randn(table.num_out, channels[1]) if residual else None,
        "relu": bool(relu),
    }
    expected = convolve(features, kernel, table, "torch", **extra)
    torch.testing.assert_close(convolve(features, kernel, table, "triton", **extra), expected, rtol=1e-5, atol=1e-5)


@interpreted
def test_one_voxel_and_none():
    one, nothing = (submanifold_map_plain(Voxels(pack(torch.zeros(n, 3, dtype=torch.int64)))) for n in (1, 0))
    assert_close_to_plain(both(one, 4, 5), 1e-5)
    features, kernel = torch.zeros(0, 4, requires_grad=True), torch.ones(27, 4, 5, requires_grad=True)
    out = convolve(features, kernel, nothing, "triton")
    assert out.shape == (0, 5)
    assert torch.autograd.grad(out.sum(), kernel)[0].abs().max() == 0


@interpreted
def test_rejects_double_precision():
    table = tabled(pyramid(10), "down")
    with pytest.raises(ValueError, match=r"takes torch.float32, .*; the features are torch.float64"):
        convolve(torch.randn(table.num_in, 4).double(), torch.randn(8, 4, 4), table, "triton")


@interpreted
def test_inputs_that_are_not_contiguous():
    table = tabled(pyramid(30), "down")
    features, kernel = torch.randn(table.num_in, 20)[:, 4:12], torch.randn(8, 5, 8).transpose(1, 2)
    plain = convolve(features, kernel, table, "torch")
    torch.testing.assert_close(convolve(features, kernel, table, "triton"), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("n", [1, 64, 300])
def test_plan_contains_every_pair_once(n: int, passes: int):
    from lidar_completion.sparse.convolution_triton import plans

    table = tabled(pyramid(n), "neighbours")
    seen, first = torch.full_like(table.table, -1), 0
    for plan in plans(table, passes):
        real = plan.rows >= 0
        assert plan.rows[real].sort().values.tolist() == list(range(table.num_out))
        for block in range(len(plan.counts)):
            slots = slice(block * plan.block_rows, (block + 1) * plan.block_rows)
            for k in plan.offsets[block, : plan.counts[block]].tolist():
                rows = plan.rows[slots][real[slots]].long()
                seen[first + k, rows] = plan.table[k, slots][real[slots]]
        first += len(plan.table)
    assert torch.equal(seen, table.table)


def some_voxels(n: int, extent: int, stride: int, items: int, seed: int) -> Voxels:
    xyz = torch.randint(-extent, extent, (n, 3), generator=torch.Generator().manual_seed(seed)) * stride
    return unique_voxels(pack(xyz, torch.arange(n) % items), stride)[0]


@interpreted
@pytest.mark.parametrize(("stride", "extent"), [(1, 60), (16, 4)])
@pytest.mark.parametrize("items", [1, 3])
def test_nearest_rows_with_many_ties(stride: int, extent: int, items: int):
    from lidar_completion.sparse import nearest_triton

    condition = some_voxels(150, 6, 16, items, 0)
    queries = some_voxels(200, extent, stride, items, 1)
    expected = nearest_rows(queries, condition)
    for search in (nearest_triton.nearest_rows, nearest_rows_plain):
        assert torch.equal(nearest_rows_together(queries, condition, search), expected)


@pytest.mark.slow
def test_kernels_compile_for_hopper_with_tensor_cores():
    """Needs no GPU: Triton brings its compiler along. In a process of its own, as this one may interpret."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lidar_completion.sparse import convolution_triton
kernel = convolution_triton._convolve_block
pointers = dict(features="*fp32", kernel="*bf16", bias="*fp32", residual="*fp32", out="*fp32")
pointers |= {name: "*i32" for name in ("table", "rows", "offsets", "counts")}
numbers = {name: "i32" for name in ("slots", "volume", "c_in", "c_out", "stride_k", "stride_i")}
fixed = dict(stride_o=1, HAS_BIAS=True, HAS_RESIDUAL=True, RELU=True, PRECISION="ieee", BLOCK_V=128, BLOCK_N=128, BLOCK_C=64)
signature = {name: (pointers | numbers).get(name, "constexpr") for name in kernel.arg_names}
place = kernel.arg_names.index
wide = [*pointers, "slots", "c_in", "c_out", "stride_k", "stride_i"]
source = ASTSource(kernel, signature, {(place(n),): v for n, v in fixed.items()}, {(place(n),): [["tt.divisibility", 16]] for n in wide})
ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=8, num_stages=3)).asm["ptx"]
assert "wgmma" in ptx and "cp.async" in ptx
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 86, 89, 90])
def test_kernels_fit_the_gpu(target, tmp_path):
    """No spills, and no more registers and shared memory than a multiprocessor has. Needs no GPU."""
    script = Path(__file__).parents[2] / "benchmarks" / "gpu_kernels.py"
    command = [sys.executable, script, "--layers", "few", "--targets", str(target), "--json", tmp_path / "kernels.json"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert {each["kernel"].split(" ")[0] for each in found} == {"convolution", "kernel", "nearest"}
    assert all(16 <= each["registers"] <= 255 and not each["faults"] for each in found)


# ---------------------------------------------------------------------------------------------------------------------
# With a GPU


@pytest.mark.gpu
@on_gpu
def test_gpu_uses_triton():
    assert backend_of(torch.device("cuda")) == "triton"


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("kind", ["neighbours", "down", "up"])
@pytest.mark.parametrize("channels", [(3, 32), (48, 96), (128, 256), (512, 256), (13, 7)])
@pytest.mark.parametrize(
    ("features_dtype", "kernel_dtype", "tolerance"),
    [
        (torch.float32, torch.float32, 2e-5),
        (torch.float32, torch.bfloat16, 5e-2),
        (torch.bfloat16, torch.bfloat16, 5e-2),
        (torch.float16, torch.float16, 1e-2),
    ],
)
def test_gpu_values_and_gradients(kind, channels, features_dtype, kernel_dtype, tolerance):
    table = tabled(pyramid(40_000, 2, 30, "cuda"), kind)
    assert_close_to_plain(both(table, *channels, features_dtype, kernel_dtype), tolerance)


@pytest.mark.gpu
@on_gpu
def test_gpu_is_deterministic():
    table = tabled(pyramid(40_000, 1, 30, "cuda"), "neighbours")
    first, *others = (both(table, 128, 128)[1] for _ in range(3))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("items", [1, 3])
def test_gpu_maps_and_nearest_tables_equal_the_cpu(items: int):
    cpu, gpu = (pyramid(40_000, items, 60, device) for device in ("cpu", "cuda"))
    condition = some_voxels(3000, 9, 16, items, 0)
    for level in range(5):
        assert torch.equal(gpu.levels[level].keys.cpu(), cpu.levels[level].keys)
        assert torch.equal(gpu.neighbours(level).table.cpu(), cpu.neighbours(level).table)
        on_gpu = nearest_rows(gpu.levels[level], Voxels(condition.keys.cuda(), 16))
        assert torch.equal(on_gpu.cpu(), nearest_rows(cpu.levels[level], condition))
    for level in range(4):
        assert torch.equal(gpu.down(level).table.cpu(), cpu.down(level).table)
        assert torch.equal(gpu.up(level).table.cpu(), cpu.up(level).table)


def denoised(device: str) -> tuple[Tensor, int]:
    """A width-1.0 forward on a device, and how often the host waited for it in the forward alone."""
    torch.manual_seed(0)
    architecture = Architecture(voxel_size_m=0.2)
    encoder, denoiser = (fold_batch_norm(kind(architecture)).to(device) for kind in (ConditionEncoder, Denoiser))
    generator = torch.Generator().manual_seed(0)
    scan, points = (20 * (torch.rand(n, 3, generator=generator) - 0.5) for n in (500, 5000))
    t = torch.tensor([500]).to(device)
    with torch.inference_mode():
        condition = encoder(VoxelisedCloud.from_points(scan.to(device), 0.2))
        denoiser(VoxelisedCloud.from_points(points.to(device), 0.2), condition, t)  # compiles
        cloud = VoxelisedCloud.from_points(points.to(device), 0.2)
        if device == "cpu":
            return denoiser(cloud, condition, t), 0
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                eps = denoiser(cloud, condition, t)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return eps.cpu(), sum("synchroniz" in str(each.message) for each in waits)


@pytest.mark.gpu
@on_gpu
def test_gpu_denoiser_equals_the_cpu_and_never_waits():
    gpu, waits = denoised("cuda")
    cpu, _ = denoised("cpu")
    assert float((gpu - cpu).abs().max() / cpu.std()) < 1e-4
    assert waits == 0
