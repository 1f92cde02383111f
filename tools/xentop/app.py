"""The monitor in a terminal."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import Input, Static, Tab, Tabs

from xenfs.commands.failure import INTERRUPTED, tell
from xenfs.commands.place import GONE
from xentop import draw, frames, keys, text
from xentop.detail import Detail
from xentop.feed import domain_of
from xentop.look import Look, Sample
from xentop.observer import DELAYS, Observer, seconds
from xentop.sheet import Sheet
from xentop.text import NAMES
from xentop.view import View
from xentop.wanted import Wanted

__all__ = ["NAMES", "Monitor", "forget_size", "watch"]
_SILENT_SECONDS = 3.0
_WARNED_SECONDS = 4.0
_COMMANDS = "a pane's name, domain N, sort COLUMN, delay SECONDS, quit"
_LONGEST = 24
"""Characters of what was typed that are said again."""


def _cut(said: str, longest: int = _LONGEST) -> str:
    return said if len(said) <= longest else f"{said[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


class Monitor(App[None]):
    """The application."""

    class Looked(Message):
        """The thread that looks has done so, or cannot any more."""

        def __init__(self, sample: Sample | None, error: Exception | None = None) -> None:
            """What it saw; None for nothing new but the bytes of what is open."""
            super().__init__()
            self.sample, self.error = sample, error

    TITLE = "xenfs top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; background: $primary-background; text-style: bold; }
    #keys { height: 1; background: $primary-background; }
    Tabs { height: 2; }
    Sheet { height: 1fr; }
    #words { display: none; height: 1; border: none; }
    #words.open { display: block; }
    Detail { align: center middle; }
    #detail { width: 92%; height: 86%; border: round $accent; background: $surface; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*keys.BINDINGS]

    def __init__(self, point: str, delay: float = 0.5, pane: str = "domains", look: Look | None = None) -> None:
        """Watch the machine at `point`."""
        # without colours: in those of the terminal, for only then Textual leaves all of them out
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.point = point
        self.view = View(pane)
        self.observer = Observer(
            point, delay, pane, lambda sample, error: self.post_message(self.Looked(sample, error)), look
        )
        self.now: Sample | None = None
        self.before: Sample | None = None
        self.problem = ""
        self.began = time.monotonic()
        self._asking = self._told = ""

    def compose(self) -> ComposeResult:
        """See App."""
        yield Static(id="summary")
        yield Tabs(
            *(Tab(f"{place} {name}", id=name) for place, name in enumerate(NAMES, 1)), id="tabs", active=self.view.pane
        )
        yield Sheet(id="sheet")
        yield Input(id="words")
        yield Static(id="keys")

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(Tabs).can_focus = False
        self.query_one(Sheet).focus()
        self.query_one("#keys", Static).update(Text(keys.SHORT))
        self.observer.start()
        self.set_interval(1.0, self.tell)

    def on_monitor_looked(self, message: Looked) -> None:
        """There is a new look, or the bytes of what is open, or nothing more to come."""
        try:
            if isinstance(message.error, OSError):
                self.fail(message.error)
            elif message.error is not None:
                raise message.error
            elif not self.observer.over:
                if message.sample is not None:
                    self.before, self.now = self.now, message.sample
                self.draw()
        finally:
            self.observer.taken()

    def fail(self, error: OSError) -> None:
        """There is nothing more to look at."""
        gone = error.errno in GONE
        self.problem = "the hypervisor is gone" if gone else f"no look at it: {error.strerror or error}"
        self.tell()
        self.draw()

    # Showing.

    def tell(self) -> None:
        """The line at the top."""
        if not self.is_running:
            return
        parts = [" xenfs top "]
        asked = self.observer.asked
        silent = time.monotonic() - asked if asked is not None else 0.0
        if self.problem:
            parts.append(f"!! {self.problem} ")
        elif silent > _SILENT_SECONDS:
            parts.append(f"!! no answer for {silent:.0f} s ")
        if self.observer.paused:
            parts.append("|| held ")
        room = self.size.width - len(" ".join(parts)) - 1
        if self.view.filter:
            parts.append(f"/ {_cut(self.view.filter, max(1, room - 3))} ")
            room -= len(parts[-1]) + 1
        about = text.summary(self.now, room) if self.now is not None else f"looking at {self.point} …"
        parts += [about] if about else []
        if (said := " ".join(parts)) != self._told:  # each time everything is laid out anew
            self._told = said
            self.query_one("#summary", Static).update(Text(said, style="reverse" if self.problem else ""))

    def draw(self) -> None:
        """The pane, as of the last look."""
        self.tell()
        if self.now is None or not self.is_running:
            return
        now, view, sheet = self.now, self.view, self.sheet
        sheet.follows = view.pane == text.TRACE
        if view.pane == text.TRACE:
            sheet.show(*view.trace(self.observer.feed))
        elif view.pane == "pages":
            shown = view.frames(now, self.before, self.size.width)
            sheet.show(*shown, columns=range(draw.MAP, draw.MAP + frames.WIDTH))
        else:
            sheet.show(*view.table(now, self.before, time.monotonic() - self.began, self.size.width))
        if (wanted := self.observer.wanted) is not None and isinstance(self.screen, Detail):
            self.screen.renew(wanted.describe(now, view.found, self.problem))

    def on_sheet_chosen(self, message: Sheet.Chosen) -> None:
        """More about a line is wanted."""
        row = self.view.row(message.index, message.column)
        if row is None or self.now is None:
            return
        wanted = self.observer.wanted = Wanted(self.view.pane, row)
        self.observer.hurry()
        lines = wanted.describe(self.now, self.view.found, self.problem)
        self.push_screen(Detail(wanted.title, lines), lambda _: setattr(self.observer, "wanted", None))

    # Keys.

    @property
    def sheet(self) -> Sheet:
        """The lines."""
        return self.query_one(Sheet)

    def action_move(self, by: int) -> None:
        """Another line."""
        self.sheet.move(by)

    def action_page(self, by: int) -> None:
        """As many lines as are in sight."""
        self.sheet.move(by * self.sheet.page)

    def action_aside(self, by: int) -> None:
        """Left or right."""
        self.sheet.aside(by)

    def action_open(self) -> None:
        """More about the line."""
        self.sheet.open()

    def action_pane(self, by: int) -> None:
        """The next pane."""
        self.action_show(NAMES[(NAMES.index(self.view.pane) + by) % len(NAMES)])

    def action_show(self, name: str) -> None:
        """This pane, at once, for the next key may be there already; not behind what is open."""
        if name != self.view.pane and not isinstance(self.screen, Detail):
            self.view.pane = name
            self.before = None
            self.sheet.cursor = 0
            self.sheet.scroll_home(animate=False)
            self.observer.turn_to(self.view.pane)
            self.draw()
        self.query_one(Tabs).active = self.view.pane

    def on_tabs_tab_activated(self, message: Tabs.TabActivated) -> None:
        """A pane was chosen with the mouse; or by a key, and then another may have been since."""
        if message.tab.id and message.tab.id == self.query_one(Tabs).active:
            self.action_show(message.tab.id)

    def action_sort(self) -> None:
        """By the next column."""
        if key := self.view.sort_on():
            self.say(f"sorted by {key}")
            self.draw()

    def action_pause(self) -> None:
        """Hold still, or go on."""
        self.observer.paused = not self.observer.paused
        self.observer.hurry()
        self.tell()

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Detail("keys", keys.HELP.splitlines()))

    def action_ask(self, mark: str) -> None:
        """Have words typed."""
        self._asking = mark
        words = self.query_one("#words", Input)
        words.value = self.view.filter if mark == "/" else ""
        words.placeholder = "filter" if mark == "/" else _COMMANDS
        self.clear_notifications()  # they lie over it
        words.add_class("open")
        self.screen.set_focus(words)  # at once, for the next key may be there already

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """See App: both marks are characters like others where words are typed, and nothing behind what is open."""
        del parameters
        return action != "ask" or not (self._asking or isinstance(self.screen, Detail))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """They are typed."""
        said, mark = message.value.strip(), self._asking
        self._close_input()
        if mark == "/":
            self.view.filter = said
        elif said:
            self.obey(said)
        self.draw()

    def _close_input(self) -> None:
        self._asking = ""
        self.query_one("#words", Input).remove_class("open")
        self.sheet.focus()

    def obey(self, said: str) -> None:
        """A command."""
        match said.split():
            case ["q" | "quit"]:
                self.exit()
            case ["domain", number] if domain_of(number) is not None:
                self.view.filter = number
            case ["domain", number]:
                self.warn(f"{_cut(number)} is no domain's number")
            case ["sort", name] if key := self.view.sort_key(name):
                self.view.sorted[self.view.pane] = key
            case ["sort", name]:
                self.warn(self._no_column(name))
            case ["delay", number] if (delay := seconds(number)) is not None:
                self.observer.delay = delay
                self.observer.hurry()
            case ["delay", number]:
                self.warn(f"{_cut(number)} is no delay: {DELAYS[0]:g} to {DELAYS[1]:g} seconds")
            case [name] if any(pane.startswith(name) for pane in NAMES):
                self.action_show(next(pane for pane in NAMES if pane.startswith(name)))
            case _:
                self.warn(f"there is no command {_cut(said)}: {_COMMANDS}")

    def _no_column(self, name: str) -> str:
        if sorts := self.view.sorts:
            return f"there is no column {_cut(name)} to sort by: {', '.join(sorts)}"
        return f"{self.view.pane} has an order of its own"

    def warn(self, said: str) -> None:
        """Say what is wrong with what was typed."""
        self.say(said, "warning", _WARNED_SECONDS)

    def say(self, said: str, severity: Literal["information", "warning"] = "information", seconds: float = 2.0) -> None:
        """For a moment, in place of what was said before."""
        self.clear_notifications()
        self.notify(said, severity=severity, timeout=seconds, markup=False)

    def action_leave(self) -> None:
        """Close what is open, then take the filter away."""
        if self._asking:
            self._close_input()
        elif self.view.filter:
            self.view.filter = ""
            self.draw()

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.exit(return_code=INTERRUPTED)

    def on_resize(self) -> None:
        """Fit it in."""
        self.tell()
        self.draw()

    def on_unmount(self) -> None:
        """Look no more."""
        self.observer.stop()


def forget_size() -> None:
    """Do not believe what the environment says of the terminal's size, which stays so when the window changes; a
    browser's has no other way to be told.
    """
    if "TEXTUAL_DRIVER" not in os.environ:
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)


def watch(point: str, delay: float, pane: str) -> None:
    """Be the monitor until it is ended."""
    forget_size()
    app = Monitor(point, delay, pane)
    signal.signal(signal.SIGTERM, lambda *_: app.exit(return_code=128 + signal.SIGTERM))  # the terminal is left clean
    app.run()
    if app.problem:
        tell("top", f"{point}: {app.problem}")
    sys.stdout.flush()
    sys.stderr.flush()
    # the thread that looks may wait for a daemon that never answers, and is not waited for
    os._exit(app.return_code or (1 if app.problem else 0))
