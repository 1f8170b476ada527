"""Plays real sweeps at 10 Hz through a node process over DDS, with a latency budget, for minutes.

    python benchmarks/node_soak.py [--minutes 10] [--budgets 300,500,1000] [--drive FOLDER | --bag BAG] [--model models/edge]

Prints a table and writes it to benchmarks/results/node_soak.txt: memory of the node, lost answers, latencies, choices.
Every sweep is lost by DDS on its way in (best effort), dropped by the node (replaced by a newer one, or too old), answered,
or refused. A *lost answer* was published by the node and did not arrive.
"""

import argparse
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_completion.point_cloud_files import read_points
from lidar_completion.point_clouds import allocate_points
from lidar_completion_evaluation.drives.bag import BagSweeps, cloud_head
from lidar_completion_ros.installed_files import use_shared_memory_profile
from lidar_completion_ros.point_cloud_messages import cloud_message
from lidar_completion_ros.status import NodeReport, SweepCounts, SweepLabel

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", ROOT.parent / "shared"))
DRIVE = SHARED / "data" / "sequences" / "91" / "velodyne"
PERIOD_S = 0.1
SETTLED_S = 60.0  # memory is measured from then on
LAYOUT = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")])


@dataclass(frozen=True)
class Answer:
    """The node's label of one sweep."""

    stamp_s: float
    latency_ms: float  # from the arrival at the node to the publication
    steps: int
    replication: int


@dataclass
class Run:
    """The record of a run."""

    published_s: dict[int, float] = field(default_factory=dict)  # by stamp in ns
    received_s: dict[int, float] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    node: NodeReport | None = None  # the newest
    memory_mib: list[tuple[float, float]] = field(default_factory=list)  # seconds since the first answer, MiB

    def latencies_ms(self) -> np.ndarray:
        return np.array([each.latency_ms for each in self.answers.values()] or [np.nan])

    def outside_ms(self) -> np.ndarray:
        """From publishing a sweep here to receiving its completion here, both ways over DDS included."""
        both = self.received_s.keys() & self.published_s.keys()
        return np.array([(self.received_s[each] - self.published_s[each]) * 1e3 for each in both] or [np.nan])

    def choices(self) -> list[tuple[int, int]]:
        return [(each.steps, each.replication) for _, each in sorted(self.answers.items())]


def main() -> None:
    options = arguments()
    sweeps = sweeps_to_play(options)
    lines = [heading(options, sweeps), TABLE_HEAD]
    print("\n".join(lines), flush=True)
    for budget_ms in options.budgets:
        run = drive(sweeps, options.minutes * 60, {"latency_budget_ms": float(budget_ms), "model": options.model})
        lines.append(row(budget_ms, run))
        print(lines[-1], flush=True)
    lines.append(NOTE)
    print(NOTE)
    options.results.write_text(f"{datetime.date.today()}\n" + "\n".join(lines) + "\n")


def arguments(description: str = "") -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description or __doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for every budget")
    parser.add_argument(
        "--budgets", type=lambda text: [int(each) for each in text.split(",")], default=[300, 500, 1000]
    )
    parser.add_argument("--drive", type=Path, help="folder of .bin sweeps (SemanticKITTI layout)")
    parser.add_argument("--bag", type=Path, help="rosbag2 with one PointCloud2 topic")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / f"{Path(sys.argv[0]).stem}.txt"
    )
    return parser.parse_args()


def sweeps_to_play(options: argparse.Namespace) -> list[PointCloud2]:
    """The sweeps of a bag or a drive; without either: of a real drive, or of the shipped bag where that is not at hand."""
    bag = options.bag or (None if options.drive or DRIVE.is_dir() else ROOT / "samples" / "street")
    if bag is not None:
        return [deserialize_message(cdr, PointCloud2) for _, cdr in BagSweeps(bag, None)]
    folder = options.drive or DRIVE
    sweeps = [sweep_message(path) for path in sorted(folder.glob("*.bin"))]
    if not sweeps:
        sys.exit(f"{folder}: holds no sweeps (.bin)")
    return sweeps


def sweep_message(path: Path) -> PointCloud2:
    cloud = read_points(path)
    buffer, points = allocate_points(len(cloud.points), LAYOUT)
    for axis, name in enumerate("xyz"):
        points[name] = cloud.points[:, axis]
    if cloud.intensity is not None:
        points["intensity"] = cloud.intensity
    return cloud_message(Header(frame_id="velodyne"), buffer, LAYOUT)


