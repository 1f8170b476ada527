"""Compilation of CPU loops with numba, and their distribution over threads.

Loops release the GIL and run in ordinary Python threads, loop_threads() of them. Numba's own threading
layers abort when two Python threads enter them, or compete with PyTorch's.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba
import torch
from threadpoolctl import ThreadpoolController

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


_of_thread = threading.local()


def loop_threads() -> int:
    """Number of threads of a loop that this thread starts: that of PyTorch, or what it was outside loops_have_the_cores."""
    return getattr(_of_thread, "loops", None) or torch.get_num_threads()


@contextmanager
def loops_have_the_cores() -> Iterator[None]:
    """Within, PyTorch's operators that this thread calls use one thread, and loops as many as before.

    After an operator on several threads, those of GNU OpenMP spin for milliseconds, waiting for the next one, and the loops that
    follow share a core with them. For a small network on two cores, this costs a third of the time. Products by MKL are not limited.
    """
    threads = loop_threads()
    with _openmp(os.getpid()).limit(limits=1):
        outside, _of_thread.loops = getattr(_of_thread, "loops", None), threads
        try:
            yield
        finally:
            _of_thread.loops = outside


@cache
def _openmp(process: int) -> ThreadpoolController:
    """The OpenMP libraries that are loaded; a limit holds for the thread that sets it."""
    return ThreadpoolController().select(user_api="openmp")


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """The thread pool of this process; threads of a parent process do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="lidar_completion")


def in_parallel(function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results of function(*piece) for each piece, in order, on loop_threads() threads.

    The calling thread is one of them. If it only waited, Linux would often put two woken threads on one core and leave the
    caller's idle: on two cores, that took almost all of the gain.
    """
    threads = min(loop_threads(), len(pieces))
    if threads <= 1:
        return [function(*piece) for piece in pieces]
    results: list[Any] = [None] * len(pieces)
    rows = iter(range(len(pieces)))  # shared: each thread takes the next piece

    def work() -> None:
        for row in rows:
            results[row] = function(*pieces[row])

    others = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        begun = [each for each in others if not each.cancel()]
        wait(begun)
    for each in begun:
        each.result()  # raises what its piece raised
    return results


def equal_cuts(count: int) -> list[tuple[int, int]]:
    """Ranges of `count` rows, about as many for each thread; none if there are no rows."""
    workers = loop_threads()
    cuts = [count * i // workers for i in range(workers + 1)]
    return [(first, last) for first, last in pairwise(cuts) if last > first]
