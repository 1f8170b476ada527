"""Parameters of the node: an immutable typed snapshot, and the ROS descriptors made from it.

Each field of `Parameters` is one ROS parameter. Its default, range, unit and description are defined here only; the YAML
file, the JSON schema and docs/parameters.md are generated from it or compared with it by a test.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from array import array
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from lidar_completion.model.card import MIN_OUTPUT_VOXEL_M
from lidar_completion.occupancy import OccupancyRules
from lidar_completion.output_layouts import LAYOUTS
from lidar_completion.point_clouds import OUTPUT_FIELDS
from lidar_completion.visibility import FreeSpaceRules, TrustRules
from lidar_completion_ros.motion.frames import POSE_FORMAT, pose_numbers

CARD = "the model card's value"
DEVICES = ("auto", "cpu", "cuda", "cuda:N")
CHOICES = {
    "backend": ("torch", "onnx"),
    "precision": ("float32", "bfloat16"),
    "transforms": ("auto", "tf", "parameters"),
    "motion": ("none", "twist", "odometry"),
    "level_sweep": ("off", "pose", "estimate"),
    "output_layout": LAYOUTS,
    "occupancy_height_from": ("ground", "sensor"),
}
SCHEMA_NAME = "complete.schema.json"
# Parameters that rclpy declares by itself, before or after ours.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class ParameterError(ValueError):
    """An invalid parameter value. The message names the parameter, what was expected and what was found."""


def _parameter(
    default: Any,
    text: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    dynamic: bool = True,
) -> Any:
    metadata = {"text": text, "unit": unit, "low": low, "high": high, "dynamic": dynamic}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """The node's settings. Fields that are not dynamic are read when the node is configured."""

    model: str = _parameter(
        "",
        "Path of a model folder, or name of a shipped model; empty: the default model. A change at run time loads the model "
        "in the background; if that fails, the previous model stays in use",
    )
    device: str = _parameter("auto", f"Device of the network: {', '.join(DEVICES)}", dynamic=False)
    backend: str = _parameter("torch", f"Inference backend: {', '.join(CHOICES['backend'])}", dynamic=False)
    precision: str = _parameter(
        "float32",
        f"Precision of the wide layers: {', '.join(CHOICES['precision'])} (torch backend only)",
        dynamic=False,
    )
    warm_up: bool = _parameter(True, "Complete synthetic sweeps before the first real one", dynamic=False)
    autostart: bool = _parameter(True, "Configure and activate the node at start", dynamic=False)
    diagnostics_period_s: float = _parameter(
        1.0, "Period of the diagnostics", unit="s", low=0.05, high=60.0, dynamic=False
    )
    steps: int = _parameter(
        0, f"Number of denoising steps; the maximum if latency_budget_ms is set; 0: {CARD}", low=0, high=8
    )
    guidance: float = _parameter(
        0.0,
        f"Classifier-free guidance weight; 1 needs one forward pass per step, other values two; 0: {CARD}",
        low=0.0,
        high=20.0,
    )
    replication: int = _parameter(
        0,
        f"Start points per voxel of the downsampled sweep; the maximum if latency_budget_ms is set; 0: {CARD}",
        low=0,
        high=100,
    )
    refine: bool = _parameter(
        True, "Apply the refiner, if the model has one: it replaces each completed point by several"
    )
    voxel_size_m: float = _parameter(
        0.0,
        f"Voxel size to which a sweep is downsampled, not that of the network; 0: {CARD}",
        unit="m",
        low=0.0,
        high=5.0,
    )
    min_range_m: float = _parameter(
        -1.0,
        f"Closer points are treated as returns from the vehicle: kept, but not completed; negative: {CARD}",
        unit="m",
        low=-1.0,
        high=50.0,
    )
    max_range_m: float = _parameter(
        0.0, f"Points farther away are kept, but not completed; 0: {CARD}", unit="m", low=0.0, high=500.0
    )
    seed: int = _parameter(
        0, "Random seed; the same sweep and seed give the same completion on the same device", low=0, high=2**31 - 1
    )
    output_fields: tuple[str, ...] = _parameter(
        tuple(OUTPUT_FIELDS), f"Output fields besides x, y, z: any of {', '.join(OUTPUT_FIELDS)}"
    )
    output_layout: str = _parameter(
        "fields",
        "Layout of ~/points and ~/points_completed: fields (output_fields), pass_through (and ring, time and return type of "
        "the measured points, in the sweep's own types), xyzirc (Autoware's PointXYZIRC; output_fields is ignored)",
    )
    lazy: bool = _parameter(True, "Skip sweeps while nobody subscribes to any output")
    max_input_points: int = _parameter(
        1_000_000, "Sweeps with more points are refused", unit="points", low=1, high=10_000_000
    )
    latency_budget_ms: float = _parameter(
        0.0,
        "Latency budget from the arrival of a sweep to the publication of its completion; steps and replication are reduced "
        "so that 99 of 100 sweeps meet it; 0: no budget",
        unit="ms",
        low=0.0,
        high=60_000.0,
    )
    free_space_filter: bool = _parameter(True, "Remove completed points in space that a ray has passed through")
    free_space_margin_m: float = _parameter(
        FreeSpaceRules().margin_m,
        "Length of the last part of each ray, in front of the measured point, that does not count as free space",
        unit="m",
        low=0.0,
        high=10.0,
    )
    below_ground_m: float = _parameter(
        0.2,
        "Remove completed points that are farther than this below the lowest measured point nearby; negative: off",
        unit="m",
        low=-1.0,
        high=10.0,
    )
    ego_box_m: tuple[float, ...] = _parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "Box around the vehicle in the sensor frame (x, y, z of the minimum corner, then of the maximum corner) in which "
        "completed points are removed, and measured ones do not count for ~/occupancy; all 0: off",
        unit="m",
    )
    min_confidence: float = _parameter(0.0, "Remove completed points with a lower confidence", low=0.0, high=1.0)
    output_voxel_m: float = _parameter(
        0.0,
        "Completed points are thinned to the most confident one per voxel of this size; measured points stay; "
        "0: the model card's value",
        unit="m",
        low=0.0,
        high=10.0,
    )
    max_points: int = _parameter(
        0,
        "Maximum number of output points; measured points are kept first, the rest is thinned evenly; 0: no limit",
        unit="points",
        low=0,
        high=10_000_000,
    )
    sweep_timeout_s: float = _parameter(
        2.0, "The diagnostics warn if no sweep arrives for this long", unit="s", low=0.1, high=3600.0
    )
    motion: str = _parameter(
        "none",
        "Ego-motion source for deskewing (needs per-point timestamps) and for temporal: twist (geometry_msgs/TwistStamped on "
        "the topic twist), odometry (nav_msgs/Odometry on the topic odometry), none",
        dynamic=False,
    )
    temporal: bool = _parameter(
        False,
        "Start each completion from the previous one, moved by the ego-motion (needs motion); reset by a gap, a jump in time, "
        "or a sweep without ego-motion",
    )
    target_frame: str = _parameter(
        "",
        "Frame of the output; empty: the frame of the sweep, in which measured points stay bit-exact",
        dynamic=False,
    )
    transforms: str = _parameter(
        "auto",
        "Source of the transform to target_frame: tf, parameters (sensor_pose), or auto (sensor_pose if it is given, else tf "
        "if tf2_ros is installed)",
        dynamic=False,
    )
    sensor_pose: tuple[float, ...] = _parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        f"Pose of the sensor in target_frame and in the frame of the ego-motion, if not taken from tf: {POSE_FORMAT}",
    )

    check_mounting: bool = _parameter(
        True,
        "Estimate the height and tilt of the sensor from each sweep; warn if the model was not trained for them, and "
        "refuse clouds in a map frame",
    )
    level_sweep: str = _parameter(
        "off",
        "Rotate each sweep upright for the network, and its completion back. pose: roll and pitch of the transform to "
        "target_frame (base_link if that is empty); estimate: roll and pitch of the ground in the newest sweeps; off",
        dynamic=False,
    )

    marking_min_confidence: float = _parameter(
        0.5,
        "Minimum confidence of the completed points that mark obstacles: those of ~/points_confident and ~/occupancy",
        low=0.0,
        high=1.0,
    )
    occupancy_resolution_m: float = _parameter(
        OccupancyRules().resolution_m, "Cell size of ~/occupancy", unit="m", low=0.05, high=5.0
    )
    occupancy_size_m: float = _parameter(
        OccupancyRules().size_m, "Side length of ~/occupancy, a square around the sensor", unit="m", low=1.0, high=400.0
    )
    occupancy_min_height_m: float = _parameter(
        OccupancyRules().min_height_m, "Height above which a point occupies its cell", unit="m", low=-50.0, high=50.0
    )
    occupancy_max_height_m: float = _parameter(
        OccupancyRules().max_height_m,
        "Points and parts of rays above this height are ignored: the vehicle passes below",
        unit="m",
        low=-50.0,
        high=50.0,
    )
    occupancy_height_from: str = _parameter(
        "ground",
        "Reference of the heights of ~/occupancy: ground (estimated around each cell from the measured points), sensor",
    )

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ParameterError(f"{name}: expected {' or '.join(allowed)}, found {getattr(self, name)!r}")
        unknown = [name for name in self.output_fields if name not in OUTPUT_FIELDS]
        if unknown:
            raise ParameterError(
                f"output_fields: expected any of {', '.join(OUTPUT_FIELDS)}, found {', '.join(unknown)}"
            )
        if 0.0 < self.output_voxel_m < MIN_OUTPUT_VOXEL_M:
            raise ParameterError(
                f"output_voxel_m: expected 0 or at least {MIN_OUTPUT_VOXEL_M}, found {self.output_voxel_m}"
            )
        if 0 < self.max_range_m <= self.min_range_m:
            raise ParameterError(
                f"max_range_m: expected more than min_range_m = {self.min_range_m}, found {self.max_range_m}"
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ParameterError(f"{name}: expected a finite number, found {value}")
        try:
            pose_numbers(self.sensor_pose)
            self.trust_rules()
        except ValueError as error:
            raise ParameterError(str(error)) from error
        try:
            self.occupancy_rules()
        except ValueError as error:
            raise ParameterError(f"occupancy_{error}") from error

    def completion_options(self) -> dict[str, Any]:
        """Arguments of `SceneCompleter.complete` besides steps and replication; None: the model card's value."""
        return {
            "guidance": self.guidance or None,
            "refine": self.refine,
            "voxel_size_m": self.voxel_size_m or None,
            "min_range_m": None if self.min_range_m < 0 else self.min_range_m,
            "max_range_m": self.max_range_m or None,
            "trust": self.trust_rules(),
            "output_voxel_m": self.output_voxel_m or None,
            "max_points": self.max_points or None,
            "seed": self.seed,
        }

    def occupancy_rules(self) -> OccupancyRules:
        """The grid ~/occupancy."""
        return OccupancyRules(
            resolution_m=self.occupancy_resolution_m,
            size_m=self.occupancy_size_m,
            min_height_m=self.occupancy_min_height_m,
            max_height_m=self.occupancy_max_height_m,
            above_ground=self.occupancy_height_from == "ground",
        )

    def trust_rules(self) -> TrustRules:
        """Which completed points are removed."""
        return TrustRules(
            free_space=FreeSpaceRules(margin_m=self.free_space_margin_m) if self.free_space_filter else None,
            below_ground_m=None if self.below_ground_m < 0 else self.below_ground_m,
            ego_box_m=self.ego_box_m if any(self.ego_box_m) else None,
            min_confidence=self.min_confidence,
        )


def declare_parameters(node: Node) -> Parameters:
    """Declare each field of `Parameters` on `node` and return the values given by launch file and command line."""
    given = node._parameter_overrides  # rclpy has no public access to values before their declaration
    for field in dataclasses.fields(Parameters):
        if field.name in given:
            given[field.name] = integers_as_floats([given[field.name]])[0]
        node.declare_parameter(field.name, ros_value(field.default), descriptor(field))
    return read_parameters(node)


def unknown_parameters(node: Node) -> list[str]:
    """A warning for each given parameter that the node does not have, such as a misspelled one."""
    names = [name for name in node._parameter_overrides if not node.has_parameter(name)]
    warnings = []
    for name in (each for each in names if not each.startswith(ROS_PARAMETERS)):
        similar = difflib.get_close_matches(name, _names(), n=1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        warnings.append(f"unknown parameter {name} is ignored{hint}")
    return warnings


def integers_as_floats(changes: list[Parameter]) -> list[Parameter]:
    """`changes` with integers converted for parameters of type float, so that `0.0` may be written as `0`."""
    defaults = {field.name: field.default for field in dataclasses.fields(Parameters)}
    return [_integer_as_float(change, defaults.get(change.name)) for change in changes]


def _integer_as_float(change: Parameter, default: Any) -> Parameter:
    value = _python_value(change.value)
    if isinstance(default, float) and type(value) is int:
        return Parameter(change.name, value=float(value))
    floats = isinstance(default, tuple) and isinstance(default[0], float)
    if floats and isinstance(value, tuple) and all(type(each) is int for each in value):
        return Parameter(change.name, value=[float(each) for each in value])
    return change


def read_parameters(node: Node) -> Parameters:
    """The current values. Raises `ParameterError` if they are not valid together."""
    return Parameters(**{name: _python_value(node.get_parameter(name).value) for name in _names()})


def changed_parameters(current: Parameters, changes: list[Parameter]) -> Parameters:
    """`current` with `changes`; unknown parameters are ignored. Raises `ParameterError` if the result is not valid."""
    values = {change.name: _python_value(change.value) for change in changes if change.name in _names()}
    return dataclasses.replace(current, **values)


def read_only_while_configured(changes: list[Parameter]) -> list[str]:
    """Names of the `changes` that take effect only when the node is configured."""
    fixed = {field.name for field in dataclasses.fields(Parameters) if not field.metadata["dynamic"]}
    return [change.name for change in changes if change.name in fixed]


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """The ROS descriptor of one field of `Parameters`: type, description with unit, range, and when it takes effect."""
    about = field.metadata
    described = ParameterDescriptor(
        name=field.name,
        type=_ros_type(field.default),
        description=about["text"] + (f" [{about['unit']}]" if about["unit"] else ""),
        additional_constraints="dynamic" if about["dynamic"] else "read-only while configured: set it before configure",
    )
    if about["low"] is not None and isinstance(field.default, int):
        described.integer_range = [IntegerRange(from_value=int(about["low"]), to_value=int(about["high"]), step=1)]
    elif about["low"] is not None:
        described.floating_point_range = [FloatingPointRange(from_value=about["low"], to_value=about["high"], step=0.0)]
    return described


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(Parameters)]


def _ros_type(default: Any) -> int:
    types = {
        bool: ParameterType.PARAMETER_BOOL,
        int: ParameterType.PARAMETER_INTEGER,
        float: ParameterType.PARAMETER_DOUBLE,
        str: ParameterType.PARAMETER_STRING,
    }
    arrays = {str: ParameterType.PARAMETER_STRING_ARRAY, float: ParameterType.PARAMETER_DOUBLE_ARRAY}
    return arrays[type(default[0])] if isinstance(default, tuple) else types[type(default)]


def ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _python_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, array)) else value
