"""python -m lidar_completion.compile_loops: compile the CPU loops once, so that the first sweep does not wait for them.

Run it after installation, as the user who will run the node. Numba caches the machine code beside the package, or in
NUMBA_CACHE_DIR, and uses it only on the same type of processor.
"""

import dataclasses
import sys
import time

import numpy as np
import torch

from lidar_completion.completer import SceneCompleter
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks
from lidar_completion.mounting import SensorView
from lidar_completion.networks import Architecture, fold_batch_norm
from lidar_completion.occupancy import OccupancyRules, occupancy_grid
from lidar_completion.visibility import TrustRules

# Tile loops are compiled per channel count, heads per number of outputs: those of models/edge and models/drive.
CHANNELS = (8, 16, 32, 64, 96, 96, 64, 32, 16)
UNION_CHANNELS = (16, 32, 64, 96, 128, 96, 64, 32, 16)
EGO_BOX_M = (-2.0, -1.0, -2.0, 2.0, 1.0, 0.0)


@torch.inference_mode()
def compile_loops() -> None:
    """Complete a synthetic sweep with random weights and each set of options that uses other loops."""
    sweep = synthetic_sweep()
    intensity, prior = np.zeros(len(sweep), np.float32), sweep[::4] + np.float32(0.1)
    for card in cards():
        completer = completer_with_random_weights(card)
        completer.complete(sweep, intensity=intensity, trust=TrustRules(ego_box_m=EGO_BOX_M))
        completer.complete(sweep, intensity=intensity, prior=prior, steps=2)
    occupancy_grid(sweep, sweep, np.zeros(3), OccupancyRules())
    SensorView.of(sweep)


def cards() -> list[ModelCard]:
    """Cards with the shapes of the shipped models: with and without encoder, refiner and confidence from the network."""
    architecture = Architecture(
        width=0.25, voxel_size_m=0.4, head_width=32, point_offsets=True, own_channels=CHANNELS, local_features=True,
        point_confidence=True,
    )  # fmt: skip
    pipeline = Pipeline(downsample_voxel_m=0.25, replication=10, sampler="few_step", steps=1, noise_per_metre=0.015)
    edge = ModelCard(name="random weights", architecture=architecture, pipeline=pipeline)
    drive = dataclasses.replace(edge, networks=("encoder", "denoiser", "refiner"))
    without_confidence = dataclasses.replace(architecture, point_confidence=False)
    union = union_card()
    refined = dataclasses.replace(union, networks=("denoiser", "refiner"))
    return [edge, drive, dataclasses.replace(drive, architecture=without_confidence), union, refined]


def union_card() -> ModelCard:
    """A card with the shape of the network of recipes/edge."""
    architecture = Architecture(
        voxel_size_m=0.4, head_width=32, own_channels=UNION_CHANNELS, local_features=True, point_confidence=True,
        conditioning="union", ray_features=True, offsets_per_point=4, blocks=(1,) * 8, stem_layers=1, skips="added",
    )  # fmt: skip
    pipeline = Pipeline(noise_per_metre=0.015, replication=4, hole_starts=1)
    return ModelCard("random weights", architecture=architecture, pipeline=pipeline, networks=architecture.networks)


def completer_with_random_weights(card: ModelCard) -> SceneCompleter:
    """A completer on the CPU whose networks are not trained."""
    networks = {name: fold_batch_norm(network) for name, network in build_networks(card).items()}
    return SceneCompleter(card, networks, torch.device("cpu"))


def synthetic_sweep() -> np.ndarray:
    """(N, 3) float32 metres: 32 rings on flat ground 1.8 m below the sensor, with a round wall at 20 m."""
    azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 1024), np.radians(np.linspace(-25.0, 3.0, 32)))
    horizontal = np.minimum(20.0, 1.8 / np.maximum(np.tan(-elevation), 1e-3))
    rays = (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), horizontal * np.tan(elevation))
    return np.stack(rays, axis=-1).reshape(-1, 3).astype(np.float32)


def main() -> None:
    """Command line: no arguments."""
    start = time.perf_counter()
    compile_loops()
    print(f"compiled the CPU loops in {time.perf_counter() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
