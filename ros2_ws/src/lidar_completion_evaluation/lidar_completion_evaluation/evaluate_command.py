"""`lidar-completion evaluate`: turns the options of the command line into typed ones and prints the tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from lidar_completion_evaluation.commands import POSES_HELP

if TYPE_CHECKING:
    from lidar_completion_evaluation.options import DataOptions, MethodOptions, RunOptions

Data = Annotated[
    str,
    Option(help="synthetic-test, or a drive: SemanticKITTI sequence, KITTI-360 root, folder of clouds, rosbag2"),
]
Model = Annotated[
    list[Path] | None,
    Option(help="model folder, or public checkpoint (.ckpt; several files as A.ckpt+B.ckpt); may be repeated"),
]
Steps = Annotated[str, Option(help="denoising steps of each model, such as 1,2,8; default: the model card's")]
Refinement = Annotated[str, Option(help="yes, no, or both (two rows per model)")]
Predictions = Annotated[
    list[Path] | None, Option(help="folder of another method's clouds, named like the sweeps; may be repeated")
]
Output = Annotated[Path | None, Option(help="folder of the results; default: runs/evaluate/DATA")]
Scenes = Annotated[int | None, Option(min=1, help="maximum number of scenes; default: 100 synthetic, all of a drive")]
Every = Annotated[int | None, Option(min=1, help="evaluate every n-th sweep of a drive; default: 5")]
Benchmark = Annotated[str, Option(help="published benchmark: semantic-kitti-08 or kitti-360; DATA is its root")]
ProtocolName = Annotated[
    str, Option("--protocol", help="default, or published: that of the released script, without the node's filters")
]
Published = Annotated[str, Option(help="show published figures as well: semantic-kitti or kitti-360")]
ViewCells = Annotated[
    bool | None,
    Option(
        "--published-rules/--no-published-rules",
        help="restrict the truth to the 10 m cells that the sweep touches; default: for synthetic scenes only",
    ),
]
Poses = Annotated[str | None, Option(help=f"poses of a folder or bag: {POSES_HELP}")]
Topic = Annotated[str | None, Option(help="PointCloud2 topic of a bag; default: the only one")]
Odometry = Annotated[str | None, Option(help="odometry or pose topic of a bag, instead of --poses")]
Kitti360Drive = Annotated[str | None, Option("--kitti-360-drive", help="drive of KITTI-360; default: the first")]
BinColumns = Annotated[int, Option(min=3, help="float32 values per point of .bin files: 4 KITTI, 5 nuScenes")]
Moving = Annotated[str, Option(help="how moving objects are removed from the truth: auto, labels, visibility, keep")]
Deskew = Annotated[bool, Option(help="deskew the sweeps of the truth")]
Sensor = Annotated[str, Option(help="sensor of the synthetic scenes: a name such as VLP-16, or a TOML file")]
Map = Annotated[Path | None, Option("--map", help="existing map of the drive; default: built in the output folder")]
Baselines = Annotated[str, Option(help="learning-free rows: all, none, or names such as raw,xy_jittered")]
Height = Annotated[float | None, Option(help="height of the sensor in the synthetic scenes, metres")]
Tilt = Annotated[
    float, Option(help="tilt of the sensor in degrees; on drives the sweeps are rotated and the truth stays upright")
]
EveryRing = Annotated[int, Option(min=1, help="give methods only every n-th ring; the truth is that of all rings")]
World = Annotated[str, Option(help="world recipe of the synthetic scenes: town or varied")]
W1 = Annotated[bool, Option(help="also the true earth mover's distance: up to minutes per scene and row")]
Pictures = Annotated[bool, Option(help="draw pictures of every scene for the report")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:N")]
Backend = Annotated[str, Option(help="torch or onnx")]
Seed = Annotated[int, Option(help="seed of the models' noise and of the baselines")]
Processes = Annotated[int, Option(min=1, help="worker processes on this machine; torchrun also uses others")]


def evaluate_command(
    data: Data = "synthetic-test",
    model: Model = None,
    steps: Steps = "",
    refinement: Refinement = "yes",
    predictions: Predictions = None,
    output: Output = None,
    scenes: Scenes = None,
    every: Every = None,
    benchmark: Benchmark = "",
    protocol: ProtocolName = "default",
    published: Published = "",
    published_rules: ViewCells = None,
    poses: Poses = None,
    topic: Topic = None,
    odometry_topic: Odometry = None,
    kitti_360_drive: Kitti360Drive = None,
    bin_columns: BinColumns = 4,
    moving: Moving = "keep",
    deskew: Deskew = False,
    sensor: Sensor = "HDL-64E",
    height: Height = None,
    tilt: Tilt = 0.0,
    every_ring: EveryRing = 1,
    world: World = "town",
    map_file: Map = None,
    baselines: Baselines = "all",
    w1: W1 = False,
    pictures: Pictures = True,
    device: Device = "auto",
    backend: Backend = "torch",
    seed: Seed = 0,
    processes: Processes = 1,
) -> None:
    """Compare models, other methods' predictions and the baselines on the same scenes. An interrupted run resumes."""
    from lidar_completion_evaluation import options as made
    from lidar_completion_evaluation.drives.open import DriveOptions

    try:
        if benchmark:
            source: DataOptions = made.BenchmarkData.of(benchmark, Path(data), kitti_360_drive, every, scenes)
        elif data == "synthetic-test":
            source = made.SyntheticData(
                sensor, scenes or 100, published_rules is not False, height, tilt, every_ring, world
            )
        else:
            drive = DriveOptions(poses, topic, odometry_topic, kitti_360_drive, bin_columns)
            source = made.DriveData(
                Path(data), drive, moving, deskew, bool(published_rules), every or 5, scenes, every_ring, tilt, map_file
            )
        methods = made.MethodOptions(
            tuple(model or ()), _steps(steps), refinement, tuple(predictions or ()), device, backend, seed,
            baselines,
        )  # fmt: skip
        run = made.RunOptions(output, protocol, published, w1, pictures, processes)
        _evaluate(source, methods, run)
    except (ValueError, OSError) as error:
        typer.echo(f"lidar-completion evaluate: {error}", err=True)
        raise typer.Exit(2) from error


def _evaluate(source: DataOptions, methods: MethodOptions, run: RunOptions) -> None:
    from lidar_completion_evaluation.evaluate import evaluate
    from lidar_completion_evaluation.process_group import of_torchrun
    from lidar_completion_evaluation.reports.evaluation import write_report
    from lidar_completion_evaluation.summary import summarise, text_table, write_csv

    output = run.output or Path("runs/evaluate") / source.name
    group, settings = of_torchrun(), run.scene_settings
    scenes = source.open(output)
    with group.first_before_others():  # the first converts public checkpoints
        rows = methods.open(output)
    evaluate(
        scenes,
        rows,
        output,
        settings=settings,
        processes=run.processes,
        group=group,
        pictures=run.pictures,
    )
    if not group.is_first:
        return
    summary = summarise(scenes, rows, output, settings=settings, published=run.published_rows(source))
    typer.echo(f"\nprotocol: {settings.protocol.name}")
    for heading, section in (("Completed points", "completed"), ("With the measured points", "with_measured")):
        typer.echo(f"\n{heading} (mean [95 % interval])\n{text_table(summary, section)}")
    files = [write_report(summary, output), *write_csv(summary, output)]
    typer.echo("\n" + "\n".join(map(str, files)))


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"--steps: expected numbers such as 1,2,8, found {text!r}") from error
