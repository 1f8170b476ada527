"""The ROS 2 side of lidar_completion: a lifecycle node that completes PointCloud2 sweeps."""
