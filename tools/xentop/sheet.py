"""Lines that scroll, with one that is chosen: what every pane is drawn on. Only the lines in sight are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xentop.draw import Lines

_HARDLY = 8
"""Characters."""


class Sheet(ScrollView, can_focus=True, inherit_bindings=False):
    """`head` stays; below it the lines. The chosen one is marked by > and in reverse."""

    class Chosen(Message):
        """Enter, or a click on the chosen line."""

        def __init__(self, index: int, column: int) -> None:
            """Which line, and which character of it."""
            super().__init__()
            self.index, self.column = index, column

    def __init__(self, **more: str) -> None:
        """Empty."""
        super().__init__(**more)  # type: ignore[arg-type]
        self.head = Text()
        self.lines: Sequence[Text] = ()
        self._shown: list[tuple[object, ...]] = []
        self.cursor = 0
        self.column: int | None = None
        """The character that is chosen within the line, where a pane has that."""
        self.follows = False
        """Whether the last line stays in sight as lines are added."""

    def show(self, head: Text, lines: Sequence[Text], *, columns: range | None = None) -> None:
        """Other lines. `columns`: which characters may be chosen."""
        at_end = self.cursor >= len(self.lines) - 1
        self.head, self.lines = head, lines
        wide = max(head.cell_len, lines.wide if isinstance(lines, Lines) else max(line.cell_len for line in lines))
        self.virtual_size = Size(self._steady(wide + 2), len(lines) + 1)
        if self.follows and at_end:
            self.cursor = max(0, len(lines) - 1)
        self.cursor = max(0, min(self.cursor, len(lines) - 1))
        if columns is None:
            self.column = None
        else:
            self.column = min(
                max(self.column if self.column is not None else columns.start, columns.start), columns[-1]
            )
        self._columns = columns
        if self.follows and at_end:
            self._keep_in_sight()
        before, self._shown = self._shown, self._in_sight()
        if len(self._shown) != len(before):
            self.refresh()
        elif others := [y for y, line in enumerate(self._shown) if line != before[y]]:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in others))

    _columns: range | None = None

    def _in_sight(self) -> list[tuple[object, ...]]:
        """What there is to be seen, line by line."""
        left, top = self.scroll_offset
        chosen = top, left, self.cursor, self.column, self.has_focus
        return [
            (text.plain, text.style, text.spans, chosen if top + y - 1 == self.cursor else chosen[:2])
            for y, text in enumerate((self.head, *self.lines[top : top + self.page]))
        ]

    def _steady(self, wide: int) -> int:
        """The old width, where that is hardly more: another has everything laid out anew."""
        old = self.virtual_size.width
        return old if wide <= old <= wide + _HARDLY and (old <= self.size.width or wide > self.size.width) else wide

    def render_line(self, y: int) -> Strip:
        """See Widget: the head does not scroll."""
        width = self.size.width
        left, top = self.scroll_offset
        if not y:
            return self._strip(self.head, Style(bold=True, underline=True), "  ", left, width)
        index = y - 1 + top
        if index >= len(self.lines):
            return Strip.blank(width, Style())
        chosen = index == self.cursor
        style = Style(reverse=True) if chosen and self.has_focus and self.column is None else Style()
        line = self.lines[index]
        if chosen and self.column is not None:
            line = line.copy()
            line.stylize("reverse bold", self.column, self.column + 1)
        return self._strip(line, style, "> " if chosen else "  ", left, width)

    def _strip(self, text: Text, style: Style, mark: str, left: int, width: int) -> Strip:
        segments = [Segment(mark, style), *text.render(self.app.console)]
        strip = Strip(Segment.apply_style(segments, style))
        return strip.crop_extend(left, left + width, style)

    def move(self, by: int) -> None:
        """Choose another line."""
        self.cursor = max(0, min(self.cursor + by, len(self.lines) - 1))
        self._keep_in_sight()
        self.refresh()

    def aside(self, by: int) -> None:
        """Choose another character of the line; or scroll, where none is chosen."""
        if self._columns is None or self.column is None:
            self.scroll_relative(x=4 * by, animate=False)
            return
        self.column = min(max(self.column + by, self._columns.start), self._columns[-1])
        self._keep_in_sight()
        self.refresh()

    @property
    def page(self) -> int:
        """Lines in sight."""
        return max(1, self.scrollable_content_region.height - 1)

    def _keep_in_sight(self) -> None:
        top, page = self.scroll_offset.y, self.page
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True, force=True)
        elif self.cursor >= top + page:
            self.scroll_to(y=self.cursor - page + 1, animate=False, immediate=True, force=True)
        if self._columns is None or self.column is None:
            return
        left, width, at = self.scroll_offset.x, self.scrollable_content_region.width, self.column + 2
        if self.column == self._columns.start:
            self.scroll_to(x=0, animate=False, immediate=True, force=True)
        elif not left <= at < left + width:
            self.scroll_to(x=at if at < left else at - width + 1, animate=False, immediate=True, force=True)

    def on_resize(self) -> None:
        """What is chosen stays in sight."""
        self._keep_in_sight()

    def on_click(self, event: events.Click) -> None:
        """Choose a line; a second time, open it."""
        index = event.y - 1 + self.scroll_offset.y
        if not 0 <= index < len(self.lines) or event.y < 1:
            return
        again = index == self.cursor
        if self._columns is not None:
            column = event.x - 2 + self.scroll_offset.x
            again = again and column == self.column
            self.column = min(max(column, self._columns.start), self._columns[-1])
        self.cursor = index
        self.refresh()
        if again:
            self.open()

    def open(self) -> None:
        """Say that the line is wanted."""
        if self.lines:
            self.post_message(self.Chosen(self.cursor, self.column or 0))
