"""The rows of every pane, without a screen."""

from __future__ import annotations

import pytest
from xentop import draw, panes, text
from xentop.look import DeviceState, Ring, Sample
from xentop.panes import PANES, Row
from xentop.tables import PortLine
from xentop.wanted import Wanted
from xl.findings import Finding

from tests.top.samples import domain, ring, rows, sample
from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState
from xenfs.commands.machine import Frames
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)


def looks(*stats: Stats, seconds: float = 2.0, key: str = "vbd-0-stats") -> list[Sample]:
    """Looks one after the other, each with a page of statistics of domain 1."""
    of = Frames((domain(1),), 4096, 3584)
    return [sample(number * seconds, frames=of, stats={(1, key): one}) for number, one in enumerate(stats)]


def test_rates_are_the_difference_of_two_looks() -> None:
    first = Stats(role=0, device=2, since=5, bytes_in=1000, bytes_out=100)
    second = Stats(role=0, device=2, since=5, bytes_in=5000, bytes_out=1100)
    before, now = looks(first, second)
    (row,) = rows("domains", now, before)
    assert (row["block_in"], row["block_out"], row["block"]) == (2000, 500, 2500)
    assert (row["net"], row["usb"]) == (0, 0)
    (alone,) = rows("domains", now)
    assert (alone["block"], alone["net"]) == (None, None), "it is not known, and not 0"
    (same,) = rows("domains", now, now)
    assert same["block"] is None
    assert panes.cells(PANES["domains"], row)[9:] == ["0", "2.4K/s", "0", "-"]
    assert panes.cells(PANES["domains"], alone)[9:] == ["-", "-", "-", "-"]


@pytest.mark.parametrize(("device", "key"), [(1, "net"), (2, "block"), (3, "usb")])
def test_each_kind_of_device_has_its_rate(device: int, key: str) -> None:
    before, now = looks(*(Stats(role=0, device=device, bytes_in=n) for n in (0, 600)))
    (row,) = rows("domains", now, before)
    assert {name: row[name] for name in ("net", "block", "usb")} == {"net": 0, "block": 0, "usb": 0, key: 300}


def test_a_driver_that_was_restarted_has_no_rate_yet() -> None:
    first = Stats(role=0, device=2, since=5, bytes_in=5000, events_sent=90)
    again = Stats(role=0, device=2, since=6, bytes_in=6000, events_sent=100)
    before, now = looks(first, again)
    assert rows("domains", now, before)[0]["block"] is None
    ring = Ring(1, "vbd-0-ring", 9, 0, 0, 0, 0, 32)
    before, now = (sample(one.time, stats=one.stats, rings=(ring,)) for one in (before, now))
    assert rows("rings", now, before)[0]["events"] is None


def test_no_rate_is_negative() -> None:
    before, now = looks(*(Stats(role=0, device=2, since=5, bytes_in=n, events_sent=n) for n in (5000, 100)))
    assert rows("domains", now, before)[0]["block"] == 0
    assert rows("domains", before, now)[0]["block"] is None  # time that goes backwards


def test_what_backends_count_is_not_the_guests() -> None:
    before, now = looks(*(Stats(role=1, device=2, bytes_in=n) for n in (0, 100)))
    assert rows("domains", now, before)[0]["block"] == 0


def turned(old: Ring, new: Ring, seconds: float = 2.0) -> Row:
    """The row of a ring after it has turned."""
    (row,) = rows("rings", sample(seconds, rings=(new,)), sample(0.0, rings=(old,)))
    return row


def test_a_ring_turns_so_fast() -> None:
    assert turned(ring(10), ring(30))["requests"] == 10
    assert turned(ring((1 << 32) - 5), ring(15))["requests"] == 10, "indices wrap at 2^32"
    assert turned(ring(30), ring(10))["requests"] is None, "a frontend that was restarted begins at 0"
    assert turned(ring(10), ring(30, frame=8))["requests"] is None, "another page is another ring"
    assert turned(ring(10), ring(10))["requests"] == 0
    assert rows("rings", sample(1.0, rings=(ring(30),)))[0]["requests"] is None


def test_how_full_a_ring_is() -> None:
    wrapped = ring(3, (1 << 32) - 3)
    assert (wrapped.fill, rows("rings", sample(rings=(wrapped,)))[0]["broken"]) == (6, False)
    bars = {fill: panes.bar(fill, 32) for fill in (0, 1, 16, 31, 32)}
    assert bars == {
        0: "..........", 1: "#.........", 16: "#####.....", 31: "##########", 32: "##########",
    }  # fmt: skip
    assert panes.bar(1, 1024) == "#.........", "not empty is never shown as empty"


