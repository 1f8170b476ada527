"""Occupied cells from measured and completed points, free cells from the rays of measured points only.

Completed points never make a cell free: nothing has looked along the way to them.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from lidar_completion.occupancy import loops_compiled
from lidar_completion.occupancy.ground_heights import ground_heights

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # values of nav_msgs/OccupancyGrid
MAX_CELLS = 4000  # along each side
BELOW_GROUND_M = 0.5  # a ray deeper than this under the ground ends in a reflection


@dataclass(frozen=True)
class OccupancyRules:
    """The grid, and the heights at which a point is an obstacle."""

    resolution_m: float = 0.2
    size_m: float = 80.0  # of the square around the sensor
    min_height_m: float = 0.3  # lower points are ground
    max_height_m: float = 2.0  # the vehicle passes under higher points; rays above this height free nothing
    above_ground: bool = True  # heights are those above the ground around each cell; False: above the sensor

    def __post_init__(self) -> None:
        if self.min_height_m >= self.max_height_m:
            raise ValueError(
                f"max_height_m: expected more than min_height_m = {self.min_height_m:g}, found {self.max_height_m:g}"
            )
        if self.cells > MAX_CELLS:
            raise ValueError(f"size_m: expected at most {MAX_CELLS} cells, found {self.cells}")

    @property
    def cells(self) -> int:
        """Number of cells along each side."""
        return max(1, round(self.size_m / self.resolution_m))


class Geometry(NamedTuple):
    """Where the cells lie; cells are indexed [along y, along x]."""

    corner: np.ndarray  # (2,) float64 x and y of the outer corner of cell [0, 0]
    resolution: float
    cells: int
    floor: np.ndarray  # (cells, cells) float64: z from which heights are measured


@dataclass(frozen=True)
class OccupancyGrid:
    """The grid in the frame of the points."""

    values: np.ndarray  # (cells, cells) int8, [along y, along x]: UNKNOWN, FREE or OCCUPIED
    corner: np.ndarray  # (2,) float64 x and y of the outer corner of cell [0, 0]
    resolution_m: float


def occupancy_grid(
    measured: np.ndarray,
    completed: np.ndarray,
    sensor: np.ndarray,
    rules: OccupancyRules,
    loops: ModuleType = loops_compiled,
) -> OccupancyGrid:
    """The grid around the sensor (3,) from measured (M, 3) and completed points (C, 3) in a frame whose z axis points up.

    A cell is occupied if it holds a point between min_height_m and max_height_m. It is free if it is not occupied and the
    ray from the sensor to the lowest measured point of some cell crosses it below max_height_m. Corners are multiples of
    the resolution, so that cells keep their place in a fixed frame.
    """
    sensor = np.asarray(sensor, np.float64)
    corner = np.floor((sensor[:2] - rules.size_m / 2) / rules.resolution_m) * rules.resolution_m
    if rules.above_ground:
        floor = ground_heights(measured, corner, rules.resolution_m, rules.cells, loops)
        deepest = -BELOW_GROUND_M
    else:
        floor = np.full((rules.cells, rules.cells), sensor[2])
        deepest = -np.inf
    geometry = Geometry(corner, rules.resolution_m, rules.cells, floor)
    values = np.full((rules.cells, rules.cells), UNKNOWN, np.int8)
    ends = loops.lowest_ends(measured, sensor, geometry)
    loops.mark_rays(ends, sensor, geometry, (deepest, rules.max_height_m), FREE, values)
    for points in (measured, completed):
        loops.mark_points(points, geometry, (rules.min_height_m, rules.max_height_m), OCCUPIED, values)
    return OccupancyGrid(values, corner, rules.resolution_m)
