from glob import glob

from setuptools import find_packages, setup

package_name = "lidar_completion_ros"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml", "CHANGELOG.rst"]),
        (f"share/{package_name}/config", sorted(glob("config/*"))),
        (f"share/{package_name}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{package_name}/layouts", sorted(glob("layouts/*"))),
    ],
    python_requires=">=3.11",
    install_requires=["lidar_completion", "numpy", "scipy>=1.16", "typer"],
    # A ROS installation brings these itself; elsewhere the wheels on PyPI do.
    extras_require={
        "ros": [
            "ros-jazzy-rclpy",
            "ros-rmw-fastrtps-cpp==8.4.3",
            "ros-sensor-msgs==5.3.6",
            "ros-diagnostic-msgs==5.3.6",
            "ros-std-srvs==5.3.6",
            "ros-nav-msgs==5.3.6",
        ],
        "test": ["pytest"],  # where colcon looks for what `colcon test` runs
    },
    zip_safe=True,
    author="lidar_completion_ros maintainers",
    maintainer="lidar_completion_ros maintainers",
    maintainer_email="maintainers@lidar-completion.org",
    description="ROS 2 node that completes sparse LiDAR sweeps",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "lidar_completion_node = lidar_completion_ros.__main__:main",
            "lidar_completion_merge = lidar_completion_ros.merge_clouds:main",
        ],
        "lidar_completion.commands": [
            "health = lidar_completion_ros.command_line:health",
        ],
    },
)
