"""The occupancy grid of a completed sweep as nav_msgs/OccupancyGrid."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import numpy as np
import torch
from geometry_msgs.msg import Point, Pose
from nav_msgs.msg import MapMetaData
from nav_msgs.msg import OccupancyGrid as OccupancyGridMessage
from std_msgs.msg import Header

from lidar_completion.completer import Completion
from lidar_completion.occupancy import OccupancyGrid, occupancy_grid
from lidar_completion.visibility.output_filter import inside_box
from lidar_completion_ros.motion import frames
from lidar_completion_ros.parameters import Parameters

if TYPE_CHECKING:
    from scipy.spatial.transform import RigidTransform


def occupancy_of(
    completion: Completion, T_target_sensor: RigidTransform | None, parameters: Parameters
) -> OccupancyGrid:
    """The grid around the sensor in the output's frame; None: the frame of the sweep.

    Completed points count from marking_min_confidence on.
    """
    measured = completion.points[: len(completion.measured_rows)]
    if any(parameters.ego_box_m):
        measured = measured[~inside_box(torch.from_numpy(measured), parameters.ego_box_m).numpy()]
    confident = completion.completed_points.take(confident_rows(completion, parameters.marking_min_confidence), axis=0)
    return occupancy_grid(
        frames.apply(T_target_sensor, measured),
        frames.apply(T_target_sensor, confident),
        np.zeros(3) if T_target_sensor is None else T_target_sensor.translation,
        parameters.occupancy_rules(),
    )


def confident_rows(completion: Completion, min_confidence: float) -> np.ndarray:
    """Rows (n,) of the completed points that have at least this confidence."""
    return np.flatnonzero(completion.confidence[len(completion.measured_rows) :] >= min_confidence)


def occupancy_message(header: Header, grid: OccupancyGrid) -> OccupancyGridMessage:
    """The grid under the header of the completion."""
    rows, columns = grid.values.shape
    corner = Point(x=float(grid.corner[0]), y=float(grid.corner[1]), z=0.0)
    info = MapMetaData(
        map_load_time=header.stamp,
        resolution=grid.resolution_m,
        width=columns,
        height=rows,
        origin=Pose(position=corner),
    )
    return OccupancyGridMessage(header=header, info=info, data=array.array("b", grid.values.tobytes()))
