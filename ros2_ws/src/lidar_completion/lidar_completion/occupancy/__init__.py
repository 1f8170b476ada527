"""A grid of occupied, free and unknown cells around the sensor, as robots use it for planning.

grid.py            what is occupied and what is free
ground_heights.py  the height of the ground under each cell
loops_compiled.py  the loops over points and rays; loops_plain.py has their plain implementation
"""

from lidar_completion.occupancy.grid import FREE, OCCUPIED, UNKNOWN, OccupancyGrid, OccupancyRules, occupancy_grid

__all__ = ["FREE", "OCCUPIED", "UNKNOWN", "OccupancyGrid", "OccupancyRules", "occupancy_grid"]
