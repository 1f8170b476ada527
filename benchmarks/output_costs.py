"""What the outputs for planning and mapping cost the node: sweeps at 10 Hz, with and without a subscriber of each.

    python benchmarks/output_costs.py [--minutes 10] [--drive FOLDER | --bag BAG] [--model models/edge]

One node process; the minutes are divided into rounds of all variants, a few seconds each and in turn, so that other work on the
machine affects all of them alike. Prints a table and writes it to benchmarks/results/output_costs.txt. The CPU time is that of
the whole node process, network threads included, divided by the sweeps that it completed.

    python benchmarks/output_costs.py --messages-only

measures, without a node, the CPU time of one thread for making each message of a completed sweep; publishing comes on top. It
hardly depends on what else runs. Results: benchmarks/results/output_messages.txt.
"""

import argparse
import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import node_soak  # sets ROS_DOMAIN_ID before rclpy is imported
import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_completion.completer import Completion, SceneCompleter
from lidar_completion_ros.installed_files import use_shared_memory_profile
from lidar_completion_ros.occupancy_message import confident_rows, occupancy_message, occupancy_of
from lidar_completion_ros.parameters import Parameters
from lidar_completion_ros.point_cloud_messages import completion_columns, completion_message, decode, passed_on_columns

ROOT = Path(__file__).parents[1]
PERIOD_S, PHASE_S, SETTLE_S = 0.1, 5.0, 1.0
NAME = "/lidar_completion/"
OUTPUTS: dict[str, tuple[Any, str]] = {
    "points_completed": (PointCloud2, NAME + "points_completed"),
    "points_confident": (PointCloud2, NAME + "points_confident"),
    "occupancy": (OccupancyGrid, NAME + "occupancy"),
}
VARIANTS: dict[str, tuple[str, ...]] = (
    {"points alone": ()} | {name: (name,) for name in OUTPUTS} | {"all": tuple(OUTPUTS)}
)


@dataclass
class Cost:
    """The sums of one variant."""

    cpu_s: float = 0.0
    completed: int = 0
    latencies_ms: list[float] = field(default_factory=list)  # from the arrival at the node to the publication
    received: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTPUTS, 0))


def main() -> None:
    options = arguments()
    sweeps = node_soak.sweeps_to_play(options)
    if options.messages_only:
        chosen = sweeps[:: max(1, len(sweeps) // 4)]
        conditions = f"load {os.getloadavg()[0]:.1f}" + (f"; {options.conditions}" if options.conditions else "")
        lines = [
            f"{datetime.date.today()}, {os.cpu_count()} cores, {conditions}",
            f"model {options.model.name}, sweeps of {np.mean([each.width for each in chosen]):,.0f} points",
            *message_table(chosen, options.model),
        ]
        print("\n".join(lines))
        options.results.with_name("output_messages.txt").write_text("\n".join(lines) + "\n")
        return
    head = node_soak.heading(options, sweeps)
    costs = measure(sweeps, options.minutes * 60, {"model": options.model})
    load = os.getloadavg()
    lines = [
        f"{datetime.date.today()}, {options.minutes:g} minutes, rounds of {len(VARIANTS)} x {PHASE_S:g} s",
        f"{head}, load after {load[0]:.1f}" + (f"; {options.conditions}" if options.conditions else ""),
        *table(costs),
    ]
    print("\n".join(lines))
    options.results.write_text("\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for all variants together")
    parser.add_argument("--drive", type=Path, help="folder of .bin sweeps (SemanticKITTI layout)")
    parser.add_argument("--bag", type=Path, help="rosbag2 with one PointCloud2 topic")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "edge")
    parser.add_argument(
        "--messages-only", action="store_true", help="time the making of each message instead, without a node"
    )
    parser.add_argument("--conditions", default="", help="what else ran on the machine, for the results")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "output_costs.txt")
    return parser.parse_args()


def measure(sweeps: list[PointCloud2], seconds: float, parameters: dict[str, object]) -> dict[str, Cost]:
    """The costs of each variant over at least one round."""
    use_shared_memory_profile(os.environ)
    context, run, costs = rclpy.Context(), node_soak.Run(), {name: Cost() for name in VARIANTS}
    rclpy.init(args=[], context=context, signal_handler_options=node_soak.SignalHandlerOptions.NO)
    vehicle = Node("vehicle", context=context)
    publisher = vehicle.create_publisher(PointCloud2, "/velodyne_points", QoSProfile(depth=1))
    node_soak.listen(vehicle, run)
    source = cycle(sweeps)
    with node_soak.spinning(vehicle, context), node_soak.node_process(parameters) as process:
        node_soak.wait_for(lambda: node_soak.is_ready(run))
        node_soak.wait_for(lambda: publisher.get_subscription_count() > 0)
        play(publisher, source, run, 5.0)  # loops of the node that are compiled with the first sweep
        with subscribed(vehicle, tuple(OUTPUTS), Cost()):
            play(publisher, source, run, 5.0)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for name, outputs in VARIANTS.items():
                with subscribed(vehicle, outputs, costs[name]):
                    play(publisher, source, run, SETTLE_S)  # until the subscriptions are matched
                    measure_phase(publisher, source, run, process.pid, costs[name])
    vehicle.destroy_node()
    rclpy.try_shutdown(context=context)
    return costs


