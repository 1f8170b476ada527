"""One training run on one or several processes: alone, or as torchrun started them, on one machine or many.

Every process holds all networks and takes its own samples; gradients are averaged between backward and step, once a step,
whatever the objective did before. So objectives run their networks as often as they like, without knowing of processes.
"""

import atexit
import os
from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lidar_completion_training.configuration import RecipeError

DEVICES = ("auto", "cpu", "cuda")


def fabric_of(precision: str = "32-true", device: str = "auto") -> Fabric:
    """The launched Fabric of this process: device, autocast and, under torchrun, the group of processes.

    device: "auto" (CUDA where there is one), "cpu" or "cuda". RecipeError for any other.
    """
    if device not in DEVICES or (device == "cuda" and not torch.cuda.is_available()):
        raise RecipeError(f"--device is {device!r}; expected auto, cpu, or, where PyTorch finds a CUDA device, cuda")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    if processes > 1:
        atexit.register(
            torch.distributed.destroy_process_group
        )  # gloo's threads abort a process that leaves them behind
    return fabric


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Every gradient becomes its mean over processes, in one exchange. A process without a gradient counts as zero; a
    parameter that has none in any process keeps none, so that an optimiser leaves it alone as it would in one process."""
    if fabric.world_size == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=fabric.device)
    flat = torch.cat([has, *(g.flatten().float() for g in gradients)])
    flat = _mean(fabric, flat)
    parts = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, some, part in zip(parameters, flat[: len(parameters)].tolist(), parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype) if some else None


def average_buffers(fabric: Fabric, modules: Iterable[nn.Module]) -> None:
    """Batch norms' running statistics become their mean over processes; each process normalises by its own sweeps."""
    if fabric.world_size == 1:
        return
    buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
    if not buffers:
        return
    flat = _mean(fabric, torch.cat([b.flatten() for b in buffers]))
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def average_numbers(fabric: Fabric, numbers: dict[str, float]) -> dict[str, float]:
    """The mean over processes of numbers that every process has under the same names."""
    if fabric.world_size == 1:
        return numbers
    values = _mean(fabric, torch.tensor(list(numbers.values()), dtype=torch.float64, device=fabric.device))
    return dict(zip(numbers, values.tolist(), strict=True))


def _mean(fabric: Fabric, tensor: Tensor) -> Tensor:
    return fabric.all_reduce(tensor, reduce_op="mean")  # type: ignore[return-value]
