# mypy: allow-untyped-defs, no-check-untyped-defs
"""Compiled construction of the bounding volume hierarchy and of the coarse height blocks."""

from __future__ import annotations

import numpy as np
from numba import njit

from .shapes import BLOCK

LEAF_SIZE = 4
BINS = 12
FAR = 1e9  # beyond every coordinate


@njit(cache=True)
def block_maxima(height):
    """Maximum of each block of BLOCK x BLOCK cells, its border nodes included."""
    nx, ny = height.shape
    bx, by = (nx - 2) // BLOCK + 1, (ny - 2) // BLOCK + 1
    highest = np.full((bx, by), -1e9, np.float32)
    for i in range(bx):
        for j in range(by):
            for a in range(i * BLOCK, min(i * BLOCK + BLOCK + 1, nx)):
                for b in range(j * BLOCK, min(j * BLOCK + BLOCK + 1, ny)):
                    if height[a, b] > highest[i, j]:
                        highest[i, j] = height[a, b]
    return highest


@njit(cache=True)
def _area(lo, hi):
    x, y, z = hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]
    return x * y + y * z + z * x


@njit(cache=True)
def _fit_bounds(node_bounds, lower, upper, centre, order, first, last):
    """Writes the bounds of a node's solids; returns the bounds of their centres."""
    c_lo, c_hi = np.full(3, FAR), np.full(3, -FAR)
    for a in range(3):
        node_bounds[a], node_bounds[3 + a] = FAR, -FAR
    for k in range(first, last):
        p = order[k]
        for a in range(3):
            node_bounds[a] = min(node_bounds[a], lower[p, a])
            node_bounds[3 + a] = max(node_bounds[3 + a], upper[p, a])
            c_lo[a] = min(c_lo[a], centre[p, a])
            c_hi[a] = max(c_hi[a], centre[p, a])
    return c_lo, c_hi


@njit(cache=True)
def _cheapest_split(bin_count, bin_lo, bin_hi, total):
    """Last bin of the left child, by the surface area heuristic."""
    right_cost = np.zeros(BINS)
    lo, hi, n = np.full(3, FAR), np.full(3, -FAR), 0
    for b in range(BINS - 1, 0, -1):
        n += bin_count[b]
        lo, hi = np.minimum(lo, bin_lo[b]), np.maximum(hi, bin_hi[b])
        right_cost[b - 1] = n * _area(lo, hi) if n > 0 else 0.0
    lo, hi, n = np.full(3, FAR), np.full(3, -FAR), 0
    best, best_cost = 0, 1e30
    for b in range(BINS - 1):
        n += bin_count[b]
        lo, hi = np.minimum(lo, bin_lo[b]), np.maximum(hi, bin_hi[b])
        if n == 0 or n == total:
            continue
        cost = n * _area(lo, hi) + right_cost[b]
        if cost < best_cost:
            best, best_cost = b, cost
    return best


@njit(cache=True)
def _partition(order, scratch, centre, axis, low, scale, split, first, last):
    """Moves the left child's solids to the front of the node's range, in stable order; returns where the right child begins."""
    middle, tail = first, 0
    for k in range(first, last):
        p = order[k]
        if int((centre[p, axis] - low) * scale) <= split:
            order[middle] = p
            middle += 1
        else:
            scratch[tail] = p
            tail += 1
    for k in range(tail):
        order[middle + k] = scratch[k]
    return middle


@njit(cache=True)
def build_hierarchy(lower, upper):
    """Bounds (K, 6), links (K, 2) and order (P,) of the boxes lower, upper (P, 3); splits by a binned surface area heuristic."""
    count = len(lower)
    bounds = np.zeros((max(2 * count, 1), 6), np.float32)
    links = np.zeros((max(2 * count, 1), 2), np.int32)
    order = np.arange(count).astype(np.int32)
    centre = 0.5 * (lower + upper)
    stack = np.zeros((128, 3), np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, 0, count
    depth, used = 1, 1
    bin_count, bin_lo, bin_hi = np.zeros(BINS, np.int64), np.zeros((BINS, 3)), np.zeros((BINS, 3))
    scratch = np.zeros(count, np.int32)
    while depth > 0:
        depth -= 1
        node, first, last = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        c_lo, c_hi = _fit_bounds(bounds[node], lower, upper, centre, order, first, last)
        axis = 0
        for a in range(1, 3):
            if c_hi[a] - c_lo[a] > c_hi[axis] - c_lo[axis]:
                axis = a
        extent = c_hi[axis] - c_lo[axis]
        if last - first <= LEAF_SIZE or extent < 1e-6 or depth > 120:
            links[node, 0], links[node, 1] = first, last - first
            continue
        scale = BINS / extent * 0.99999
        bin_count[:], bin_lo[:], bin_hi[:] = 0, FAR, -FAR
        for k in range(first, last):
            p = order[k]
            b = int((centre[p, axis] - c_lo[axis]) * scale)
            bin_count[b] += 1
            for a in range(3):
                bin_lo[b, a] = min(bin_lo[b, a], lower[p, a])
                bin_hi[b, a] = max(bin_hi[b, a], upper[p, a])
        split = _cheapest_split(bin_count, bin_lo, bin_hi, last - first)
        middle = _partition(order, scratch, centre, axis, c_lo[axis], scale, split, first, last)
        links[node, 0], links[node, 1] = used, 0
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = used, first, middle
        stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = used + 1, middle, last
        depth += 2
        used += 2
    return bounds[:used].copy(), links[:used].copy(), order