def measure_phase(publisher: Any, source: Iterator[PointCloud2], run: node_soak.Run, pid: int, cost: Cost) -> None:
    """Add one phase of one variant to its costs."""
    answered, cpu_s = len(run.answers), cpu_time_s(pid)
    play(publisher, source, run, PHASE_S)
    cost.cpu_s += cpu_time_s(pid) - cpu_s
    new = list(run.answers.values())[answered:]
    cost.completed += len(new)
    cost.latencies_ms += [each.latency_ms for each in new]


@contextmanager
def subscribed(vehicle: Node, outputs: tuple[str, ...], cost: Cost) -> Iterator[None]:
    """Subscribe to these outputs and count their messages, which are not decoded."""

    def count(name: str) -> Any:
        def received(_: bytes) -> None:
            cost.received[name] += 1

        return received

    made = [vehicle.create_subscription(*OUTPUTS[name], count(name), 10, raw=True) for name in outputs]
    try:
        yield
    finally:
        for subscription in made:
            vehicle.destroy_subscription(subscription)


def play(publisher: Any, source: Iterator[PointCloud2], run: node_soak.Run, seconds: float) -> None:
    """Publish sweeps at 10 Hz."""
    began_s = time.monotonic()
    for index in range(round(seconds / PERIOD_S)):
        time.sleep(max(0.0, began_s + index * PERIOD_S - time.monotonic()))
        node_soak.publish(publisher, next(source), run)


def cpu_time_s(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def table(costs: dict[str, Cost]) -> list[str]:
    """One line per variant, compared with the first."""
    base = costs["points alone"]
    base_ms = 1e3 * base.cpu_s / max(1, base.completed)
    lines = [
        "subscribed besides points | sweeps completed | CPU ms a sweep | more | latency p50 ms | p99 ms | messages received"
    ]
    for name, cost in costs.items():
        cpu_ms = 1e3 * cost.cpu_s / max(1, cost.completed)
        latencies = cost.latencies_ms or [np.nan]
        received = ", ".join(str(cost.received[each]) for each in VARIANTS[name]) or "-"
        lines.append(
            f"{name} | {cost.completed} | {cpu_ms:.0f} | {cpu_ms - base_ms:+.0f} | {np.percentile(latencies, 50):.0f} | "
            f"{np.percentile(latencies, 99):.0f} | {received}"
        )
    return lines


def message_table(sweeps: list[PointCloud2], model: Path, repeats: int = 9) -> list[str]:
    """Median CPU time of one thread for each message, over these sweeps; the messages in turn."""
    completer, parameters, header = SceneCompleter.load(model, device="cpu"), Parameters(), Header()
    times: dict[str, list[float]] = {}
    for sweep in sweeps:
        cloud = decode(sweep)
        completion = completer.complete(cloud.points, intensity=cloud.intensity)
        makers = message_makers(sweep, completion, parameters, header)
        for _ in range(repeats):
            for name, make in makers.items():
                began_s = time.thread_time()
                make()
                times.setdefault(name, []).append(1e3 * (time.thread_time() - began_s))
    lines = [f"message | CPU ms, median of {len(sweeps)} sweeps x {repeats} | 90th percentile"]
    return lines + [f"{name} | {np.median(each):.1f} | {np.percentile(each, 90):.1f}" for name, each in times.items()]


def message_makers(
    sweep: PointCloud2, completion: Completion, parameters: Parameters, header: Header
) -> dict[str, Callable[[], object]]:
    """What makes each message, by name."""
    columns, measured = completion_columns(completion), len(completion.measured_rows)
    completed = {name: column[measured:] for name, column in columns.items()}

    def confident() -> PointCloud2:
        rows = confident_rows(completion, parameters.marking_min_confidence)
        intensity = {"intensity": completed["intensity"].take(rows)}
        return completion_message(header, completion.completed_points.take(rows, axis=0), intensity, ("intensity",))

    def laid_out(layout: str) -> PointCloud2:
        passed_on = passed_on_columns(sweep, completion.measured_rows)
        return completion_message(header, completion.points, columns, parameters.output_fields, layout, passed_on)

    return {
        "points": lambda: completion_message(header, completion.points, columns),
        "points, output_layout pass_through": lambda: laid_out("pass_through"),
        "points, output_layout xyzirc": lambda: laid_out("xyzirc"),
        "points_completed": lambda: completion_message(header, completion.completed_points, completed),
        "points_confident": confident,
        "occupancy": lambda: occupancy_message(header, occupancy_of(completion, None, parameters)),
    }


if __name__ == "__main__":
    main()
