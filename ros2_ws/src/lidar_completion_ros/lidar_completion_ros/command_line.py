"""What the ROS package adds to the command `lidar-completion`."""

from typing import Annotated

import typer


def health(
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for a diagnostic")] = 10.0,
    node: Annotated[str, typer.Option(help="part of the node's name, where several run")] = "",
) -> None:
    """Say how the running node is; exit code 0 if it is no ERROR, 1 if it is or no diagnostic comes."""
    try:
        from lidar_completion_ros.health import LEVELS, listen

        told = listen(timeout, node)
    except ImportError as error:
        typer.echo(f"lidar-completion health needs ROS 2: {error}", err=True)
        raise typer.Exit(2) from None
    for name, (level, message) in told.told.items():
        typer.echo(f"{LEVELS[level]:<5} {name}: {message}")
    if not told.told:
        typer.echo(f"no diagnostic of a node lidar_completion came within {timeout:g} s on /diagnostics", err=True)
    raise typer.Exit(0 if told.healthy else 1)
