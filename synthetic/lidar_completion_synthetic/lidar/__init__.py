"""Spinning LiDARs and the simulation of their sweeps."""

from .sensors import SENSORS, SpinningLidar, sensor_of
from .sweep import SimulatedSweep, simulate_sweep

__all__ = ["SENSORS", "SimulatedSweep", "SpinningLidar", "sensor_of", "simulate_sweep"]
