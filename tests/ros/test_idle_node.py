"""What a node has loaded when it is active and waits for its first sweep."""

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'lidar_completion_ros[ros]'")

START = """
import sys
import rclpy
from rclpy.parameter import Parameter
from lidar_completion_ros.node import CompletionNode

rclpy.init()
node = CompletionNode(parameter_overrides=[Parameter(name, value=value) for name, value in {parameters!r}.items()])
assert node.trigger_configure().name == "SUCCESS", node.configure_error
assert node.trigger_activate().name == "SUCCESS", node.configure_error
"""
MODULES = """
print(*sorted(name for name in {modules!r} if name in sys.modules), flush=True)
node.close()
"""
# None of them is needed by a sweep with the default parameters. numba imports scipy.linalg.
UNNEEDED = (
    "torch._dynamo", "torch._inductor", "sympy", "triton", "onnx", "onnxruntime", "scipy.spatial", "scipy.special",
    "scipy.ndimage", "scipy.sparse", "matplotlib", "pydantic", "kiss_icp", "typer", "PIL", "pandas", "open3d",
    "lidar_completion_evaluation", "lidar_completion_synthetic", "lidar_completion_training",
)  # fmt: skip


def lines_of_a_node(code, **parameters):
    """What `code` prints in a process with an active node of the default model."""
    filled = (START + code).format(parameters=parameters, modules=UNNEEDED)
    run = subprocess.run([sys.executable, "-c", filled], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [line for line in run.stdout.split("\n")[:-1] if not line.startswith("[")]  # the log


def test_idle_node_has_loaded_nothing_unneeded():
    """Each of them would take memory for as long as the node runs."""
    assert lines_of_a_node(MODULES) == [""]


def test_transforms_are_loaded_before_the_first_sweep():
    """Importing scipy during a sweep would delay it."""
    (loaded,) = lines_of_a_node(MODULES, motion="twist", warm_up=False)
    assert "scipy.spatial" in loaded.split()
