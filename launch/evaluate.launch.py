"""Play a bag through the node and write a report: ros2 launch lidar_completion_ros evaluate.launch.py bag:=PATH

The node is that of complete.launch.py, with the vehicle's parameters; the bag is played by `lidar-completion bag --evaluate
--wait-for-node`. All ends when either of them does. `--show-args` lists the arguments.
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

# Arguments that become options of `lidar-completion bag`; empty ones are left out.
OPTIONS = [
    DeclareLaunchArgument("topic", default_value="", description="PointCloud2 topic of the bag, where it has several"),
    DeclareLaunchArgument(
        "rate", default_value="1.0", description="1: real time; 0: a sweep when the last is answered"
    ),
    DeclareLaunchArgument("poses", default_value="", description="TUM file: judge against the map of the bag"),
    DeclareLaunchArgument("odometry_topic", default_value="", description="Odometry of the bag, instead of poses"),
    DeclareLaunchArgument("report", default_value="", description="New folder of the report; empty: BAG_evaluation"),
    DeclareLaunchArgument(
        "output", default_value="", description="New bag of all completions; empty: the judged alone"
    ),
    DeclareLaunchArgument("judge_every", default_value="5", description="Judge every n-th sweep"),
    DeclareLaunchArgument("show", default_value="3", description="So many of the worst and slowest sweeps as pictures"),
]
# Arguments of complete.launch.py, passed on; empty ones leave the choice to it.
NODE_ARGUMENTS = [
    DeclareLaunchArgument("model", default_value="", description="Model folder or shipped name; empty: params_file's"),
    DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda, cuda:N; empty: params_file's"),
    DeclareLaunchArgument("latency_budget_ms", default_value="", description="Budget; empty: params_file's"),
    DeclareLaunchArgument(
        "params_file", default_value="", description="The vehicle's parameters; empty: the shipped ones"
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Of the node"),
]
BAG = DeclareLaunchArgument("bag", description="rosbag2: a folder, or an .mcap or .db3 file")


def evaluation(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and the replay, with the arguments' values filled in."""
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
    """End all when the node or the evaluation has ended; once, as what then ends calls it again."""
    return [] if context.is_shutdown else [Shutdown(reason=f"{event.process_name} has ended")]


def generate_launch_description() -> LaunchDescription:
    stop = RegisterEventHandler(OnProcessExit(on_exit=shutdown))
    return LaunchDescription([BAG, *OPTIONS, *NODE_ARGUMENTS, stop, OpaqueFunction(function=evaluation)])
