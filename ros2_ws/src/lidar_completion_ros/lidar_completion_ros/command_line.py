"""The command `lidar-completion health`."""

from typing import Annotated

import typer


def health(
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for a diagnostic")] = 10.0,
    node: Annotated[str, typer.Option(help="part of the node's name, if several run")] = "",
) -> None:
    """Check the running node. Exit code 0: active and no ERROR; 1: an ERROR, not active, or no diagnostic; 2: no ROS."""
    try:
        from lidar_completion_ros.health import LEVELS, listen

        found = listen(timeout, node)
    except ImportError as error:
        typer.echo(f"lidar-completion health needs ROS 2: {error}", err=True)
        raise typer.Exit(2) from None
    for name, report in found.reports.items():
        typer.echo(f"{LEVELS[report.level]:<5} {name} ({report.status.state}): {report.message}")
    if not found.reports:
        typer.echo(f"no diagnostic of a node lidar_completion within {timeout:g} s on /diagnostics", err=True)
    raise typer.Exit(0 if found.healthy else 1)
