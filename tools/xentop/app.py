"""The monitor in a terminal."""

from __future__ import annotations

import os
import threading
import time
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static, Tab, Tabs
from xl import rings

from xenfs.domain import Refused
from xentop import draw, feed, frames, text
from xentop.feed import Feed
from xentop.look import Look, Sample, waits
from xentop.panes import PANES, Row
from xentop.panes import rows as rows_of
from xentop.sheet import Sheet

NAMES = (*PANES, text.TRACE)
_SILENT_SECONDS = 3.0
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
        self._title, self.said = title, lines

    def compose(self) -> ComposeResult:
        """See Screen."""
        with VerticalScroll(id="detail") as box:
            box.border_title = self._title
            yield Static(Text("\n".join(self.said)), id="said")

    def renew(self, lines: list[str]) -> None:
        """Say it as it is now."""
        self.said = lines
        self.query_one("#said", Static).update(Text("\n".join(lines)))

    def action_scroll(self, by: int) -> None:
        """Scroll."""
        self.query_one("#detail").scroll_relative(y=by, animate=False)

    def action_dismiss_detail(self) -> None:
        """Back."""
        self.dismiss()


class Monitor(App[None]):
    """The application."""

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
        Binding("slash", "ask('/')", "filter", key_display="/"),
        Binding("colon", "ask(':')", "command", key_display=":"),
        Binding("escape", "leave", show=False),
        *(Binding(str(place), f"show('{name}')", show=False) for place, name in enumerate(NAMES, 1)),
    ]

    def __init__(self, point: str, delay: float = 0.5, pane: str = "domains", look: Look | None = None) -> None:
        """Watch the machine at `point`."""
        super().__init__()
        self.point, self.delay, self.pane = point, delay, pane
        self.look = look
        self.now: Sample | None = None
        self.before: Sample | None = None
        self.filter = ""
        self.sorted: dict[str, str] = {}
        self.paused = False
        self.problem = ""
        self.began = self.answered = time.monotonic()
        self.rows: list[Row] = []
        self.map: list[frames.Line] = []
        self.feed: Feed | None = None
        self._asking = ""
        self._detail: tuple[str, Row] | None = None
        self._kick = threading.Event()
        self._over = False

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
        self.watch_machine()
        self.set_interval(1.0, self.tell)

    # Looking, in a thread of its own: a daemon that does not answer holds that up, and not the screen.

    @work(thread=True, exclusive=True)
    def watch_machine(self) -> None:
        """Look, again and again."""
        try:
            look = self.look or Look(self.point)
        except (Refused, OSError) as error:
            self.call_from_thread(self.fail, error)
            return
        self.look = look
        while not self._over:
            began = time.monotonic()
            try:
                sample = None if self.paused else self._sample(look)
            except (Refused, OSError) as error:
                self.call_from_thread(self.fail, error)
                return
            if sample is not None and not self._over:
                self.call_from_thread(self.take, sample)
            self._kick.wait(max(0.01, self.delay - (time.monotonic() - began)))
            self._kick.clear()

    def _sample(self, look: Look) -> Sample:
        if self.pane == "trace":
            if self.feed is None:
                self.feed = Feed(self.point)
            self.feed.update()
        elif self.feed is not None:
            self.feed.close()
            self.feed = None
        return look.sample(*(PANES[self.pane].wants if self.pane in PANES else ()))

    def take(self, sample: Sample) -> None:
        """There is a new look."""
        self.before, self.now = self.now, sample
        self.answered = time.monotonic()
        self.draw()

    def fail(self, error: OSError) -> None:
        """There is nothing more to look at."""
        self.problem = f"the hypervisor is gone: {error.strerror or error}"
        self.tell()

    # Showing.

    def tell(self) -> None:
        """The line at the top."""
        parts = [" xenfs top ", text.summary(self.now) if self.now is not None else f"looking at {self.point} …"]
        silent = time.monotonic() - self.answered
        if self.problem:
            parts.append(f" !! {self.problem} ")
        elif silent > _SILENT_SECONDS and not self.paused:
            parts.append(f" !! no answer for {silent:.0f} s ")
        if self.paused:
            parts.append(" || held ")
        if self.filter:
            parts.append(f" / {self.filter} ")
        self.query_one("#summary", Static).update(Text(" ".join(parts), style="reverse" if self.problem else ""))

    def draw(self) -> None:
        """The pane, as of the last look."""
        self.tell()
        now, sheet = self.now, self.query_one(Sheet)
        if now is None:
            return
        sheet.follows = self.pane == "trace"
        if self.pane == "trace":
            calls = list(self.feed.events) if self.feed is not None else []
            found = feed.shown(calls, [feed.of_change(change) for change in now.changes], self.filter)
            self.rows = [{"text": event.text, "said": event.said} for event in found]
            sheet.show(*draw.of_events(found))
        elif self.pane == "pages":
            domid = int(self.filter) if self.filter.isdigit() else None
            before = self.before if self.before is not None and self.before.runs else None
            self.map = list(frames.lines(now, before, domid))
            sheet.show(*draw.of_frames(self.map), columns=range(draw.MAP, draw.MAP + frames.WIDTH))
        else:
            self._draw_table(now, sheet)
        if self._detail is not None and isinstance(self.screen, Detail):
            self.screen.renew(self.describe(*self._detail))

    def _draw_table(self, now: Sample, sheet: Sheet) -> None:
        pane = PANES[self.pane]
        found = rows_of(pane, now, self.before, time.monotonic() - self.began)
        if self.filter.isdigit() and self.pane != "store":
            wanted = int(self.filter)
            found = [
                row for row in found if wanted in (row.get("domid"), row.get("backend_domid"), row.get("remote_domid"))
            ]
        elif self.filter:
            found = [row for row in found if self.filter in " ".join(map(str, row.values()))]
        self.rows = draw.sort(found, self.sorted.get(self.pane, pane.sorts[0] if pane.sorts else ""))
        head, lines = draw.table(pane, self.rows, self.size.width)
        sheet.show(head, lines or [Text("nothing here", style="dim")])

    # More about one thing.

    def on_sheet_chosen(self, message: Sheet.Chosen) -> None:
        """A line is wanted."""
        row: Row
        if self.pane == "pages":
            if not self.map or self.map[message.index].same:
                return
            row = {"frame": self.map[message.index].first + message.column - draw.MAP}
        elif message.index < len(self.rows):
            row = self.rows[message.index]
        else:
            return
        self._detail = self.pane, row
        title = {"rings": "ring", "pages": "frame", "devices": "device"}.get(self.pane, self.pane)
        self.push_screen(Detail(title, self.describe(self.pane, row)), lambda _: setattr(self, "_detail", None))

    def describe(self, pane: str, row: Row) -> list[str]:
        """In lines."""
        now, look = self.now, self.look
        if now is None or look is None:
            return []
        if pane == "rings":
            page = look.page(row["domid"], row["name"])
            return list(rings.words(row["name"], page)) if page else [f"{row['name']} is not there any more"]
        if pane == "pages":
            return self._frame(now, look, row["frame"])
        if pane == "devices":
            for one in now.devices:
                if str(one.device) == row["device"]:
                    front, back = waits(one)
                    lines = [
                        f"{one.device}",
                        f"frontend  {one.device.frontend_path}: {row['front']}, {row['front_since']}",
                        f"  it is to {front}",
                        f"backend   {one.device.backend_path}: {row['back']}, {row['back_since']}",
                        f"  it is to {back}",
                        "",
                    ]
                    return lines + ([str(finding) for finding in one.findings] or ["nothing is wrong with it"])
            return [f"{row['device']} is not there any more"]
        return [f"{name:<16} {value}" for name, value in row.items()]

    @staticmethod
    def _frame(now: Sample, look: Look, number: int) -> list[str]:
        owner = next((run.domid for run in now.runs if run.first <= number < run.first + run.count), None)
        content = None
        if owner is not None:
            try:
                content = look.frame(owner, number)
            except OSError:
                content = None
        return list(frames.about(now, number, content))

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
        self.answered = time.monotonic()
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
        words.focus()

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
            case ["domain", number] if number.isdigit():
                self.filter = number
            case ["sort", key] if self.pane in PANES and key in PANES[self.pane].sorts:
                self.sorted[self.pane] = key
            case ["delay", seconds] if seconds.replace(".", "", 1).isdigit() and float(seconds) >= 0.05:
                self.delay = float(seconds)
            case [name] if any(pane.startswith(name) for pane in NAMES):
                self.action_show(next(pane for pane in NAMES if pane.startswith(name)))
            case _:
                self.notify(f"{said}: a pane's name, domain N, sort COLUMN, delay SECONDS, or quit", severity="warning")

    def action_leave(self) -> None:
        """Close what is open, then take the filter away."""
        if self._asking:
            self._close_input()
        elif self.filter:
            self.filter = ""
            self.draw()

    def on_unmount(self) -> None:
        """Look no more."""
        self._over = True
        self._kick.set()


def watch(point: str, delay: float, pane: str) -> None:
    """Be the monitor until it is ended."""
    app = Monitor(point, delay, pane)
    app.run()
    # the thread that looks may wait for a daemon that never answers, and is not waited for
    os._exit(1 if app.problem else 0)
