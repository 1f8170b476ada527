#!/bin/bash
# ROS and the node's packages, then the command.
set -e
source /opt/ros/jazzy/setup.bash
source /opt/lidar_completion/install/local_setup.bash
# Loops compiled by the image's build. Numba ignores those for another type of processor and compiles its own.
mkdir -p "$NUMBA_CACHE_DIR" && cp -rn /opt/lidar_completion/numba/. "$NUMBA_CACHE_DIR" || echo "no compiled loops" >&2
exec "$@"