def drive(
    sweeps: list[PointCloud2],
    seconds: float,
    parameters: dict[str, object],
    at: dict[float, Callable[[], None]] | None = None,
) -> Run:
    """Play the sweeps in a loop at 10 Hz through a new node process; `at`: actions by second."""
    use_shared_memory_profile(os.environ)
    context, run, pending = rclpy.Context(), Run(), sorted((at or {}).items())
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    vehicle = Node("vehicle", context=context)
    publisher = vehicle.create_publisher(PointCloud2, "/velodyne_points", QoSProfile(depth=1))
    listen(vehicle, run)
    with spinning(vehicle, context), node_process(parameters) as process:
        wait_for(lambda: is_ready(run))
        wait_for(lambda: publisher.get_subscription_count() > 0)
        began_s = time.monotonic()
        for index in range(round(seconds / PERIOD_S)):
            time.sleep(max(0.0, began_s + index * PERIOD_S - time.monotonic()))
            while pending and time.monotonic() - began_s >= pending[0][0]:
                pending.pop(0)[1]()
            publish(publisher, sweeps[index % len(sweeps)], run)
            if index % 10 == 0 and run.answers:
                run.memory_mib.append((time.monotonic() - began_s, resident_mib(process.pid)))
        time.sleep(3.0)
    vehicle.destroy_node()
    rclpy.try_shutdown(context=context)
    return run


def is_ready(run: Run) -> bool:
    return run.node is not None and run.node.status.state == "active" and run.node.status.output_subscribers == 1


def publish(publisher, sweep: PointCloud2, run: Run) -> None:  # type: ignore[no-untyped-def]
    stamp_ns = time.time_ns()
    sweep.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    run.published_s[stamp_ns] = time.monotonic()
    publisher.publish(sweep)


def listen(vehicle: Node, run: Run) -> None:
    def completion(cdr: bytes) -> None:
        run.received_s.setdefault(cloud_head(cdr)[0], time.monotonic())

    def label(message: DiagnosticArray) -> None:
        found = SweepLabel.from_status(message.status[0])
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        run.answers[stamp_ns] = Answer(stamp_ns / 1e9, found.latency_ms, found.steps, found.replication)

    def diagnostic(message: DiagnosticArray) -> None:
        for report in filter(None, map(NodeReport.of, message.status)):
            run.node = report

    vehicle.create_subscription(PointCloud2, "/velodyne_points/completed", completion, 10, raw=True)
    vehicle.create_subscription(DiagnosticArray, "/lidar_completion/debug/sweep", label, 50)
    vehicle.create_subscription(DiagnosticArray, "/diagnostics", diagnostic, 50)


@contextmanager
def spinning(node: Node, context: rclpy.Context) -> Iterator[None]:
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown(timeout_sec=5.0)
        thread.join(5.0)


@contextmanager
def node_process(
    parameters: dict[str, object], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "lidar_completion_ros", "--ros-args", *arguments], env=environment
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s:
            sys.exit(f"the node did not become ready in {timeout_s:.0f} s")
        time.sleep(0.05)


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def heading(options: argparse.Namespace, sweeps: list[PointCloud2]) -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"{os.cpu_count()} cores, OMP_NUM_THREADS {threads}, load before {os.getloadavg()[0]:.1f}; model {options.model.name}; "
        f"{len(sweeps)} sweeps of {np.mean([each.width for each in sweeps]):,.0f} points, in a loop at 10 Hz"
    )


TABLE_HEAD = (
    f"{'budget ms':>9} {'sweeps':>7} {'lost in':>7} {'dropped':>7} {'answers':>7} {'lost out':>8} {'p50 ms':>7} {'p99 ms':>7} "
    f"{'over %':>6} {'outside p99':>11} {'changes':>7} {'MiB 2nd min':>11} {'last':>7} {'growth %':>8}  steps x replication"
)
NOTE = (
    "lost in, lost out: by DDS; dropped: replaced by a newer sweep or too old to start; p50, p99, over: from the arrival at the "
    "node to the publication; outside: from publishing a sweep to receiving its completion; changes: of the choice"
)


def row(budget_ms: int, run: Run) -> str:
    counts = run.node.counts if run.node is not None else SweepCounts()
    latencies, choices = run.latencies_ms(), run.choices()
    changes = sum(a != b for a, b in pairwise(choices))
    most = ", ".join(f"{steps}x{copies}: {count}" for (steps, copies), count in Counter(choices).most_common(4))
    early, late = memory(run)
    lost_out = len(run.answers.keys() - run.received_s.keys())
    lost_in = len(run.published_s) - counts.received
    return (
        f"{budget_ms:9} {len(run.published_s):7} {lost_in:7} {counts.dropped:7} {len(run.answers):7} "
        f"{lost_out:8} {np.percentile(latencies, 50):7.0f} {np.percentile(latencies, 99):7.0f} "
        f"{100 * np.mean(latencies > budget_ms):6.1f} {np.percentile(run.outside_ms(), 99):11.0f} {changes:7} "
        f"{early:11.0f} {late:7.0f} {100 * (late / early - 1):8.1f}  {most}"
    )


def memory(run: Run) -> tuple[float, float]:
    """MiB in the second minute and in the last one, medians: a sweep being processed needs more memory.

    Of a run of less than three minutes: its second and its last third.
    """
    samples = run.memory_mib or [(0.0, float("nan"))]
    length = samples[-1][0]
    window = min(SETTLED_S, length / 3)
    early = [mib for second, mib in samples if window <= second < 2 * window]
    late = [mib for second, mib in samples if second >= length - window]
    return float(np.median(early)), float(np.median(late))


if __name__ == "__main__":
    main()
