"""Panes as rich lines: the same words as in text.py, with colours where they help. No colour says what words do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, overload

from rich.text import Text

from xenfs.commands.escapes import plain
from xentop import frames
from xentop.feed import HEAD, Event
from xentop.frames import COLOURS, Line
from xentop.panes import Pane, Row, cells
from xentop.text import GAP, heads, line, widths

_BAD, _BUSY = "bold red", "yellow"
_ASIDE = 4
"""Characters of the screen for the mark of the chosen line, and for a scrollbar."""
_SHORT_LEGEND = f"R ring M mapped g granted o held \N{MIDDLE DOT} idle {frames.MOVED} moved blank free + more"
_ENOUGH = 20
"""Characters of a long column that are to be in sight; for the others there are h and l."""


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
    if pane.name == "store":
        return _BUSY if row["changed"] is not None else ""
    return ""


class Lines(Sequence[Text]):
    """Lines of which each is made when somebody looks at it, which is seldom: most are out of sight."""

    def __init__(self, count: int, make: Callable[[int], Text], wide: int) -> None:
        """So many, `wide` characters at the most."""
        self._made: list[Text | None] = [None] * count
        self._make, self.wide = make, wide

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, index: int) -> Text: ...

    @overload
    def __getitem__(self, index: slice) -> list[Text]: ...

    def __getitem__(self, index: int | slice) -> Text | list[Text]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        made = self._made[index]
        if made is None:
            made = self._made[index] = self._make(index if index >= 0 else index + len(self))
        return made


def table(pane: Pane, rows: Sequence[Row], width: int, key: str = "") -> tuple[Text, Lines]:
    """Head and lines. Where the screen is narrow the columns at the right are left out, but not that of `key`, by which
    they are sorted, nor why a device waits."""
    written = [list(map(plain, cells(pane, row))) for row in rows]
    if pane.name == "store":
        for cell, row in zip(written, rows, strict=True):
            cell[0] = _node(row)
    wide = widths(pane, written)
    kept = _fit(pane, wide, width - 2, key)
    part = [wide[place] for place in kept]
    narrowed = Pane(pane.name, pane.about, tuple(pane.columns[place] for place in kept), pane.rows)
    head = Text(line(narrowed, [heads(pane)[place] for place in kept], part))

    def make(index: int) -> Text:
        return Text(line(narrowed, [written[index][place] for place in kept], part), style=_style(pane, rows[index]))

    return head, Lines(len(rows), make, sum(part) + GAP * (len(part) - 1))


def _node(row: Row) -> str:
    """A node in its place in the tree; * before one that has been seen to change."""
    return f"{'*' if row['changed'] is not None else ' '} {'  ' * (row['depth'] - 1)}{plain(row['name'])}"


def _fit(pane: Pane, wide: Sequence[int], room: int, key: str) -> list[int]:
    """Which columns there is room for: those that stand first, and those that are always wanted."""
    places = list(range(len(wide)))
    wanted = {0, *(at for at, column in enumerate(pane.columns) if column.key in (key, "why"))}
    while len(places) > len(wanted) + 1 and sum(min(wide[at], _ENOUGH) + 2 for at in places) > room + 2:
        places.remove(next(at for at in reversed(places) if at not in wanted))
    return places


def of_frames(found: Sequence[Line], width: int) -> tuple[Text, Lines]:
    """The map of frames. Where there is no room for more than the map, the owners are not told again behind it."""
    narrow = width - _ASIDE < MAP + frames.WIDTH + len("  domain 32751: 64")
    head = Text(f"{'frame':>6} dom {_SHORT_LEGEND if narrow else f'{frames.LEGEND}  d1+ and others'}")

    def make(index: int) -> Text:
        one = found[index]
        said = "" if narrow else f"  {one.said()}"
        text = Text(str(one) if one.same else f"{_place(one):>{MAP - 1}} {one.marks}{said}")
        styles = [
            "" if owner is None else colour(owner) if mark != frames.MOVED else "reverse bold"
            for mark, owner in zip(one.marks, one.owners, strict=False)
        ]
        at = MAP
        for style, alike in groupby(styles):
            text.stylize(style, at, at := at + len(list(alike)))
        return text

    wide = MAP + frames.WIDTH if narrow else max((one.wide for one in found), default=0)
    return head, Lines(len(found), make, wide)


def _place(line: Line) -> str:
    """Number and owner stand before the frames, for beyond them there is no room on a narrow screen."""
    owners = sorted({owner for owner in line.owners if owner is not None})
    place = f"{line.first} d{owners[0]}{'+' if owners[1:] else ' '}"
    return place if len(place) < MAP else str(line.first)


MAP = 11
"""The column at which a line's frames begin."""


def of_events(found: Sequence[Event]) -> tuple[Text, Lines]:
    """The trace."""
    head = Text(HEAD)

    def make(index: int) -> Text:
        event = found[index]
        text = Text(plain(event.text), style=_BAD if "error" in event.said else "")
        if event.of_store:
            text.stylize("cyan")
        return text

    return head, Lines(len(found), make, max((len(event.text) for event in found), default=0))


def sort(rows: list[Row], key: str) -> list[Row]:
    """By a value: numbers from the largest on, and last what is not known; but ids and words from the smallest."""
    if not rows or key not in rows[0]:
        return rows
    known = [row for row in rows if row[key] is not None]
    value: Callable[[Row], Any] = lambda row: row[key]  # noqa: E731
    largest_first = key not in ("domid", "port", "id") and bool(known) and isinstance(known[0][key], int | float)
    return sorted(known, key=value, reverse=largest_first) + [row for row in rows if row[key] is None]
