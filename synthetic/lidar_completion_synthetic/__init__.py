"""A procedural street world and a simulated spinning LiDAR: training pairs with exact ground truth.

from lidar_completion_synthetic import training_pair
pair = training_pair(seed=7)          # pair.sweep (N, 3), pair.truth (M, 3)
"""

from .dataset import TEST_SEED, TEST_SETS, check_source, scene_mounting, test_pair, training_pair, training_pairs
from .lidar import (
    SENSORS,
    Faults,
    Mounting,
    SensorMix,
    SimulatedSweep,
    SpinningLidar,
    mix_of,
    mounting_of,
    simulate_sweep,
)
from .pairs import PairSetup, TrainingPair
from .world import RECIPES, World, WorldRecipe, street

__all__ = [
    "RECIPES",
    "SENSORS",
    "TEST_SEED",
    "TEST_SETS",
    "Faults",
    "Mounting",
    "PairSetup",
    "SensorMix",
    "SimulatedSweep",
    "SpinningLidar",
    "TrainingPair",
    "World",
    "WorldRecipe",
    "check_source",
    "mix_of",
    "mounting_of",
    "scene_mounting",
    "simulate_sweep",
    "street",
    "test_pair",
    "training_pair",
    "training_pairs",
]
