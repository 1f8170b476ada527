"""One evaluation or map on several processes, started by torchrun on one or many machines that share the output folder.

Each process does a part of the work and writes its own files; the first one merges and reports. The files are those of a
single process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
PATIENCE = timedelta(days=30)  # a process may wait for others for as long as their share takes


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process merges and reports."""
    return rank() == 0


def device_of_process(device: str) -> str:
    """The device of this process: with several GPUs on a machine, each process takes one of its own instead of the first."""
    if device not in ("auto", "cuda") or processes() == 1 or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """The items that this process works on: every n-th of n processes."""
    return items[rank() :: processes()]


def wait_for_all() -> None:
    """Return when every process has arrived here."""
    if processes() == 1:
        return
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(_leave)
    distributed.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process runs the block, then the others, which find what it has written."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
