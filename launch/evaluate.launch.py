"""Play a bag through the node and write a report: ros2 launch lidar_completion_ros evaluate.launch.py bag:=PATH

Starts the node of complete.launch.py with the vehicle's parameters, and `lidar-completion bag --evaluate --wait-for-node`,
which plays the bag. When one of them exits, the other one is stopped. `--show-args` lists the arguments.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.substitutions import ExecutableInPackage

# Arguments that become options of `lidar-completion bag` if they are not empty.
OPTIONS = [
    DeclareLaunchArgument("topic", default_value="", description="PointCloud2 topic; needed if the bag has several"),
    DeclareLaunchArgument(
        "rate", default_value="1.0", description="Playback speed; 1: real time, 0: one sweep at a time"
    ),
    DeclareLaunchArgument("poses", default_value="", description="Pose file, to evaluate against the map of the bag"),
    DeclareLaunchArgument(
        "odometry_topic", default_value="", description="Odometry topic of the bag, instead of poses"
    ),
    DeclareLaunchArgument("report", default_value="", description="New folder for the report; empty: BAG_evaluation"),
    DeclareLaunchArgument(
        "output",
        default_value="",
        description="New bag of all completions; empty: only the evaluated ones are recorded",
    ),
    DeclareLaunchArgument("evaluate_every", default_value="5", description="Evaluate every n-th sweep"),
    DeclareLaunchArgument(
        "show", default_value="3", description="Number of worst and slowest sweeps to show as pictures"
    ),
]
# Arguments that are passed on to complete.launch.py.
NODE_ARGUMENTS = [
    DeclareLaunchArgument(
        "model", default_value="", description="Path or name of a model; empty: the value in params_file"
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="auto, cpu, cuda or cuda:N; empty: the value in params_file"
    ),
    DeclareLaunchArgument(
        "latency_budget_ms", default_value="", description="Latency budget in ms; empty: the value in params_file"
    ),
    DeclareLaunchArgument(
        "params_file", default_value="", description="Parameters of the node; empty: the shipped file"
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Log level of the node"),
]
BAG = DeclareLaunchArgument("bag", description="rosbag2: a folder, or an .mcap or .db3 file")


def evaluation(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and the replay with the values of the arguments."""
    value = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in (BAG, *OPTIONS, *NODE_ARGUMENTS)
    }
    options = [
        part
        for option in OPTIONS
        if value[option.name]
        for part in (f"--{option.name.replace('_', '-')}", value[option.name])
    ]
    command = [ExecutableInPackage(package="lidar_completion_evaluation", executable="replay_bag"), value["bag"]]
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "complete.launch.py"])),
            launch_arguments=[(each.name, value[each.name]) for each in NODE_ARGUMENTS],
        ),
        ExecuteProcess(
            cmd=[*command, "--evaluate", "--wait-for-node", *options],
            name="evaluation",
            output="screen",
        ),
    ]


def shutdown(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Shut down when the node or the evaluation ends; once, since the other one then ends as well."""
    return [] if context.is_shutdown else [Shutdown(reason=f"{event.process_name} has ended")]


def generate_launch_description() -> LaunchDescription:
    stop = RegisterEventHandler(OnProcessExit(on_exit=shutdown))
    return LaunchDescription([BAG, *OPTIONS, *NODE_ARGUMENTS, stop, OpaqueFunction(function=evaluation)])
