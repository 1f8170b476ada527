"""Calibrates a model's confidence on held-back synthetic scenes: how often is a completed point near a surface?"""

import dataclasses
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lidar_completion.checkpoints import ModelCard, save_card
from lidar_completion.completer import SceneCompleter
from lidar_completion.metrics import nearest_distances
from lidar_completion_training.data.synthetic import test_pair

NEAR_M = 0.2  # "within 0.2 m of a surface"
RING_M = 5.0
FIRST_SCENE = 10_000  # far from the scenes that models are judged on


def calibrate(model: Path, scenes: int) -> ModelCard:
    """Measure the share of completed points within 0.2 m of the truth by range, and write it into the model's card."""
    completer = SceneCompleter.load(model)
    edges = np.arange(0.0, completer.card.pipeline.max_range_m + RING_M, RING_M)
    near, all_points = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for index in tqdm(range(FIRST_SCENE, FIRST_SCENE + scenes), unit="scene"):
        pair = test_pair(index)
        completed = completer.complete(pair.sweep, seed=index).completed_points
        distance = nearest_distances(completed, pair.truth).prediction_to_truth
        reach = np.linalg.norm(completed, axis=1)
        near += np.histogram(reach[distance < NEAR_M], edges)[0]
        all_points += np.histogram(reach, edges)[0]
    seen = all_points > 0
    table = {
        "range_m": (edges[:-1] + RING_M / 2)[seen].tolist(),
        "probability": np.round(near[seen] / all_points[seen], 4).tolist(),
    }
    card = dataclasses.replace(completer.card, confidence=table)
    save_card(model, card)
    return card
