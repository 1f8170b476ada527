"""Parameters: descriptors, the shipped YAML file, schema and page, and refusal of invalid values."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter

from lidar_completion.visibility import TrustRules
from lidar_completion_ros.installed_files import config_file
from lidar_completion_ros.node import CompletionNode
from lidar_completion_ros.parameter_pages import json_schema, markdown_page
from lidar_completion_ros.parameters import (
    SCHEMA_NAME,
    ParameterError,
    Parameters,
    descriptor,
    unknown_parameters,
)

FIELDS = {field.name: field for field in dataclasses.fields(Parameters)}
TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}
ARRAYS = {str: ParameterType.PARAMETER_STRING_ARRAY, float: ParameterType.PARAMETER_DOUBLE_ARRAY}


def ros_type(default):
    return ARRAYS[type(default[0])] if isinstance(default, tuple) else TYPES[type(default)]


@pytest.fixture
def node(ros):
    made = CompletionNode()
    yield made
    made.destroy_node()


def test_shipped_file_lists_every_parameter_with_its_default():
    listed = yaml.safe_load(config_file("complete.param.yaml").read_text())["/**"]["ros__parameters"]
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(Parameters()).items()}
    assert listed == defaults
    assert {name: type(value) for name, value in listed.items()} == {
        name: type(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_has_a_descriptor(name, node):
    described = node.describe_parameter(name)
    assert described == descriptor(FIELDS[name])
    assert described.type == ros_type(FIELDS[name].default)
    assert described.description
    assert described.additional_constraints
    numeric = described.type in (ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_DOUBLE)
    assert numeric == bool(described.integer_range or described.floating_point_range)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 9),
        ("steps", -1),
        ("voxel_size_m", -0.1),
        ("voxel_size_m", float("nan")),
        ("seed", 2**31),
        ("backend", "tensorflow"),
        ("output_fields", ["confidence", "colour"]),
        ("sensor_pose", [1.0, 2.0, 3.0]),
        ("sensor_pose", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]),
        ("precision", "float16"),
        ("ego_box_m", [1.0, -1.0, -2.0, -1.0, 1.0, 0.5]),
        ("min_confidence", 1.5),
    ],
)
def test_invalid_value_is_refused_with_the_parameter_name(name, value, node):
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert name in result.reason
    assert node.parameters == Parameters()


def test_wrong_type_is_refused(node):
    assert not node.set_parameters([Parameter("guidance", value="strong")])[0].successful
    assert node.parameters == Parameters()


def test_ranges_must_be_consistent(node):
    changes = [Parameter("min_range_m", value=10.0), Parameter("max_range_m", value=5.0)]
    result = node.set_parameters_atomically(changes)
    assert not result.successful
    assert "max_range_m" in result.reason
    with pytest.raises(ParameterError, match="max_range_m"):
        Parameters(min_range_m=10.0, max_range_m=10.0)


def test_dynamic_parameter_takes_effect(node):
    (result,) = node.set_parameters([Parameter("guidance", value=2.0)])
    assert result.successful
    assert node.parameters.completion_options()["guidance"] == 2.0


def test_zero_selects_the_model_card_value():
    options = Parameters().completion_options()
    assert (options.pop("seed"), options.pop("trust"), options.pop("refine")) == (0, TrustRules(), True)
    assert set(options.values()) == {None}
    assert Parameters(min_range_m=0.0).completion_options()["min_range_m"] == 0.0


def test_schema_is_current_and_accepts_the_shipped_file():
    shipped = config_file(SCHEMA_NAME).read_text()
    assert shipped == json_schema(), (
        f"python -m lidar_completion_ros.parameter_pages --schema > ros2_ws/src/lidar_completion_ros/config/{SCHEMA_NAME}"
    )
    jsonschema = pytest.importorskip("jsonschema")
    listed = yaml.safe_load(config_file("complete.param.yaml").read_text())
    jsonschema.validate(listed, json.loads(shipped))
    listed["/**"]["ros__parameters"]["steps"] = 9
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(listed, json.loads(shipped))


def test_static_parameters_are_read_only_until_cleanup(node, tiny_model):
    assert node.set_parameters([Parameter("model", value=str(tiny_model))])[0].successful
    node.trigger_configure()
    (result,) = node.set_parameters([Parameter("device", value="cuda")])
    assert not result.successful
    assert "device" in result.reason
    node.trigger_cleanup()
    assert node.set_parameters([Parameter("device", value="cuda")])[0].successful


def test_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "parameters.md"
    assert page.read_text() == markdown_page(), "python -m lidar_completion_ros.parameter_pages > docs/parameters.md"


def test_integers_are_accepted_for_floats(ros):
    given = [Parameter("latency_budget_ms", value=300), Parameter("sensor_pose", value=[1, 0, 2, 0, 0, 0])]
    node = CompletionNode(parameter_overrides=given)
    try:
        assert (node.parameters.latency_budget_ms, node.parameters.sensor_pose[2]) == (300.0, 2.0)
        assert node.set_parameters([Parameter("guidance", value=2)])[0].successful
        assert node.parameters.guidance == 2.0
        assert not node.set_parameters([Parameter("steps", value=2.0)])[0].successful
    finally:
        node.destroy_node()


def test_unknown_parameters_are_reported(ros):
    names = ("min_confidance", "colour", "use_sim_time", "qos_overrides./points.publisher.depth")
    values = (0.5, "red", False, 3)
    given = [Parameter(name, value=value) for name, value in zip(names, values, strict=True)]
    node = CompletionNode(parameter_overrides=given)
    try:
        assert unknown_parameters(node) == [
            "unknown parameter min_confidance is ignored; did you mean min_confidence?",
            "unknown parameter colour is ignored",
        ]
    finally:
        node.destroy_node()
