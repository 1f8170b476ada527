"""How networks run in training: mixed precision and activation checkpointing.

Mixed precision: products of wide layers in half precision; geometry, losses and distances in float32. Autocast is never used
because it would round coordinates: at 40 m, bfloat16 has a resolution of 0.25 m.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lidar_completion.networks.blocks import DecoderStage, EncoderStage, Stem
from lidar_completion.networks.folding import WIDE_CHANNELS
from lidar_completion.networks.union import Blocks, Convolutions
from lidar_completion_training.configuration import Recipe

PRODUCTS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
STAGES = (Stem, EncoderStage, DecoderStage, Convolutions, Blocks)
Method = TypeVar("Method", bound=Callable[..., Any])


def run(network: nn.Module, recipe: Recipe, *inputs: Any) -> Any:
    """network(*inputs) with the recipe's precision and activation checkpointing.

    Mixed precision casts the kernels of wide layers for their products, forward and backward; sums, features, weights and
    all other layers stay float32. Activation checkpointing recomputes the activations inside a U-Net's stages in the
    backward pass instead of storing them; values and gradients are the same.
    """
    checkpointing = recipe.activation_checkpointing and torch.is_grad_enabled()
    with checkpointed_stages(network) if checkpointing else contextlib.nullcontext():
        dtype = PRODUCTS.get(recipe.precision)
        if dtype is None:
            return network(*inputs)
        kernels = {name: value.to(dtype) for name, value in network.named_parameters() if is_wide_kernel(name, value)}
        return functional_call(network, kernels, inputs)


def is_wide_kernel(name: str, value: Tensor) -> bool:
    """Whether a parameter is the kernel of a convolution wide enough to gain from half precision."""
    return name.split(".")[-1] == "kernel" and min(value.shape[-2:]) >= WIDE_CHANNELS


@contextlib.contextmanager
def checkpointed_stages(network: nn.Module) -> Iterator[None]:
    """While this context lasts, calls of the network's stages are checkpointed."""
    stages = [module for module in network.modules() if isinstance(module, STAGES)]
    for stage in stages:
        stage.forward = functools.partial(_checkpointed, stage)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward


def _checkpointed(stage: nn.Module, *inputs: Any) -> Any:
    # the backward pass needs this call's parameters: mixed precision replaces them only during the forward pass
    parameters: dict[str, Tensor] = dict(stage.named_parameters())

    def forward(*again: Any) -> Any:
        with _own_forward(stage):
            return functional_call(stage, parameters, again)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _as_in_forward(modes)

    modes = [(module, module.training) for module in stage.modules()]
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)


@contextlib.contextmanager
def _own_forward(stage: nn.Module) -> Iterator[None]:
    """Call the stage itself instead of its checkpointed replacement."""
    replacement = stage.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if replacement is not None:
            stage.forward = replacement  # type: ignore[method-assign]


@contextlib.contextmanager
def _as_in_forward(modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Train and eval modes as in the forward pass, but without updating batch-norm statistics a second time."""
    now = [module.training for module, _ in modes]
    norms = [module for module, training in modes if training and isinstance(module, nn.BatchNorm1d)]
    counted = [(norm, norm.momentum, cast(Tensor, norm.num_batches_tracked).clone()) for norm in norms]
    for module, training in modes:
        module.training = training
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (module, _), training in zip(modes, now, strict=True):
            module.training = training
        for norm, momentum, batches in counted:
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(batches)


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
