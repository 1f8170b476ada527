"""Memory of a node process: idle, while it completes sweeps, and idle again; by kind of memory and by library.

    git worktree add ../before f7e550b
    python benchmarks/node_memory.py [--other ../before] [--model edge] [--sweeps 40] [--drive FOLDER | --bag BAG] [--full]

Each node is active, has warmed up, and waits; then somebody subscribes, and real sweeps come, each after the completion of the one
before. Prints a table and writes it to benchmarks/results/node_memory.txt. --full lists every library of more than 1 MB.

resident   what the process has mapped (VmRSS)
private    memory that nothing but this process holds, as objects and arrays: the system cannot drop it
segments   shared memory of Fast DDS, its own and those of the peers that have sent to it
files      code of libraries, which other processes share, and which the system drops when memory is scarce
"""

import argparse
import datetime
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import node_soak  # sets ROS_DOMAIN_ID before rclpy is imported
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from side_by_side import ROOT, python_path

MB = 1e6
SECONDS_PER_SWEEP = 20.0  # then the sweep or its completion is lost
QUIET_TICKS = 5  # of CPU time in a second; an idle node publishes diagnostics once a second
KINDS = ("private", "segments", "files")
HEAD = f"{'node':28} {'resident':>9} {'private':>9} {'segments':>9} {'files':>9}   MB"


def main() -> None:
    options = arguments()
    lines = [heading(options), HEAD]
    print("\n".join(lines), flush=True)
    for checkout in [ROOT, *([options.other] if options.other else [])]:
        for line in measured(checkout, options):
            lines.append(line)
            print(line, flush=True)
    options.results.write_text("\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout, measured after this one")
    parser.add_argument("--model", default="edge", help="folder in each checkout's models/")
    parser.add_argument("--sweeps", type=int, default=40, help="number of sweeps")
    parser.add_argument("--drive", type=Path, help="folder of .bin sweeps (SemanticKITTI layout)")
    parser.add_argument("--bag", type=Path, help="rosbag2 with one PointCloud2 topic")
    parser.add_argument("--full", action="store_true", help="list the libraries")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "node_memory.txt")
    return parser.parse_args()


def heading(options: argparse.Namespace) -> str:
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{datetime.date.today()}; {os.cpu_count()} cores, {processor[1] if processor else 'unknown processor'}, load before "
        f"{os.getloadavg()[0]:.1f}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'all')}; model {options.model}; "
        f"{options.sweeps} real sweeps"
    )


def measured(checkout: Path, options: argparse.Namespace) -> list[str]:
    """Lines of the table for the node of one checkout."""
    node_soak.use_shared_memory_profile(os.environ)
    context, run, sweeps = rclpy.Context(), node_soak.Run(), node_soak.sweeps_to_play(options)
    rclpy.init(args=[], context=context, signal_handler_options=node_soak.SignalHandlerOptions.NO)
    vehicle = Node("vehicle", context=context)
    publisher = vehicle.create_publisher(PointCloud2, "/velodyne_points", QoSProfile(depth=1))
    model = {"model": checkout.resolve() / "models" / options.model}
    name, states = checkout.resolve().name, {}
    with node_soak.spinning(vehicle, context), node_soak.node_process(model, python_path(checkout)) as process:
        node_soak.wait_for(lambda: publisher.get_subscription_count() > 0)
        wait_until_quiet(process)
        states["idle"] = mapped(process.pid)
        node_soak.listen(vehicle, run)
        node_soak.wait_for(lambda: node_soak.is_ready(run))
        states["at work, highest"] = play(publisher, sweeps, run, options.sweeps, process.pid)
        wait_until_quiet(process)
        states["after work"] = mapped(process.pid)
    vehicle.destroy_node()
    rclpy.try_shutdown(context=context)
    lines = [row(f"{name}: {state}", mappings) for state, mappings in states.items()]
    lines.append(f"{name}: {len(run.received_s)} completions of {len(run.published_s)} sweeps")
    return lines + (libraries(name, states["idle"]) if options.full else [])


def wait_until_quiet(process: subprocess.Popen, seconds: int = 5) -> None:
    """Wait until the process has used hardly any CPU time for a few seconds in a row."""
    used, quiet = cpu_ticks(process.pid), 0
    while quiet < seconds:
        time.sleep(1.0)
        before, used = used, cpu_ticks(process.pid)
        quiet = quiet + 1 if used - before < QUIET_TICKS else 0


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def play(publisher, sweeps: list[PointCloud2], run: node_soak.Run, count: int, pid: int) -> Counter:  # type: ignore[no-untyped-def]
    """Publish sweeps, each after the completion of the one before; the mappings when most memory was resident."""
    highest: Counter = Counter()
    for index in range(count):
        done, until_s = len(run.received_s), time.monotonic() + SECONDS_PER_SWEEP
        node_soak.publish(publisher, sweeps[index % len(sweeps)], run)
        while len(run.received_s) == done and time.monotonic() < until_s:
            time.sleep(0.1)
            highest = max(highest, mapped(pid), key=Counter.total)
    return highest


def mapped(pid: int) -> Counter:
    """Resident bytes by (kind, file); the file of memory that belongs to none is ""."""
    sizes: Counter = Counter()
    kind, file = "files", ""
    for name, *values in map(str.split, Path(f"/proc/{pid}/smaps").read_text().splitlines()):
        if not name.endswith(":"):
            file = values[4] if len(values) > 4 and values[4].startswith("/") else ""
            kind = "segments" if file.startswith("/dev/shm/") else "files"
        elif name == "Rss:":
            sizes[kind, file] += 1024 * int(values[0])
        elif name == "Anonymous:" and kind == "files":
            sizes["private", file] += 1024 * int(values[0])
            sizes[kind, file] -= 1024 * int(values[0])
    return sizes


def row(name: str, mappings: Counter) -> str:
    kinds = [sum(size for (each, _), size in mappings.items() if each == kind) / MB for kind in KINDS]
    return f"{name:28} {sum(kinds):9.0f} " + " ".join(f"{size:9.0f}" for size in kinds)


def libraries(name: str, mappings: Counter) -> list[str]:
    """Lines for the files of which an idle node has more than 1 MB mapped."""
    largest = [(size, kind, Path(file).name) for (kind, file), size in mappings.items() if file and size > MB]
    return [f"{name}: idle: {kind:8} {size / MB:6.1f} MB  {file}" for size, kind, file in sorted(largest, reverse=True)]


if __name__ == "__main__":
    main()
