import pytest
import torch
from torch import Tensor

from lidar_completion.sparse import convolution_cpu
from lidar_completion.sparse.convolution import backend_of, convolve, unusable
from lidar_completion.sparse.coordinates import Voxels, pack, unique_voxels
from lidar_completion.sparse.kernel_map import KernelMap, VoxelPyramid, kernel_map

FAST = ["cpu"]  # Triton is tested in test_convolution_triton.py


def pyramid(n: int, items: int = 1, seed: int = 0) -> VoxelPyramid:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(-8, 8, (n, 3), generator=generator)
    return VoxelPyramid.build(unique_voxels(pack(xyz, torch.randint(0, items, (n,), generator=generator)))[0])


def maps(n: int, items: int) -> dict[str, KernelMap]:
    levels = pyramid(n, items)
    return {
        "neighbours": levels.neighbours(0),
        "down": levels.down(0),
        "up": levels.up(0),
        "dilated": kernel_map(levels.levels[0], levels.levels[0], 3, dilation=2),
        "strided": kernel_map(levels.levels[0], levels.levels[1], 3),
    }


def by_definition(features: Tensor, kernel: Tensor, table: KernelMap) -> Tensor:
    out = features.new_zeros(table.num_out, kernel.shape[2])
    for k, (ins, outs) in enumerate(table.pairs()):
        for i, o in zip(ins.tolist(), outs.tolist(), strict=True):
            out[o] += features[i] @ kernel[k]
    return out


def inputs(table: KernelMap, c_in: int, c_out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(table.num_in, c_in, generator=generator, dtype=dtype)
    kernel = torch.randn(len(table.counts), c_in, c_out, generator=generator, dtype=dtype) / c_in**0.5
    return features.requires_grad_(), kernel.requires_grad_()


@pytest.mark.parametrize("kind", ["neighbours", "down", "up", "dilated", "strided"])
def test_plain_convolution_matches_the_definition(kind: str):
    table = maps(60, 2)[kind]
    features, kernel = inputs(table, 3, 4, torch.float64)
    torch.testing.assert_close(convolve(features, kernel, table, "torch"), by_definition(features, kernel, table))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kind", ["neighbours", "down", "up", "dilated", "strided"])
@pytest.mark.parametrize(("n", "items"), [(1, 1), (40, 1), (3000, 3)])
@pytest.mark.parametrize("channels", [(3, 8), (8, 16), (13, 7), (32, 24), (70, 64)])
def test_backends_agree_in_values_and_gradients(backend: str, kind: str, n: int, items: int, channels: tuple[int, int]):
    table = maps(n, items)[kind]
    features, kernel = inputs(table, *channels, torch.float32)
    weight = torch.randn(table.num_out, channels[1], generator=torch.Generator().manual_seed(3))
    results = []
    for name in ("torch", backend):
        out = convolve(features, kernel, table, name)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (features, kernel))))
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=2e-5 * max(1.0, float(plain.detach().std())))


@pytest.mark.parametrize("backend", FAST)
def test_an_empty_level_gives_an_empty_output_and_zero_gradient(backend: str):
    nothing = VoxelPyramid.build(Voxels(torch.empty(0, dtype=torch.int64))).neighbours(0)
    features, kernel = inputs(nothing, 4, 5, torch.float32)
    out = convolve(features, kernel, nothing, backend)
    assert out.shape == (0, 5)
    assert torch.autograd.grad(out.sum(), kernel)[0].abs().max() == 0


