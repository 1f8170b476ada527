"""The one place that chooses a backend: `convolve` is what the networks call.

A backend is a file that knows none of the others: `convolution_torch` (plain, any device, the twin of the rest),
`convolution_cpu` (compiled loops), `convolution_triton` (CUDA), `convolution_minkowski` (MinkowskiEngine, on request).
"""

import importlib
import logging
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from lidar_completion.sparse import convolution_cpu, convolution_torch
from lidar_completion.sparse.coordinates import pack, unique_voxels
from lidar_completion.sparse.kernel_map import KernelMap, submanifold_map_plain

BACKENDS = ("torch", "cpu", "triton", "minkowski")
FUSED = ("cpu", "triton")  # with a convolve_fused, which adds bias and residual and applies the ReLU itself
SELF_TEST_TOLERANCE = 1e-4


def convolve(
    features: Tensor,
    kernel: Tensor,
    kernel_map: KernelMap | None,
    backend: str = "auto",
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu(sparse convolution + bias + residual), each part optional; the sums cost nothing extra where a backend fuses them.

    features (V_in, C_in), kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1, bias (C_out,), residual (V_out, C_out).
    backend: "torch" (plain, any device), "cpu" (compiled), "triton" (CUDA), "minkowski" (where MinkowskiEngine is
    installed), or "auto": backend_of the features' device. A backend that cannot be used is a ValueError.
    A half-precision kernel multiplies in half precision and sums in float32; the result has the features' dtype.
    """
    learns = torch.is_grad_enabled() and _learns(features, kernel)
    if kernel.dim() == 2 and _chosen(backend, features) == "cpu" and not learns:
        return convolution_cpu.pointwise_fused(features, kernel, bias, residual, relu)
    if kernel.dim() == 2:
        out = (features.to(kernel.dtype) @ kernel).to(features.dtype)
    else:
        assert kernel_map is not None
        module = _module(_chosen(backend, features))
        if module.__name__.endswith(FUSED) and not learns:
            return module.convolve_fused(features, kernel, kernel_map, bias, residual, relu)
        out = module.convolve(features, kernel, kernel_map)
    if bias is not None:
        out = out + bias
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


def backend_of(device: torch.device) -> str:
    """The backend that "auto" takes on a device, for diagnostics: "cpu" on CPUs; on CUDA "triton" where it works, else "torch".

    The first call for a CUDA device compiles a small kernel and compares it with the plain path.
    """
    return "cpu" if device.type == "cpu" else _gpu_backend(device)


@cache
def _gpu_backend(device: torch.device) -> str:
    problem = unusable("triton", device) or _self_test(device)
    if problem:
        logging.getLogger(__name__).warning(
            "plain PyTorch convolutions on %s, several times slower: %s", device, problem
        )
    return "torch" if problem else "triton"


def unusable(backend: str, device: torch.device) -> str:
    """Why a backend cannot be used for tensors on a device, and what to do; empty where it can."""
    if backend == "triton":
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"triton runs on CUDA devices, and these tensors lie on {device}; use 'auto'"
        return _import_problem("triton", "pip install triton")
    if backend == "minkowski":
        return _import_problem("MinkowskiEngine", "see its installation page, or use 'auto'")
    if backend == "cpu" and device.type != "cpu":
        return f"cpu is compiled for the host, and these tensors lie on {device}; use 'auto'"
    return ""


@cache
def _import_problem(module: str, fix: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # a broken build fails in other ways than a missing one
        return f"import {module} failed ({error}); {fix}"
    return ""


def _self_test(device: torch.device) -> str:
    """What is wrong with Triton's values and gradients on a small cloud; empty where they are right."""
    generator, results = torch.Generator(), []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            voxels = unique_voxels(pack(torch.randint(-4, 4, (150, 3), generator=generator.manual_seed(0))).to(device))[
                0
            ]
            table = submanifold_map_plain(voxels)
            for backend, dtype in (("torch", torch.float64), ("triton", torch.float32)):
                generator.manual_seed(1)
                features = torch.randn(len(voxels), 24, generator=generator).to(device, dtype).requires_grad_()
                kernel = torch.randn(27, 24, 40, generator=generator).to(device, dtype).requires_grad_()
                out = _module(backend).convolve(features, kernel, table)
                results.append((out, *torch.autograd.grad(out.square().mean(), (features, kernel))))
    except Exception as error:  # whatever a compiler or driver may raise, the plain path still works
        return f"Triton's self-test ended with {type(error).__name__}: {error}"
    for name, plain, fast in zip(("values", "feature gradients", "kernel gradients"), *results, strict=True):
        apart = float((fast - plain).abs().max() / plain.std())
        if not apart <= SELF_TEST_TOLERANCE:
            return f"Triton's {name} are {apart:.1e} of their std from the plain path's in its self-test"
    return ""


def _chosen(backend: str, features: Tensor) -> str:
    if backend == "auto":
        best = backend_of(features.device)
        return "torch" if best == "triton" and features.dtype == torch.float64 else best
    if backend not in BACKENDS:
        raise ValueError(f"backend is 'auto' or one of {', '.join(BACKENDS)}, not {backend!r}")
    problem = unusable(backend, features.device)
    if problem:
        raise ValueError(f"backend {backend!r} cannot be used: {problem}")
    return backend


def _module(backend: str) -> ModuleType:
    if backend == "torch":
        return convolution_torch
    if backend == "cpu":
        return convolution_cpu
    return importlib.import_module(f"lidar_completion.sparse.convolution_{backend}")


def _learns(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)
