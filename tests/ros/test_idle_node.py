"""What a node has loaded when it is active and waits for its first sweep."""

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'lidar_completion_ros[ros]'")

START = """
import gc, sys, time
import numpy as np
import rclpy
from numba.core.dispatcher import Dispatcher
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from lidar_completion.compile_loops import synthetic_sweep
from lidar_completion.point_clouds import allocate_points
from lidar_completion_ros.node import CompletionNode
from lidar_completion_ros.point_cloud_messages import cloud_message

rclpy.init()
node = CompletionNode(parameter_overrides=[Parameter(name, value=value) for name, value in {parameters!r}.items()])
assert node.trigger_configure().name == "SUCCESS", node.configure_error
assert node.trigger_activate().name == "SUCCESS", node.configure_error
"""
MODULES = """
print(*sorted(name for name in {modules!r} if name in sys.modules), flush=True)
node.close()
"""
# The loops that are loaded in the worker's thread when the first sweep comes
FIRST_SWEEP = """
def loops():
    found = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
    return {{f"{{loop.__name__}}{{signature}}" for loop in found for signature in loop.signatures}}

layout = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")])
points = synthetic_sweep() * np.float32(1.1)
buffer, array = allocate_points(len(points), layout)
for axis, name in enumerate("xyz"):
    array[name] = points[:, axis]
warmed_up = loops()
node._worker.receive(cloud_message(Header(frame_id="velodyne"), buffer, layout))
until_s = time.monotonic() + 120
while not node.log.counts().completed and time.monotonic() < until_s:
    time.sleep(0.05)
assert node.log.counts().completed == 1, node.log.counts()
print(len(warmed_up))
print(*sorted(loops() - warmed_up), flush=True)
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


def test_warm_up_loads_every_loop_of_the_first_sweep():
    warmed_up, loaded_later = lines_of_a_node(FIRST_SWEEP, lazy=False)
    assert int(warmed_up) > 30
    assert loaded_later == ""
