"""xenfs status: what is mounted."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from xenfs.commands.columns import show
from xenfs.commands.failure import command, tell
from xenfs.commands.machine import HEAD, View, view
from xenfs.commands.place import EXITS, Condition, Place, examine


def as_data(found: Place, machine: View | None) -> dict[str, Any]:
    """The status as one JSON object."""
    said: dict[str, Any] = {"mount": found.point, "condition": found.condition.value, "pid": found.pid}
    if machine is not None:
        said |= {"version": machine.version, "uptime": machine.uptime}
        said |= {"frames": {"total": machine.frames.total, "free": machine.frames.free}}
        said["domains"] = [asdict(domain) for domain in machine.frames.domains]
    return said


def lines(found: Place, machine: View) -> list[str]:
    """What is said of the machine as a whole."""
    up = timedelta(seconds=int(machine.uptime))
    return [
        f"mount    {found.point}",
        f"version  {machine.version}",
        f"pid      {found.pid}",
        f"uptime   {up}",
        f"frames   {machine.frames.total} total, {machine.frames.free} free",
    ]


@command("status")
def status(
    place: Annotated[str | None, typer.Argument(metavar="MNT", help="Which; the default place of mount.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what is mounted at a place: its daemon, its frames, its domains.

    Exit status: 0 a machine is mounted and answers; 1 it is for another user only; 3 nothing is mounted; 4 the mount is
    stale; 5 its daemon does not answer.
    """
    found = examine(place)
    machine = view(found.point) if found.condition is Condition.SERVED else None
    if as_json:
        typer.echo(json.dumps(as_data(found, machine)))
    elif machine is not None:
        typer.echo("\n".join(lines(found, machine)) + "\n")
        show(HEAD, [domain.row() for domain in machine.frames.domains])
    else:
        tell("status", str(found))
    if code := EXITS[found.condition]:
        raise typer.Exit(code)
