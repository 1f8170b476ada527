"""Replay evaluation: a bag through the real node, compared with the map of its poses, and a report of bounded size."""

import csv
import dataclasses
import os
import resource

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer import Typer
from typer.testing import CliRunner

from lidar_completion_evaluation.drives.bag import BagSweeps, cloud_head
from lidar_completion_evaluation.replay.command import bag as bag_command
from lidar_completion_evaluation.replay.evaluation import ROWS, Evaluation, ShownSweep, Truth, evaluate_replay
from lidar_completion_evaluation.replay.files import DiagnosticsFile
from lidar_completion_evaluation.replay.recorded import RecordedCompletion
from lidar_completion_evaluation.replay.report import write_report
from lidar_completion_evaluation.replay.result import (
    Diagnostic,
    EvaluatedSweep,
    ReplayError,
    ReplayResult,
    SweepReplay,
)
from lidar_completion_evaluation.reports.charts import Series, time_chart, worst_per_column
from lidar_completion_ros.status import NodeReport, NodeStatus, SweepCounts

FIRST_NS = 1_700_000_000 * 10**9
PERIOD_NS = 10**8
STEP_M = 0.3


@pytest.fixture(scope="module")
def drive(tmp_path_factory, street, cloud):
    """(bag, TUM file): six sweeps of a straight street, 0.3 m apart."""
    folder = tmp_path_factory.mktemp("drive")
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with Writer(folder / "street", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
        rows = []
        for index in range(6):
            stamp_ns = FIRST_NS + index * PERIOD_NS
            writer.write(topic, stamp_ns, serialize_message(cloud(street(seed=index), stamp_ns=stamp_ns)))
            rows.append(f"{stamp_ns / 1e9:.9f} {index * STEP_M} 0 0 0 0 0 1")
    (folder / "poses.txt").write_text("\n".join(rows))
    return folder / "street", folder / "poses.txt"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluates_replay_and_writes_report(drive, no_running_node, tiny_model, tmp_path, monkeypatch):
    # a domain of its own: nodes that earlier tests killed stay visible until their lease ends
    monkeypatch.setenv("ROS_DOMAIN_ID", str(201 + os.getpid() % 30))
    (bag, poses), folder, app = drive, tmp_path / "report", Typer()
    app.command()(bag_command)
    options = {
        "--poses": poses,
        "--report": folder,
        "--rate": 0,
        "--evaluate-every": 3,
        "--show": 1,
        "--model": tiny_model,
    }
    run = CliRunner().invoke(app, [str(bag), "--evaluate", *(str(each) for pair in options.items() for each in pair)])
    assert run.exit_code == 0, run.output
    assert str(folder / "report.html") in run.output
    assert "mean of 2 evaluated sweeps" in run.output
    sweeps, quality = rows_of(folder / "sweeps.csv"), rows_of(folder / "quality.csv")
    assert [row["number"] for row in sweeps] == list("012345")
    assert all(float(row["latency_ms"]) > 0 for row in sweeps)
    assert {(row["steps"], row["replication"]) for row in sweeps} == {("1", "2")}  # of the tiny model's card
    assert [row["number"] for row in quality] == ["0", "3"]
    assert all(0 < float(row["completion_cd"]) < 10 and 0 < float(row["raw_f"]) <= 1 for row in quality)
    # only every third completion is recorded
    recorded = [cloud_head(data)[0] for _, data in BagSweeps(folder / "completions", None)]
    assert recorded == [int(sweeps[0]["stamp_ns"]), int(sweeps[3]["stamp_ns"])]
    diagnostics = rows_of(folder / "diagnostics.csv")
    assert diagnostics
    assert {row["level"] for row in diagnostics} <= {"0", "1", "2"}
    page = (folder / "report.html").read_text()
    assert "6 / 6" in page
    assert "the node&#39;s completion" in page
    assert page.count('<img src="data:image/png;base64,') == 2 * 3  # the worst and the slowest, three pictures each
    assert "http" not in page.replace("http://www.w3.org", "")  # self-contained


def test_report_without_poses(tmp_path, street):
    evaluation = long_evaluation(tmp_path, 100)
    points, confidence = street(), np.full(2880, 0.5, np.float32)
    shown = ShownSweep(
        3, "mean confidence 0.50", RecordedCompletion(3, points, points + 0.1, confidence), None, None, {}
    )
    page = write_report(dataclasses.replace(evaluation, quality=[], shown=[shown])).read_text()
    assert "--odometry-topic" in page
    assert "mean confidence 0.50" in page
    assert page.count('<img src="data:image/png;base64,') == 2


def test_rejects_poses_of_another_drive_before_the_replay(drive, tmp_path):
    foreign = tmp_path / "poses.txt"
    foreign.write_text("5.0 0 0 0 0 0 0 1\n5.1 0 0 0 0 0 0 1\n")
    with pytest.raises(ReplayError, match=str(foreign)):
        evaluate_replay(drive[0], tmp_path / "report", truth=Truth(foreign))


def test_rejects_poses_without_evaluate(drive):
    app = Typer()
    app.command()(bag_command)
    result = CliRunner().invoke(app, [str(drive[0]), "--poses", str(drive[1])])
    assert result.exit_code == 2
    assert "--evaluate" in result.output


def long_evaluation(folder, count):
    """A made-up replay of `count` sweeps with a drop every 50 sweeps and an error in the middle."""
    random = np.random.default_rng(0)
    sweeps = [
        SweepReplay(index, index, 100_000, index / 10, *((None, None) if index % 50 == 7 else (400_000, latency)))
        for index, latency in enumerate(random.uniform(0.2, 0.4, count))
    ]
    status = NodeStatus(model="edge", device="cpu", backend="torch")
    node = NodeReport("lidar_completion", 0, "completing", status, SweepCounts(), None, {})
    result = ReplayResult(sweeps, folder / "none", "/in", "/out", count / 10, node, count // 50, 0)
    rows = {row: {"cd": 0.2, "f": 0.2} for row in ROWS}
    rows["completion"] |= {"precision": 0.2, "recall": 0.2, "violations": 0.1}
    quality = [EvaluatedSweep(index, index / 10, rows) for index in range(0, count, 5)]
    with DiagnosticsFile(folder) as file:
        for index in range(count // 2):
            level, message = (2, "failing: no memory") if index == count // 4 else (0, f"completing {index}")
            file.write(Diagnostic(index / 5, dataclasses.replace(node, level=level, message=message)))
    return Evaluation(folder / "drive", 1.0, folder, result, 5, [], quality)


def test_report_of_an_hour_is_small_and_lists_the_one_error(tmp_path):
    evaluation = long_evaluation(tmp_path, 36_000)
    page = write_report(evaluation).read_text()
    assert len(page) < 500_000
    assert "failing: no memory" in page
    assert f"{evaluation.result.completed} / 36000" in page


@pytest.mark.slow
def test_memory_does_not_depend_on_length_of_bag(tmp_path, street, cloud, tiny_model):
    """Thirty times as many sweeps through the real node need only a few more megabytes in this process."""

    def peak_after(sweeps):
        bag = tmp_path / f"bag_{sweeps}"
        typestore = get_typestore(Stores.ROS2_JAZZY)
        message = cloud(street(rings=32, columns=360))
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
            for index in range(sweeps):
                message.header.stamp.sec, message.header.stamp.nanosec = 1000 + index // 10, index % 10 * PERIOD_NS
                writer.write(topic, FIRST_NS + index * PERIOD_NS, serialize_message(message))
        evaluate_replay(bag, tmp_path / f"report_{sweeps}", rate=20, every=5, show=1, model=tiny_model)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    short = peak_after(100)
    assert peak_after(3000) - short < 40  # MiB; the input clouds have 550 MB


def test_short_error_is_visible_in_the_level_bar():
    worst = worst_per_column(np.array([1.0, 5.0, 5.01]), np.array([0, 2, 0]), 10.0, 10)
    assert worst.tolist() == [-1, 0, 0, 0, 0, 2, 0, 0, 0, 0]


def test_chart_without_values_is_drawn():
    nan = np.array([np.nan, np.nan])
    series = [Series("x", "red", np.array([0.0, 1.0]), nan, dots=True)]
    svg = time_chart(series, 1.0, label="ms", marks=np.array([0.0, 1.0]))
    assert svg.startswith("<svg")
    assert "nan" not in svg


def test_size_of_chart_does_not_depend_on_number_of_values():
    few, many = (
        time_chart([Series("x", "red", times, np.sin(9 * times))], 1.0, label="")
        for times in (np.linspace(0, 1, 5_000), np.linspace(0, 1, 50_000))
    )
    assert len(many) < 1.2 * len(few) < 200_000
