"""One training run on one or several processes: alone, or started by torchrun on one or many machines.

Every process holds all networks and takes its own samples. DistributedDataParallel averages the gradients during the backward
pass. It wraps all losses of a sample as one forward pass, so an objective may run its networks any number of times and need
not know the number of processes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lidar_completion_training.errors import RecipeError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from lidar_completion_training.objectives import Objective

DEVICES = ("auto", "cpu", "cuda")


def launch_fabric(device: str = "auto") -> Fabric:
    """The launched Fabric of this process: its device and, under torchrun, the process group.

    device: "auto" (CUDA where available), "cpu" or "cuda"; RecipeError for any other.
    """
    if device not in DEVICES or (device == "cuda" and not torch.cuda.is_available()):
        raise RecipeError(f"--device is {device!r}; expected auto, cpu, or, where PyTorch finds a CUDA device, cuda")
    from lightning_fabric import Fabric  # brings torch._dynamo, which takes three seconds

    processes = int(os.environ.get("WORLD_SIZE", 1))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
    )
    fabric.launch()
    if processes > 1:
        atexit.register(_leave_process_group)  # a process aborts if it exits while gloo's threads still run
    return fabric


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_deterministic() -> None:
    """Use deterministic PyTorch operators, and warn about those that have none. Call before the first CUDA call."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


class Losses(nn.Module):
    """The losses of an objective as one forward pass, whose gradients DistributedDataParallel can average."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.networks = objective.networks
        self._losses = objective.losses

    def forward(self, *inputs: Any) -> Any:
        """The losses and numbers of objective.losses."""
        return self._losses(*inputs)


def averaged_losses(fabric: Fabric, objective: Objective) -> Losses | DistributedDataParallel:
    """The objective's losses, whose backward pass averages the gradients of all processes while it runs.

    A process that does not use a parameter counts as a gradient of zero. A parameter that no process uses keeps no gradient,
    so that the optimiser skips it as it would in a single process.
    """
    losses = Losses(objective)
    if fabric.world_size == 1:
        return losses
    return DistributedDataParallel(
        losses, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
    )


def without_averaging(losses: nn.Module) -> AbstractContextManager[None]:
    """Gradients of losses and backward passes in this context stay in their process and are averaged with the next ones."""
    return losses.no_sync() if isinstance(losses, DistributedDataParallel) else nullcontext()  # type: ignore[no-any-return]


def average_buffers(fabric: Fabric, modules: Iterable[nn.Module]) -> None:
    """Replace batch norms' running statistics by their mean over processes; each process normalises by its own sweeps."""
    if fabric.world_size == 1:
        return
    buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
    if not buffers:
        return
    flat = _mean(fabric, torch.cat([b.flatten() for b in buffers]))
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def average_numbers(fabric: Fabric, numbers: dict[str, float]) -> dict[str, float]:
    """Mean over processes of each number; all processes have the same names."""
    if fabric.world_size == 1:
        return numbers
    values = _mean(fabric, torch.tensor(list(numbers.values()), dtype=torch.float64, device=fabric.device))
    return dict(zip(numbers, values.tolist(), strict=True))


def check_agreement(fabric: Fabric, facts: dict[str, int], place: str) -> None:
    """Raise TrainingError in every process if their facts, such as the iteration, differ."""
    if fabric.world_size == 1:
        return
    own = torch.tensor(list(facts.values()), dtype=torch.int64, device=fabric.device)
    everywhere: list[list[int]] = fabric.all_gather(own).tolist()  # type: ignore[union-attr]
    for name, values in zip(facts, zip(*everywhere, strict=True), strict=True):
        for process, value in enumerate(values):
            if value != values[0]:
                raise TrainingError(
                    f"{place}: process {process} has {name} {value}, process 0 has {values[0]}; "
                    "every machine needs the same run folder, with the same state.pt"
                )


def _mean(fabric: Fabric, tensor: Tensor) -> Tensor:
    return fabric.all_reduce(tensor, reduce_op="mean")  # type: ignore[return-value]
