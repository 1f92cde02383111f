"""A pane of a look, as it is shown: filtered, sorted, and which line is which thing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from xentop import draw, feed, frames
from xentop.feed import Feed, domain_of
from xentop.look import Sample
from xentop.panes import PANES, Pane, Row, cells
from xentop.panes import rows as rows_of


class View:
    """What is chosen to be seen, and what is then there."""

    def __init__(self, pane: str) -> None:
        """All of a pane."""
        self.pane = pane
        self.filter = ""
        self.sorted: dict[str, str] = {}
        """By what, pane by pane; the first of its `sorts` where it is not said."""
        self.found: list[Row] = []
        self.rows: list[Row] = []
        """Those of `found` that are shown."""
        self.map: list[frames.Line] = []

    def trace(self, calls: Feed | None) -> tuple[Text, Sequence[Text]]:
        """Head and lines of the trace."""
        events, past = (list(calls.events), calls.past) if calls is not None else ([], [])
        found = feed.shown(events, self.filter, past)
        self.rows = [{"text": event.text, "said": event.said} for event in found]
        return draw.of_events(found)

    def frames(self, now: Sample, before: Sample | None, width: int) -> tuple[Text, Sequence[Text]]:
        """Head and lines of the map."""
        domid = domain_of(self.filter)
        self.map = list(frames.lines(now, before if before is not None and before.runs else None, domid))
        return draw.of_frames(self.map, width)

    def table(self, now: Sample, before: Sample | None, watched: float, width: int) -> tuple[Text, Sequence[Text]]:
        """Head and lines of any other pane; the machine has been watched for so many seconds."""
        pane = PANES[self.pane]
        self.found = rows_of(pane, now, before, watched)
        key = self.sorted.get(self.pane, pane.sorts[0] if pane.sorts else "")
        self.rows = draw.sort(self._filtered(pane), key)
        head, lines = draw.table(pane, self.rows, width, key)
        return head, lines or [Text("nothing here", style="dim")]

    def _filtered(self, pane: Pane) -> list[Row]:
        """What the filter lets through; of the store's tree also what is above that."""
        if not self.filter:
            return self.found
        if pane.name == "store":
            kept = [row["path"] for row in self.found if self._lets(pane, row)]
            above = {path[:at] for path in kept for at in range(len(path)) if path[at] == "/"}
            return [row for row in self.found if row["path"] in above.union(kept)]
        return [row for row in self.found if self._lets(pane, row)]

    def _lets(self, pane: Pane, row: Row) -> bool:
        domid = domain_of(self.filter)
        if domid is None:
            return self.filter in " ".join(cells(pane, row))
        if pane.name == "store":
            words = row["path"].split("/")
            homes = words[3:4] + (words[6:7] if words[4:5] == ["backend"] else [])
            return words[1:3] == ["local", "domain"] and str(domid) in homes
        return domid in (row.get("domid"), row.get("backend_domid"), row.get("remote_domid"))

    def row(self, index: int, column: int) -> Row | None:
        """What is at a line, and at a character of it; None where that is nothing."""
        if self.pane == "pages":
            if index >= len(self.map) or self.map[index].same:
                return None
            return {"frame": self.map[index].first + column - draw.MAP}
        return self.rows[index] if index < len(self.rows) else None

    @property
    def sorts(self) -> tuple[str, ...]:
        """By what the pane may be sorted; nothing for one that has its own order."""
        return PANES[self.pane].sorts if self.pane in PANES else ()

    def sort_on(self) -> str:
        """Sort by the next column: which that is, "" for a pane that has its own order."""
        sorts = self.sorts
        if not sorts:
            return ""
        place = sorts.index(self.sorted.get(self.pane, sorts[0]))
        key = self.sorted[self.pane] = sorts[(place + 1) % len(sorts)]
        return key

    def sort_key(self, name: str) -> str:
        """What to sort by, by its own name or the head of its column; "" when there is no such."""
        pane = PANES.get(self.pane)
        names = {name, *(column.key for column in pane.columns if column.head == name)} if pane else set()
        return next((key for key in pane.sorts if key in names), "") if pane else ""
