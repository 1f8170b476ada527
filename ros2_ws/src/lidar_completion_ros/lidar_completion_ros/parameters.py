"""Parameters of the node: one typed, immutable snapshot, and the ROS descriptors that guard it.

Every field below is one ROS parameter: its default, range, unit and text are written here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from array import array
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from lidar_completion.visibility import FreeSpaceRules, TrustRules
from lidar_completion_ros.frames import POSE_HELP, pose
from lidar_completion_ros.point_cloud_messages import OUTPUT_FIELDS

CARD = "the model card's value"
DEVICES = ("auto", "cpu", "cuda", "cuda:N")
BACKENDS = ("torch", "onnx")
PRECISIONS = ("float32", "bfloat16")
MOTIONS = ("none", "twist", "odometry")
TRANSFORMS = ("auto", "tf", "parameters")
SCHEMA_NAME = "complete.schema.json"


class ParameterError(ValueError):
    """A parameter value that the node cannot work with; the text names it, what was expected and what was found."""


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
    """What the node does with a sweep. Fields that are not dynamic are read when the node is configured."""

    model: str = _parameter(
        "",
        "Path of a model folder, or name of a shipped model; empty: the default model. A change while the node runs loads "
        "in the background; a model that cannot be loaded leaves the old one running",
    )
    device: str = _parameter("auto", f"Where the network runs: {', '.join(DEVICES)}", dynamic=False)
    backend: str = _parameter("torch", f"What runs the network: {', '.join(BACKENDS)}", dynamic=False)
    precision: str = _parameter(
        "float32", f"Of the products of wide layers: {', '.join(PRECISIONS)} (backend torch)", dynamic=False
    )
    warm_up: bool = _parameter(True, "Complete made-up sweeps before the first real one", dynamic=False)
    autostart: bool = _parameter(True, "Configure and activate the node by itself at start", dynamic=False)
    diagnostics_period_s: float = _parameter(
        1.0, "Time between two diagnostics", unit="s", low=0.05, high=60.0, dynamic=False
    )
    steps: int = _parameter(0, f"Denoising steps, with a latency budget the most; 0: {CARD}", low=0, high=8)
    guidance: float = _parameter(
        0.0, f"Weight of the condition (1 needs one forward pass, others two); 0: {CARD}", low=0.0, high=20.0
    )
    replication: int = _parameter(
        0, f"Start points per voxel (K), with a latency budget the most; 0: {CARD}", low=0, high=100
    )
    refine: bool = _parameter(True, "Make six points of each completed one, where the model has a refiner")
    voxel_size_m: float = _parameter(
        0.0, f"Voxel of the downsampling before replication; 0: {CARD}", unit="m", low=0.0, high=5.0
    )
    min_range_m: float = _parameter(
        -1.0,
        f"Nearer points are returns of the own vehicle: kept, but not completed; negative: {CARD}",
        unit="m",
        low=-1.0,
        high=50.0,
    )
    max_range_m: float = _parameter(
        0.0, f"Farther points are kept, but not completed; 0: {CARD}", unit="m", low=0.0, high=500.0
    )
    seed: int = _parameter(
        0, "Seed of the noise: the same sweep and seed give the same completion", low=0, high=2**31 - 1
    )
    output_fields: tuple[str, ...] = _parameter(
        tuple(OUTPUT_FIELDS), f"Fields of the output besides x, y, z; any of {', '.join(OUTPUT_FIELDS)}"
    )
    lazy: bool = _parameter(True, "Compute nothing while nobody subscribes to ~/points or ~/points_completed")
    max_input_points: int = _parameter(1_000_000, "Larger sweeps are refused", unit="points", low=1, high=10_000_000)
    latency_budget_ms: float = _parameter(
        0.0,
        "Steps and replication are chosen so that 99 of 100 sweeps are answered within it, from arrival to publication; "
        "0: no budget, always all steps and copies",
        unit="ms",
        low=0.0,
        high=60_000.0,
    )
    free_space_filter: bool = _parameter(
        True, "Take out completed points that lie before what the sensor measured in their direction"
    )
    free_space_margin_m: float = _parameter(
        FreeSpaceRules().margin_m, "Last stretch of a ray that refutes nothing", unit="m", low=0.0, high=10.0
    )
    below_ground_m: float = _parameter(
        0.2,
        "Take out completed points that lie deeper below the lowest measured point around them; negative: none",
        unit="m",
        low=-1.0,
        high=10.0,
    )
    ego_box_m: tuple[float, ...] = _parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "Box of the vehicle itself in the sensor's frame, x, y, z of its lowest and of its highest corner: no completed point "
        "stays in it; all 0: none",
        unit="m",
    )
    min_confidence: float = _parameter(0.0, "Take out completed points with less", low=0.0, high=1.0)
    max_points: int = _parameter(
        0,
        "Most points of the output, measured ones first, thinned evenly; 0: no limit",
        unit="points",
        low=0,
        high=10_000_000,
    )
    sweep_timeout_s: float = _parameter(
        2.0, "Diagnostics warn when no sweep came for so long", unit="s", low=0.1, high=3600.0
    )
    motion: str = _parameter(
        "none",
        "Where the vehicle's motion comes from, of which a sweep with times of its points is freed: twist "
        "(geometry_msgs/TwistStamped on twist), odometry (nav_msgs/Odometry on odometry), none",
        dynamic=False,
    )
    temporal: bool = _parameter(
        False,
        "Begin every completion with the one before it, moved by the vehicle's motion (needs motion); forgotten after a gap, a "
        "jump, or a sweep without motion",
    )
    target_frame: str = _parameter(
        "", "Frame of the output; empty: that of the sweep, and measured points stay bit-exact", dynamic=False
    )
    transforms: str = _parameter(
        "auto",
        "Where the transform to target_frame comes from: tf, parameters (sensor_pose), or auto: sensor_pose where it is "
        "given, else tf where tf2_ros is installed",
        dynamic=False,
    )
    sensor_pose: tuple[float, ...] = _parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        f"Pose of the sensor in target_frame and in the frame of the motion, where tf does not tell: {POSE_HELP}",
    )

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BACKENDS),
            ("precision", PRECISIONS),
            ("transforms", TRANSFORMS),
            ("motion", MOTIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(f"{name}: expected {' or '.join(allowed)}, found {getattr(self, name)!r}")
        unknown = [name for name in self.output_fields if name not in OUTPUT_FIELDS]
        if unknown:
            raise ParameterError(
                f"output_fields: expected any of {', '.join(OUTPUT_FIELDS)}, found {', '.join(unknown)}"
            )
        if 0 < self.max_range_m <= self.min_range_m:
            raise ParameterError(
                f"max_range_m: expected more than min_range_m = {self.min_range_m}, found {self.max_range_m}"
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ParameterError(f"{name}: expected a finite number, found {value}")
        try:
            pose(self.sensor_pose)
            self.trust_rules()
        except ValueError as error:
            raise ParameterError(str(error)) from error

    def completion_options(self) -> dict[str, Any]:
        """Arguments of `SceneCompleter.complete` besides steps and replication; None where the model card decides."""
        return {
            "guidance": self.guidance or None,
            "refine": self.refine,
            "voxel_size_m": self.voxel_size_m or None,
            "min_range_m": None if self.min_range_m < 0 else self.min_range_m,
            "max_range_m": self.max_range_m or None,
            "trust": self.trust_rules(),
            "max_points": self.max_points or None,
            "seed": self.seed,
        }

    def trust_rules(self) -> TrustRules:
        """Which completed points are taken out again."""
        return TrustRules(
            free_space=FreeSpaceRules(margin_m=self.free_space_margin_m) if self.free_space_filter else None,
            below_ground_m=None if self.below_ground_m < 0 else self.below_ground_m,
            ego_box_m=self.ego_box_m if any(self.ego_box_m) else None,
            min_confidence=self.min_confidence,
        )


def declare_parameters(node: Node) -> Parameters:
    """Declare every field of `Parameters` on `node` and return the values that launch file and command line gave."""
    for field in dataclasses.fields(Parameters):
        node.declare_parameter(field.name, _ros_value(field.default), descriptor(field))
    return read_parameters(node)


def read_parameters(node: Node) -> Parameters:
    return Parameters(**{name: _python_value(node.get_parameter(name).value) for name in _names()})


def changed_parameters(current: Parameters, changes: list[Parameter]) -> Parameters:
    """`current` with the `changes` that concern it. Raises `ParameterError` where the result makes no sense."""
    values = {change.name: _python_value(change.value) for change in changes if change.name in _names()}
    return dataclasses.replace(current, **values)


def read_only_while_configured(changes: list[Parameter]) -> list[str]:
    """Names of those `changes` that only take effect when the node is configured."""
    fixed = {field.name for field in dataclasses.fields(Parameters) if not field.metadata["dynamic"]}
    return [change.name for change in changes if change.name in fixed]


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """The ROS descriptor of one field of `Parameters`: type, text with unit, range, and when it takes effect."""
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


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _python_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, array)) else value


def markdown_table() -> str:
    """The parameters as the README's table: python -m lidar_completion_ros.parameters"""
    rows = ["| parameter | default | range | unit | change while running | meaning |", "|---|---|---|---|---|---|"]
    for field in dataclasses.fields(Parameters):
        about = field.metadata
        span = "" if about["low"] is None else f"{about['low']:g} … {about['high']:g}"
        dynamic = "yes" if about["dynamic"] else "no"
        default = _ros_value(field.default)
        rows.append(f"| `{field.name}` | `{default!r}` | {span} | {about['unit']} | {dynamic} | {about['text']} |")
    return "\n".join(rows)


