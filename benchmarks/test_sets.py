"""Quality and calibration of a model on synthetic test scenes of every sensor, tilt, height and thinning.

    python benchmarks/test_sets.py [--model models/edge] [--scenes 4] [--sets sensor tilt height ring]

Synthetic scenes with exact truth; completed points only. Confidence is compared with the share of points within 0.2 m of the
truth: over all completed points, and over those in space that no ray of the sweep has crossed.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from engine_cpu import machine

from lidar_completion.completer import SceneCompleter
from lidar_completion_evaluation.calibrate import NEAR_M, reliability
from lidar_completion_evaluation.evaluate_scene import compare_baselines
from lidar_completion_evaluation.metrics import nearest_distances
from lidar_completion_evaluation.protocols import DEFAULT
from lidar_completion_evaluation.scenes import Scene, SyntheticScenes
from lidar_completion_evaluation.truth.observed_space import ObservedSpace, observe
from lidar_completion_evaluation.truth.rules import window_mask
from lidar_completion_synthetic import TEST_SETS

ROOT = Path(__file__).parents[1]
HEAD = ("test set", "raw CD", "baseline CD", "CD m", "F %", "ghost %", "ECE", "ECE unseen", "unseen %")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=ROOT / "models/edge")
    arguments.add_argument("--scenes", type=int, default=4, help="scenes per test set")
    arguments.add_argument(
        "--sets", nargs="+", default=["sensor", "tilt", "height", "every"], help="first words of names"
    )
    options = arguments.parse_args()
    print(f"{machine()}; {options.model.name}, {options.scenes} synthetic scenes per set\n")
    print("  ".join(word.rjust(11) for word in HEAD))
    completer = SceneCompleter.load(options.model)
    for name, entries in TEST_SETS.items():
        if name.split()[0] in options.sets:
            source = SyntheticScenes(count=options.scenes, **entries)
            print(
                "  ".join(word.rjust(11) for word in (name.removeprefix("sensor "), *row(completer, source))),
                flush=True,
            )


def row(completer: SceneCompleter, source: SyntheticScenes) -> Iterator[str]:
    """The figures of one test set."""
    figures, confidences, nears, unseen = [], [], [], []
    for index in range(len(source.names)):
        scene = source.load(index)
        points, confidence = complete(completer, scene, index)
        distances = nearest_distances(points, scene.truth)
        figures.append(
            (*baseline_distances(scene), distances.chamfer, distances.f_score(NEAR_M), distances.ghost_rate(0.5))
        )
        confidences.append(confidence)
        nears.append(distances.prediction_to_truth < NEAR_M)
        unseen.append(~seen_by(scene.sweep, source).observed(points))
    raw, baseline, cd, f_score, ghost = np.mean(figures, axis=0)
    confidence, near, hidden = map(np.concatenate, (confidences, nears, unseen))
    yield from (f"{raw:.3f}", f"{baseline:.3f}", f"{cd:.3f}", f"{100 * f_score:.1f}", f"{100 * ghost:.2f}")
    yield f"{reliability(confidence, near).expected_calibration_error:.3f}"
    yield f"{reliability(confidence[hidden], near[hidden]).expected_calibration_error:.3f}"
    yield f"{100 * hidden.mean():.1f}"


def complete(completer: SceneCompleter, scene: Scene, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The completed points (N, 3) within the limits of the truth, and their confidence (N,)."""
    completion = completer.complete(scene.sweep, seed=seed, trust=DEFAULT.trust)
    points = completion.completed_points
    inside = window_mask(points, scene.rules)
    return points[inside], completion.confidence[len(completion.measured_rows) :][inside]


def baseline_distances(scene: Scene) -> tuple[float, float]:
    """CD of the raw sweep and of the best baseline."""
    distances = {name: compared.distances.chamfer for name, compared in compare_baselines(scene).items()}
    return distances["raw"], min(distances.values())


def seen_by(sweep: np.ndarray, source: SyntheticScenes) -> ObservedSpace:
    """The space that the rays of one sweep (N, 3) from the origin have crossed or hit."""
    return observe([(np.zeros(3), sweep)], [sweep], source.rays)


if __name__ == "__main__":
    main()