def test_a_ring_that_is_broken_is_told() -> None:
    (row,) = rows("rings", sample(rings=(ring(40, 0),)))
    assert (row["broken"], row["bar"], row["fill"]) == (True, "!!!!!!!!!!", 40)
    (row,) = rows("rings", sample(rings=(ring(0, 1),)))
    assert (row["broken"], row["fill"]) == (True, (1 << 32) - 1)


def test_who_has_asked_to_hear_of_what() -> None:
    top = 1 << 32
    asks = {
        rows("rings", sample(rings=(ring(10, 10, req_event=req, rsp_event=rsp),)))[0]["asks"]: (req, rsp)
        for req, rsp in ((11, 11), (11, 10), (1, 11), (10, 1))
    }
    assert asks == {"req+rsp": (11, 11), "req": (11, 10), "rsp": (1, 11), "-": (10, 1)}
    (row,) = rows("rings", sample(rings=(ring(top - 1, top - 1, req_event=0, rsp_event=top - 1),)))
    assert row["asks"] == "req"


def test_events_of_a_ring_are_those_of_its_device() -> None:
    first, second = (Stats(role=0, device=2, since=5, events_sent=n, events_received=2 * n) for n in (10, 30))
    before = sample(0.0, rings=(ring(0),), stats={(1, "vbd-0-stats"): first})
    now = sample(4.0, rings=(ring(0),), stats={(1, "vbd-0-stats"): second})
    assert rows("rings", now, before)[0]["events"] == 15
    assert rows("rings", now, sample(0.0, rings=(ring(0),)))[0]["events"] is None


def test_events_of_a_device_are_told_once_and_not_of_its_ring_of_control() -> None:
    names = ("vif-0-ctrl", "vif-0-rx", "vif-0-tx", "vif-1-tx", "vif-10-tx")
    of = tuple(Ring(1, name, 9, 0, 0, 0, 0, 32) for name in names)
    before, now = (
        sample(
            moment, rings=of, stats={(1, f"vif-{n}-stats"): Stats(role=0, device=1, events_sent=sent) for n in (0, 1)}
        )
        for moment, sent in ((0.0, 0), (2.0, 264))
    )
    found = rows("rings", now, before)
    assert [row["events"] for row in found] == [None, 132, None, 132, None]
    assert [panes.cells(PANES["rings"], row)[8] for row in found] == ["-", "132", "-", "132", "-"]


def test_channels_are_pairs() -> None:
    ports = (
        PortLine(1, 1, "interdomain", 2, 7, pending=False), PortLine(1, 2, "unbound", 0, 0, pending=False),
        PortLine(1, 3, "interdomain", 9, 1, pending=True), PortLine(1, 4, "virq", 0, 0, pending=True),
        PortLine(2, 7, "interdomain", 1, 1, pending=True),
    )  # fmt: skip
    found = rows("events", sample(ports=ports))
    assert [(row["domid"], row["port"], row["other"], row["pending"]) for row in found] == [
        (1, 1, "2:7", ["2:7"]), (1, 2, "0:?", []), (1, 3, "", ["1:3"]), (1, 4, "", ["1:4"]),
    ]  # fmt: skip


def test_a_channel_of_a_domain_with_itself_is_one_row() -> None:
    ports = (
        PortLine(1, 1, "interdomain", 1, 2, pending=True), PortLine(1, 2, "interdomain", 1, 1, pending=True),
    )  # fmt: skip
    (row,) = rows("events", sample(ports=ports))
    assert (row["other"], row["pending"]) == ("1:2", ["1:1", "1:2"])


def device(front: XenbusState | None, back: XenbusState | None, *found: Finding, front_age: float | None = None) -> Row:
    """The row of an echo device."""
    one = DeviceState(Device("echo", 1, 0), front, back, front_age, None, found)
    (row,) = rows("devices", sample(devices=(one,)))
    return row


def test_why_a_device_waits() -> None:
    state = XenbusState
    assert device(state.Connected, state.Connected)["why"] == "working"
    waiting = device(state.Initialising, state.InitWait, front_age=3.2)
    assert waiting["why"] == f"frontend {waiting['front_waits']}; backend {waiting['back_waits']}"
    assert waiting["back_waits"] == "next: wait for the frontend"
    assert (waiting["front_since"], waiting["back_since"]) == ("3s", ">60s")
    wrong = Finding("error", "no-ring", "echo 1/0", "it has none")
    row = device(state.Connected, state.Connected, wrong)
    assert row["why"] == "error: it has none [no-ring]", "which device it is stands before"
    assert row["findings"] == ["error: echo 1/0: it has none [no-ring]"]
    assert device(None, state.Unknown)["front"] == "no state"


