"""The monitor in a terminal."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static, Tab, Tabs
from xl import rings

from xenfs.commands.failure import INTERRUPTED, tell
from xenfs.commands.place import GONE
from xentop import draw, feed, frames, text
from xentop.feed import Feed
from xentop.look import Look, Sample
from xentop.panes import PANES, Pane, Row, cells
from xentop.panes import rows as rows_of
from xentop.sheet import Sheet

NAMES = (*PANES, text.TRACE)
_SILENT_SECONDS = 3.0
_DELAYS = 0.05, 3600.0
"""Seconds: the shortest and the longest time between two looks."""
_TITLES = MappingProxyType({
    "domains": "domain", "devices": "device", "rings": "ring", "pages": "frame", "events": "channel", "store": "node",
    "trace": "call",
})  # fmt: skip
_SAME: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"domains": ("domid", "name"), "devices": ("device",), "events": ("domid", "port"), "store": ("path",)}
)
"""By which of its values a row is found again in a later look."""
HELP = """\
1 … 7, Tab, Shift+Tab   another pane: domains, devices, rings, pages, events, store, trace
j k, arrows, PgUp PgDn  another line;  g G  the first, the last;  h l  aside: in the map, another frame
Enter, a second click   more about the line: the entries of a ring, a frame's bytes, a device's findings, a node
s                       sort by another column
/                       show what has this text only; a number is a domain (Esc takes it away)
:                       a command: a pane's name, domain N, sort COLUMN, delay SECONDS, quit
Space                   hold still, and go on
Esc                     back;  ?  this;  q  end

