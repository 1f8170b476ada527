"""lidar-completion: completes sweeps, inspects and converts models, and runs the commands of other packages.

Other packages add commands through the entry-point group `lidar_completion.commands`; the evaluation package adds `bag`,
`evaluate` and others.
"""

import dataclasses
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Complete sparse LiDAR sweeps into dense scenes."
)


SUFFIXES = (".pcd", ".ply", ".bin", ".npy", ".npz")
Steps = Annotated[int | None, typer.Option(min=1, max=1000, help="denoising steps; default: the model card's")]
Guidance = Annotated[float | None, typer.Option(min=0, max=100, help="guidance weight; default: the model card's")]
Replication = Annotated[
    int | None, typer.Option(min=1, help="start points per point of the downsampled sweep; default: the model card's")
]
Refine = Annotated[
    bool, typer.Option(help="run the refiner, if the model has one: it replaces each completed point by several")
]
FreeSpaceFilter = Annotated[
    bool, typer.Option(help="remove completed points in space that the sensor observed as free")
]
MinConfidence = Annotated[float, typer.Option(min=0, max=1, help="remove completed points with a lower confidence")]
OutputVoxel = Annotated[
    float | None,
    typer.Option(
        min=0, max=100, help="keep only the most confident completed point of each voxel of this size in metres"
    ),
]
MaxPoints = Annotated[
    int | None,
    typer.Option(min=1, help="limit on the points of a completion, measured points first; default: no limit"),
]


@app.command()
def complete(
    scans: Annotated[list[Path], typer.Argument(help="sweep files: .bin .ply .pcd .npy .npz")],
    model: Annotated[Path, typer.Option(help="model folder")] = Path("models/edge"),
    output: Annotated[Path, typer.Option(help="output folder")] = Path("completed"),
    suffix: Annotated[str, typer.Option(help="output format: .pcd .ply .bin .npy .npz")] = ".pcd",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    backend: Annotated[str, typer.Option(help="torch or onnx")] = "torch",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 for wide layers (torch)")] = "float32",
    steps: Steps = None,
    guidance: Guidance = None,
    replication: Replication = None,
    refine: Refine = True,
    free_space_filter: FreeSpaceFilter = True,
    min_confidence: MinConfidence = 0.0,
    output_voxel_m: OutputVoxel = None,
    max_points: MaxPoints = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="seed of the noise")] = 0,
) -> None:
    """Complete sweeps from files; each completion has x, y, z, provenance, confidence and, if the sweep has it, intensity."""
    from tqdm import tqdm

    from lidar_completion.completer import Options, SceneCompleter
    from lidar_completion.visibility import FreeSpaceRules, TrustRules

    if suffix not in SUFFIXES:
        raise _stop(f"--suffix {suffix}: expected one of {', '.join(SUFFIXES)}")
    completer = _loaded(lambda: SceneCompleter.load(model, device=device, backend=backend, precision=precision))
    trust = TrustRules(FreeSpaceRules() if free_space_filter else None, min_confidence=min_confidence)
    options = Options(steps=steps, guidance=guidance, replication=replication, refine=refine, trust=trust)
    options |= Options(output_voxel_m=output_voxel_m, max_points=max_points, seed=seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _stop(f"--output {output}: cannot be created ({error.strerror}); choose another folder") from error
    progress = tqdm(scans, unit="sweep", disable=len(scans) < 2)
    failed = sum(not _complete_file(completer, scan, output / (scan.stem + suffix), options) for scan in progress)
    if failed:
        raise _stop(f"{failed} of {len(scans)} sweeps were not completed")


def _complete_file(completer, scan: Path, target: Path, options) -> bool:  # type: ignore[no-untyped-def]
    """Complete one file; False, after a message, if it cannot be read or completed."""
    from lidar_completion.errors import SweepError
    from lidar_completion.point_cloud_files import PointCloudFileError, read_points, write_points

    try:
        sweep = read_points(scan)
        result = completer.complete(sweep.points, intensity=sweep.intensity, **options)
    except (SweepError, PointCloudFileError) as error:
        typer.echo(f"{scan}: {error}", err=True)
        return False
    fields = {"intensity": result.intensity, "provenance": result.provenance, "confidence": result.confidence}
    held = {".bin": ("intensity",), ".npy": ()}.get(target.suffix, tuple(fields))
    write_points(target, result.points, **{name: fields[name] for name in held if fields[name] is not None})
    measured, seconds = len(result.measured_rows), result.timings["total"]
    typer.echo(f"{target}: {measured} measured + {len(result.points) - measured} completed points, {seconds:.2f} s")
    if removed := ", ".join(f"{reason} {count}" for reason, count in result.removed.items() if count):
        typer.echo(f"  removed: {removed}")
    return True


@app.command()
def inspect(model: Annotated[Path, typer.Argument(help="model folder")]) -> None:
    """Check a model's weights against its card, and print the card."""
    from lidar_completion.model.weights import load_model

    card, networks = _loaded(lambda: load_model(model))
    typer.echo(json.dumps(dataclasses.asdict(card), indent=2))
    for name, network in networks.items():
        typer.echo(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")


@app.command()
def convert(
    files: Annotated[
        list[Path], typer.Argument(help="public .ckpt or .pt files of LiDiff, ScoreLiDAR, Distillation-DPO")
    ],
    output: Annotated[Path, typer.Option(help="model folder to write")],
    name: Annotated[str, typer.Option(help="name on the card; default: that of the first file")] = "",
    role: Annotated[
        str,
        typer.Option(
            help="teacher (50 steps, guidance 6), student (8 steps, guidance 3.5), or auto: guessed from names in the file"
        ),
    ] = "auto",
    family: Annotated[str, typer.Option(hidden=True, help="deprecated: use --role; lidiff is a teacher")] = "",
) -> None:
    """Convert public checkpoints to a model folder, without executing code in them."""
    from lidar_completion.model.public_checkpoints import convert_public_checkpoints

    if family:
        typer.echo("lidar-completion convert: --family is deprecated; use --role", err=True)
        role = "teacher" if family == "lidiff" else family
    card = _loaded(lambda: convert_public_checkpoints(files, output, name=name, role=role))
    settings = card.pipeline
    typer.echo(
        f"{output}: {', '.join(card.networks)}; {settings.sampler}, {settings.steps} steps, guidance {settings.guidance}\n"
        f"  {card.description}"
    )


def _loaded(load):  # type: ignore[no-untyped-def]
    """The result of `load`; an unusable model, device or backend ends the program with its message."""
    try:
        return load()
    except (ValueError, ImportError, OSError) as error:
        raise _stop(str(error)) from error


def _stop(message: str) -> typer.Exit:
    typer.echo(f"lidar-completion: {message}", err=True)
    return typer.Exit(2)


def _add_commands_of_other_packages() -> None:
    for entry in sorted(entry_points(group="lidar_completion.commands"), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ImportError as error:  # such as `bag` without ROS: the other commands still work
            command = _unavailable(entry.name, error)
        app.command(entry.name)(command)


def _unavailable(name: str, error: ImportError):  # type: ignore[no-untyped-def]
    def command() -> None:
        raise _stop(f"{name} is not available here: {error}")

    command.__doc__ = f"(not available here: {error})"
    return command


_add_commands_of_other_packages()

if __name__ == "__main__":
    app()
