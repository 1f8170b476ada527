#!/bin/bash
# ROS and the node's packages, then the command.
set -e
source /opt/ros/jazzy/setup.bash
source /opt/lidar_completion/install/local_setup.bash
exec "$@"
