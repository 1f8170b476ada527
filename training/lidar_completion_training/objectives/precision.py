"""Mixed precision: products of wide layers in half precision; geometry, losses and distances in float32.

Autocast is never used. It would round coordinates: at 40 m, bfloat16 moves in steps of 0.25 m.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lidar_completion.networks.folding import WIDE_CHANNELS
from lidar_completion_training.configuration import Recipe

PRODUCTS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
Method = TypeVar("Method", bound=Callable[..., Any])


def run(network: nn.Module, recipe: Recipe, *inputs: Any) -> Any:
    """network(*inputs). With a mixed precision, kernels of wide layers are cast for their products, forward and backward;
    sums, features, weights and all other layers stay float32."""
    dtype = PRODUCTS.get(recipe.precision)
    if dtype is None:
        return network(*inputs)
    kernels = {name: value.to(dtype) for name, value in network.named_parameters() if is_wide_kernel(name, value)}
    return functional_call(network, kernels, inputs)


def is_wide_kernel(name: str, value: Tensor) -> bool:
    """Whether a parameter is the kernel of a convolution wide enough to gain from half precision."""
    return name.split(".")[-1] == "kernel" and min(value.shape[-2:]) >= WIDE_CHANNELS


def without_autocast(method: Method) -> Method:
    """Run a method with autocast off, whatever its caller has set."""

    @functools.wraps(method)
    def float32(*arguments: Any, **named: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return method(*arguments, **named)

    return float32  # type: ignore[return-value]