@pytest.mark.parametrize("backend", FAST)
def test_inputs_that_are_not_contiguous(backend: str):
    table = maps(200, 1)["neighbours"]
    features, kernel = inputs(table, 8, 8, torch.float32)
    wide = torch.cat([features, features], dim=1)[:, 4:12]
    turned = kernel.transpose(1, 2)
    torch.testing.assert_close(
        convolve(wide, turned, table, backend), convolve(wide, turned, table, "torch"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("backend", FAST)
def test_backend_is_deterministic(backend: str):
    table = maps(3000, 1)["neighbours"]
    for channels in ((8, 8), (64, 64)):
        features, kernel = inputs(table, *channels, torch.float32)
        runs = []
        for _ in range(3):
            out = convolve(features, kernel, table, backend)
            runs.append((out, *torch.autograd.grad(out.square().sum(), (features, kernel))))
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("backend", FAST)
def test_gradients_numerically_in_double_precision(backend: str):
    table = maps(12, 1)["down"]
    features, kernel = inputs(table, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda f, k: convolve(f, k, table, backend), (features, kernel))


@pytest.mark.parametrize("channels", [(8, 8), (70, 64)])
def test_training_after_inference_in_one_process(channels: tuple[int, int]):
    table = maps(9000, 1)["neighbours"]
    features, kernel = inputs(table, *channels, torch.float32)
    convolution_cpu._workspace.__dict__.clear()
    with torch.inference_mode():
        convolve(features.detach(), kernel.detach(), table, "cpu")
    convolve(features, kernel, table, "cpu").sum().backward()
    assert kernel.grad is not None


def test_pointwise_kernel_is_a_matrix_product():
    features, kernel = torch.randn(5, 3), torch.randn(3, 2)
    torch.testing.assert_close(convolve(features, kernel, None), features @ kernel)  # type: ignore[arg-type]


def test_backend_of_a_cpu():
    assert backend_of(torch.device("cpu")) == "cpu"


def test_rejects_an_unusable_backend_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    table = maps(10, 1)["neighbours"]
    features, kernel = inputs(table, 4, 4, torch.float32)
    with pytest.raises(
        ValueError, match=r"'triton' cannot be used: triton runs on CUDA devices, .* on cpu; use 'auto'"
    ):
        convolve(features, kernel, table, "triton")
    with pytest.raises(ValueError, match="backend is 'trition'; expected 'auto' or one of torch, cpu"):
        convolve(features, kernel, table, "trition")
    assert "use 'auto'" in unusable("cpu", torch.device("cuda"))


no_minkowski = unusable("minkowski", torch.device("cpu"))


@pytest.mark.skipif(not no_minkowski, reason="MinkowskiEngine is installed")
def test_rejects_a_missing_minkowski_engine():
    table = maps(10, 1)["neighbours"]
    with pytest.raises(ValueError, match="import MinkowskiEngine failed"):
        convolve(*inputs(table, 4, 4, torch.float32), table, "minkowski")


@pytest.mark.skipif(bool(no_minkowski), reason=no_minkowski)
@pytest.mark.parametrize("kind", ["neighbours", "down", "up", "dilated", "strided"])
def test_minkowski_agrees_in_values_and_gradients(kind: str):
    table = maps(300, 2)[kind]
    features, kernel = inputs(table, 8, 16, torch.float32)
    results = []
    for name in ("torch", "minkowski"):
        out = convolve(features, kernel, table, name)
        results.append((out, *torch.autograd.grad(out.square().sum(), (features, kernel))))
    for plain, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [(8, 16), (13, 7), (70, 64)])
@pytest.mark.parametrize(("bias", "residual", "relu"), [(1, 0, 0), (0, 1, 1), (1, 1, 1), (0, 0, 1)])
def test_fused_bias_residual_and_relu_equal_separate_operations(
    channels: tuple[int, int], bias: int, residual: int, relu: int
):
    table = maps(500, 2)["neighbours"]
    features, kernel = inputs(table, *channels, torch.float32)
    b = torch.randn(channels[1]) if bias else None
    r = torch.randn(table.num_out, channels[1]) if residual else None
    expected = convolve(features, kernel, table, "torch") + (b if bias else 0) + (r if residual else 0)
    expected = expected.relu() if relu else expected
    learning = convolve(features, kernel, table, bias=b, residual=r, relu=bool(relu))
    with torch.no_grad():
        fused = convolve(features, kernel, table, bias=b, residual=r, relu=bool(relu))
    for ours in (learning, fused):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
    assert learning.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("kind", ["neighbours", "down", "up"])
def test_bfloat16_sums_in_float32(kind: str):
    table = maps(2000, 1)[kind]
    features, kernel = inputs(table, 96, 96, torch.float32)
    exact = convolve(features, kernel, table)
    rounded = convolve(features, kernel.bfloat16(), table)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).abs().mean() / exact.std()) < 0.01


@pytest.mark.parametrize("channels", [(8, 16), (70, 64)])
def test_result_does_not_depend_on_the_number_of_threads(channels: tuple[int, int]):
    table = maps(3000, 2)["neighbours"]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            features, kernel = inputs(table, *channels, torch.float32)
            out = convolve(features, kernel, table, "cpu")
            results.append((out, *torch.autograd.grad(out.square().sum(), (features, kernel))))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-3)
