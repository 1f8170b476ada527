"""Parameters: each has a descriptor and a line in the shipped YAML file, and nonsense is refused with its name."""

import dataclasses

import pytest
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter

from lidar_completion_ros.installed_files import config_file
from lidar_completion_ros.node import CompletionNode
from lidar_completion_ros.parameters import ParameterError, Parameters, descriptor

FIELDS = {field.name: field for field in dataclasses.fields(Parameters)}
TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple: ParameterType.PARAMETER_STRING_ARRAY,
}


@pytest.fixture
def node(ros):
    made = CompletionNode()
    yield made
    made.destroy_node()


def test_the_shipped_file_lists_every_parameter_with_its_default():
    listed = yaml.safe_load(config_file("complete.param.yaml").read_text())["/**"]["ros__parameters"]
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(Parameters()).items()}
    assert listed == defaults
    assert {name: type(value) for name, value in listed.items()} == {
        name: type(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_described(name, node):
    described = node.describe_parameter(name)
    assert described == descriptor(FIELDS[name])
    assert described.type == TYPES[type(FIELDS[name].default)]
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
    ],
)
def test_nonsense_is_refused_with_the_name_of_the_parameter(name, value, node):
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert name in result.reason
    assert node.parameters == Parameters()


def test_a_wrong_type_is_refused(node):
    assert not node.set_parameters([Parameter("guidance", value="strong")])[0].successful
    assert node.parameters == Parameters()


def test_the_ranges_must_agree(node):
    changes = [Parameter("min_range_m", value=10.0), Parameter("max_range_m", value=5.0)]
    result = node.set_parameters_atomically(changes)
    assert not result.successful
    assert "max_range_m" in result.reason
    with pytest.raises(ParameterError, match="max_range_m"):
        Parameters(min_range_m=10.0, max_range_m=10.0)


def test_a_dynamic_parameter_takes_effect(node):
    (result,) = node.set_parameters([Parameter("steps", value=4)])
    assert result.successful
    assert node.parameters.completion_options()["steps"] == 4


def test_zero_leaves_the_choice_to_the_model_card():
    options = Parameters().completion_options()
    assert options.pop("seed") == 0
    assert set(options.values()) == {None}
    assert Parameters(min_range_m=0.0).completion_options()["min_range_m"] == 0.0


def test_what_needs_a_configure_is_fixed_until_cleanup(node, tiny_model):
    assert node.set_parameters([Parameter("model", value=str(tiny_model))])[0].successful
    node.trigger_configure()
    (result,) = node.set_parameters([Parameter("device", value="cuda")])
    assert not result.successful
    assert "device" in result.reason
    node.trigger_cleanup()
    assert node.set_parameters([Parameter("device", value="cuda")])[0].successful
