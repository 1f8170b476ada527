"""`lidar-completion evaluate`: what is judged, on what, and where the results go."""

from pathlib import Path
from typing import Annotated

import typer

STEPS_HELP = "denoising steps of each model, such as 1,2,8; default: the model card's"


def evaluate_command(
    data: Annotated[
        str,
        typer.Option(
            help="synthetic-test, or a drive: SemanticKITTI sequence, KITTI-360 root, folder of clouds, rosbag2"
        ),
    ] = "synthetic-test",
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="model folder, or public checkpoint (.ckpt; networks in several files as A.ckpt+B.ckpt); may be repeated"
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help=STEPS_HELP)] = "",
    refinement: Annotated[str, typer.Option(help="yes, no, or both (two rows per model)")] = "yes",
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="folder of another method's clouds, named like the sweeps; may be repeated"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder of results; default runs/evaluate/DATA")] = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, help="at most this many scenes; default 100 synthetic, all of a drive")
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, help="of a drive, judge every n-th sweep; default 5")] = None,
    benchmark: Annotated[
        str, typer.Option(help="published benchmark: semantic-kitti-08 or kitti-360; DATA is its root")
    ] = "",
    published: Annotated[str, typer.Option(help="show published figures beside: semantic-kitti or kitti-360")] = "",
    published_rules: Annotated[
        bool | None,
        typer.Option(
            help="cut the truth to the 10 m cells that the sweep touches, as published, or take all within 50 m; "
            "default: cut synthetic scenes, take all of drives"
        ),
    ] = None,
    poses: Annotated[Path | None, typer.Option(help="pose file of a folder or bag (KITTI or TUM rows)")] = None,
    topic: Annotated[str | None, typer.Option(help="cloud topic of a bag; default: the only one")] = None,
    odometry_topic: Annotated[str | None, typer.Option(help="odometry or pose topic of a bag")] = None,
    moving: Annotated[str, typer.Option(help="what moves in the truth: auto, labels, visibility, keep")] = "keep",
    deskew: Annotated[bool, typer.Option(help="take the sensor's motion out of the sweeps of the truth")] = False,
    sensor: Annotated[str, typer.Option(help="of the synthetic scenes: HDL-64E, HDL-32E, VLP-16, OS1-128")] = "HDL-64E",
    w1: Annotated[
        bool, typer.Option(help="also true W1 (earth mover's distance): up to minutes a scene and row")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="draw every scene for the report")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    backend: Annotated[str, typer.Option(help="torch or onnx")] = "torch",
    seed: Annotated[int, typer.Option(help="seed of the models' noise and of the jitter")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="worker processes on this machine")] = 1,
    shard: Annotated[str, typer.Option(help="K/N: judge only part K (from 0) of N, for several machines")] = "0/1",
) -> None:
    """Judge models and other methods on the same scenes as four completions that know nothing; a killed run goes on."""
    from lidar_completion_evaluation import evaluate as evaluation
    from lidar_completion_evaluation.evaluate_scene import JudgeRules
    from lidar_completion_evaluation.published import PUBLISHED
    from lidar_completion_evaluation.report import write_report
    from lidar_completion_evaluation.summary import summarise, text_table, write_csv

    try:
        part = _shard(shard)
        chosen = _benchmark(benchmark)
        table = published or (chosen.published if chosen else "")
        if table and table not in PUBLISHED:
            raise ValueError(f"--published: expected one of {', '.join(PUBLISHED)}, found {table!r}")
        output = output or Path("runs/evaluate") / (chosen.name if chosen else Path(data).resolve().name)
        source = _source(
            data, chosen, output, scenes, every, published_rules, poses, topic, odometry_topic, moving, deskew, sensor
        )
        methods = [
            *evaluation.trivial_methods(seed),
            *_models(model or [], output, steps, refinement, device, backend, seed),
            *(evaluation.PredictionFolder(folder) for folder in predictions or []),
        ]
        rules = JudgeRules(transport=w1)
        evaluation.evaluate(source, methods, output, rules=rules, processes=processes, shard=part, pictures=pictures)
        summary = summarise(source, methods, output, rules=rules, published=PUBLISHED.get(table, ()))
    except (ValueError, OSError) as error:
        typer.echo(f"lidar-completion evaluate: {error}", err=True)
        raise typer.Exit(2) from error
    for heading, section in (("Completed points", "completed"), ("With the measured points", "with_measured")):
        typer.echo(f"\n{heading} (mean [95 % interval])\n{text_table(summary, section)}")
    files = [write_report(summary, output), *write_csv(summary, output)]
    typer.echo("\n" + "\n".join(map(str, files)))


