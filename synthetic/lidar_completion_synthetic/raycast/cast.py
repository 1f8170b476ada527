"""First hits of many rays."""

from __future__ import annotations

import sys

import numba
import numpy as np

from .cast_compiled import cast_rays
from .scene import Ground, Solids


def set_threads(threads: int | None) -> None:
    """Sets the number of threads of the compiled loops (1 in worker processes); None leaves it unchanged.

    PyTorch keeps its number. Where both use OpenMP, numba's start sets it to the number of cores, whatever OMP_NUM_THREADS says.
    """
    torch = sys.modules.get("torch")
    threads_of_torch = torch.get_num_threads() if torch else 0
    available = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(threads or numba.get_num_threads(), available)))
    if torch:
        torch.set_num_threads(threads_of_torch)


def cast(
    solids: Solids,
    movers: Solids,
    ground: Ground,
    origins: np.ndarray,
    directions: np.ndarray,
    max_range_m: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits of R rays in the world frame.

    origins, directions (R, 3) float64, directions of length 1. Returns distance (R,) float32 in metres, solid (R,) int32 (index
    into solids, then len(solids) + index into movers; GROUND or MISS), cosine (R,) float32 of the incidence angle.
    """
    return cast_rays(
        solids.arrays, solids.to_local, solids.shape, movers.arrays, movers.to_local, movers.shape,
        ground.arrays, np.ascontiguousarray(origins, dtype=np.float64), np.ascontiguousarray(directions, dtype=np.float64),
        float(max_range_m), seed % (2**32),
    )  # fmt: skip
