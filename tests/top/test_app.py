"""What the monitor shows, pane by pane, against what is so; and every key of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path

import pytest
from xenecho import LAYOUT
from xentop import app as xentop_app
from xentop.app import NAMES
from xentop.keys import HELP

from tests.conformance.world import Mount
from tests.mounted.mount import until
from tests.top.lab import PAGE, RING, TEXT, Lab
from tests.top.stage import MARKS, Screen, monitor
from tests.top.town import Town
from xenfs.abi.ring import HEADER
from xenfs.abi.xenfs_op import CreateDomain
from xenfs.domain.mounted import MountedDomain

pytestmark = pytest.mark.timeout(120)
SMALLEST, USUAL, LARGE = (40, 10), (80, 24), (200, 60)
SIZES = [SMALLEST, USUAL, LARGE]
MOVED = "\N{RIGHTWARDS ARROW OVER LEFTWARDS ARROW}"
MAP = 13
"""The column of the screen at which the frames of a line of the map begin."""


@pytest.fixture
def screen(lab: Lab) -> Iterator[Screen]:
    """The lab at a usual size."""
    with monitor(lab.point) as made:
        yield made


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
        screen.until("error: echo 1/3" if size != SMALLEST else "what it waits")
        if size != SMALLEST:
            assert screen.line("echo 1/3").count("Initialising") == 2, "both ends"
        if size == LARGE:
            assert "no backend has come: is devd running in domain 0?" in screen.line("echo 1/3")
        said = screen.open("echo 1/3")
    assert "is devd running in domain 0? [no-backend]" in said
    assert f"{lab.stuck.frontend_path}: Initialising" in said
    assert f"{lab.stuck.backend_path}: Initialising" in said
    assert "it is to wait for the backend" in said


def test_how_long_a_state_lasts_and_what_it_is_now(lab: Lab, screen: Screen) -> None:
    screen.pane("devices")
    assert screen.line("echo 1/3").count("  >") == 2, "that long at the least: nobody has seen it begin"
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
    page = Path(lab.point, "domains/1/rings", RING).read_bytes()
    req_prod, req_event, rsp_prod, rsp_event = HEADER.unpack_from(page)[:4]
    assert screen.line(RING).split() == [
        "1", RING, "#.........", str(req_prod - rsp_prod), str(LAYOUT.slots(PAGE)), str(req_prod), str(rsp_prod), "-",
        "-", "req+rsp", str(req_event), str(rsp_event),
    ]  # fmt: skip


def test_a_ring_turns_before_ones_eyes(town: Town) -> None:
    with monitor(town.point, pane="rings") as screen:
        seen = [screen.cells("echo-0-ring")]

        def turned() -> bool:
            seen.append(screen.cells("echo-0-ring"))
            return int(seen[-1]["req_prod"]) > int(seen[0]["req_prod"]) and seen[-1]["req/s"] != "-"

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


# Pages.


def marks(screen: Screen, frame: int) -> str:
    """The letters of the line of the map with this frame."""
    line = next(line for line in screen.body if line[1:].split()[:1] == [str(frame // 64 * 64)])
    return line[MAP : MAP + 64]


def test_the_map_tells_what_every_frame_is_and_whose(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    shown = marks(screen, lab.ring)
    found = {frame: shown[frame % 64] for frame in (lab.ring, lab.mapped, lab.granted, lab.kept)}
    assert found == {lab.ring: "R", lab.mapped: "M", lab.granted: "g", lab.kept: "o"}
    assert shown.strip(MARKS) == "", "every frame has a letter"
    assert screen.line(str(lab.ring // 64 * 64)).endswith("domain 1")
    for mark in ("R ring", "M mapped", "g granted", "o held", "idle", MOVED):
        assert mark in screen.head


def open_frame(screen: Screen, frame: int) -> str:
    """What is said of it; the map must have its line in sight."""
    place = next(at for at, line in enumerate(screen.body) if line[1:].split()[:1] == [str(frame // 64 * 64)])
    screen.burst("g", *(["j"] * place), *(["h"] * 64), *(["l"] * (frame % 64)))
    screen.press("enter")
    screen.wait(lambda: screen.detail.startswith(f"frame {frame} "))
    return screen.detail


def test_enter_on_a_frame_tells_its_owner_grants_maps_and_bytes(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    said = open_frame(screen, lab.mapped).splitlines()
    assert said[0] == f"frame {lab.mapped} belongs to domain 1, held"
    assert said[1].strip() == f"grant {lab.mapped_ref} to domain 2: permit_access rw, mapped 1 times"
    screen.press("escape")
    said = open_frame(screen, lab.granted).splitlines()
    assert said[1].strip() == f"grant {lab.granted_ref} to domain 0: permit_access ro, not mapped"
    screen.press("escape")
    said = open_frame(screen, lab.kept).splitlines()
    assert said[1].strip() == "granted to nobody"
    rows = [line.split("  ", 2) for line in said[3:] if "  " in line]
    shown = b"".join(bytes.fromhex(row[1]) for row in rows)
    assert shown.startswith(TEXT)
    assert rows[0][2].strip() == TEXT[:16].decode().strip()


def test_the_bytes_of_a_frame_change_while_they_are_shown(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    open_frame(screen, lab.kept)
    lab.write(lab.kept, b"Whatever")
    screen.wait(lambda: "Whatever" in screen.detail)
    lab.write(lab.kept, TEXT)
    screen.wait(lambda: "Whatever" not in screen.detail)


def test_a_frame_longer_than_the_screen_is_scrolled(lab: Lab) -> None:
    lab.write(lab.kept, bytes(number * 7 & 0xFF for number in range(PAGE)))
    with monitor(lab.point, USUAL, "pages") as screen:
        open_frame(screen, lab.kept)
        screen.until("0000  0007")
        for key, first, gone in (("j", "0010", "0ff0"), ("pagedown", "0150", "0000"), ("end", "0ff0", "0000"),
                                 ("pageup", "0ea0", "0ff0"), ("home", "0000", "0ff0")):  # fmt: skip
            screen.press(key)
            screen.until(f" {first}  ", none=f" {gone}  ")
    lab.write(lab.kept, TEXT.ljust(PAGE, b"\0"))


def test_the_map_of_one_domain(screen: Screen) -> None:
    screen.pane("pages")
    screen.filter("2")
    screen.until("/ 2", none="domain 1")
    assert {line.rpartition("  ")[2] for line in screen.body if "domain" in line} == {"domain 2"}


def test_a_flip_is_seen(lab: Lab, screen: Screen) -> None:
    screen.command("delay 0.5")
    screen.pane("pages")
    (ref,) = lab.two.memory.accept_transfer(1)
    (frame,) = lab.one.memory.alloc()
    lab.one.memory.transfer([frame], 2, [ref])
    screen.until("domain 1: 63, domain 2: 1")
    assert marks(screen, frame)[frame % 64] == MOVED
    lab.two.memory.end_transfer([ref])
    screen.command("delay 0.05")
    screen.wait(lambda: marks(screen, frame)[frame % 64] == "o")
    (back,) = lab.one.memory.accept_transfer(2)
    lab.two.memory.transfer([frame], 1, [back])
    lab.one.memory.end_transfer([back])
    lab.one.memory.free([frame])
    screen.wait(lambda: screen.line(str(frame // 64 * 64)).endswith("domain 1"))


def test_on_a_narrow_screen_the_map_follows_the_chosen_frame(lab: Lab) -> None:
    with monitor(lab.point, SMALLEST, "pages") as screen:
        screen.burst(*(["l"] * 63))
        screen.wait(lambda: screen.sheet.scroll_offset.x > 0)
        at = screen.sheet.column
        assert at is not None
        assert 0 <= at + 2 - screen.sheet.scroll_offset.x < screen.size[0]
        screen.resize(*LARGE)
        screen.wait(lambda: screen.sheet.scroll_offset.x == 0)
        screen.resize(*SMALLEST)
        screen.wait(lambda: screen.sheet.scroll_offset.x > 0)
        screen.burst(*(["h"] * 63))
        screen.wait(lambda: screen.sheet.scroll_offset.x == 0)


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
    screen.until("data/evil removed")


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


# Trace.


def test_calls_and_changes_as_they_come(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with lab.two.events.bind_ipi():
        lab.one.store.write("data/colour", "blue")
        screen.until("bind_ipi", "colour = 'blue'")
    calls = screen.line("bind_ipi").split()
    assert calls[1:3] == ["2", "bind_ipi"]
    assert "\N{RIGHTWARDS ARROW} ok port=" in screen.line("bind_ipi")
    lab.one.store.rm("data/colour")
    screen.until("colour removed", "close")
    assert "'op': 'bind_ipi'" in screen.open("bind_ipi")


def test_a_refusal_is_told(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with pytest.raises(OSError, match="no such domain"):
        lab.destroy(77)
    screen.until("destroy_domain", "ESRCH")


def test_the_trace_by_domain_and_by_text(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with lab.two.events.bind_ipi(), lab.one.events.bind_ipi():
        lab.one.store.write("data/colour", "blue")
        screen.until("colour = 'blue'")
        lab.one.store.rm("data/colour")
        screen.until("colour removed")
    screen.filter("2")
    screen.wait(lambda: [line[1:].split()[1] for line in screen.body if "bind_ipi" in line] == ["2"])
    assert "colour" not in screen.text
    screen.filter("colour")
    screen.until("colour", none="bind_ipi")
    screen.press("escape")
    screen.until("colour", "bind_ipi")


def test_the_trace_of_one_device(town: Town) -> None:
    with monitor(town.point, LARGE, "trace") as screen:
        with town.another_echo():
            screen.filter("echo-1")
            screen.until("name=echo-1-ring", "map_grant_ref", "bind_interdomain", "device/echo/1/state = '4'")
            screen.until("backend/echo/1/1/state = '4'", none="vusb")
        assert "echo/0" not in screen.text


def test_the_trace_of_a_device_that_was_there_before(town: Town) -> None:
    with town.another_echo(), monitor(town.point, LARGE, "trace") as screen:
        screen.filter("echo-1")
        town.detach_echo()
        screen.until("device/echo/1 removed", "unname_ring name=echo-1-ring", "end_access")


def test_the_trace_follows_until_one_looks_back(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    frames = lab.two.memory.alloc(60)
    screen.until(f"alloc_frame \N{RIGHTWARDS ARROW} ok frame={frames[-1]}")
    assert screen.chosen.endswith(f"={frames[-1]}")
    screen.press("k")
    lab.two.memory.free(frames[:2])
    screen.wait(lambda: str(screen.sheet.lines[-1]).endswith(f"frame={frames[1]} flags=0 \N{RIGHTWARDS ARROW} ok"))
    assert screen.chosen.endswith(f"={frames[-2]}")
    screen.press("G")
    lab.two.memory.free(frames[2:])
    screen.wait(lambda: f"={frames[-1]} " in screen.chosen)


# Keys.


def test_tab_goes_round_and_digits_go_at_once(screen: Screen) -> None:
    seen = []
    for _ in NAMES:
        screen.press("tab")
        seen.append(screen.app.view.pane)
    assert seen == [*NAMES[1:], NAMES[0]]
    screen.press("shift+tab")
    assert screen.app.view.pane == "trace"
    for place, name in enumerate(NAMES, 1):
        screen.press(str(place))
        assert screen.app.view.pane == name


def test_question_mark_tells_the_keys_and_esc_leads_back(screen: Screen) -> None:
    for leave in ("escape", "q", "enter"):
        screen.press("?")
        assert screen.detail == HELP
        screen.press(leave)
        assert screen.detail == ""
    assert screen.app.is_running


def test_tab_does_nothing_behind_what_is_open(screen: Screen) -> None:
    said = screen.open("alpha")
    screen.press("tab", ":", "s")
    assert screen.app.view.pane == "domains"
    screen.press("escape")
    assert not screen.app.query("#words.open")
    assert "alpha" in said


def test_q_ends_it(screen: Screen) -> None:
    screen.press("q")
    until(lambda: not screen.app.is_running)
    assert (screen.app.return_code, screen.app.problem) == (0, "")


def test_space_holds_everything_still(town: Town) -> None:
    with monitor(town.point, pane="rings") as screen:
        screen.press("space")
        screen.until("|| held")
        held, before = screen.body, town.in_ring()
        until(lambda: town.in_ring() > before + 10)
        assert screen.body == held
        screen.pane("pages")
        screen.until("domain 1")
        screen.pane("rings")
        screen.until("echo-0-ring")
        said = screen.open("vusb-0-conn")
        assert "vusb-0-conn: 512 of 512 in flight" in said
        screen.press("escape", "space")
        screen.until("echo-0-ring", none="held")
        held = screen.body
        screen.wait(lambda: screen.body != held)


COMMANDS: list[tuple[str, str, object]] = [
    ("rings", "view.pane", "rings"), ("ev", "view.pane", "events"), ("domain 1", "view.filter", "1"),
    ("delay 2", "observer.delay", 2.0), ("delay .5", "observer.delay", 0.5),
    ("sort cpu", "view.sorted", {"domains": "cpu"}), ("domain", "view.pane", "domains"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "name", "value"), COMMANDS, ids=[said for said, _, _ in COMMANDS])
def test_a_command_is_obeyed(screen: Screen, said: str, name: str, value: object) -> None:
    screen.command(said)
    assert attrgetter(name)(screen.app) == value
    assert "a pane's name" not in screen.text


NONSENSE = [
    "nonsense", "[/b] [red", "sort", "sort nothing", "domain x", "domain \N{SUPERSCRIPT TWO}", "delay 0", "delay -1",
    "delay x", "delay \N{SUPERSCRIPT TWO}", "delay 1e9", "quit now",
]  # fmt: skip


def test_nonsense_gives_a_message_and_nothing_more(screen: Screen) -> None:
    for said in NONSENSE:
        screen.command(said)
        screen.until(f"{said}: a pane's name")
        screen.app.clear_notifications()
    assert (screen.app.view.pane, screen.app.view.filter, screen.app.view.sorted) == ("domains", "", {})
    screen.command("")
    assert "a pane's name" not in screen.text


@pytest.mark.parametrize("said", ["q", "quit"])
def test_a_command_ends_it(screen: Screen, said: str) -> None:
    screen.command(said)
    until(lambda: not screen.app.is_running)


def test_keys_that_come_all_at_once_are_typed(screen: Screen) -> None:
    screen.burst(*":domain", "space", "2", "enter")
    screen.until("/ 2", none="alpha")
    screen.press("escape")
    screen.burst(*"/q:/s", "enter")
    screen.until("/ q:/s", none="alpha")


def test_esc_closes_what_is_typed_and_then_takes_the_filter_away(screen: Screen) -> None:
    screen.filter("alp")
    screen.until("/ alp", none="beta")
    screen.press("/")
    assert screen.app.query_one("#words").has_focus
    screen.press("escape")
    screen.until("/ alp", none="beta")
    screen.press("escape")
    screen.until("beta")


def test_a_filter_that_nothing_passes_is_no_harm(screen: Screen) -> None:
    for said in ("\N{SUPERSCRIPT TWO}", "99999999999999999999", "[/b]", "vif-\N{SUPERSCRIPT TWO}"):
        screen.filter(said)
        for name in NAMES:
            screen.pane(name)
            assert f"/ {said}" in screen.lines[0]
            assert "alpha" not in "".join(screen.body)


# Many.


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hundred domains."""
    mount = Mount(tmp_path_factory.mktemp("crowd") / "xen")
    try:
        mount.arm(300)
        with MountedDomain(0, mount.root) as root:
            for number in range(1, 101):
                root.call(CreateDomain(name=f"guest{number}", frames=16))
        yield str(mount.root)
    finally:
        mount.close()


