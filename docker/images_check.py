"""Builds both images on stand-in bases and runs the CPU image: `make images-check`, as root, on Debian or Ubuntu.

Neither a Docker engine nor a registry is needed: mmdebstrap makes a small Debian, pip adds ROS's Python packages and colcon, and buildah and
podman take the place of Docker. A stand-in has no `ros2` command, so the node is started without a launch file. Skipped, with the
reason, where a tool is missing.

Checked: both Dockerfiles build. As a non-root user, with a read-only root file system and a tmpfs on /tmp: the node becomes healthy, completes
the shipped sample and ends with 0 on SIGINT; `health` without a node is 1; a node without a model ends with 2.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASE, IMAGE = "localhost/ros-stand-in", "localhost/lidar_completion_ros"
TOOLS = ("buildah", "podman", "mmdebstrap")
ROS = (
    "ros-jazzy-rclpy",
    "ros-rmw-fastrtps-cpp",
    "ros-sensor-msgs",
    "ros-diagnostic-msgs",
    "ros-std-srvs",
    "ros-nav-msgs",
)
# Dockerfile of the base. The wheels of ROS need the layout of a virtual environment, which Debian's own Python lacks.
STAND_IN = f"""FROM {BASE}-debian
COPY constraints.txt /tmp/constraints.txt
RUN sed -i -E 's/^numpy==.*/numpy==1.26.4/' /tmp/constraints.txt \\
 && python3 -m venv /opt/ros/jazzy \\
 && /opt/ros/jazzy/bin/pip install --no-cache-dir -c /tmp/constraints.txt numpy {" ".join(ROS)} colcon-common-extensions \\
 && ln -s /opt/ros/jazzy/bin/colcon /usr/bin/colcon \\
 && cd /opt/ros/jazzy/lib/python3*/site-packages \\
 && echo "export AMENT_PREFIX_PATH=/opt/ros/jazzy ROS_DISTRO=jazzy PYTHONPATH=$PWD" > /opt/ros/jazzy/setup.bash \\
 && echo "export LD_LIBRARY_PATH=/opt/ros/jazzy/lib:$(ls -d $PWD/*.libs | tr '\\n' ':')" >> /opt/ros/jazzy/setup.bash
"""
HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--shm-size", "512m",
    "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096",  # podman's own exceed those of some hosts
)  # fmt: skip
READY_S = 180


def main() -> None:
    options = arguments()
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        print(f"images-check: skipped: {', '.join(missing)} not found; apt-get install {' '.join(TOOLS)} runc netavark")
        return
    if os.geteuid():
        print("images-check: skipped: mmdebstrap and buildah --isolation chroot need root")
        return
    build_base(options)
    for kind in options.images:
        build(kind, options)
    if "cpu" in options.images:
        run_cpu_image(("podman", *(("--runtime", options.runtime) if options.runtime else ())))
    print("images-check: passed")


def build_base(options: argparse.Namespace) -> None:
    """The stand-in base, unless there is one."""
    if succeeds("buildah", "inspect", BASE):
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "debian.tar")
        packages = "python3,python3-pip,python3-venv,ca-certificates"
        run("mmdebstrap", "--variant=apt", f"--include={packages}", options.suite, str(archive), *options.mirror)
        run("podman", "import", str(archive), f"{BASE}-debian")
        Path(folder, "Dockerfile").write_text(STAND_IN)
        shutil.copy(ROOT / "constraints.txt", folder)
        run(*buildah(options), "-t", BASE, folder)


def build(kind: str, options: argparse.Namespace) -> None:
    """One of the images, on the stand-in base. PyTorch comes from the index of the other packages, or from --wheels."""
    arguments = {"BASE": BASE, "APT_PACKAGES": "python3-venv", "PYPI": options.index, "TORCH_INDEX": options.index}
    if options.wheels:
        arguments["PIP_FIND_LINKS"] = "/wheels"
    given = [text for name, value in arguments.items() for text in ("--build-arg", f"{name}={value}")]
    ignored = ["--ignorefile", str(ROOT / f"docker/Dockerfile.{kind}.dockerignore")]
    run(*buildah(options), *ignored, *given, "-f", f"docker/Dockerfile.{kind}", "-t", f"{IMAGE}:{kind}", str(ROOT))


def buildah(options: argparse.Namespace) -> list[str]:
    """The build command; the host's certificates and wheels are mounted, not copied."""
    mounts = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    if options.wheels:
        mounts += ["--volume", f"{options.wheels.resolve()}:/wheels:ro"]
    return ["buildah", "bud", "--isolation", "chroot", "--layers", "--format", "docker", *mounts]


