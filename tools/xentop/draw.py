"""Panes as rich lines: the same words as in text.py, with colours where they help. No colour says what words do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from xentop import frames
from xentop.feed import Event
from xentop.frames import COLOURS, Line
from xentop.panes import Pane, Row, cells
from xentop.text import heads, line, widths

_GOOD, _BAD, _BUSY = "green", "bold red", "yellow"


def colour(domid: int) -> str:
    """A domain's."""
    return COLOURS[domid % len(COLOURS)]


def _style(pane: Pane, row: Row) -> str:
    """The colour of a row, if it has one."""
    if pane.name == "devices":
        return "" if row["why"] == "working" else _BAD if any("error" in said for said in row["findings"]) else _BUSY
    if pane.name == "rings":
        return _BAD if row["broken"] else ""
    if pane.name == "domains":
        return _BAD if row["dying"] else "" if row["state"] == "running" else _BUSY
    if pane.name == "events":
        return _BUSY if row["pending"] or row["state"] == "unbound" else ""
    return ""


def table(pane: Pane, rows: Sequence[Row], width: int) -> tuple[Text, list[Text]]:
    """Head and lines. Where the screen is narrow the columns at the right are left out, but the last is kept."""
    written = [cells(pane, row) for row in rows]
    wide = widths(pane, written)
    kept = _fit(pane, wide, width - 2)
    part = [wide[place] for place in kept]
    narrowed = Pane(pane.name, pane.about, tuple(pane.columns[place] for place in kept), pane.rows)
    head = Text(line(narrowed, [heads(pane)[place] for place in kept], part))
    found = []
    for row, cell in zip(rows, written, strict=True):
        text = Text(line(narrowed, [cell[place] for place in kept], part), style=_style(pane, row))
        if pane.name == "store" and row["changed"] is not None:
            text.stylize(_BUSY)
        found.append(text)
    return head, found


def _fit(pane: Pane, wide: Sequence[int], room: int) -> list[int]:
    """Which columns there is room for: those that stand first, and always the last if it is one of words."""
    places, last = list(range(len(wide))), len(wide) - 1
    words = not pane.columns[last].right
    while len(places) > 2 and sum(min(wide[at], 40) + 2 for at in places) > room + 2:
        places.pop(-2 if words and places[-1] == last else -1)
    return places


def of_frames(found: Sequence[Line]) -> tuple[Text, list[Text]]:
    """The map of frames."""
    head = Text(f"{'frame':>8}   {frames.LEGEND}")
    lines = []
    for one in found:
        text = Text(str(one))
        for place, owner in enumerate(one.owners):
            if owner is not None:
                mark = one.marks[place]
                text.stylize(colour(owner) if mark != frames.MOVED else "reverse bold", MAP + place, MAP + place + 1)
        lines.append(text)
    return head, lines


MAP = 11
"""The column at which a line's frames begin."""


def of_events(found: Sequence[Event]) -> tuple[Text, list[Text]]:
    """The trace."""
    head = Text("time             domid  call \N{RIGHTWARDS ARROW} result, or a node of the store and its value")
    lines = []
    for event in found:
        text = Text(event.text, style=_BAD if " error " in event.text else "")
        if event.said is None:
            text.stylize("cyan")
        lines.append(text)
    return head, lines


def sort(rows: list[Row], key: str) -> list[Row]:
    """By a value: numbers from the largest on, but ids and words from the smallest."""
    if not rows or key not in rows[0]:
        return rows
    value: Callable[[Row], object] = lambda row: row[key]  # noqa: E731
    largest_first = isinstance(rows[0][key], int | float) and key not in ("domid", "port", "id")
    return sorted(rows, key=value, reverse=largest_first)  # type: ignore[arg-type]
