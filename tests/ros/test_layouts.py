"""The RViz and Foxglove layouts parse, show the node's topics and use the colours of the pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from lidar_completion_evaluation.pictures import BACKGROUND, CONFIDENCE_COLOURS, MEASURED_COLOUR, measured_and_imagined
from lidar_completion_ros.node import INPUT_TOPIC, NODE_NAME
from lidar_completion_ros.publishers import COMPLETED_TOPIC

LAYOUTS = Path(__file__).parents[2] / "ros2_ws" / "src" / "lidar_completion_ros" / "layouts"
MEASURED = f"/{INPUT_TOPIC}"
COMPLETED = COMPLETED_TOPIC.replace("~", f"/{NODE_NAME}")


@pytest.fixture(scope="module")
def rviz():
    """topic -> display of the RViz configuration."""
    displays = yaml.safe_load((LAYOUTS / "completion.rviz").read_text())["Visualization Manager"]["Displays"]
    return {display["Topic"]["Value"]: display for display in displays if "Topic" in display}


@pytest.fixture(scope="module")
def foxglove():
    """topic -> settings of the Foxglove layout's 3D panel."""
    return json.loads((LAYOUTS / "completion.foxglove.json").read_text())["configById"]["3D!completion"]


def rviz_colour(text):
    return tuple(map(int, text.split(";")))


def hexadecimal(colour):
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def test_rviz_shows_measured_white_and_completed_by_confidence(rviz):
    assert set(rviz) == {MEASURED, COMPLETED}
    assert rviz[MEASURED]["Color Transformer"] == "FlatColor"
    assert rviz_colour(rviz[MEASURED]["Color"]) == MEASURED_COLOUR
    completed = rviz[COMPLETED]
    assert (completed["Color Transformer"], completed["Channel Name"]) == ("Intensity", "confidence")
    assert (completed["Min Intensity"], completed["Max Intensity"]) == (0, 1)
    assert (rviz_colour(completed["Min Color"]), rviz_colour(completed["Max Color"])) == CONFIDENCE_COLOURS


def test_foxglove_shows_the_same(foxglove):
    topics = foxglove["topics"]
    assert set(topics) == {MEASURED, COMPLETED}
    assert topics[MEASURED]["flatColor"] == hexadecimal(MEASURED_COLOUR)
    completed = topics[COMPLETED]
    assert (completed["colorMode"], completed["colorField"]) == ("gradient", "confidence")
    assert completed["gradient"] == [hexadecimal(colour) for colour in CONFIDENCE_COLOURS]
    assert (completed["minValue"], completed["maxValue"]) == (0, 1)
    assert foxglove["scene"]["backgroundColor"] == BACKGROUND


def test_every_panel_of_the_foxglove_layout_is_configured():
    layout = json.loads((LAYOUTS / "completion.foxglove.json").read_text())

    def panels(node):
        return {node} if isinstance(node, str) else panels(node["first"]) | panels(node["second"])

    assert panels(layout["layout"]) == set(layout["configById"])


@pytest.mark.parametrize("view", ["above", "behind"])
def test_picture_uses_the_same_colours(view):
    """Two surfaces apart: one measured, one imagined without and one with confidence."""
    image = pytest.importorskip("PIL.Image")
    import io

    grid = np.stack(np.meshgrid(np.arange(4.0, 9, 0.05), np.arange(-2.0, 2, 0.05), [0.0]), -1).reshape(-1, 3)
    unsure, sure = grid + np.array([0, 8, 0]), grid + np.array([0, -8, 0])
    confidence = np.repeat([0.0, 1.0], len(grid))
    picture = measured_and_imagined(grid, np.concatenate([unsure, sure]), confidence, view=view)
    found = {tuple(colour) for colour in np.array(image.open(io.BytesIO(picture)))[60:].reshape(-1, 3)}
    background = tuple(int(BACKGROUND[at : at + 2], 16) for at in (1, 3, 5))
    assert found == {background, MEASURED_COLOUR, *CONFIDENCE_COLOURS}


def test_measured_points_are_drawn_above_completed_ones():
    image = pytest.importorskip("PIL.Image")
    import io

    point = np.array([[10.0, 0.0, 0.0]])
    cloud = np.repeat(point, 500, axis=0) + np.random.default_rng(0).normal(0, 0.5, (500, 3))
    picture = measured_and_imagined(point, cloud, np.ones(500), view="above")
    assert (np.array(image.open(io.BytesIO(picture)))[60:] == 255).all(axis=-1).sum() == 4
