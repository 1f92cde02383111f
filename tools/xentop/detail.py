"""The screen on which more is said about one thing."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import Static

from xenfs.commands.escapes import plain


class Detail(ModalScreen[None]):
    """More about one thing, made anew as long as it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter", "dismiss_detail", "back"),
        Binding("q", "app.quit", "end"),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
        Binding("pagedown,space", "scroll(20)", show=False),
        Binding("pageup", "scroll(-20)", show=False),
    ]

    def __init__(self, title: str, lines: list[str]) -> None:
        """Show lines."""
        super().__init__()
        self._title, self.said = title, list(map(plain, lines))

    def compose(self) -> ComposeResult:
        """See Screen."""
        with VerticalScroll(id="detail") as box:
            box.border_title = self._title
            yield Static(Text("\n".join(self.said)), id="said")

    def renew(self, lines: list[str]) -> None:
        """Say it as it is now."""
        self.said = list(map(plain, lines))
        with suppress(NoMatches):  # it is not there yet, or not any more
            self.query_one("#said", Static).update(Text("\n".join(self.said)))

    def action_scroll(self, by: int) -> None:
        """Scroll."""
        self.query_one("#detail").scroll_relative(y=by, animate=False)

    def action_dismiss_detail(self) -> None:
        """Back."""
        self.dismiss()
