"""How a command fails: one line on stderr that begins with the command's name, and an exit status."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from xenfs.commands.escapes import plain

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells give it."""


class Unable(Exception):
    """A command cannot do what was asked; the text is for people and says what to do next."""

    def __init__(self, text: str, code: int = 1) -> None:
        """Keep the text and the exit status."""
        super().__init__(text)
        self.code = code


def tell(name: str, text: str) -> None:
    """One line on stderr, as mount and umount write theirs; what a guest had a part in may be in it."""
    typer.echo("\n".join(map(plain, f"xenfs {name}: {text}".split("\n"))), err=True)


def command(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a command of that name: what it cannot do becomes a line on stderr and an exit status."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Unable as error:
                tell(name, str(error))
                raise typer.Exit(error.code) from error
            except BrokenPipeError:
                raise
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                tell(name, f"{where}{error.strerror or error}")
                raise typer.Exit(1) from error
            except KeyboardInterrupt as error:
                raise typer.Exit(INTERRUPTED) from error

        return run

    return wrap
