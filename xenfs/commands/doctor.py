"""xenfs doctor: whether the system has what a machine needs."""

from __future__ import annotations

import os

import typer

from xenfs.commands import checks
from xenfs.commands.columns import show
from xenfs.commands.failure import command

HEAD = ("result", "check", "mend")
STYLES = {"ok": "green", "missing": "bold red", "advice": "yellow"}


def verdict(check: checks.Check) -> tuple[str, str, str]:
    """The row that is printed for a check."""
    problem = check.problem()
    if problem is None:
        return "ok", check.name, ""
    return ("missing" if check.needed else "advice"), check.name, f"{problem}; to mend it: {check.mend}"


@command("doctor")
def doctor() -> None:
    """Check the system: a line each, ok, missing or advice, with what is wrong and the command that mends it.

    What is missing is needed to mount; advice is about what else is slower or refused without it.

    Exit status: 0 nothing is missing; 1 something is.
    """
    rows = [verdict(check) for check in checks.table() if check.applies(os.geteuid())]
    show(HEAD, rows, STYLES)
    if any(row[0] == "missing" for row in rows):
        raise typer.Exit(1)