def _source(
    data, benchmark, output, scenes, every, published_rules, poses, topic, odometry_topic, moving, deskew, sensor
):
    from lidar_completion_evaluation.drives.open import open_drive
    from lidar_completion_evaluation.scenes import DriveScenes, SyntheticScenes
    from lidar_completion_evaluation.truth.ground_truth_map import DRIVE_RULES, PUBLISHED_RULES, build_map

    cut = published_rules if published_rules is not None else data == "synthetic-test"
    rules = PUBLISHED_RULES if cut else DRIVE_RULES
    if benchmark is not None:
        drive, rules, moving = benchmark.open(Path(data)), benchmark.rules, benchmark.moving
    elif data == "synthetic-test":
        return SyntheticScenes(scenes or 100, sensor, rules=rules)
    else:
        drive = open_drive(data, poses=poses, topic=topic, odometry_topic=odometry_topic)
    truth = build_map(drive, output / "map.npz", rules, moving=moving, deskew=deskew)
    judged = every or (benchmark.every if benchmark else 5)
    drop_moving = benchmark.drop_moving_input if benchmark else True
    return DriveScenes(drive, truth, rules, every=judged, limit=scenes, drop_moving_input=drop_moving)


def _models(models: list[Path], output: Path, steps: str, refinement: str, device: str, backend: str, seed: int):
    """One row a model, number of steps and refinement; a model without a refiner has one row where both are asked for."""
    from lidar_completion.model.card import load_card
    from lidar_completion_evaluation.evaluate import ModelMethod

    refined = {"yes": (True,), "no": (False,), "both": (True, False)}
    if refinement not in refined:
        raise ValueError(f"--refinement: expected yes, no or both, found {refinement!r}")
    counts = _steps(steps)
    folders = [_model_folder(model, output / "converted") for model in models]
    return [
        ModelMethod(folder, count, refine, device, backend, seed)
        for folder in folders
        for count in counts
        for refine in (refined[refinement] if "refiner" in load_card(folder).networks else (True,))
    ]


def _model_folder(model: Path, converted: Path) -> Path:
    """The model folder itself, or the folder into which public checkpoints are converted, once."""
    from lidar_completion.model.public_checkpoints import convert_public_checkpoints

    if model.is_dir():
        return model
    files = [Path(name) for name in str(model).split("+")]
    if absent := [file for file in files if not file.is_file()]:
        raise ValueError(f"--model: expected a model folder or a checkpoint, found no {absent[0]}; check the path")
    folder = converted / "+".join(file.stem for file in files)
    card = folder / "model.json"
    if not card.exists() or card.stat().st_mtime < max(file.stat().st_mtime for file in files):
        convert_public_checkpoints(files, folder)
    return folder


def _steps(text: str) -> list[int | None]:
    try:
        steps = [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"--steps: expected numbers such as 1,2,8, found {text!r}") from error
    if any(not 1 <= count <= 1000 for count in steps):
        raise ValueError(f"--steps: expected 1 to 1000, found {text!r}")
    return list(steps) or [None]


def _shard(text: str) -> tuple[int, int]:
    part, _, whole = text.partition("/")
    if not (part.isdigit() and whole.isdigit() and int(part) < int(whole)):
        raise ValueError(f"--shard: expected K/N with K from 0 to N-1, such as 0/4, found {text!r}")
    return int(part), int(whole)


def _benchmark(name: str):
    from lidar_completion_evaluation.benchmarks import BENCHMARKS

    if name and name not in BENCHMARKS:
        raise ValueError(f"--benchmark: expected one of {', '.join(BENCHMARKS)}, found {name!r}")
    return BENCHMARKS.get(name)
