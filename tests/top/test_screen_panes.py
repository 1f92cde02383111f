"""The tables that the monitor shows, and the tree of the store, against what is so."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from xenecho import LAYOUT

from tests.top.lab import PAGE, RING, Lab
from tests.top.stage import LARGE, SIZES, SMALLEST, Screen, monitor
from tests.top.town import Town
from xenfs.abi.ring import HEADER

pytestmark = pytest.mark.timeout(120)


# Domains.


def counts(lab: Lab) -> list[list[str]]:
    """hypervisor/frames: id, name, state, granted, mapped, in flight."""
    rows = (line.split(None, 6) for line in lab.file("hypervisor/frames").splitlines()[1:-1])
    return [[domid, name, state, *numbers] for domid, state, _, *numbers, name in rows]


def test_domains_have_what_the_hypervisor_says(lab: Lab, screen: Screen) -> None:
    shown = []
    for line in screen.body[:3]:
        domid, name, state, _, *numbers = line[1:].split()
        shown.append([domid, name, state, *numbers[:3]])
    assert shown == counts(lab)
    assert screen.cells("alpha") | {"MiB": "1", "ports": "2", "dev": "1"} == screen.cells("alpha")


def test_a_dead_domain_whose_pages_are_mapped_is_dying(lab: Lab, screen: Screen) -> None:
    domid = lab.create("mortal")
    with lab.inside(domid) as mortal:
        (ref,) = mortal.memory.grant(mortal.memory.alloc(), 2)
        with lab.two.memory.map(domid, [ref]):
            lab.destroy(domid)
            screen.until("1 dying")
            assert screen.cells("mortal")["state"] == "dying"
    screen.until("3 domains", none="mortal")


def test_the_line_at_the_top_is_the_machine(lab: Lab, screen: Screen) -> None:
    total, free = (int(word) for word in lab.file("hypervisor/frames").split()[-3::2])
    for words in ("3 domains", f"{total - free} of {total} frames", "hypervisor "):
        assert words in screen.lines[0]


def order(screen: Screen) -> list[str]:
    return [line[1:].split()[1] for line in screen.body[:3]]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("name", ["Domain-0", "alpha", "beta"]), ("memory", ["Domain-0", "beta", "alpha"]),
        ("MiB", ["Domain-0", "beta", "alpha"]), ("id", ["Domain-0", "alpha", "beta"]),
    ],
)  # fmt: skip
def test_sorted_by_a_column(screen: Screen, said: str, names: list[str]) -> None:
    screen.command("sort net")
    screen.command(f"sort {said}")
    assert order(screen) == names


def test_s_takes_the_next_column_and_says_which(screen: Screen) -> None:
    for name in ("cpu", "net", "block", "usb", "memory", "name", "domid"):
        screen.press("s")
        screen.until(f"sorted by {name}")
    screen.pane("store")
    screen.press("s")
    assert screen.app.view.sorted == {"domains": "domid"}, "the store has its own order"


def test_what_it_is_sorted_by_is_in_sight_on_a_narrow_screen(lab: Lab) -> None:
    with monitor(lab.point, SMALLEST) as screen:
        screen.command("sort cpu")
        assert screen.head.split() == ["id", "name", "state", "MiB", "cpu"]


# Devices.


@pytest.mark.parametrize("size", SIZES)
def test_a_device_for_which_there_is_no_devd_says_so(lab: Lab, size: tuple[int, int]) -> None:
    with monitor(lab.point, size, "devices") as screen:
        screen.until("error: no backend" if size != SMALLEST else "what it waits")
        assert screen.head.endswith("what it waits for")
        if size != SMALLEST:
            assert screen.line("echo 1/3").count("Initialising") == 2, "both ends"
        if size == LARGE:
            assert "no backend has come: is devd running in domain 0?" in screen.line("echo 1/3")
        said = screen.open("echo 1/3")
    assert "is devd running in domain 0? [no-backend]" in said
    assert f"{lab.stuck.frontend_path}: Initialising" in said
    assert f"{lab.stuck.backend_path}: Initialising" in said
    assert "next: wait for the backend" in said


def test_how_long_a_state_lasts_and_what_it_is_now(lab: Lab, screen: Screen) -> None:
    screen.pane("devices")
    screen.wait(lambda: screen.line("echo 1/3").count("  >") == 2)  # that long at the least: nobody has seen it begin
    path = f"{lab.stuck.frontend_path}/state"
    said = screen.open("echo 1/3")
    lab.root.store.write(path, "3")
    screen.wait(lambda: f"{lab.stuck.frontend_path}: Initialised, 0s" in screen.detail)
    screen.wait(lambda: "ring-ref is missing" in screen.detail)
    screen.press("escape")
    assert " Initialised " in screen.line("echo 1/3")
    lab.root.store.write(path, "1")
    screen.wait(lambda: screen.line("echo 1/3").split()[3:5] in (["Initialising", "0s"], ["Initialising", "1s"]))
    screen.wait(lambda: "no backend has come" in screen.line("echo 1/3"))
    assert "Initialised" not in said


def test_what_is_open_says_that_it_has_gone(lab: Lab, screen: Screen) -> None:
    domid = lab.create("mortal")
    screen.until("mortal")
    screen.open("mortal")
    lab.destroy(domid)
    screen.wait(lambda: screen.detail == f"{domid} mortal is not there any more")


def test_devices_that_work(town: Town) -> None:
    with monitor(town.point, LARGE, "devices") as screen:
        for device in (town.echo, town.disk, town.controller(town.domid)):
            words = screen.line(f"{device} ").removeprefix(str(device)).split()
            assert (words[1], words[3], words[5:]) == ("Connected", "Connected", ["working"])
        assert "nothing is wrong with it" in screen.open("vbd")


# Rings.


def test_a_ring_has_the_indices_of_its_page(lab: Lab, screen: Screen) -> None:
    screen.pane("rings")
    screen.wait(lambda: screen.cells(RING)["req/s"] == "0")  # known from the second look on
    page = Path(lab.point, "domains/1/rings", RING).read_bytes()
    req_prod, req_event, rsp_prod, rsp_event = HEADER.unpack_from(page)[:4]
    assert screen.line(RING).split() == [
        "1", RING, "#.........", str(req_prod - rsp_prod), str(LAYOUT.slots(PAGE)), str(req_prod), str(rsp_prod), "0",
        "-", "req+rsp", str(req_event), str(rsp_event),
    ]  # fmt: skip


def test_a_ring_turns_before_ones_eyes(town: Town) -> None:
    with monitor(town.point, pane="rings") as screen:
        seen = [screen.cells("echo-0-ring")]

        def turned() -> bool:
            seen.append(screen.cells("echo-0-ring"))
            return int(seen[-1]["req_prod"]) > int(seen[0]["req_prod"]) and seen[-1]["req/s"] not in ("-", "0")

        screen.wait(turned)
        produced = [int(cells["req_prod"]) for cells in seen]
        assert produced == sorted(produced)


def test_enter_on_a_ring_tells_every_field_of_what_is_in_flight(lab: Lab, screen: Screen) -> None:
    screen.pane("rings")
    said = screen.open(RING).splitlines()
    assert said[0] == f"{RING}: 2 of {LAYOUT.slots(PAGE)} in flight"
    assert [line.split() for line in said[3:]] == [
        ["10", "id", "7", "number", "77"], ["11", "id", "8", "number", "88"],
    ]  # fmt: skip
    lab.turn(req_prod=12, rsp_prod=11, entries={11: (8, 88)})
    screen.wait(lambda: [line.split() for line in screen.detail.splitlines()[3:]] == [said[4].split()])
    lab.turn(req_prod=12, rsp_prod=10, entries={10: (7, 77), 11: (8, 88)})
    screen.wait(lambda: screen.detail.splitlines() == said)


def test_a_transfer_that_waits_is_told_by_its_pipe(town: Town) -> None:
    with monitor(town.point, pane="rings") as screen, town.waiting():
        said = screen.open("vusb-0-urb").splitlines()
        assert said[0].startswith("vusb-0-urb: 1 of 16 in flight")
        for words in ("pipe interrupt in port 1 address 1 endpoint 2", "length 64", "segments "):
            assert words in said[-1]


def test_a_broken_ring_needs_no_colour_to_be_seen(lab: Lab, screen: Screen) -> None:
    screen.pane("rings")
    lab.turn(req_prod=1000, rsp_prod=10, entries={})
    screen.until("!!!!!!!!!!")
    assert "broken: more than the ring holds (256)" in screen.open(RING)
    screen.press("escape")
    lab.turn(req_prod=12, rsp_prod=10, entries={10: (7, 77), 11: (8, 88)})
    screen.until("#.........")


# Events.


def test_a_channel_is_one_line_with_both_ends(lab: Lab, screen: Screen) -> None:
    screen.pane("events")
    here, there = lab.ports
    rows = sorted(line[1:].split() for line in screen.body if line.strip())
    assert rows == [
        ["1", str(here), "interdomain", f"2:{there}", f"2:{there}"], ["1", str(lab.waiting.port), "unbound", "0:?"],
    ]  # fmt: skip


def test_an_event_is_pending_until_it_is_taken(lab: Lab, screen: Screen) -> None:
    screen.pane("events")
    with lab.two.events.bind_ipi() as port:
        screen.until("ipi")
        port.notify()
        screen.wait(lambda: screen.line("ipi").endswith(f"2:{port.port}"))
        assert port.drain()
        screen.wait(lambda: screen.line("ipi").endswith("ipi"))
    screen.until("unbound", none="ipi")


# Store.


def test_the_store_is_a_tree_with_values(screen: Screen) -> None:
    screen.pane("store")
    lines = [line[4:].rstrip() for line in screen.body]
    alpha = next(at for at, line in enumerate(lines) if line.split() == ["name", "alpha"])
    assert lines[alpha].startswith("      name "), "below local, domain, 1"
    assert "path             /local/domain/1/name" in screen.open("alpha")


def test_a_change_is_marked_and_a_watch_has_its_owner(lab: Lab, screen: Screen) -> None:
    screen.pane("store")
    store, path = lab.one.store, "/local/domain/1/data/colour"
    with closing(store.watch("data", "token")):
        screen.wait(lambda: screen.line("  data ").split()[-1:] == ["1"] if "  data   " in screen.text else False)
        store.write(path, "green")
        screen.until("colour")
        assert next(line for line in screen.body if "green" in line)[2] == "*"
        store.write(path, "red")
        screen.until("red")
    store.rm(path)
    screen.until("alpha", none="colour")


def test_what_a_guest_writes_does_nothing_to_the_terminal(lab: Lab, screen: Screen) -> None:
    screen.pane("store")
    lab.one.store.write("data/evil", b"\x1b[2J\x07\n\x9b1m[red]")
    screen.until("evil")
    assert r"\x1b[2J\x07\n\x9b1m[red]" in screen.line("evil")
    assert r"\x1b[2J" in screen.open("evil")
    screen.press("escape")
    screen.pane("trace")
    lab.one.store.rm("data/evil")
    screen.until("store.rm path=/local/domain/1/data/evil")


def test_a_filter_of_the_tree_keeps_what_is_above(screen: Screen) -> None:
    screen.pane("store")
    screen.filter("frontend-id")
    screen.until("frontend-id", none="alpha")
    names = [line[3:].split()[0] for line in screen.body if line[3:].strip()]
    assert names == ["local", "domain", "0", "backend", "echo", "1", "3", "frontend-id"]


def test_a_domain_in_the_store_is_its_home_and_its_backends(screen: Screen) -> None:
    screen.pane("store")
    screen.filter("1")
    screen.until("alpha", "frontend-id", "backend-id", none="beta")
    assert "Domain-0" not in screen.text