def run_cpu_image(podman: tuple[str, ...]) -> None:
    health = ("/entrypoint.sh", "lidar-completion", "health", "--timeout")
    alone = (*podman, "run", "--rm", *HARDENED, "--network", "none")
    expect("health without a node", code_of(*alone, f"{IMAGE}:cpu", *health[1:], "5"), 1)
    without_model = ("lidar_completion_node", "--ros-args", "-p", "model:=/no/such/model")
    expect("node without its model", code_of(*alone, f"{IMAGE}:cpu", *without_model), 2)
    with node(podman) as name:
        inside = (*podman, "exec", name)
        expect("health", code_of(*inside, *health, "20"), 0)
        beside = ("--network", f"container:{name}", "--ipc", f"container:{name}")
        bag = ("--volume", f"{ROOT / 'samples/street'}:/bag:ro")
        replay = ("lidar-completion", "bag", "/bag", "--wait-for-node", "--evaluate", "--report", "/tmp/report")
        command = (*podman, "run", "--rm", *HARDENED, *beside, *bag, f"{IMAGE}:cpu", *replay)
        expect("replay of the sample", code_of(*command), 0)
        expect("health after it", code_of(*inside, *health, "20"), 0)
        run(*podman, "kill", "--signal", "INT", name)
        expect("node after SIGINT", int(output(*podman, "wait", name)), 0)


@contextmanager
def node(podman: tuple[str, ...]) -> Iterator[str]:
    """A running, healthy node; the name of its container."""
    name = f"node-{os.getpid()}"
    container = ("--detach", "--name", name, "--network", "none", "--ipc", "shareable", *HARDENED)
    run(*podman, "run", *container, f"{IMAGE}:cpu", "lidar_completion_node", "--ros-args", "-p", "device:=cpu")
    health = (*podman, "exec", name, "/entrypoint.sh", "lidar-completion", "health", "--timeout", "10")
    try:
        deadline = time.monotonic() + READY_S
        while code_of(*health):
            if time.monotonic() > deadline:
                raise SystemExit(f"the node was not healthy after {READY_S} s:\n{output(*podman, 'logs', name)}")
        yield name
    finally:
        subprocess.run((*podman, "rm", "--force", name), capture_output=True, check=False)


def code_of(*command: str) -> int:
    """Exit code of a command."""
    return subprocess.run(command, check=False).returncode


def expect(what: str, code: int, expected: int) -> None:
    print(f"{what}: exit code {code}", flush=True)
    if code != expected:
        raise SystemExit(f"images-check: {what}: exit code {code}, expected {expected}")


def run(*command: str) -> None:
    print("+", *command, flush=True)
    if code := code_of(*command):
        raise SystemExit(f"images-check: exit code {code} of: {' '.join(command)}")


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", default=["cpu", "cuda"], choices=("cpu", "cuda"))
    parser.add_argument(
        "--index", default="https://pypi.org/simple", help="package index, in place of both in the Dockerfiles"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels beside the index, such as PyTorch for CPUs")
    parser.add_argument("--runtime", help="podman's OCI runtime, such as runc")
    parser.add_argument("--suite", default="bookworm", help="Debian of the stand-in base, with Python 3.11 or 3.12")
    parser.add_argument("--mirror", nargs="*", default=[], help="Debian mirrors")
    return parser.parse_args()


if __name__ == "__main__":
    main()
