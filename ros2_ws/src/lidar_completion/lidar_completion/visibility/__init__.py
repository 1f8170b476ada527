"""Checks completed points against the sweep: which contradict it, and how reliable the others are.

free_space.py     how far the sensor saw free space; the filter of points in it
ground.py         points below the ground
confidence.py     probability of lying near a surface
output_filter.py  applies the filters and counts what each removes
"""

from lidar_completion.visibility.free_space import ClearSpace, FreeSpaceRules
from lidar_completion.visibility.output_filter import TrustRules

MEASURED, COMPLETED = 0, 1  # values of Completion.provenance

__all__ = ["COMPLETED", "MEASURED", "ClearSpace", "FreeSpaceRules", "TrustRules"]
