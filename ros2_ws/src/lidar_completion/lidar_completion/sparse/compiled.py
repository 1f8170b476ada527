"""Compilation of CPU loops with numba, and their distribution over threads.

Loops release the GIL and run in ordinary Python threads, torch.get_num_threads() of them. Numba's own threading
layers abort when two Python threads enter them, or compete with PyTorch's.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba
import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function; the machine code is cached on disk if a cache folder is writable."""
    return _compiled(function, {"nogil": True, "error_model": "numpy"})


def compiled_sums(function: Function) -> Function:
    """As `compiled`, but sums may be vectorised: their order differs from the source, but is the same on every call."""
    return _compiled(function, {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}})


def _compiled(function: Function, options: dict[str, Any]) -> Function:
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package folder nor the user cache is writable
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """The thread pool of this process; threads of a parent process do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="lidar_completion")


def in_parallel(function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results of function(*piece) for each piece, in order, on torch.get_num_threads() threads."""
    workers = torch.get_num_threads()
    if workers == 1 or len(pieces) == 1:
        return [function(*piece) for piece in pieces]
    return list(_pool(os.getpid(), workers).map(lambda piece: function(*piece), pieces))


def equal_cuts(count: int) -> list[tuple[int, int]]:
    """Ranges of `count` rows, about as many for each thread; none if there are no rows."""
    workers = torch.get_num_threads()
    cuts = [count * i // workers for i in range(workers + 1)]
    return [(first, last) for first, last in pairwise(cuts) if last > first]