def test_a_device_of_which_an_end_is_dead_is_not_said_to_be_well() -> None:
    connected = XenbusState.Connected
    assert device(connected, connected)["back_waits"] == "nothing to do: both ends are connected"
    found = Finding("error", "backend-dead", "echo 1/0", "it is dead")
    state = DeviceState(Device("echo", 1, 0), connected, connected, None, None, (found,))
    now = sample(devices=(state,))
    (row,) = rows("devices", now)
    assert (row["why"], row["front_waits"], row["back_waits"]) == ("error: it is dead [backend-dead]", "", "")
    said = Wanted("devices", row).describe(now, [row], "")
    assert said == [
        "echo 1/0", str(found),
        "frontend  /local/domain/1/device/echo/0: Connected, >60s",
        "backend   /local/domain/0/backend/echo/1/0: Connected, >60s",
    ]  # fmt: skip


@pytest.mark.parametrize("front", [None, *XenbusState])
@pytest.mark.parametrize("back", [None, *XenbusState])
def test_a_device_in_any_two_states_has_a_row(front: XenbusState | None, back: XenbusState | None) -> None:
    assert device(front, back)["why"]


def test_a_device_of_a_kind_that_nobody_knows() -> None:
    state = DeviceState(Device("vkbd", 1, 0), XenbusState.Connected, XenbusState.InitWait, None, None)
    unknown = DeviceState(Device("nosuch", 1, 0), XenbusState.Connected, XenbusState.InitWait, None, None)
    found = rows("devices", sample(devices=(state, unknown)))
    assert all(row["why"] for row in found)


def test_the_store_with_who_watches_it_and_what_has_changed() -> None:
    nodes = (("/a", 1, b""), ("/a/b", 2, b"\xff\n"), ("/c", 1, b"1"))
    watches = ((2, "/a", "x"), (0, "/a", "y"), (2, "/a", "z"), (1, "/gone", "t"))
    found = rows("store", sample(nodes=nodes, watches=watches, ages={"/a/b": 3.0}))
    assert [(row["path"], row["depth"], row["changed"], row["watched_by"]) for row in found] == [
        ("/a", 1, None, [0, 2]), ("/a/b", 2, 3.0, []), ("/c", 1, None, []),
    ]  # fmt: skip
    assert found[1]["value"] == "\\xff\n"


def test_domains_with_their_counts() -> None:
    of = Frames((domain(0), domain(1, owned=256), domain(1, state="dying", owned=1)), 4096, 0)
    ports = tuple(PortLine(1, port, "unbound", 0, 0, pending=False) for port in (1, 2))
    devices = (DeviceState(Device("echo", 1, 0), None, None, None, None),)
    found = rows("domains", sample(frames=of, ports=ports, devices=devices, cpu={1: 12.5}))
    assert [row["memory"] for row in found] == [2, 1, 1 / 256]
    assert [row["dying"] for row in found] == [False, False, True]
    assert (found[1]["ports"], found[1]["devices"], found[0]["backends"], found[1]["cpu"]) == (2, 1, 1, 12.5)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (999, "999"),
        (1024, "1.0K"),
        (1536, "1.5K"),
        (200 << 10, "200K"),
        (3 << 20, "3.0M"),
        (5 << 40, "5120G"),
    ],
)
def test_sizes(number: int, said: str) -> None:
    assert panes.size(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0s"), (119.0, "119s"), (120.0, "2m"), (7200.0, "120m"), (None, ">60s")],
)
def test_ages(seconds: float | None, said: str) -> None:
    assert panes.age(seconds, 60) == said


def test_an_age_of_which_nothing_is_known_yet() -> None:
    assert (panes.age(None, 0.0), panes.age(0.0, 0.0)) == ("-", "0s")


def test_what_is_not_known_is_sorted_last() -> None:
    found = draw.sort([{"cpu": None}, {"cpu": 1.0}, {"cpu": 3.0}, {"cpu": None}], "cpu")
    assert [row["cpu"] for row in found] == [3.0, 1.0, None, None]


def test_every_pane_says_what_it_is_and_can_be_empty() -> None:
    for name, pane in PANES.items():
        assert pane.name == name
        assert pane.about
        assert rows(name, sample()) == []
        assert list(text.table(pane, []))
        known = {"domid", "kind", *(column.key for column in pane.columns), "front", "back"}
        assert set(pane.sorts) <= known