Nothing that is watched is disturbed: the monitor reads files of the mounted tree, and never those in foreign/.\
"""


_of_change = lru_cache(4096)(feed.of_change)  # the same changes are shown again and again


@dataclass(eq=False)
class _Wanted:
    """The thing about which more is shown; its bytes, None when they are not to be had, as far as they are read."""

    pane: str
    row: Row
    read: bool = False
    content: bytes | None = None


class Detail(ModalScreen[None]):
    """More about one thing, made anew as long as it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss_detail", "back"),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
        Binding("pagedown,space", "scroll(20)", show=False),
        Binding("pageup", "scroll(-20)", show=False),
    ]

    def __init__(self, title: str, lines: list[str]) -> None:
        """Show lines."""
        super().__init__()
        self._title, self.said = title, list(map(draw.plain, lines))

    def compose(self) -> ComposeResult:
        """See Screen."""
        with VerticalScroll(id="detail") as box:
            box.border_title = self._title
            yield Static(Text("\n".join(self.said)), id="said")

    def renew(self, lines: list[str]) -> None:
        """Say it as it is now."""
        self.said = list(map(draw.plain, lines))
        with suppress(NoMatches):  # it is not there yet, or not any more
            self.query_one("#said", Static).update(Text("\n".join(self.said)))

    def action_scroll(self, by: int) -> None:
        """Scroll."""
        self.query_one("#detail").scroll_relative(y=by, animate=False)

    def action_dismiss_detail(self) -> None:
        """Back."""
        self.dismiss()


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
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "end"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("question_mark", "help", "keys", key_display="?"),
        Binding("tab", "pane(1)", "next pane", priority=True),
        Binding("shift+tab", "pane(-1)", show=False, priority=True),
        Binding("j,down", "move(1)", show=False),
        Binding("k,up", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("g,home", "move(-1000000)", show=False),
        Binding("G,end", "move(1000000)", show=False),
        Binding("h,left", "aside(-1)", show=False),
        Binding("l,right", "aside(1)", show=False),
        Binding("enter", "open", "more"),
        Binding("s", "sort", "sort"),
        Binding("space", "pause", "hold"),
        Binding("slash", "ask('/')", "filter", key_display="/", priority=True),
        Binding("colon", "ask(':')", "command", key_display=":", priority=True),
        Binding("escape", "leave", show=False),
        *(Binding(str(place), f"show('{name}')", show=False) for place, name in enumerate(NAMES, 1)),
    ]

    def __init__(self, point: str, delay: float = 0.5, pane: str = "domains", look: Look | None = None) -> None:
        """Watch the machine at `point`."""
        # without colours: in those of the terminal, for only then Textual leaves all of them out
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.point, self.delay, self.pane = point, delay, pane
        self.look = look
        self.now: Sample | None = None
        self.before: Sample | None = None
        self.filter = ""
        self.sorted: dict[str, str] = {}
        self.paused = False
        self.problem = ""
        self.began = time.monotonic()
        self.asked: float | None = None
        """Since when the machine has been asked something, while it is."""
        self.found: list[Row] = []
        self.rows: list[Row] = []
        """Those of `found` that are shown."""
        self.map: list[frames.Line] = []
        self.feed: Feed | None = None
        self._asking = self._told = ""
        self._wanted: _Wanted | None = None
        self._once = False
        self._kick, self._taken = threading.Event(), threading.Event()
        self._over = False
        self.thread = threading.Thread(target=self._watch_machine, name="xentop", daemon=True)

    def compose(self) -> ComposeResult:
        """See App."""
        yield Static(id="summary")
        yield Tabs(
            *(Tab(f"{place} {name}", id=name) for place, name in enumerate(NAMES, 1)), id="tabs", active=self.pane
        )
        yield Sheet(id="sheet")
        yield Input(id="words")
        yield Static(id="keys")

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(Tabs).can_focus = False
        self.query_one(Sheet).focus()
        self.query_one("#keys", Static).update(
            Text(" ? keys  Tab pane  Enter more  / filter  s sort  Space hold  : command  q end")
        )
        self.thread.start()
        self.set_interval(1.0, self.tell)

    # Looking, in a thread of its own: a daemon that does not answer holds that up, and neither the screen nor the end.

    def _watch_machine(self) -> None:
        """Look, again and again, until it is over; what fails is told, and then there is nothing to look at."""
        self.asked = time.monotonic()
        look = self.look
        try:
            look = look or Look(self.point)
            while not self._over:
                self._kick.clear()
                began = self.asked = time.monotonic()
                self._turn(look)
                self._kick.wait(max(0.01, self.delay - (time.monotonic() - began)))
        except Exception as error:
            self.asked = None
            self._say(None, error)
        finally:
            if look is not None:
                look.close()
            if self.feed is not None:
                with suppress(OSError):
                    self.feed.close()

    def _turn(self, look: Look) -> None:
        """Look, when it is time; and at the bytes of what is open, once while all is held."""
        once, self._once = self._once, False
        sample = self._sample(look) if once or not self.paused or self.now is None else None
        wanted = self._wanted
        fresh = sample is not None or (wanted is not None and not wanted.read)
        if fresh and wanted is not None:
            self._read(look, sample or self.now, wanted)
        self.asked = None
        if fresh:
            self._say(sample)

    def _say(self, sample: Sample | None, error: Exception | None = None) -> None:
        """Tell the screen, and wait until it has drawn it."""
        self._taken.clear()
        with suppress(RuntimeError):  # there is no screen any more
            if not self._over and self.post_message(self.Looked(sample, error)):
                self._taken.wait()

    @staticmethod
    def _read(look: Look, sample: Sample | None, wanted: _Wanted) -> None:
        row, content = wanted.row, None
        if wanted.pane == "rings":
            content = look.page(row["domid"], row["name"])
        elif wanted.pane == "pages" and sample is not None:
            runs = (run for run in sample.runs if run.first <= row["frame"] < run.first + run.count)
            owner = next((run.domid for run in runs), None)
            if owner is not None:
                with suppress(OSError):
                    content = look.frame(owner, row["frame"])
        wanted.content, wanted.read = content, True

    def _sample(self, look: Look) -> Sample:
        if self.pane == "trace":
            if self.feed is None:
                self.feed = Feed(self.point)
            self.feed.update()
        elif self.feed is not None:
            self.feed.close()
            self.feed = None
        return look.sample(*(PANES[self.pane].wants if self.pane in PANES else ()))

    def on_monitor_looked(self, message: Looked) -> None:
        """There is a new look, or the bytes of what is open, or nothing more to come."""
        try:
            if isinstance(message.error, OSError):
                self.fail(message.error)
            elif message.error is not None:
                raise message.error
            elif not self._over:
                if message.sample is not None:
                    self.before, self.now = self.now, message.sample
                self.draw()
        finally:
            self._taken.set()

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
        silent = time.monotonic() - self.asked if self.asked is not None else 0.0
        if self.problem:
            parts.append(f"!! {self.problem} ")
        elif silent > _SILENT_SECONDS:
            parts.append(f"!! no answer for {silent:.0f} s ")
        if self.paused:
            parts.append("|| held ")
        if self.filter:
            parts.append(f"/ {self.filter} ")
        parts.append(text.summary(self.now) if self.now is not None else f"looking at {self.point} …")
        if (said := " ".join(parts)) != self._told:  # each time everything is laid out anew
            self._told = said
            self.query_one("#summary", Static).update(Text(said, style="reverse" if self.problem else ""))

    def draw(self) -> None:
        """The pane, as of the last look."""
        self.tell()
        if self.now is None or not self.is_running:
            return
        now, sheet = self.now, self.query_one(Sheet)
        sheet.follows = self.pane == "trace"
        if self.pane == "trace":
            calls, past = (list(self.feed.events), self.feed.past) if self.feed is not None else ([], [])
            found = feed.shown(calls, list(map(_of_change, now.changes)), self.filter, past)
            self.rows = [{"text": event.text, "said": event.said} for event in found]
            sheet.show(*draw.of_events(found))
        elif self.pane == "pages":
            domid = int(self.filter) if self.filter.isdecimal() else None
            before = self.before if self.before is not None and self.before.runs else None
            self.map = list(frames.lines(now, before, domid))
            sheet.show(*draw.of_frames(self.map), columns=range(draw.MAP, draw.MAP + frames.WIDTH))
        else:
            self._draw_table(now, sheet)
        if self._wanted is not None and isinstance(self.screen, Detail):
            self.screen.renew(self.describe(self._wanted))

    def _draw_table(self, now: Sample, sheet: Sheet) -> None:
        pane = PANES[self.pane]
        self.found = rows_of(pane, now, self.before, time.monotonic() - self.began)
        key = self.sorted.get(self.pane, pane.sorts[0] if pane.sorts else "")
        self.rows = draw.sort(self._filtered(pane, self.found), key)
        head, lines = draw.table(pane, self.rows, self.size.width, key)
        sheet.show(head, lines or [Text("nothing here", style="dim")])

    def _filtered(self, pane: Pane, found: list[Row]) -> list[Row]:
        """What the filter lets through; of the store's tree also what is above that."""
        if not self.filter:
            return found
        if pane.name == "store":
            kept = [row["path"] for row in found if self._lets(pane, row)]
            above = {path[:at] for path in kept for at in range(len(path)) if path[at] == "/"}
            return [row for row in found if row["path"] in above.union(kept)]
        return [row for row in found if self._lets(pane, row)]

    def _lets(self, pane: Pane, row: Row) -> bool:
        if not self.filter.isdecimal():
            return self.filter in " ".join(cells(pane, row))
        if pane.name == "store":
            words = row["path"].split("/")
            homes = words[3:4] + (words[6:7] if words[4:5] == ["backend"] else [])
            return words[1:3] == ["local", "domain"] and str(int(self.filter)) in homes
        return int(self.filter) in (row.get("domid"), row.get("backend_domid"), row.get("remote_domid"))

    # More about one thing.

    def on_sheet_chosen(self, message: Sheet.Chosen) -> None:
        """A line is wanted."""
        row: Row
        if self.pane == "pages":
            if message.index >= len(self.map) or self.map[message.index].same:
                return
            row = {"frame": self.map[message.index].first + message.column - draw.MAP}
        elif message.index < len(self.rows):
            row = self.rows[message.index]
        else:
            return
        self._wanted = _Wanted(self.pane, row)
        self._kick.set()
        self.push_screen(
            Detail(_TITLES[self.pane], self.describe(self._wanted)), lambda _: setattr(self, "_wanted", None)
        )

    def describe(self, wanted: _Wanted) -> list[str]:
        """In lines."""
        now, pane, row = self.now, wanted.pane, wanted.row
        if now is None:
            return []
        if pane in ("rings", "pages"):
            if not wanted.read:
                return [self.problem or "looking …"]
            if pane == "pages":
                return list(frames.about(now, row["frame"], wanted.content))
            content = wanted.content
            return list(rings.words(row["name"], content)) if content else [f"{row['name']} is not there any more"]
        if pane in _SAME:
            same = _SAME[pane]
            found = (one for one in self.found if all(one[key] == row[key] for key in same))
            if (newer := next(found, None)) is None:
                return [" ".join(str(row[key]) for key in same) + " is not there any more"]
            row = newer
        return self._device(now, row) if pane == "devices" else [f"{name:<16} {value}" for name, value in row.items()]

    @staticmethod
    def _device(now: Sample, row: Row) -> list[str]:
        device = next(one.device for one in now.devices if str(one.device) == row["device"])
        lines = [
            row["device"],
            f"frontend  {device.frontend_path}: {row['front']}, {row['front_since']}",
            f"  it is to {row['front_waits']}",
            f"backend   {device.backend_path}: {row['back']}, {row['back_since']}",
            f"  it is to {row['back_waits']}",
            "",
        ]
        return lines + (row["findings"] or ["nothing is wrong with it"])

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
        """The next pane; not behind what is open."""
        if isinstance(self.screen, Detail):
            return
        self.action_show(NAMES[(NAMES.index(self.pane) + by) % len(NAMES)])

    def action_show(self, name: str) -> None:
        """This pane."""
        self.query_one(Tabs).active = name

    def on_tabs_tab_activated(self, message: Tabs.TabActivated) -> None:
        """A pane was chosen, by key or mouse."""
        if message.tab.id and message.tab.id != self.pane:
            self.pane = message.tab.id
            self.before = None
            self.sheet.cursor = 0
            self.sheet.scroll_home(animate=False)
            self._once = True
            self._kick.set()
            self.draw()

    def action_sort(self) -> None:
        """By the next column."""
        sorts = PANES[self.pane].sorts if self.pane in PANES else ()
        if sorts:
            place = sorts.index(self.sorted.get(self.pane, sorts[0]))
            self.sorted[self.pane] = sorts[(place + 1) % len(sorts)]
            self.notify(f"sorted by {self.sorted[self.pane]}", timeout=2)
            self.draw()

    def action_pause(self) -> None:
        """Hold still, or go on."""
        self.paused = not self.paused
        self._kick.set()
        self.tell()

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Detail("keys", HELP.splitlines()))

    def action_ask(self, mark: str) -> None:
        """Have words typed."""
        self._asking = mark
        words = self.query_one("#words", Input)
        words.value = self.filter if mark == "/" else ""
        words.placeholder = "filter" if mark == "/" else "pane, domain N, sort COLUMN, delay SECONDS, quit"
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
            self.filter = said
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
            case ["domain", number] if number.isdecimal():
                self.filter = number
            case ["sort", name] if key := self._sort_key(name):
                self.sorted[self.pane] = key
            case ["delay", seconds] if (delay := _seconds(seconds)) is not None:
                self.delay = delay
                self._kick.set()
            case [name] if any(pane.startswith(name) for pane in NAMES):
                self.action_show(next(pane for pane in NAMES if pane.startswith(name)))
            case _:
                said = f"{said}: a pane's name, domain N, sort COLUMN, delay SECONDS, or quit"
                self.notify(said, severity="warning", markup=False)

    def _sort_key(self, name: str) -> str:
        """What to sort by, by its own name or the head of its column; "" when there is no such."""
        pane = PANES.get(self.pane)
        names = {name, *(column.key for column in pane.columns if column.head == name)} if pane else set()
        return next((key for key in pane.sorts if key in names), "") if pane else ""

    def action_leave(self) -> None:
        """Close what is open, then take the filter away."""
        if self._asking:
            self._close_input()
        elif self.filter:
            self.filter = ""
            self.draw()

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.exit(return_code=INTERRUPTED)

    def on_resize(self) -> None:
        """Fit it in."""
        if self.now is not None:
            self.draw()

    def on_unmount(self) -> None:
        """Look no more."""
        self._over = True
        self._kick.set()
        self._taken.set()


def _seconds(said: str) -> float | None:
    """A time between two looks, None for what is none."""
    value = float(said) if re.fullmatch(r"\d{1,9}(\.\d*)?|\.\d+", said, re.ASCII) else 0.0
    return value if _DELAYS[0] <= value <= _DELAYS[1] else None


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
