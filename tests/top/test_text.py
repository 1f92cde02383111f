"""Panes as text, and as JSON."""

from __future__ import annotations

import json
import time

import pytest
from xentop import panes, text
from xentop.feed import HEAD, Event
from xentop.look import DAEMON, DeviceState, Sample
from xentop.panes import PANES
from xentop.tables import PortLine

from tests.top.samples import domain, ring, rows, run, sample
from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState
from xenfs.commands.escapes import plain
from xenfs.commands.machine import Frames
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)


def full() -> Sample:
    """A look with something in every pane."""
    nodes = (("/evil", 1, b"\x1b]0;title\x07\x1b[2J\nforged line \xc3\xa9"), ("/plain", 1, b"1"))
    return sample(
        5.0, frames=Frames((domain(0), domain(1)), 4096, 3072), rings=(ring(5, 3),), runs=(run(0, 512, 0),),
        ports=(PortLine(1, 4, "unbound", 0, 0, pending=True),), nodes=nodes, watches=((0, "/plain", "t"),),
        devices=(DeviceState(Device("echo", 1, 0), XenbusState.Connected, XenbusState.Connected, 1.0, None),),
        cpu={DAEMON: 3.0}, stats={(1, "vbd-0-stats"): Stats(role=0, device=2, since=1, bytes_in=7)},
    )  # fmt: skip


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    now = full()
    for name in ("domains", "devices", "rings", "events", "store"):
        pane = PANES[name]
        found = rows(name, now)
        head, *lines = text.table(pane, found)
        written = [[plain(cell) for cell in panes.cells(pane, row)] for row in found]
        wide = text.widths(pane, written)
        at = 0
        for place, column in enumerate(pane.columns):
            stop = at + wide[place]
            assert head[at:stop].strip() == column.head
            assert [line[at:stop].strip() for line in lines] == [cells[place].strip() for cells in written]
            at = stop + text.GAP


def test_nothing_that_a_guest_has_written_reaches_the_terminal_as_it_is() -> None:
    said = list(text.report(list(PANES), full(), None, 60.0, []))
    assert all(line.isprintable() for line in said)
    (line,) = (line for line in said if line.startswith("/evil"))
    assert "\\x1b]0;title\\x07\\x1b[2J\\nforged line \\xc3\\xa9" in line


def test_a_report_has_the_panes_that_were_asked_for_in_their_order() -> None:
    said = list(text.report(["pages", "rings"], full(), None, 60.0))
    assert said[0].startswith("xenfs top - ")
    assert text.summary(full()) in said[0]
    assert [place for place, line in enumerate(said) if not line] == [1, len(said) - 3]
    assert said[2].split()[0] == "frame"
    assert said[-2].split()[:3] == ["id", "ring", "fill"]


def test_the_machine_in_a_line() -> None:
    of = Frames((domain(0), domain(1), domain(1, state="dying")), 4096, 96)
    devices = (DeviceState(Device("echo", 1, 0), None, None, None, None),)
    said = text.summary(sample(frames=of, devices=devices, rings=(ring(1), ring(2)), cpu={DAEMON: 12.4}))
    dot = "\N{MIDDLE DOT}"
    assert said == f"2 domains, 1 dying {dot} 4000 of 4096 frames {dot} 1 device {dot} 2 rings {dot} hypervisor 12% cpu"


def test_what_there_is_no_room_for_is_left_out_with_its_separator_and_the_least_first() -> None:
    now, dot = full(), " \N{MIDDLE DOT} "
    whole = text.summary(now)
    parts = whole.split(dot)
    assert text.summary(now, len(whole)) == whole
    seen = [text.summary(now, room) for room in range(len(whole), -1, -1)]
    assert all(len(said) <= len(whole) - at for at, said in enumerate(seen))
    assert all(set(said.split(dot)) <= {*parts, ""} for said in seen)
    assert seen[1] == dot.join(part for part in parts if "ring" not in part)
    first, last = parts[0], parts[-1]
    assert text.summary(now, len(first + dot + last)) == first + dot + last
    assert text.summary(now, len(first)) == first
    assert text.summary(now, 0) == ""


def test_the_trace_has_its_head_also_when_nothing_has_come() -> None:
    assert list(text.report([text.TRACE], full(), None, 60.0))[1:] == ["", HEAD]


def test_json_of_the_first_look_does_not_take_what_is_not_known_for_nothing() -> None:
    said = json.loads(
        text.as_json(["domains", "rings"], sample(5.0, frames=full().frames, rings=(ring(5),)), None, 0.0)
    )
    assert said["hypervisor_cpu"] is None
    assert all(row[key] is None for row in said["domains"] for key in ("net", "block", "usb", "cpu"))
    assert [(row["requests"], row["events"]) for row in said["rings"]] == [(None, None)]


def test_json_has_numbers_as_numbers() -> None:
    names = [*PANES, text.TRACE]
    call = {"seq": 1, "time": 4_000_000_000, "domid": 1, "op": "alloc_frame", "in": {}, "out": {"frame": 7}}
    events = [Event(4.0, 1, "a call", call), Event(4.5, -1, "3 lost", {"lost": 3})]
    line = text.as_json(names, full(), sample(0.0, frames=Frames((), 0, 0)), 60.0, events)
    assert "\n" not in line
    said = json.loads(line)
    assert set(said) == {"time", "total", "free", "hypervisor_cpu", *names}
    assert (said["total"], said["free"], said["hypervisor_cpu"]) == (4096, 3072, 3.0)
    assert abs(said["time"] - time.time()) < 60
    (shown_ring,) = said["rings"]
    assert (shown_ring["domid"], shown_ring["fill"], shown_ring["slots"], shown_ring["broken"]) == (1, 2, 32, False)
    assert [row["domid"] for row in said["domains"]] == [0, 1]
    assert all(isinstance(row["memory"], float) for row in said["domains"])
    assert said["trace"] == [call, {"lost": 3}]
    assert said["store"][0]["value"].startswith("\x1b]0;title")
