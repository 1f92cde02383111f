"""The keys of the monitor, and what is said of them."""

from __future__ import annotations

from textual.binding import Binding

from xentop.text import NAMES

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
SHORT = " ? keys  Tab pane  Enter more  / filter  s sort  Space hold  : command  q end"
BINDINGS = (
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
)