def json_schema() -> str:
    """The parameter file's JSON schema: python -m lidar_completion_ros.parameters --schema"""
    properties = {field.name: _property(field) for field in dataclasses.fields(Parameters)}
    parameters = {"type": "object", "properties": properties, "additionalProperties": True}
    node = {"type": "object", "properties": {"ros__parameters": parameters}, "required": ["ros__parameters"]}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Parameters of the node lidar_completion",
        "type": "object",
        "properties": {"/**": node},
        "required": ["/**"],
        "additionalProperties": {"type": "object"},
    }
    return json.dumps(schema, indent=2) + "\n"


def _property(field: dataclasses.Field[Any]) -> dict[str, Any]:
    about, default = field.metadata, _ros_value(field.default)
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    described: dict[str, Any] = {"description": descriptor(field).description, "default": default}
    if isinstance(default, list):
        described |= {"type": "array", "items": {"type": names[type(default[0])]}}
    else:
        described |= {"type": names[type(default)]}
    if about["low"] is not None:
        described |= {"minimum": about["low"], "maximum": about["high"]}
    choices = {"backend": BACKENDS, "precision": PRECISIONS, "transforms": TRANSFORMS, "motion": MOTIONS}.get(
        field.name
    )
    if choices:
        described["enum"] = list(choices)
    return described


if __name__ == "__main__":
    print(json_schema() if "--schema" in sys.argv else markdown_table(), end="" if "--schema" in sys.argv else "\n")
