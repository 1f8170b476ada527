"""One evaluation or map on several processes, started by torchrun on one or many machines that share the output folder.

Each process does a part of the work and writes its own files; the first one merges and reports. The files are those of a
single process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
PATIENCE = timedelta(days=30)  # a process may wait for others for as long as their share takes


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share some work. Whoever passes one of several processes must do so in all of them."""

    rank: int = 0  # the number of this process
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process merges and reports."""
        return self.rank == 0

    def share_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process works on: every n-th of n processes."""
        return items[self.rank :: self.size]

    def wait_for_all(self) -> None:
        """Return when every process has arrived here."""
        if self.size == 1:
            return
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=PATIENCE)
            atexit.register(_leave)
        distributed.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process runs the block, then the others, which find what it has written."""
        if not self.is_first:
            self.wait_for_all()
        yield
        if self.is_first:
            self.wait_for_all()

    def device(self, name: str) -> str:
        """The device of this process: with several GPUs on a machine, each process takes one of its own."""
        if name not in ("auto", "cuda") or self.size == 1 or not torch.cuda.is_available():
            return name
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


ALONE = ProcessGroup()


def of_torchrun() -> ProcessGroup:
    """The processes that torchrun has started; ALONE without it."""
    return ProcessGroup(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
