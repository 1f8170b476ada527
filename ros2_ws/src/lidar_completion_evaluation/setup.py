from setuptools import find_packages, setup

package_name = "lidar_completion_evaluation"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["reports/templates/*.j2", "view/assets/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml", "CHANGELOG.rst"]),
    ],
    python_requires=">=3.11",
    install_requires=[
        "lidar_completion",
        "numpy",
        "scipy",
        "numba",
        "typer",
        "tqdm",
        "rosbags",
        "matplotlib",
        "pillow",
        "jinja2",
        "POT",
    ],
    extras_require={
        "replay": ["lidar_completion_ros"],  # `lidar-completion bag`: plays a bag through the node
        "synthetic": ["lidar_completion_synthetic"],  # `lidar-completion evaluate --data synthetic-test`, `calibrate`
        "odometry": ["kiss-icp"],  # `--poses auto`: poses of a drive from its sweeps
        "view": ["viser"],  # `lidar-completion view`
        "test": ["pytest"],  # where colcon looks for what `colcon test` runs
    },
    zip_safe=True,
    author="lidar_completion_ros maintainers",
    maintainer="lidar_completion_ros maintainers",
    maintainer_email="maintainers@lidar-completion.org",
    description="Metrics, baselines, ground truth, reports and bag replay for lidar_completion",
    license="Apache-2.0",
    entry_points={
        "console_scripts": ["replay_bag = lidar_completion_evaluation.replay.command:main"],
        "lidar_completion.commands": [
            "bag = lidar_completion_evaluation.replay.command:bag",
            "evaluate = lidar_completion_evaluation.evaluate_command:evaluate_command",
            "map = lidar_completion_evaluation.commands:map_command",
            "make-bag = lidar_completion_evaluation.own_data_commands:make_bag_command",
            "view = lidar_completion_evaluation.view.command:view_command",
            "calibrate = lidar_completion_evaluation.commands:calibrate_command",
        ],
    },
)
