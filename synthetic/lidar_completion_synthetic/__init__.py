"""A procedural street world and a simulated spinning LiDAR: training pairs with exact ground truth.

from lidar_completion_synthetic import training_pair
pair = training_pair(seed=7)          # pair.sweep (N, 3), pair.truth (M, 3)
"""

from .dataset import TEST_SEED, test_pair, training_pair, training_pairs
from .lidar import SENSORS, SimulatedSweep, SpinningLidar, simulate_sweep
from .pairs import TrainingPair
from .world import World, street

__all__ = [
    "SENSORS",
    "TEST_SEED",
    "SimulatedSweep",
    "SpinningLidar",
    "TrainingPair",
    "World",
    "simulate_sweep",
    "street",
    "test_pair",
    "training_pair",
    "training_pairs",
]