def place(screen: Screen) -> int:
    """The number of the domain that is chosen, which is in sight."""
    return int(screen.chosen[1:].split()[0])


def test_moving_among_a_hundred(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        assert "101 domains" in screen.lines[0]
        page = screen.sheet.page
        steps = [
            ("j", 1), ("down", 2), ("k", 1), ("up", 0), ("up", 0), ("G", 100), ("j", 100), ("g", 0), ("pagedown", page),
            ("pagedown", 2 * page), ("pageup", page), ("end", 100), ("pageup", 100 - page), ("home", 0),
        ]  # fmt: skip
        for key, domid in steps:
            screen.press(key)
            assert (key, place(screen)) == (key, domid)


def test_the_chosen_line_stays_in_sight_on_the_smallest_screen(crowd: str) -> None:
    with monitor(crowd, SMALLEST) as screen:
        screen.burst(*(["j"] * 12))
        assert place(screen) == 12
        screen.press("G")
        assert place(screen) == 100
        screen.resize(*USUAL)
        screen.resize(*SMALLEST)
        assert place(screen) == 100


@pytest.mark.parametrize("size", [SMALLEST, USUAL], ids=str)
def test_the_last_line_is_in_sight_above_a_scrollbar(lab: Lab, size: tuple[int, int]) -> None:
    with monitor(lab.point, size, "store") as screen:
        screen.look()
        screen.press("G")
        assert "xenstored" in screen.chosen


def test_one_of_a_hundred_by_its_number(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        screen.press("G")
        screen.filter("42")
        screen.until("guest42", none="guest43")
        assert place(screen) == 42
        screen.filter("guest9")
        screen.until("guest99", none="guest42")
        assert len([line for line in screen.body if "guest9" in line]) == 11


def test_the_mouse_on_tabs_and_lines(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        top = screen.sheet.region.y
        screen.click(10, top + 6)
        assert (place(screen), screen.detail) == (5, "")
        screen.click(10, top + 6)
        screen.wait(lambda: "guest5" in screen.detail)
        screen.press("escape")
        screen.click(10, top)
        assert screen.detail == "", "the head is no line"
        screen.wheel(10, top + 6)
        screen.wait(lambda: screen.sheet.scroll_offset.y > 0)
        screen.click(10, top + 6)
        assert place(screen) == 5 + screen.sheet.scroll_offset.y
        screen.click(screen.lines[1].index("rings"), 1)
        screen.wait(lambda: screen.app.view.pane == "rings")


def test_the_mouse_on_a_frame(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    top = screen.sheet.region.y
    line = next(at for at, line in enumerate(screen.body) if line[1:].split()[:1] == [str(lab.kept // 64 * 64)])
    for _ in range(2):
        screen.click(MAP + lab.kept % 64, top + 1 + line)
    screen.wait(lambda: screen.detail.startswith(f"frame {lab.kept} belongs to domain 1"))


# Screens.


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_pane_fits(lab: Lab, town: Town, size: tuple[int, int]) -> None:
    for point in (lab.point, town.point):
        with monitor(point, size) as screen:
            for number, name in enumerate(NAMES, 1):
                screen.pane(name)
                lines = screen.lines
                assert len(lines) == size[1]
                assert max(map(len, lines)) <= size[0]
                assert lines[0].startswith(" xenfs top ")
                assert f"{number} {name}" in lines[1], "the tab is in sight"
                assert lines[-1].startswith(" ? keys")
                assert sum(line.startswith(">") for line in screen.body) <= 1
                assert screen.body[0].startswith(">") or name == "trace"


def test_a_resize_while_it_is_held(lab: Lab) -> None:
    with monitor(lab.point, USUAL) as screen:
        assert "cpu" not in screen.head
        screen.press("space")
        screen.resize(*LARGE)
        screen.until("cpu", "held")
        screen.resize(*SMALLEST)
        screen.until("alpha", "held")
        assert len(screen.lines[0]) <= SMALLEST[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_empty_machine(bare: Mount, size: tuple[int, int]) -> None:
    with monitor(str(bare.root), size) as screen:
        assert "Domain-0" in screen.chosen
        for name in ("devices", "rings", "events"):
            screen.pane(name)
            assert screen.chosen.rstrip() == "> nothing here"
            screen.press("enter", "j", "G", "s")
            assert screen.detail == ""
        screen.pane("pages")
        screen.until(" d0  ")
        screen.pane("trace")
        screen.press("enter", "G", "k")
        screen.pane("store")
        screen.until("  domain")


# A machine that does not answer, or has ended.


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_says_that_the_hypervisor_is_gone_and_stays_usable(bare: Mount, size: tuple[int, int]) -> None:
    with monitor(str(bare.root), size) as screen:
        bare.kill()
        screen.until("!! the hypervisor is gone")
        screen.press("?")
        assert screen.detail == HELP
        screen.press("escape")
        assert "Domain-0" in screen.open("Domain-0")
        screen.press("escape")
        for name in NAMES:
            screen.command(name)
            assert "!! the hypervisor is gone" in screen.lines[0]
        screen.press("space", "s", "j", "enter")
        assert screen.app.is_running
        screen.press("q")
        until(lambda: not screen.app.is_running)


def test_a_frame_of_a_machine_that_is_gone(bare: Mount) -> None:
    with monitor(str(bare.root), pane="pages") as screen:
        bare.kill()
        screen.until("!! the hypervisor is gone")
        screen.press("enter")
        assert screen.detail == "the hypervisor is gone"


@pytest.mark.parametrize("size", [SMALLEST, LARGE], ids=str)
def test_a_daemon_that_is_stopped_does_not_stop_the_screen(
    bare: Mount, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(xentop_app, "_SILENT_SECONDS", 0.5)
    with monitor(str(bare.root), size, "pages") as screen:
        bare.stop()
        try:
            screen.until("!! no answer for 1 s")
            screen.press("enter")
            assert screen.detail == "looking \N{HORIZONTAL ELLIPSIS}"
            screen.press("escape", "?")
            assert screen.detail == HELP
            screen.press("escape", "1")
            assert "Domain-0" in screen.chosen
            screen.until("!! no answer for 2 s")
        finally:
            bare.go_on()
        screen.until("Domain-0", none="!!")
        screen.look()


def test_a_long_delay_is_no_silence(bare: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    with monitor(str(bare.root)) as screen:
        screen.command("delay 60")
        screen.wait(lambda: screen.app.observer.asked is None)
        monkeypatch.setattr(xentop_app, "_SILENT_SECONDS", 0.0)
        screen.press("space", "space")
        screen.until("xenfs top", none="!!")


# What is watched.


def test_looking_disturbs_nothing(lab: Lab, screen: Screen) -> None:
    tables = ("frames", "grants", "pages", "ports", "rings", "trace")

    def state() -> list[str]:
        return [lab.file(f"hypervisor/{name}") for name in tables]

    page = Path(lab.point, "domains/1/rings", RING)
    before, content = state(), page.read_bytes()
    for name in NAMES:
        screen.pane(name)
        screen.press("enter")
        screen.look()
        screen.press("escape")
    screen.pane("pages")
    for frame in (lab.ring, lab.mapped, lab.granted, lab.kept):
        open_frame(screen, frame)
        screen.press("escape")
    assert state() == before, "not one hypercall"
    assert page.read_bytes() == content
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in opened if name.startswith(lab.point) and "/foreign" in name] == []
