"""The `xenfs` command. It knows no tool: subcommands are the functions of the entry-point group `xenfs.commands`.

Only the subcommand that is asked for is loaded: each starts with no more than it needs, and one that cannot be loaded
is in nobody's way.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
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


def _broken(name: str, error: ImportError) -> Callable[[], None]:
    """In place of a subcommand that cannot be loaded."""

    def unable() -> None:
        typer.echo(f"xenfs {name}: it cannot be loaded: {error}", err=True)
        raise typer.Exit(1)

    unable.__doc__ = f"Not installed: {error}."
    return unable


def _add(made: typer.Typer, entry: EntryPoint) -> None:
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    try:
        found = entry.load()
    except ImportError as error:
        made.command(entry.name, context_settings=anything)(_broken(entry.name, error))
        return
    if isinstance(found, typer.Typer):
        made.add_typer(found, name=entry.name)
    else:
        made.command(entry.name)(found)


def app(only: str = "") -> typer.Typer:
    """The command with every subcommand that is installed, or with the one called `only`, if there is such a one."""
    made = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
    made.callback()(_main)
    entries = sorted(entry_points(group=GROUP), key=lambda e: e.name)
    for entry in [entry for entry in entries if entry.name == only] or entries:
        _add(made, entry)
    return made


def main() -> None:
    """Run the command. What the encoding of the output has no sign for is told by its number."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="backslashreplace")
    app(sys.argv[1] if len(sys.argv) > 1 else "")()
