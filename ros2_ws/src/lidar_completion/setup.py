from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

package_name = "lidar_completion"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml", "CHANGELOG.rst"]),
        *(
            (f"share/{package_name}/models/{Path(folder).name}", sorted(glob(f"{folder}/*")))
            for folder in glob("models/*")
        ),
    ],
    python_requires=">=3.11",
    install_requires=[
        "numpy",
        "numba",
        "scipy",
        "torch",
        "safetensors",
        "threadpoolctl",
        "typer",
        "tqdm",
        "plyfile",
        "pypcd4",
    ],
    extras_require={
        "onnx": ["onnx", "onnxruntime"],
        "test": ["pytest"],  # where colcon looks for what `colcon test` runs
    },
    zip_safe=True,
    author="lidar_completion_ros maintainers",
    maintainer="lidar_completion_ros maintainers",
    maintainer_email="maintainers@lidar-completion.org",
    description="Diffusion-based completion of LiDAR sweeps",
    license="Apache-2.0",
    entry_points={"console_scripts": ["lidar-completion = lidar_completion.command_line:app"]},
)
