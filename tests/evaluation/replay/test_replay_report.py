"""Replay evaluation: a bag through the real node, judged by its poses, and a report that stays small for a long bag."""

import csv
import dataclasses
import os
import re
import resource
import sys

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer import Typer
from typer.testing import CliRunner

pytest.importorskip("jinja2", reason="needs jinja2: pip install 'lidar_completion_ros[report]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'lidar_completion_ros[report]'")

from lidar_completion_evaluation.replay import evaluation as replay_evaluation
from lidar_completion_evaluation.replay.charts import (
    COLUMNS,
    Series,
    columns_of,
    nice_ticks,
    time_chart,
    worst_per_column,
)
from lidar_completion_evaluation.replay.command import bag as bag_command
from lidar_completion_evaluation.replay.evaluation import Completion, Evaluation, ShownSweep, evaluate_replay
from lidar_completion_evaluation.replay.player import (
    BagSweeps,
    Diagnostic,
    ReplayError,
    ReplayResult,
    SweepReplay,
    cloud_head,
)
from lidar_completion_evaluation.replay.report import write_report

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


def test_a_replay_is_judged_and_reported(drive, tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("lidar_completion_training")
    # a domain of its own: nodes that earlier tests killed are seen by others for as long as their lease
    monkeypatch.setenv("ROS_DOMAIN_ID", str(201 + os.getpid() % 30))
    (bag, poses), folder, app = drive, tmp_path / "report", Typer()
    app.command()(bag_command)
    options = {
        "--poses": poses,
        "--report": folder,
        "--rate": 0,
        "--judge-every": 3,
        "--show": 1,
        "--model": tiny_model,
    }
    run = CliRunner().invoke(app, [str(bag), "--evaluate", *(str(each) for pair in options.items() for each in pair)])
    assert run.exit_code == 0, run.output
    assert str(folder / "report.html") in run.output
    assert "mean of 2 judged sweeps" in run.output
    sweeps, quality = rows_of(folder / "sweeps.csv"), rows_of(folder / "quality.csv")
    assert [row["number"] for row in sweeps] == list("012345")
    assert all(float(row["latency_ms"]) > 0 for row in sweeps)
    assert {(row["steps"], row["replication"]) for row in sweeps} == {("1", "2")}  # of the tiny model's card
    assert [row["number"] for row in quality] == ["0", "3"]
    assert all(0 < float(row["completion_cd"]) < 10 and 0 < float(row["raw_f"]) <= 1 for row in quality)
    # every third completion is recorded, no other: an hour of all of them would fill a disk
    recorded = [cloud_head(data)[0] for _, data in BagSweeps(folder / "completions", None)]
    assert recorded == [int(sweeps[0]["stamp_ns"]), int(sweeps[3]["stamp_ns"])]
    told = rows_of(folder / "diagnostics.csv")
    assert told
    assert {row["level"] for row in told} <= {"0", "1", "2"}
    page = (folder / "report.html").read_text()
    assert "6 / 6" in page
    assert "the node&#39;s completion" in page
    assert page.count("data:image/png;base64,") == 2 * 3  # the worst and the slowest, three pictures each
    assert "http" not in page.replace("http://www.w3.org", "")  # one file, nothing to load


def test_without_poses_the_report_tells_the_rest(tmp_path, street):
    evaluation = long_evaluation(tmp_path, 100)
    points, confidence = street(), np.full(2880, 0.5, np.float32)
    shown = ShownSweep(3, "mean confidence 0.50", Completion(3, points, points + 0.1, confidence), None)
    page = write_report(dataclasses.replace(evaluation, quality=[], shown=[shown])).read_text()
    assert "--odometry-topic" in page
    assert "mean confidence 0.50" in page
    assert page.count("data:image/png;base64,") == 2


def test_a_missing_training_package_is_told_before_the_replay(drive, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lidar_completion_evaluation.replay.judge", None)
    with pytest.raises(ImportError, match="pip install"):
        evaluate_replay(drive[0], tmp_path / "report", poses=drive[1])
    assert not (tmp_path / "report").exists()


def test_poses_of_another_drive_are_told_before_the_replay(drive, tmp_path):
    pytest.importorskip("lidar_completion_training")
    foreign = tmp_path / "poses.txt"
    foreign.write_text("5.0 0 0 0 0 0 0 1\n5.1 0 0 0 0 0 0 1\n")
    with pytest.raises(ReplayError, match=str(foreign)):
        evaluate_replay(drive[0], tmp_path / "report", poses=foreign)


def test_poses_without_evaluate_are_refused(drive):
    app = Typer()
    app.command()(bag_command)
    result = CliRunner().invoke(app, [str(drive[0]), "--poses", str(drive[1])])
    assert result.exit_code == 2
    assert "--evaluate" in result.output


def long_evaluation(folder, count):
    """A replay of `count` sweeps that never was, with a drop every 50 sweeps and an error in the middle."""
    random = np.random.default_rng(0)
    sweeps = [
        SweepReplay(index, index, 100_000, index / 10, *((None, None) if index % 50 == 7 else (400_000, latency)))
        for index, latency in enumerate(random.uniform(0.2, 0.4, count))
    ]
    values = {"model": "edge", "device": "cpu", "backend": "torch"}
    result = ReplayResult(sweeps, folder / "none", "/in", "/out", count / 10, values, count // 50, 0)
    figures = {
        f"{row} {name}": 0.2
        for row in ("completion", "raw", "jittered", "interpolated", "xy_jittered")
        for name in "cf"
    }
    figures = {key.replace(" c", " cd"): value for key, value in figures.items()} | {"violations": 0.1}
    quality = [{"number": index, "sent_s": index / 10, **figures} for index in range(0, count, 5)]
    with (folder / "diagnostics.csv").open("w", newline="") as file:
        write = replay_evaluation._diagnostics_writer(file)
        for index in range(count // 2):
            level, message = (2, "failing: no memory") if index == count // 4 else (0, f"completing {index}")
            write(Diagnostic(index / 5, level, message, {}))
    return Evaluation(folder / "drive", 1.0, folder, result, 5, [], quality)


def test_the_report_of_an_hour_is_small_and_shows_the_one_error(tmp_path):
    evaluation = long_evaluation(tmp_path, 36_000)
    page = write_report(evaluation).read_text()
    assert len(page) < 500_000
    assert "failing: no memory" in page
    assert 'fill="#d1373f"' in page  # the error, 0.2 s of an hour, is seen in the bar
    assert f"{evaluation.result.completed} / 36000" in page


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_bag(tmp_path, street, cloud, tiny_model):
    """Thirty times as many sweeps through the real node cost this process a few megabytes, not their clouds."""

    def peak_after(sweeps):
        bag = tmp_path / f"bag_{sweeps}"
        typestore = get_typestore(Stores.ROS2_JAZZY)
        message = cloud(street(rings=32, columns=360))
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            topic = writer.add_connection("/velodyne_points", "sensor_msgs/msg/PointCloud2", typestore=typestore)
            for index in range(sweeps):
                message.header.stamp.sec, message.header.stamp.nanosec = 1000 + index // 10, index % 10 * PERIOD_NS
                writer.write(topic, FIRST_NS + index * PERIOD_NS, serialize_message(message))
        evaluate_replay(bag, tmp_path / f"report_{sweeps}", rate=20, judge_every=5, show=1, model=tiny_model)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    short = peak_after(100)
    assert peak_after(3000) - short < 40  # MiB; the clouds that went in are 550 MB


def test_columns_keep_least_and_greatest():
    times = np.linspace(0, 100, 10_000)
    values = np.zeros(10_000)
    values[1234], values[8765] = -3.0, 9.0
    rows = columns_of(times, values, 100.0, 50)
    assert len(rows) == 50
    assert (rows[:, 1].min(), rows[:, 3].max()) == (-3.0, 9.0)


def test_the_worst_level_of_a_column_shows():
    worst = worst_per_column(np.array([1.0, 5.0, 5.01]), np.array([0, 2, 0]), 10.0, 10)
    assert worst.tolist() == [-1, 0, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1e-3), (0, 7.2), (65.3, 81.0), (0, 123456), (-4, 9)])
def test_ticks_span_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8


def test_a_chart_of_nothing_is_a_chart():
    nan = np.array([np.nan, np.nan])
    svg = time_chart(
        [Series("x", "red", np.array([0.0, 1.0]), nan, dots=True)], 1.0, unit="ms", marks=np.array([0.0, 1.0])
    )
    assert svg.startswith("<svg")
    assert "nan" not in svg


def test_a_chart_has_at_most_its_columns(tmp_path):
    times = np.linspace(0, 1, 50_000)
    svg = time_chart([Series("x", "red", times, np.sin(9 * times))], 1.0, unit="")
    assert len(re.search(r'polyline points="([^"]*)"', svg)[1].split()) <= COLUMNS
