"""The launch files: their arguments are consistent, and where launch_ros is installed they start the node."""

import ast
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import PointCloud2
from typer import Typer
from typer.main import get_command

from lidar_completion_evaluation.replay.command import bag
from lidar_completion_ros.parameters import Parameters

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FILES = sorted(path.name for path in LAUNCH.glob("*.launch.py"))


def declared(name):
    """Argument -> default (None: required) of a launch file, read from its source, so that launch need not be installed."""
    found = {}
    for call in ast.walk(ast.parse((LAUNCH / name).read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument":
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            assert "description" in keywords, call.args[0].value
            found[call.args[0].value] = keywords.get("default_value")
    return found


def test_launch_files_exist():
    assert FILES == ["complete.launch.py", "evaluate.launch.py", "several_lidars.launch.py"]


@pytest.mark.parametrize("name", FILES)
def test_included_arguments_are_declared(name):
    """Arguments that are passed on to the included file exist there, and so do the node's parameters."""
    complete = declared("complete.launch.py")
    own = declared(name)
    assert own
    parameters = {"model", "device", "latency_budget_ms", "target_frame", "use_sim_time", "autostart"}
    assert parameters - {"use_sim_time"} <= set(Parameters.__dataclass_fields__)
    assert parameters <= set(complete)
    if name == "several_lidars.launch.py":
        assert set(own) - {"lidars", "merged_topic", "max_stamp_difference_s"} <= set(complete)


def test_evaluation_arguments_are_options_of_the_command():
    app = Typer()
    app.command()(bag)
    named = (name for option in get_command(app).params for name in option.opts)
    options = {name.removeprefix("--").replace("-", "_") for name in named}
    node_arguments = {"model", "device", "latency_budget_ms", "log_level", "params_file"}
    assert set(declared("evaluate.launch.py")) - node_arguments <= options


def test_aggregator_collects_every_node():
    file = ROOT / "ros2_ws/src/lidar_completion_ros/config/diagnostic_aggregator.param.yaml"
    analyzer = yaml.safe_load(file.read_text())["analyzers"]["ros__parameters"]["lidar_completion"]
    (part,) = analyzer["contains"]
    for name in ("lidar_completion: completion", "front/lidar_completion: completion"):
        assert part in name
    assert analyzer["timeout"] > next(f.default for f in [Parameters.__dataclass_fields__["diagnostics_period_s"]])


# ---- real launches ----

needs_launch = pytest.mark.skipif(
    find_spec("launch_ros") is None or find_spec("ros2launch") is None,
    reason="needs launch_ros and ros2launch, which PyPI does not have: run in a ROS 2 installation after colcon build, or see "
    "docs/node.md, 'The launch tests without a ROS installation'",
)


@contextmanager
def launched(name, log, **arguments):
    """ros2 launch of one of the files, with what it prints in the file `log`; killed at the end if it still runs."""
    given = [f"{key}:={value}" for key, value in arguments.items()]
    ros2 = "import sys; from ros2cli.cli import main; sys.exit(main())"
    command = [sys.executable, "-u", "-c", ros2, "launch", str(LAUNCH / name), *given]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(), file=sys.stderr)  # shown when the test fails


def end_cleanly(process, log, processes):
    """SIGINT to all processes, as from a terminal: each ends with exit code 0 and none has to be terminated."""
    before = len(log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    tail = log.read_text()[before:]
    assert tail.count("process has finished cleanly") == processes, tail
    assert "process has died" not in tail
    assert "escalating" not in tail
    assert "Traceback" not in tail


def process_of(executable, session):
    """Process id of a program in a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if executable in (folder / "cmdline").read_text() and os.getsid(int(folder.name)) == session:
                return int(folder.name)
    raise AssertionError(f"{executable} does not run in the session {session}")


def until_active(peer, subscribers=1, timeout_s=240):
    """Wait until a new diagnostic reports an active, connected node; loading torch takes a minute on a busy machine."""
    seen = len(peer.reports)
    peer.until(lambda: len(peer.reports) > seen, timeout_s)
    peer.until_connected(subscribers, timeout_s)


@needs_launch
@pytest.mark.slow
def test_launched_node_completes_and_is_respawned(make_peer, tiny_model, street, cloud, tmp_path):
    log = tmp_path / "log"
    with (
        make_peer("/front") as peer,
        launched("complete.launch.py", log, namespace="front", model=tiny_model, respawn="true") as launch,
    ):
        for round_number in range(2):
            until_active(peer)
            peer.complete(cloud(street(), stamp_ns=10**18 + round_number))
            if round_number == 0:
                os.kill(process_of("lidar_completion_node", launch.pid), signal.SIGKILL)
        end_cleanly(launch, log, 1)


@needs_launch
@pytest.mark.slow
def test_a_node_that_keeps_failing_ends_the_launch(ros, tmp_path):
    log, arguments = tmp_path / "log", {"respawn_delay_s": 0.1, "respawn_max_retries": 2}
    with launched("complete.launch.py", log, model="/no/such/model", respawn="true", **arguments) as launch:
        launch.wait(400)
        assert log.read_text().count("process has died") == 3


@needs_launch
@pytest.mark.slow
def test_topics_are_remapped_by_arguments(make_peer, tiny_model, street, cloud, tmp_path):
    topics = {"input_topic": "/roof/points", "output_topic": "dense"}
    log = tmp_path / "log"
    with (
        make_peer() as peer,
        launched("complete.launch.py", log, namespace="/a/b", model=tiny_model, **topics) as launch,
    ):
        got = []
        peer.node.create_subscription(PointCloud2, "/a/b/dense", got.append, 5)
        sweeps = peer.node.create_publisher(PointCloud2, "/roof/points", 5)
        peer.until(lambda: sweeps.get_subscription_count(), 240)
        peer.until(lambda: peer.node.count_publishers("/a/b/dense"))

        def completed():
            sweeps.publish(cloud(street()))
            return got

        peer.until(completed)
        end_cleanly(launch, log, 1)


@needs_launch
@pytest.mark.slow
def test_several_lidars_are_merged_in_one_frame(make_peer, tiny_model, street, cloud, tmp_path):
    poses = {"front": [2.0, 0.0, 0.0, 0.0, 0.0, 0.0], "rear": [-1.0, 0.0, 0.5, 0.0, 0.0, np.pi]}
    parameters = tmp_path / "vehicle.yaml"
    parameters.write_text(
        yaml.safe_dump(
            {f"/{name}/lidar_completion": {"ros__parameters": {"sensor_pose": pose}} for name, pose in poses.items()}
        )
    )
    arguments = {"lidars": "front,rear", "target_frame": "base_link", "model": tiny_model, "params_file": parameters}
    log = tmp_path / "log"
    with (
        make_peer("/front") as front,
        make_peer("/rear") as rear,
        launched("several_lidars.launch.py", log, **arguments) as launch,
    ):
        got = []
        front.node.create_subscription(PointCloud2, "/lidars/completed", got.append, 5)
        for peer in (front, rear):
            until_active(peer, subscribers=2)  # the merger and the peer
        for name, peer in (("front", front), ("rear", rear)):
            peer.sweeps.publish(cloud(street(), frame=name))
            peer.until(lambda peer=peer: peer.completions)
        sides = [front.completions[0], rear.completions[0]]
        front.until(lambda: got)
        assert got[0].header.frame_id == "base_link"
        assert bytes(got[0].data) == b"".join(bytes(side.data) for side in sides)
        for side, shift, turn in zip(sides, ([2, 0, 0], [-1, 0, 0.5]), (1, -1), strict=True):
            first = np.frombuffer(side.data, np.float32, 3)
            assert first == pytest.approx(street()[0] * [turn, turn, 1] + shift, abs=1e-4)
        end_cleanly(launch, log, 3)


@needs_launch
@pytest.mark.slow
def test_launched_evaluation_writes_its_report(ros, tiny_model, tmp_path):
    arguments = {"bag": ROOT / "samples" / "street", "rate": 0, "report": tmp_path / "report", "model": tiny_model}
    log = tmp_path / "log"
    with launched("evaluate.launch.py", log, **arguments) as process:
        assert process.wait(400) == 0
        assert "process has died" not in log.read_text()
    assert "6 / 6" in (tmp_path / "report" / "report.html").read_text()


@needs_launch
@pytest.mark.slow
def test_interrupted_evaluation_ends_all_processes(peer, tiny_model, tmp_path):
    arguments = {"bag": ROOT / "samples" / "street", "rate": 0.05, "report": tmp_path / "report", "model": tiny_model}
    log = tmp_path / "log"
    with launched("evaluate.launch.py", log, **arguments) as process:
        peer.until(lambda: peer.counts.completed > 0, 240)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        assert "escalating" not in log.read_text()
        assert "Traceback" not in log.read_text()
