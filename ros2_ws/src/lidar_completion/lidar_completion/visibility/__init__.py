"""What the sweep says about completed points: which contradict it, and how reliable the others are.

free_space.py     points in space that the sensor saw to be free: the free-space filter
ground.py         points below the ground
confidence.py     probability of lying near a surface
output_filter.py  applies the filters in turn and counts what each removes
"""

from lidar_completion.visibility.free_space import FreeSpaceRules
from lidar_completion.visibility.output_filter import TrustRules

MEASURED, COMPLETED = 0, 1  # values of Completion.provenance

__all__ = ["COMPLETED", "MEASURED", "FreeSpaceRules", "TrustRules"]
