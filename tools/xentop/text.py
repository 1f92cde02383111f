"""Panes as plain text, in columns that fit, and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from xenfs.commands.escapes import plain
from xentop import frames
from xentop.feed import HEAD, Event
from xentop.look import DAEMON, Sample
from xentop.panes import PANES, Pane, Row, cells, percent, rows
from xentop.words import counted

GAP = 2
TRACE = "trace"
"""Which is no table."""
NAMES = (*PANES, TRACE)
_DOT = " \N{MIDDLE DOT} "
_MATTERS = (0, 4, 2, 1, 3)
"""The parts of the line at the top, the most important first."""


def widths(pane: Pane, written: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column is to be."""
    return [
        max(column.least, len(column.head), *(len(row[place]) for row in written), 0)
        for place, column in enumerate(pane.columns)
    ]


def line(pane: Pane, row: Sequence[str], wide: Sequence[int]) -> str:
    """One row in columns."""
    parts = [
        cell.rjust(width) if column.right else cell.ljust(width)
        for column, cell, width in zip(pane.columns, row, wide, strict=True)
    ]
    return (" " * GAP).join(parts).rstrip()


def heads(pane: Pane) -> list[str]:
    """What stands above the columns."""
    return [column.head for column in pane.columns]


def table(pane: Pane, found: Sequence[Row]) -> Iterator[str]:
    """A pane in lines, the heads first."""
    written = [list(map(plain, cells(pane, row))) for row in found]
    wide = widths(pane, written)
    yield line(pane, heads(pane), wide)
    for row in written:
        yield line(pane, row, wide)


def summary(now: Sample, room: int | None = None) -> str:
    """The machine in one line; with `room`, so many characters of it at the most, what matters least left out."""
    living = sum(not domain.dying for domain in now.frames.domains)
    dying = len(now.frames.domains) - living
    used = now.frames.total - now.frames.free
    parts = [
        counted(living, "domain") + (f", {dying} dying" if dying else ""),
        f"{used} of {now.frames.total} frames",
        counted(len(now.devices), "device"),
        counted(len(now.rings), "ring"),
        f"hypervisor {percent(now.cpu.get(DAEMON))} cpu",
    ]
    kept = dict[int, str]()
    for place in _MATTERS:
        with_it = {**kept, place: parts[place]}
        if room is None or len(_DOT.join(with_it.values())) <= room:
            kept = with_it
    return _DOT.join(part for _, part in sorted(kept.items()))


def report(
    names: Sequence[str], now: Sample, before: Sample | None, watched: float, events: Sequence[Event] = ()
) -> Iterator[str]:
    """Panes one below the other, as for a pipe; `events` are what the trace has had since the look before."""
    yield f"xenfs top - {time.strftime('%H:%M:%S')} - {summary(now)}"
    for name in names:
        yield ""
        if name == TRACE:
            yield HEAD
            yield from (event.text for event in events)
            continue
        pane = PANES[name]
        if name == "pages":
            yield f"{'frame':>8}   {frames.LEGEND}"
            yield from map(str, frames.lines(now, before))
        else:
            yield from table(pane, rows(pane, now, before, watched))


def as_json(
    names: Sequence[str], now: Sample, before: Sample | None, watched: float, events: Sequence[Event] = ()
) -> str:
    """The same as one JSON object, with numbers as they are; null for a rate that is not known yet."""
    found: dict[str, object] = {
        "time": time.time(),
        "total": now.frames.total,
        "free": now.frames.free,
        "hypervisor_cpu": now.cpu.get(DAEMON),
    }
    for name in names:
        if name == TRACE:
            found[name] = [event.said for event in events]
        else:
            found[name] = rows(PANES[name], now, before, watched)
    return json.dumps(found)
