"""The launch files: their arguments fit each other everywhere; where launch is installed they run the real node."""

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
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from typer import Typer
from typer.main import get_command

from lidar_completion_evaluation.replay.command import bag
from lidar_completion_ros.merge_clouds import CloudMerger, merged
from lidar_completion_ros.parameters import Parameters

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FILES = sorted(path.name for path in LAUNCH.glob("*.launch.py"))


def declared(name):
    """Argument -> default (None: required) of a launch file, read from its source, so that launch is not needed."""
    found = {}
    for call in ast.walk(ast.parse((LAUNCH / name).read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument":
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            assert "description" in keywords, call.args[0].value
            found[call.args[0].value] = keywords.get("default_value")
    return found


def test_all_launch_files_are_here():
    assert FILES == ["complete.launch.py", "evaluate.launch.py", "several_lidars.launch.py"]


@pytest.mark.parametrize("name", FILES)
def test_what_is_passed_on_is_declared_there(name):
    """Names of arguments that are included files' too mean the same; the node's parameters exist."""
    complete = declared("complete.launch.py")
    own = declared(name)
    assert own
    parameters = {"model", "device", "latency_budget_ms", "target_frame", "use_sim_time", "autostart"}
    assert parameters - {"use_sim_time"} <= set(Parameters.__dataclass_fields__)
    assert parameters <= set(complete)
    if name == "several_lidars.launch.py":
        assert set(own) - {"lidars", "merged_topic", "max_stamp_difference_s"} <= set(complete)


def test_the_options_of_the_evaluation_are_those_of_the_command():
    app = Typer()
    app.command()(bag)
    named = (name for option in get_command(app).params for name in option.opts)
    options = {name.removeprefix("--").replace("-", "_") for name in named}
    node_arguments = {"model", "device", "latency_budget_ms", "log_level", "params_file"}
    assert set(declared("evaluate.launch.py")) - node_arguments <= options


def test_the_aggregator_collects_every_node():
    file = ROOT / "ros2_ws/src/lidar_completion_ros/config/diagnostic_aggregator.param.yaml"
    analyzer = yaml.safe_load(file.read_text())["analyzers"]["ros__parameters"]["lidar_completion"]
    (part,) = analyzer["contains"]
    for name in ("lidar_completion: completion", "front/lidar_completion: completion"):
        assert part in name
    assert analyzer["timeout"] > next(f.default for f in [Parameters.__dataclass_fields__["diagnostics_period_s"]])


# ---- the merger ----


def row(values, stamp_ns=0, frame="base_link", name="x", row_padding=0):
    rows = [bytes(np.float32(values))] if not row_padding else [bytes(np.float32(values)) + b"\xee" * row_padding]
    message = PointCloud2(height=1, width=len(values), point_step=4, row_step=len(rows[0]), data=rows[0])
    message.fields = [PointField(name=name, offset=0, datatype=PointField.FLOAT32, count=1)]
    message.header = Header(frame_id=frame)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def test_clouds_are_put_behind_each_other_without_padding():
    both = merged([row([1, 2], 5, row_padding=3), row([3], 7)])
    assert np.frombuffer(both.data, np.float32).tolist() == [1, 2, 3]
    assert (both.width, both.height, both.row_step) == (3, 1, 12)
    assert both.header.stamp.nanosec == 7


@pytest.mark.parametrize("other", [row([1], frame="rear"), row([1], name="y")])
def test_clouds_that_do_not_fit_are_refused_by_name(other):
    with pytest.raises(ValueError, match=r"target_frame|output_fields"):
        merged([row([1]), other])


@pytest.mark.parametrize("fault", [{"point_step": 0}, {"row_step": 1}, {"width": 9}, {"height": 2}])
def test_a_cloud_that_is_not_whole_is_refused(fault):
    broken = row([1, 2])
    for name, value in fault.items():
        setattr(broken, name, value)
    with pytest.raises(ValueError, match="do not hold them"):
        merged([row([1]), broken])


def test_clouds_of_one_moment_are_merged_and_no_others(ros, peer):
    merger = CloudMerger()
    peer.executor.add_node(merger)
    got = []
    peer.node.create_subscription(PointCloud2, "merged", got.append, 10)
    sides = [peer.node.create_publisher(PointCloud2, f"{side}/completed", 10) for side in ("front", "rear")]
    peer.until(lambda: all(side.get_subscription_count() for side in sides))
    peer.until(lambda: merger.count_subscribers("merged"))
    sides[0].publish(row([1], 10**9))
    sides[1].publish(row([2], 2 * 10**9))  # a second later: another moment
    sides[0].publish(row([3], 2 * 10**9 + 10**7))
    peer.until(lambda: got)
    assert sorted(np.frombuffer(got[0].data, np.float32).tolist()) == [2, 3]
    assert len(got) == 1
    peer.executor.remove_node(merger)
    merger.destroy_node()


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
    """SIGINT as from a terminal, to all at once: every process ends with exit code 0 and none has to be terminated."""
    before = len(log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    told = log.read_text()[before:]
    assert told.count("process has finished cleanly") == processes, told
    assert "process has died" not in told
    assert "escalating" not in told
    assert "Traceback" not in told


def process_of(executable, session):
    """Process id of the program of that name in a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if executable in (folder / "cmdline").read_text() and os.getsid(int(folder.name)) == session:
                return int(folder.name)
    raise AssertionError(f"{executable} does not run in the session {session}")


def until_active(peer, subscribers=1, timeout_s=240):
    """Spin until a diagnostic that is yet to come says so: a machine that is busy loads torch for a minute."""
    seen = len(peer.diagnostics)
    peer.until(lambda: len(peer.diagnostics) > seen and peer.values["state"] == "active", timeout_s)
    peer.until(lambda: peer.values["input publishers"] == "1" and peer.sweeps.get_subscription_count() == 1)
    peer.until(lambda: peer.values["output subscribers"] == str(subscribers))


@needs_launch
@pytest.mark.slow
def test_a_launched_node_completes_and_is_started_again_when_it_dies(make_peer, tiny_model, street, cloud, tmp_path):
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
def test_several_lidars_are_completed_and_merged_in_one_frame(make_peer, tiny_model, street, cloud, tmp_path):
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
def test_a_launched_evaluation_writes_its_report(ros, tiny_model, tmp_path):
    arguments = {"bag": ROOT / "samples" / "street", "rate": 0, "report": tmp_path / "report", "model": tiny_model}
    log = tmp_path / "log"
    with launched("evaluate.launch.py", log, **arguments) as process:
        assert process.wait(400) == 0
        assert "process has died" not in log.read_text()
    assert "6 / 6" in (tmp_path / "report" / "report.html").read_text()


@needs_launch
@pytest.mark.slow
def test_an_evaluation_that_is_interrupted_ends_all_of_it(peer, tiny_model, tmp_path):
    arguments = {"bag": ROOT / "samples" / "street", "rate": 0.05, "report": tmp_path / "report", "model": tiny_model}
    log = tmp_path / "log"
    with launched("evaluate.launch.py", log, **arguments) as process:
        peer.until(lambda: peer.values.get("completions out", "0") != "0", 240)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        assert "escalating" not in log.read_text()
        assert "Traceback" not in log.read_text()
