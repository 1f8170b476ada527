"""How this package compiles loops for the CPU (numba) and spreads them over threads.

Loops release the interpreter lock and are spread by ordinary threads, as many as torch.get_num_threads() says: numba's
own threading layers either break when two Python threads enter them or fight with PyTorch's.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as machine code, kept in the cache on disk where a folder for it can be written."""
    return _compiled(function, {"nogil": True, "error_model": "numpy"})


def compiled_sums(function: Function) -> Function:
    """As `compiled`, but sums may be taken in vectors: in another order than written, the same one every time."""
    return _compiled(function, {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}})


def _compiled(function: Function, options: dict[str, Any]) -> Function:
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="lidar_completion")


def in_parallel(function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> list[Any]:
    """function(*piece) of every piece, in order, on as many threads as PyTorch may use."""
    workers = torch.get_num_threads()
    if workers == 1 or len(pieces) == 1:
        return [function(*piece) for piece in pieces]
    return list(_pool(os.getpid(), workers).map(lambda piece: function(*piece), pieces))


def even_cuts(running_work: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of rows of about equal work, one a thread; running_work (rows + 1,) is the work before each row."""
    workers = torch.get_num_threads()
    targets = running_work[-1] * np.arange(1, workers) // workers
    cuts = [0, *np.searchsorted(running_work, targets).tolist(), len(running_work) - 1]
    return [(first, last) for first, last in pairwise(cuts) if last > first]
