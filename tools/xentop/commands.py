"""xenfs top."""

from __future__ import annotations

import os
import resource
import select
import sys
import time
from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer

from xenfs.commands.failure import Unable, command
from xenfs.commands.machine import within
from xenfs.commands.place import served
from xenfs.domain import Refused
from xentop import text
from xentop.feed import Feed
from xentop.look import Look, Sample
from xentop.panes import PANES
from xentop.text import NAMES

_FIRST_SECONDS = 1.0
"""Between the two looks that rates take, with --once."""


def _names(said: str) -> list[str]:
    names = [name.strip() for name in said.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            raise Unable(f"{name}: there is no such pane; there are {', '.join(NAMES)}")
    return names


def _open_many() -> None:
    """A page of every ring is kept open: have as many files as one may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stand(seconds: float) -> None:
    select.select([], [], [], seconds)


def _batch(point: str, names: list[str], count: int, seconds: float, *, as_json: bool, once: bool) -> None:
    """Look again and again, and print."""
    wants = sorted({want for name in names if name in PANES for want in PANES[name].wants})
    look = Look(point)
    feed = Feed(point) if text.TRACE in names else None
    try:
        began, done = time.monotonic(), 0
        before: Sample | None = look.sample(*wants) if once else None
        if once:
            _stand(_FIRST_SECONDS)
        while True:
            now = look.sample(*wants)
            watched = 0.0 if once else time.monotonic() - began  # the second of --once tells nothing of an age
            events = feed.update() if feed is not None else []
            if as_json:
                print(text.as_json(names, now, before, watched, events), flush=True)
            else:
                print("\n".join(text.report(names, now, before, watched, events)), flush=True)
            before, done = now, done + 1
            if done == count:
                return
            if not as_json:
                print()
            _stand(seconds)
    finally:
        look.close()
        if feed is not None:
            feed.close()


def _has_screen() -> bool:
    """Whether there is something to draw on, which Textual does on stderr, and keys come from."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def _of_textual(name: str) -> ModuleType:
    """A module of ours that needs what is installed with xenfs[top] only."""
    try:
        return import_module(name)
    except ImportError as error:
        raise Unable(f"{error.name} is not installed: pip install 'xenfs[top]'") from None


@command("top")
def top(
    batch: Annotated[bool, typer.Option("-b", "--batch", help="Lines for a pipe, without escapes.")] = False,
    count: Annotated[int, typer.Option("-i", "--iterations", min=0, help="So many times; 0 is until Ctrl-C.")] = 0,
    delay: Annotated[
        float | None,
        typer.Option("-d", "--delay", min=0.05, max=3600, help="Seconds between two looks: 1, on the screen 0.5."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One look, and its rates, and that is all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a look; null: not known yet.")] = False,
    panes: Annotated[str, typer.Option("-p", "--panes", help=f"Of {', '.join(NAMES)}.")] = "",
    web: Annotated[
        int, typer.Option("--web", metavar="PORT", help="The same in a browser, at the address printed.")
    ] = 0,
) -> None:
    """Watch the machine at $XEN: domains, devices, rings, pages, event channels, the store, and the trace.

    Where stdin, stdout or stderr is no terminal it prints as with -b. In the terminal: ? shows the keys, q ends it.

    Exit status: 0 ended, or all printed; 1 there is no machine, or it ended, or it is not one's own; 130 after Ctrl-C.
    """
    point = served().point
    names = _names(panes) or ["domains", "devices", "rings", "events"]
    if not within(point, lambda: os.access(f"{point}/domains/0/dev", os.R_OK | os.X_OK)):
        raise Unable("the machine belongs to another user: only whoever mounted it sees all of it")
    plain = batch or once or as_json or count > 0
    _open_many()
    try:
        if web:
            _of_textual("xentop.web").serve(point, web)
        elif plain or not _has_screen():
            _batch(point, names, 1 if once else count, delay or 1.0, as_json=as_json, once=once or count == 1)
        else:
            _of_textual("xentop.app").watch(point, delay or 0.5, _names(panes)[0] if panes else "domains")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Refused, OSError) as error:
        raise Unable(f"{point}: {error.strerror}") from None
