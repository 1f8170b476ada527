"""Start the node lidar_completion: ros2 launch lidar_completion_ros complete.launch.py [ARGUMENT:=VALUE ...]

`--show-args` lists the arguments. several_lidars.launch.py and evaluate.launch.py include this file. The Fast DDS profile is
set for the node only: the LiDAR driver needs it as well, see config/fast_dds_profile.xml. A profile that is already set in
FASTRTPS_DEFAULT_PROFILES_FILE is kept.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

CONFIG = os.path.join(get_package_share_directory("lidar_completion_ros"), "config")
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
BOOLEANS = ["true", "false"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "input_topic",
        default_value="velodyne_points",
        description="sensor_msgs/PointCloud2 to complete; relative to the namespace unless it starts with /",
    ),
    DeclareLaunchArgument(
        "output_topic", default_value="", description="Topic of the completions; empty: <input_topic>/completed"
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Path of a model folder, or name of a shipped model; empty: the value in params_file",
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="auto, cpu, cuda or cuda:N; empty: the value in params_file"
    ),
    DeclareLaunchArgument(
        "params_file", default_value="", description="YAML file with the node's parameters; empty: the shipped one"
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
    DeclareLaunchArgument(
        "latency_budget_ms",
        default_value="",
        description="Latency budget in ms; empty: the value in params_file",
    ),
    DeclareLaunchArgument(
        "target_frame", default_value="", description="Frame of the output; empty: the value in params_file"
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOLEANS, description="Use the time of /clock"
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=BOOLEANS,
        description="Configure and activate the node at start; false: leave it to ros2 lifecycle set",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=BOOLEANS,
        description="Restart the node whenever it exits, even if its model cannot be loaded",
    ),
    DeclareLaunchArgument("respawn_delay_s", default_value="2.0", description="Delay before a restart"),
    DeclareLaunchArgument(
        "respawn_max_retries",
        default_value="10",
        description="Maximum number of restarts; then the node stays down, and the launch ends if nothing else runs; -1: no limit",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Log level of the node",
    ),
]


def node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node with the values of the arguments."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    output_topic = value["output_topic"] or value["input_topic"] + "/completed"
    overrides = {name: value[name] for name in ("model", "device", "target_frame") if value[name]}
    if value["latency_budget_ms"]:
        overrides["latency_budget_ms"] = float(value["latency_budget_ms"])
    flags = {name: value[name] == "true" for name in ("use_sim_time", "autostart")}
    return [
        LifecycleNode(
            package="lidar_completion_ros",
            executable="lidar_completion_node",
            name="lidar_completion",
            namespace=value["namespace"],
            parameters=[value["params_file"] or os.path.join(CONFIG, "complete.param.yaml"), {**flags, **overrides}],
            remappings=[("velodyne_points", value["input_topic"]), ("~/points", output_topic)],
            additional_env={
                PROFILE_VARIABLE: os.environ.get(PROFILE_VARIABLE, os.path.join(CONFIG, "fast_dds_profile.xml"))
            },
            arguments=["--ros-args", "--log-level", value["log_level"]],
            respawn=value["respawn"] == "true",
            respawn_delay=float(value["respawn_delay_s"]),
            respawn_max_retries=int(value["respawn_max_retries"]),
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=node)])
