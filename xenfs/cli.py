"""The `xenfs` command. It knows no tool: subcommands are the functions of the entry-point group `xenfs.commands`."""

from __future__ import annotations

from importlib.metadata import entry_points, version
from typing import Annotated

import typer

GROUP = "xenfs.commands"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xenfs {version('xenfs')}")
        raise typer.Exit


def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Xen's split-driver world on an ordinary Linux machine: the hypervisor is a filesystem."""
    del show_version


def app() -> typer.Typer:
    """The command with every subcommand that is installed."""
    made = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
    made.callback()(_main)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        found = entry.load()
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=entry.name)
        else:
            made.command(entry.name)(found)
    return made


def main() -> None:
    """Run the command."""
    app()()
