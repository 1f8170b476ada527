"""docs/downstream.md: the documented configurations clear no measured obstacle; clearing from completed points would."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from nav2_layer import LETHAL, ObstacleLayer, Source, in_map, lost_obstacles

from lidar_completion.completer import SceneCompleter
from lidar_completion.mounting import MountingCheck, SensorView
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "downstream.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]
DRIVER, CONFIDENT, COMPLETED = (
    "/velodyne_points",
    "/lidar_completion/points_confident",
    "/lidar_completion/points_completed",
)
SWEEPS = 4


def layer_parameters(plugin):
    """Parameters of the layer with this plugin."""
    return next(
        layer
        for block in BLOCKS
        for layer in block.values()
        if isinstance(layer, dict) and layer.get("plugin") == plugin
    )


def sources_of(layer):
    return {name: layer[name] for name in layer["observation_sources"].split()}


@pytest.fixture(scope="module")
def documented():
    """The sources of the documented obstacle layer, by name."""
    sources = sources_of(layer_parameters("nav2_costmap_2d::ObstacleLayer"))
    return {name: Source.from_parameters(each) for name, each in sources.items()}


@pytest.fixture(scope="module")
def drive():
    """Observations of the first sweeps of the shipped sample, completed by the shipped model; the ground is at z = 0."""
    opened = open_drive(ROOT / "samples" / "street", DriveOptions(poses=str(ROOT / "samples" / "street" / "poses.txt")))
    completer, check, found = SceneCompleter.load(ROOT / "models" / "edge", device="cpu"), MountingCheck(), []
    for index in range(SWEEPS):
        points = opened.read(index).points
        completion = completer.complete(points)
        raised = completion.points + np.float32([0, 0, check.add(SensorView.of(points)).height_m])
        measured, confident = len(completion.measured_rows), completion.confidence >= 0.5
        confident[:measured] = False
        clouds = {DRIVER: raised[:measured], CONFIDENT: raised[confident], COMPLETED: raised[measured:]}
        found.append({topic: in_map(cloud, opened.T_map_sensor[index]) for topic, cloud in clouds.items()})
    return found


def test_documented_configuration_clears_no_measured_obstacle(documented, drive):
    """After each cycle every obstacle of the newest sweep is marked, and none of an earlier one is lost without a ray through it."""
    lidar = documented["lidar"]
    layer = ObstacleLayer(list(documented.values()))
    for index, observed in enumerate(drive):
        layer.update(observed | {CONFIDENT: drive[max(0, index - 1)][CONFIDENT]})
        obstacles = layer.marked(lidar, *observed[DRIVER])
        assert obstacles.sum() > 500
        assert (layer.costs[obstacles] == LETHAL).all()
    assert lost_obstacles(list(documented.values()), drive, lidar, (CONFIDENT, COMPLETED))[1] == 0


@pytest.mark.parametrize("topic", [CONFIDENT, COMPLETED])
def test_clearing_from_completed_points_loses_measured_obstacles(topic, documented, drive):
    lidar, completed = documented["lidar"], documented["completed"]
    clearing = replace(completed, topic=topic, clearing=True, raytrace_max_range=lidar.raytrace_max_range)
    obstacles, lost = lost_obstacles([lidar, clearing], drive, lidar, (CONFIDENT, COMPLETED))
    assert lost > 0.01 * obstacles


def test_only_the_drivers_cloud_clears():
    layers = [layer for block in BLOCKS for layer in block.values() if isinstance(layer, dict) and "plugin" in layer]
    sources = [each for layer in layers if "observation_sources" in layer for each in sources_of(layer).values()]
    assert len(sources) >= 5
    assert {each["topic"] for each in sources if each["clearing"]} == {DRIVER}
    assert {each["topic"] for each in sources if each["marking"]} == {DRIVER, CONFIDENT}


def test_the_lidar_marks_as_far_as_it_clears(documented):
    lidar = documented["lidar"]
    assert lidar.marking
    assert lidar.raytrace_max_range <= lidar.obstacle_max_range


@pytest.mark.parametrize("end", [(7, 3), (-4, 9), (0, -5), (3, 3), (0, 0)])
def test_rays_are_bresenhams_lines(end):
    """The error term of nav2_util::bresenham2D, step by step."""
    layer = ObstacleLayer([], size_m=8.0, resolution_m=0.2)
    sensor, start = np.array([0.1, 0.1, 1.0]), 20
    crossed = layer.crossed(np.array([[0.1 + 0.2 * end[0], 0.1 + 0.2 * end[1], 1.0]]), sensor, 30.0)
    along, across = (0, 1) if abs(end[0]) >= abs(end[1]) else (1, 0)
    cell, error, expected = [start, start], abs(end[along]) // 2, set()
    for _ in range(abs(end[along]) + 1):
        expected.add(tuple(cell))
        cell[along] += np.sign(end[along])
        error += abs(end[across])
        if error >= abs(end[along]):
            cell[across] += np.sign(end[across])
            error -= abs(end[along])
    assert {(x, y) for y, x in np.argwhere(crossed)} == expected
