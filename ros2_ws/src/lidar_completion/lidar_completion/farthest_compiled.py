"""Farthest point sampling on CPUs, compiled. The plain implementation is downsample.farthest_point_rows_plain.

A new sample changes the distances of points near it alone. The points are sorted into a balanced tree of boxes, each of which
knows the largest distance of its points. A box farther from the sample than that distance is skipped with all its points. Box
distances are rounded as point distances are, so the result is exactly that of the plain implementation.
"""

import numpy as np
import torch
from torch import Tensor

from lidar_completion.sparse.compiled import compiled

LEAF_POINTS = 32


def farthest_point_rows(points: Tensor, count: int, start: int) -> Tensor:
    """Rows (count,) int64 of points (N, 3), N > count, on the CPU."""
    cloud = points.detach().to(torch.float32, copy=True).contiguous().numpy()
    depth = max(0, int(np.ceil(np.log2(len(cloud) / LEAF_POINTS))))
    order, first, low, high = _boxes(cloud, depth)
    return torch.from_numpy(_sample(cloud, order, first, low, high, count, start))


@compiled
def _boxes(points, depth):  # type: ignore[no-untyped-def]
    """Sort the points by leaf, in place.

    Returns their rows before (N,), and of every box, children of box i at 2 i + 1 and 2 i + 2: its first point and its bounds.
    """
    leaves = 1 << depth
    order = np.arange(len(points))
    first = np.zeros(2 * leaves, np.int64)  # of box i; box i ends at last[i]
    last = np.zeros(2 * leaves, np.int64)
    low, high = np.full((2 * leaves, 3), np.inf, np.float32), np.full((2 * leaves, 3), -np.inf, np.float32)
    last[0] = len(points)
    for box in range(2 * leaves - 1):
        begin, end = first[box], last[box]
        for i in range(begin, end):
            for axis in range(3):
                low[box, axis] = min(low[box, axis], points[i, axis])
                high[box, axis] = max(high[box, axis], points[i, axis])
        if box < leaves - 1:
            widest = 0
            for axis in range(1, 3):
                if high[box, axis] - low[box, axis] > high[box, widest] - low[box, widest]:
                    widest = axis
            middle = (begin + end) // 2
            _split(points, order, widest, begin, end - 1, middle)
            first[2 * box + 1], last[2 * box + 1] = begin, middle
            first[2 * box + 2], last[2 * box + 2] = middle, end
    first[2 * leaves - 1] = len(points)  # so that first[box + 1] ends a leaf
    return order, first, low, high


@compiled
def _split(points, order, axis, begin, end, middle):  # type: ignore[no-untyped-def]
    """Reorder rows begin ... end so that no point before `middle` exceeds one after it along the axis (quickselect)."""
    while begin < end:
        pivot = points[(begin + end) // 2, axis]
        i, j = begin, end
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                for k in range(3):
                    points[i, k], points[j, k] = points[j, k], points[i, k]
                i += 1
                j -= 1
        if middle <= j:
            end = j
        elif middle >= i:
            begin = i
        else:
            return


@compiled
def _sample(points, order, first, low, high, count, start):  # type: ignore[no-untyped-def]
    boxes = len(first) - 1
    leaves = (boxes + 1) // 2
    distance = np.full(len(points), np.inf, np.float32)
    largest = np.full(boxes, np.inf, np.float32)
    place = np.zeros(boxes, np.int64)  # of the point with the largest distance; of several the one of the smallest row
    to_visit, visited = np.empty(64, np.int64), np.empty(boxes, np.int64)
    chosen = np.empty(count, np.int64)
    for i in range(len(order)):
        if order[i] == start:
            place[0] = i
    for n in range(count):
        chosen[n] = order[place[0]]
        x, y, z = points[place[0], 0], points[place[0], 1], points[place[0], 2]
        waiting, passed = 1, 0
        to_visit[0] = 0
        while waiting:
            waiting -= 1
            box = to_visit[waiting]
            dx = max(low[box, 0] - x, x - high[box, 0], np.float32(0))
            dy = max(low[box, 1] - y, y - high[box, 1], np.float32(0))
            dz = max(low[box, 2] - z, z - high[box, 2], np.float32(0))
            if dx * dx + dy * dy + dz * dz >= largest[box]:
                continue
            if box < leaves - 1:
                visited[passed] = box
                passed += 1
                to_visit[waiting], to_visit[waiting + 1] = 2 * box + 1, 2 * box + 2
                waiting += 2
                continue
            best, found = np.float32(-1), 0
            for i in range(first[box], first[box + 1]):
                dx, dy, dz = points[i, 0] - x, points[i, 1] - y, points[i, 2] - z
                squared = dx * dx + dy * dy + dz * dz
                if squared < distance[i]:
                    distance[i] = squared
                if distance[i] > best or (distance[i] == best and order[i] < order[found]):
                    best, found = distance[i], i
            largest[box], place[box] = best, found
        for k in range(passed - 1, -1, -1):
            box = visited[k]
            left, right = 2 * box + 1, 2 * box + 2
            tie = largest[left] == largest[right] and order[place[right]] < order[place[left]]
            better = right if largest[right] > largest[left] or tie else left
            largest[box], place[box] = largest[better], place[better]
    return chosen
