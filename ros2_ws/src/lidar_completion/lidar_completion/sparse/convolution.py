"""Sparse convolution: `convolve` is what the networks call; it chooses a backend.

A backend is one file, independent of the others, and an entry in BACKENDS: `convolution_torch` (the plain implementation, any
device), `convolution_cpu` (compiled loops), `convolution_triton` (CUDA), `convolution_minkowski` (MinkowskiEngine, on request).
A new backend is a file with a function `convolve` (as in convolution_torch), optionally the fused functions of Backend, and
its entry.
"""

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lidar_completion.sparse.coordinates import pack, unique_voxels
from lidar_completion.sparse.kernel_map import KernelMap, submanifold_map_plain

SELF_TEST_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Backend:
    """A convolution backend and its capabilities.

    unusable(device) returns why it cannot be used for tensors on a device and what to do, or "". fused: the module has
    `convolve_fused`, which also adds bias and residual and applies the ReLU, without gradients. pointwise: it has
    `pointwise_fused`, the same for 1x1x1 kernels. float64: it accepts float64 features.
    """

    module: str
    unusable: Callable[[torch.device], str]
    fused: bool = False
    pointwise: bool = False
    float64: bool = True

    @property
    def functions(self) -> Any:
        """The backend's module, imported on first use because some need optional libraries."""
        return importlib.import_module(self.module)


def _cpu_only(device: torch.device) -> str:
    if device.type == "cpu":
        return ""
    return f"cpu is compiled for the host, but these tensors are on {device}; use 'auto'"


def _triton_problem(device: torch.device) -> str:
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"triton runs on CUDA devices, but these tensors are on {device}; use 'auto'"
    return _import_problem("triton", "pip install triton")


def _minkowski_problem(device: torch.device) -> str:
    return _import_problem("MinkowskiEngine", "see its installation page, or use 'auto'")


@cache
def _import_problem(module: str, fix: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # a broken build fails in other ways than a missing one
        return f"import {module} failed ({error}); {fix}"
    return ""


PACKAGE = "lidar_completion.sparse"
BACKENDS = {
    "torch": Backend(f"{PACKAGE}.convolution_torch", lambda device: ""),
    "cpu": Backend(f"{PACKAGE}.convolution_cpu", _cpu_only, fused=True, pointwise=True),
    "triton": Backend(f"{PACKAGE}.convolution_triton", _triton_problem, fused=True, float64=False),
    "minkowski": Backend(f"{PACKAGE}.convolution_minkowski", _minkowski_problem),
}


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
    """relu(sparse convolution + bias + residual), each part optional; backends that fuse them add them at no extra cost.

    features (V_in, C_in); kernel (K, C_in, C_out), or (C_in, C_out) for 1x1x1; bias (C_out,); residual (V_out, C_out).
    backend: a key of BACKENDS, or "auto" for backend_of the features' device. ValueError if it cannot be used.
    A half-precision kernel multiplies in half precision and sums in float32; the result has the features' dtype.
    """
    inference = not (torch.is_grad_enabled() and (features.requires_grad or kernel.requires_grad))
    chosen = BACKENDS[_chosen(backend, features)]
    if kernel.dim() == 2:
        if chosen.pointwise and inference:
            return chosen.functions.pointwise_fused(features, kernel, bias, residual, relu)
        out = (features.to(kernel.dtype) @ kernel).to(features.dtype)
    else:
        assert kernel_map is not None
        if chosen.fused and inference:
            return chosen.functions.convolve_fused(features, kernel, kernel_map, bias, residual, relu)
        out = chosen.functions.convolve(features, kernel, kernel_map)
    if bias is not None:
        out = out + bias
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


def backend_of(device: torch.device) -> str:
    """The backend that "auto" selects on a device: "cpu" on CPUs; on CUDA "triton" if it works, else "torch".

    The first call for a CUDA device compiles a small kernel and compares it with the plain implementation.
    """
    return "cpu" if device.type == "cpu" else _gpu_backend(device)


@cache
def _gpu_backend(device: torch.device) -> str:
    problem = unusable("triton", device) or _self_test(device)
    if problem:
        logging.getLogger(__name__).warning(
            "using plain PyTorch convolutions on %s, which are several times slower: %s", device, problem
        )
    return "torch" if problem else "triton"


def unusable(backend: str, device: torch.device) -> str:
    """Why a backend cannot be used for tensors on a device, and what to do; empty if it can."""
    return BACKENDS[backend].unusable(device)


def _self_test(device: torch.device) -> str:
    """What is wrong with Triton's values or gradients on a small cloud; empty if they are right."""
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
                out = BACKENDS[backend].functions.convolve(features, kernel, table)
                results.append((out, *torch.autograd.grad(out.square().mean(), (features, kernel))))
    except Exception as error:  # a compiler or driver may raise anything; the plain implementation still works
        return f"Triton's self-test failed with {type(error).__name__}: {error}"
    for name, plain, fast in zip(("values", "feature gradients", "kernel gradients"), *results, strict=True):
        apart = float((fast - plain).abs().max() / plain.std())
        if not apart <= SELF_TEST_TOLERANCE:
            return f"in its self-test, Triton's {name} differ from the plain ones by {apart:.1e} of their standard deviation"
    return ""


def _chosen(backend: str, features: Tensor) -> str:
    if backend == "auto":
        best = backend_of(features.device)
        return best if features.dtype != torch.float64 or BACKENDS[best].float64 else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected 'auto' or one of {', '.join(BACKENDS)}")
    if problem := unusable(backend, features.device):
        raise ValueError(f"backend {backend!r} cannot be used: {problem}")
    return backend
