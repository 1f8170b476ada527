"""Several LiDARs: one node each in its own namespace, and a merged cloud in the frame of the vehicle.

    ros2 launch lidar_completion_ros several_lidars.launch.py lidars:=front,rear target_frame:=base_link

    /front/velodyne_points -> /front/lidar_completion -> /front/velodyne_points/completed -+
    /rear/velodyne_points  -> /rear/lidar_completion  -> /rear/velodyne_points/completed  -+-> /lidars/completed

The transforms from the sensors to `target_frame` come from tf. Without tf, set sensor_pose of each node in a params_file with
the full names of the nodes (/front/lidar_completion: ros__parameters: ...).
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.actions import Node

ARGUMENTS = [
    DeclareLaunchArgument(
        "lidars", default_value="front,rear", description="Namespaces of the LiDARs, separated by commas"
    ),
    DeclareLaunchArgument("input_topic", default_value="velodyne_points", description="Input topic in each namespace"),
    DeclareLaunchArgument("target_frame", default_value="base_link", description="Frame of all completions"),
    DeclareLaunchArgument("merged_topic", default_value="lidars/completed", description="Topic of the merged cloud"),
    DeclareLaunchArgument(
        "max_stamp_difference_s",
        default_value="0.06",
        description="Maximum difference between the stamps of merged clouds",
    ),
    DeclareLaunchArgument("model", default_value="", description="Model of every node; empty: the default model"),
    DeclareLaunchArgument(
        "params_file", default_value="", description="Parameters of every node; empty: the shipped file"
    ),
    DeclareLaunchArgument(
        "respawn_max_retries",
        default_value="10",
        description="Maximum number of restarts of a node; -1: no limit",
    ),
]


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """One completion node per LiDAR, and the merger."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    lidars = [name.strip().strip("/") for name in value["lidars"].split(",") if name.strip()]
    passed_on = ("input_topic", "target_frame", "model", "params_file", "respawn_max_retries")
    shared = {name: value[name] for name in passed_on}
    complete = PathJoinSubstitution([ThisLaunchFileDir(), "complete.launch.py"])
    return [
        *(
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(complete),
                launch_arguments=[*shared.items(), ("namespace", lidar), ("respawn", "true")],
            )
            for lidar in lidars
        ),
        Node(
            package="lidar_completion_ros",
            executable="lidar_completion_merge",
            parameters=[
                {
                    "topics": [f"/{lidar}/{value['input_topic']}/completed" for lidar in lidars],
                    "max_stamp_difference_s": float(value["max_stamp_difference_s"]),
                }
            ],
            remappings=[("merged", value["merged_topic"])],
            respawn=True,
            respawn_delay=2.0,
            respawn_max_retries=int(value["respawn_max_retries"]),
            output="screen",
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
