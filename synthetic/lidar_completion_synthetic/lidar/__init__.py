"""Spinning LiDARs, their mounting, and the simulation of their sweeps."""

from .faults import NO_FAULTS, Faults
from .mix import SensorMix, load_mix, mix_of
from .mounting import Mounting, mounting_of, tilted
from .sensors import SENSORS, SpinningLidar, load_sensor, sensor_of
from .sweep import SimulatedSweep, simulate_sweep

__all__ = [
    "NO_FAULTS",
    "SENSORS",
    "Faults",
    "Mounting",
    "SensorMix",
    "SimulatedSweep",
    "SpinningLidar",
    "load_mix",
    "load_sensor",
    "mix_of",
    "mounting_of",
    "sensor_of",
    "simulate_sweep",
    "tilted",
]
