"""What the monitor makes of a machine, without a screen: tables, the store's mirror, panes, their text, the trace."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xentop import frames, panes, tables, text
from xentop.feed import Event, Feed, of_change, shown
from xentop.frames import FREE, MOVED, WIDTH, Line
from xentop.look import DAEMON, DeviceState, Ring, Sample
from xentop.mirror import Change, Mirror
from xentop.panes import PANES, Row
from xentop.tables import Grant, Grants, Named, PortLine, Run
from xl.findings import Finding

from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.commands.machine import Domain, Frames
from xenfs.commands.trace import readable
from xenfs.domain import Refused
from xenfs.domain.inprocess import InProcessDomain, InProcessXen
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.tables import grants_table, pages_table, ports_table, rings_table
from xenfs.testing import in_memory
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)


# The tables of hypervisor/, read back.


def owners(found: tuple[Run, ...]) -> dict[int, Run]:
    """The run of every frame; no frame is in two."""
    by_frame = {number: run for run in found for number in range(run.first, run.first + run.count)}
    assert len(by_frame) == sum(run.count for run in found)
    return by_frame


def agree(machine: Machine) -> None:
    """Every table says of a machine what the model's own snapshot says."""
    now = snapshot(machine)
    everybody = [*now["domains"].items(), *((domain.domid, None) for domain in machine.state.dying)]
    living = [(domid, said) for domid, said in everybody if said is not None]
    dead = [(domain.domid, said) for domain, said in zip(machine.state.dying, now["dying"], strict=True)]
    known = [*living, *dead]
    runs = tables.runs(pages_table(machine))
    assert [run.first for run in runs] == sorted(run.first for run in runs)
    by_frame = owners(runs)
    owned = {number: domid for domid, said in known for run in said["frames"] for number in range(*run)}
    idle = {number for _, said in known for run in said["idle"] for number in range(*run)}
    assert {number: run.domid for number, run in by_frame.items()} == owned
    assert {number for number, run in by_frame.items() if run.idle} == idle
    busy = {n: (said["owner"], said["grants"], said["maps"]) for n, said in now["busy"].items()}
    assert {n: (run.domid, run.granted, run.mapped) for n, run in by_frame.items() if not run.idle} == busy
    rings = {frame: name for _, said in known for name, (frame, _) in said["rings"].items()}
    assert {n: run.ring for n, run in by_frame.items() if run.ring} == rings
    assert tables.rings(rings_table(machine)) == tuple(
        Named(domid, name, frame) for domid, said in known for name, (frame, _) in said["rings"].items()
    )
    wanted = [
        Grant(
            domid, ref, one["to"], one["type"], "ro" if one["readonly"] else "rw", one["frame"],
            one["readers"] + one["writers"], one["ending"],
        )
        for domid, said in known
        for ref, one in said["grants"].items()
    ]  # fmt: skip
    grants = Grants(grants_table(machine))
    assert list(grants) == wanted
    assert list(grants.maps()) == [(one.domid, one.ref, one.to, one.maps) for one in wanted]
    assert tables.ports(ports_table(machine, lambda line: line % 2 == 1)) == tuple(
        PortLine(domid, n, one["state"], one["remote_domid"], one["remote_port"] or 0, one["line"] % 2 == 1)
        for domid, said in known
        for n, one in said["ports"].items()
    )


def furnish(xen: InProcessXen, held: ExitStack) -> tuple[InProcessDomain, InProcessDomain]:
    """Something of every kind; what the second domain maps of a third, which is dead, included."""
    one, two = (held.enter_context(xen.domain(domid)) for domid in (1, 2))
    ring, shared, given, ended = one.memory.alloc(4)
    one.memory.name_ring("vif-0-tx", ring)
    refs = one.memory.grant([ring, shared, shared, ended], 2)
    one.memory.grant([given], 0, readonly=True)
    for ref in refs[1:]:
        two.memory.map(1, [ref])
    one.memory.end_access([refs[3]], defer=True)
    two.memory.decrease_reservation(two.memory.alloc())
    two.memory.accept_transfer(1)
    channel = held.enter_context(one.events.alloc_unbound(2))
    held.enter_context(two.events.bind_interdomain(1, channel.port))
    held.enter_context(one.events.alloc_unbound(0))
    held.enter_context(two.events.bind_virq(0))
    held.enter_context(two.events.bind_ipi())
    three = held.enter_context(xen.domain(3))
    two.memory.map(3, three.memory.grant(three.memory.alloc(2), 2))
    xen.destroy_domain(3)
    return one, two


def test_tables_of_an_empty_machine() -> None:
    with in_memory() as xen:
        agree(xen.machine)
        assert tables.rings(rings_table(xen.machine)) == ()
        assert tables.ports(ports_table(xen.machine, bool)) == ()


def test_tables_say_what_the_model_says() -> None:
    with in_memory(domains=3) as xen, ExitStack() as held:
        furnish(xen, held)
        assert len(xen.machine.state.dying) == 1
        agree(xen.machine)
        grants = list(Grants(grants_table(xen.machine)))
        assert {one.kind for one in grants} == {"permit_access", "accept_transfer"}
        assert [one.ending for one in grants if one.domid == 1].count(True) == 1
        ports = tables.ports(ports_table(xen.machine, bool))
        assert {one.state for one in ports} == {"unbound", "interdomain", "virq", "ipi"}


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 7)), max_size=60)


@settings(deadline=None)
@given(STEPS)
def test_tables_agree_with_the_model_after_whatever_has_happened(steps: list[tuple[int, int, int]]) -> None:
    with InProcessXen(Config(frames=64, dom0_frames=8)) as xen:
        for _ in range(3):
            xen.create_domain(frames=8)
        life = Life(xen)
        for what, first, second in steps:
            with suppress(Refused):
                life.step(what, first, second)
        agree(xen.machine)


class Life:
    """Domains that do things with what they have, chosen by numbers."""

    def __init__(self, xen: InProcessXen) -> None:
        self.xen = xen
        self.domains = [xen.domain(domid) for domid in range(4)]

    def step(self, what: int, first: int, second: int) -> None:
        """Do one thing. Raises Refused."""
        domain, other = self.domains[first % 4], self.domains[second % 4]
        state = self.xen.machine.state.domains.get(domain.domid)
        busy = [n for n, frame in self.xen.machine.state.busy.items() if state is not None and frame.owner is state]
        frame = busy[second % len(busy)] if busy else 0
        match what:
            case 0:
                domain.memory.alloc(1 + second % 3)
            case 1:
                domain.memory.grant([frame], other.domid, readonly=second > 3)
            case 2:
                domain.memory.map(other.domid, [8 + second])
            case 3:
                domain.memory.end_access([8 + second], defer=True)
            case 4:
                domain.memory.free([frame], defer=True)
            case 5:
                domain.memory.name_ring(f"vbd-{second}-ring", frame)
            case 6:
                domain.events.bind_interdomain(other.domid, domain.events.alloc_unbound(other.domid).port)
            case 7:
                other.events.bind_interdomain(domain.domid, domain.events.alloc_unbound(other.domid).port)
            case 8:
                domain.memory.decrease_reservation([frame])
                domain.memory.accept_transfer(other.domid)
            case _ if domain.domid:
                self.xen.call(DestroyDomain(dom=domain.domid))
                self.xen.call(CreateDomain(dom=domain.domid, frames=4, max_frames=4))
                self.domains[domain.domid] = self.xen.domain(domain.domid)


def test_watches_whatever_a_guest_has_for_a_token() -> None:
    tokens = ["plain", "with blanks in it", "", "7 /forged token", "lines\nand\n\nlines", "\x85\x0b\x1c", "\n9"]
    with in_memory(domains=1) as xen, xen.domain(1) as guest, xen.domain(0) as root:
        for token in tokens:
            guest.store.watch("/local", token)
        root.store.watch("@releaseDomain", "end")
        found = tables.watches(xen.xenstore.store.watches.table())
    assert {(1, "/local", "plain"), (1, "/local", "with blanks in it"), (1, "/local", "")} <= set(found)
    assert (0, "@releaseDomain", "end") in found


# The mirror of the store.


class Town:
    """A store, and its mirror with a clock that a test sets."""

    def __init__(self, xen: InProcessXen) -> None:
        self.root = xen.domain(0)
        self.store, self.time = self.root.store, 100.0
        self.mirror = Mirror(self.store, lambda: self.time)

    def update(self, at: float) -> list[tuple[str, bytes | None]]:
        """Take what there is at that time: which changes were noted."""
        self.time = at
        before = len(self.mirror.changes)
        while self.mirror.update():
            pass
        found = list(self.mirror.changes)[before:]
        assert all(change.time == at for change in found)
        return [(change.path, change.value) for change in found]

    def same(self) -> None:
        """The mirror has what the store has."""
        assert list(self.mirror.walk()) == sorted(tree(self.store), key=lambda node: node[0].split("/"))
        for path, _, value in tree(self.store):
            assert self.mirror.read(path) == value
            assert self.mirror.exists(path)
            assert self.mirror.list(path) == tuple(sorted(self.store.list(path)))
            assert self.mirror.perms(path) == self.store.perms(path)


def tree(store: Any, path: str = "/") -> list[tuple[str, int, bytes]]:
    """Every node of a store with its depth and value."""
    below = [f"{path.rstrip('/')}/{name}" for name in store.list(path)]
    return [node for one in below for node in ((one, one.count("/"), store.read(one)), *tree(store, one))]


@pytest.fixture
def town() -> Iterator[Town]:
    with in_memory(domains=2) as xen:
        made = Town(xen)
        try:
            yield made
        finally:
            made.mirror.close()
            made.root.close()


def test_what_was_there_is_mirrored_and_no_change(town: Town) -> None:
    town.same()
    assert town.update(101) == []
    assert town.mirror.age("/local/domain/1/name") is None
    assert town.mirror.ages() == {}


def test_what_is_written_first_of_all_is_a_change(town: Town) -> None:
    town.store.write("/local/domain/1/name", "another")
    assert town.update(101) == [("/local/domain/1/name", b"another")]


def test_a_write_is_a_change_and_has_an_age(town: Town) -> None:
    town.store.write("/local/domain/1/data", "1")
    assert town.update(110) == [("/local/domain/1/data", b"1")]
    town.time = 115
    assert town.mirror.age("/local/domain/1/data") == 5
    assert town.mirror.ages() == {"/local/domain/1/data": 5}
    town.store.write("/local/domain/1/data", "1")  # says what it said before
    assert town.update(120) == []
    assert town.mirror.age("/local/domain/1/data") == 10
    town.time = 90  # somebody has set the clock
    assert town.mirror.age("/local/domain/1/data") == 0
    town.same()


def test_nodes_that_are_made_along_with_another_are_there(town: Town) -> None:
    town.store.write("/local/domain/1/device/vbd/51712/state", "1")
    above = "/local/domain/1/device/vbd"
    assert town.update(110) == [(above, b""), (f"{above}/51712", b""), (f"{above}/51712/state", b"1")]
    town.same()


def test_a_node_that_is_removed_goes_with_all_below_it(town: Town) -> None:
    town.store.write("/a/b/c", "1")
    town.update(110)
    town.store.rm("/a")
    assert town.update(120) == [("/a", None)]
    town.same()
    town.time = 123
    assert {path: town.mirror.age(path) for path in ("/a", "/a/b", "/a/b/c")} == {"/a": 3, "/a/b": 3, "/a/b/c": 3}
    for path in ("/a", "/a/b", "/a/b/c"):
        assert not town.mirror.exists(path)
        with pytest.raises(Refused) as refused:
            town.mirror.read(path)
        assert refused.value.errno == errno.ENOENT
        with pytest.raises(Refused):
            town.mirror.list(path)


def test_a_node_that_is_made_again_is_a_change_again(town: Town) -> None:
    town.store.write("/a/b", "1")
    town.update(110)
    town.store.rm("/a")
    town.update(120)
    town.store.write("/a/b", "1")
    assert town.update(130) == [("/a", b""), ("/a/b", b"1")]
    assert town.mirror.age("/a/b") == 0
    town.same()


def test_what_was_removed_and_made_otherwise_between_two_looks(town: Town) -> None:
    for path in ("/a/b/c", "/a/b/d", "/a/e/f"):
        town.store.write(path, "1")
    town.update(110)
    town.store.rm("/a")
    town.store.write("/a/b/c", "2")
    assert set(town.update(120)) == {("/a/b/c", b"2"), ("/a/b/d", None), ("/a/e", None)}
    town.same()


def test_a_subtree_that_moves(town: Town) -> None:
    for name in ("state", "ring/ref"):
        town.store.write(f"/local/domain/1/device/vif/0/{name}", name)
    town.update(110)
    for transaction in town.store.transaction():
        with transaction as tx:
            for name in ("state", "ring/ref"):
                tx.write(f"/local/domain/2/device/vif/5/{name}", name)
            tx.rm("/local/domain/1/device/vif")
    noted = town.update(120)
    assert ("/local/domain/1/device/vif", None) in noted
    assert ("/local/domain/2/device/vif/5/ring/ref", b"ring/ref") in noted
    town.same()


def test_a_transaction_that_is_given_up_is_no_change(town: Town) -> None:
    for transaction in town.store.transaction():
        with suppress(KeyError), transaction as tx:
            tx.write("/a", "1")
            raise KeyError
    assert town.update(110) == []
    town.same()


def test_values_that_are_no_text(town: Town) -> None:
    value = bytes(range(256))
    town.store.write("/a", value)
    assert town.update(110) == [("/a", value)]
    town.same()
    event = of_change(Change(110.0, "/a", value))
    assert event.text.isprintable()
    assert "\\xff" in event.text


def test_a_tree_that_is_deeper_than_python_calls(town: Town) -> None:
    path = "/d" + "/x" * 1020
    town.store.write(path, "deep")
    assert len(town.update(110)) == 1021
    assert town.mirror.read(path) == b"deep"
    assert sum(node == path for node, _, _ in town.mirror.walk()) == 1
    with town.root.xen.domain(0) as other, closing(Mirror(other.store)) as second:
        assert second.read(path) == b"deep"
    town.store.rm("/d")
    assert town.update(120) == [("/d", None)]
    assert not town.mirror.exists(path)


def test_domains_that_come_and_go(town: Town) -> None:
    xen = town.root.xen
    domid = xen.create_domain("late")
    assert (f"/local/domain/{domid}/name", b"late") in town.update(110)
    town.same()
    xen.destroy_domain(domid)
    assert (f"/local/domain/{domid}", None) in town.update(120)
    town.same()


def test_more_than_is_taken_at_once_and_more_than_is_remembered(town: Town) -> None:
    for number in range(3000):
        town.store.write(f"/n/{number}", str(number))
    count, rounds = 0, 0
    while taken := town.mirror.update():
        count, rounds = count + taken, rounds + 1
    assert (count, rounds) == (3000, 6)
    assert len(town.mirror.changes) == 2000
    assert town.mirror.changes[-1].path == "/n/2999"
    town.same()
    town.store.rm("/n")
    town.update(120)
    assert len(town.mirror.since) <= 2100


def test_a_node_that_goes_while_it_is_looked_at(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.store.write("/a/b", "1")
    town.update(110)
    listed = type(town.store).list

    def late(store: Any, path: str) -> tuple[str, ...]:
        if path == "/a" and store.exists("/a"):
            store.rm("/a")
        return listed(store, path)

    town.store.write("/a", "2")
    monkeypatch.setattr(type(town.store), "list", late)
    town.update(120)
    monkeypatch.undo()
    town.same()
    assert not town.mirror.exists("/a")


def test_a_mirror_changes_nothing(town: Town) -> None:
    def chmod() -> None:
        town.mirror.chmod("/local", ["n0"])

    changes: list[Callable[[], None]] = [
        lambda: town.mirror.write("/a", "1"), lambda: town.mirror.mkdir("/a"), lambda: town.mirror.rm("/local"), chmod,
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(Refused) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert not town.store.exists("/a")


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda names: "/t/" + "/".join(names))
DONE = st.lists(st.tuples(st.sampled_from(["write", "write", "rm", "mkdir", "chmod", "look"]), PATHS), max_size=40)


@settings(deadline=None)
@given(DONE)
def test_the_mirror_is_the_store_whatever_is_done_between_two_looks(done: list[tuple[str, str]]) -> None:
    with in_memory() as xen:
        made = Town(xen)
        for number, (what, path) in enumerate(done):
            with suppress(Refused):
                match what:
                    case "write":
                        made.store.write(path, str(number % 3))
                    case "chmod":
                        made.store.chmod(path, ["n0", "r0"])
                    case "look":
                        made.mirror.update()
                    case _:
                        getattr(made.store, what)(path)
        made.update(200)
        made.same()
        values: dict[str, bytes | None] = {}
        for change in made.mirror.changes:
            assert values.get(change.path) != change.value
            values[change.path] = change.value
        made.mirror.close()
        made.root.close()


# The map of frames.


def sample(moment: float = 0.0, **more: Any) -> Sample:
    """A look."""
    return Sample(moment, more.pop("frames", Frames((), 0, 0)), **more)


def run(first: int, count: int, domid: int, mark: str = "idle", ring: str = "") -> Run:
    """Frames, of a mark in words."""
    granted, mapped = {"granted": (1, 0), "mapped": (1, 1)}.get(mark, (0, 0))
    return Run(first, count, domid, mark == "idle", granted, mapped, ring)


IDLE = "\N{MIDDLE DOT}"


def test_a_letter_for_what_each_frame_is() -> None:
    marks = [run(0, 1, 1, "held", "vif-0-tx"), run(1, 1, 1, "mapped"), run(2, 1, 1, "granted"), run(3, 1, 1, "held")]
    (line,) = frames.lines(sample(runs=(*marks, run(4, 1, 1))), None)
    assert line.marks == f"RMgo{IDLE}" + FREE * (WIDTH - 5)
    assert line.owners == (1,) * 5 + (None,) * (WIDTH - 5)
    assert line.said() == "domain 1"
    for mark, word in zip("RMgo", ("ring", "mapped", "granted", "held"), strict=True):
        assert f"{mark} {word}" in frames.LEGEND


def test_a_line_has_sixty_four_frames_of_whoever_they_are() -> None:
    runs = (run(60, 8, 1, "held"), run(70, 2, 2, "granted"), run(130, 1, 3))
    first, second, third = frames.lines(sample(runs=runs), None)
    assert (first.first, second.first, third.first) == (0, 64, 128)
    assert first.marks == FREE * 60 + "oooo"
    assert second.marks == "oooo" + FREE * 2 + "gg" + FREE * 56
    assert second.said() == "domain 1: 4, domain 2: 2"
    assert third.marks == FREE * 2 + IDLE + FREE * 61
    assert str(second).startswith("      64 \N{BOX DRAWINGS LIGHT VERTICAL} oooo  gg ")
    assert all(len(str(line)) <= line.wide for line in (first, second, third))


def test_lines_that_say_the_same_are_counted() -> None:
    found = list(frames.lines(sample(runs=(run(0, 64 * 5, 0), run(320, 64 * 2, 1), run(448, 1, 1, "held"))), None))
    assert [(line.first, line.same) for line in found] == [(0, 0), (0, 4), (320, 0), (0, 1), (448, 0)]
    assert str(found[1]).strip() == "\N{VERTICAL ELLIPSIS} 4 lines more of the same"
    assert str(found[3]).strip() == "\N{VERTICAL ELLIPSIS} 1 line more of the same"


def test_lines_with_a_gap_between_them_are_not_the_same() -> None:
    found = list(frames.lines(sample(runs=(run(0, 64, 1), run(128, 64, 1), run(192, 64, 1))), None))
    assert [(line.first, line.same) for line in found] == [(0, 0), (128, 0), (0, 1)]


def test_the_map_of_one_domain() -> None:
    runs = (run(0, 64, 0), run(64, 3, 1, "held"), run(67, 3, 2, "held"))
    (line,) = frames.lines(sample(runs=runs), None, 2)
    assert line.marks == FREE * 3 + "ooo" + FREE * 58
    assert line.said() == "domain 2"
    assert list(frames.lines(sample(runs=runs), None, 9)) == []


RUNS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 200), st.integers(0, 2)), max_size=8)


def placed(given: list[tuple[int, int, int]]) -> tuple[Run, ...]:
    """Runs one behind the other, with gaps."""
    at, found = 0, []
    for gap, count, domid in given:
        found.append(run(at + gap, count, domid, ("held", "idle", "granted")[count % 3]))
        at += gap + count
    return tuple(found)


@given(RUNS)
def test_the_map_is_every_frame_once(given: list[tuple[int, int, int]]) -> None:
    runs = placed(given)
    wanted = {number: (one.mark, one.domid) for one in runs for number in range(one.first, one.first + one.count)}
    found: dict[int, tuple[str, int]] = {}
    last = Line(0)
    for line in frames.lines(sample(runs=runs), None):
        for step in range(1, line.same + 1) if line.same else (0,):
            shown_line = last if line.same else line
            for place, owner in enumerate(shown_line.owners):
                if owner is not None:
                    found[shown_line.first + step * WIDTH + place] = shown_line.marks[place], owner
        if not line.same:
            last = line
    assert found == wanted


@given(RUNS, RUNS)
def test_frames_that_have_changed_hands(first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]) -> None:
    old, new = placed(first), placed(second)
    before, after = ({n: one.domid for n, one in owners(runs).items()} for runs in (old, new))
    wanted = {number for number, domid in after.items() if before.get(number, domid) != domid}
    assert frames.moved(sample(runs=new), sample(runs=old)) == wanted


def test_a_flip_is_seen_on_the_map_for_one_look() -> None:
    with in_memory(domains=2) as xen, xen.domain(1) as giver, xen.domain(2) as taker:
        taker.memory.decrease_reservation(taker.memory.alloc())
        (ref,) = taker.memory.accept_transfer(1)
        (frame,) = giver.memory.alloc()
        looks = [sample(runs=tables.runs(pages_table(xen.machine)))]
        giver.memory.transfer([frame], 2, [ref])
        taker.memory.end_transfer([ref])
        looks += [sample(runs=tables.runs(pages_table(xen.machine))) for _ in range(2)]
        maps = [list(frames.lines(now, before)) for before, now in pairwise(looks)]
    marks = [[(line.first, line.marks.index(MOVED)) for line in lines if MOVED in line.marks] for lines in maps]
    assert marks == [[(frame - frame % WIDTH, frame % WIDTH)], []]


def test_all_about_a_frame() -> None:
    lines = (
        "1 8 2 permit_access rw 70 2 -", "1 9 0 permit_access ro 70 0 ending", "1 10 2 permit_access rw 71 0 -",
        "2 8 1 accept_transfer rw - 0 -",
    )  # fmt: skip
    grants = Grants("\n".join(("domid ref to type access frame maps state", *lines)) + "\n")
    now = sample(runs=(run(70, 1, 1, "mapped", "vbd-0-ring"), run(80, 4, 2)), grants=grants)
    assert list(frames.about(now, 70, b"a" * 40)) == [
        "frame 70 belongs to domain 1, held, ring vbd-0-ring",
        "  grant 8 to domain 2: permit_access rw, mapped 2 times",
        "  grant 9 to domain 0: permit_access ro, not mapped, ending",
        "",
        "0000  6161 6161 6161 6161 6161 6161 6161 6161  aaaaaaaaaaaaaaaa",
        "*",
        "0020  6161 6161 6161 6161                      aaaaaaaa",
    ]
    assert list(frames.about(now, 82, None)) == [
        "frame 82 belongs to domain 2, idle", "  granted to nobody", "  its content cannot be read",
    ]  # fmt: skip
    assert list(frames.about(now, 7, b"x")) == ["frame 7 belongs to nobody"]


@given(st.lists(st.sampled_from([bytes(16), b"0123456789abcdef", b"\n\x7f\xff" * 5 + b" ", b"short"]), max_size=9))
def test_a_dump_can_be_read_back(parts: list[bytes]) -> None:
    content, back = b"".join(parts), b""
    star = False
    lines = list(frames.dump(content))
    assert all(line.isprintable() for line in lines)
    for line in lines:
        if line == "*":
            star = True
            continue
        at = int(line[:4], 16)
        if star:
            back += back[-16:] * ((at - len(back)) // 16)
        assert at == len(back)
        back, star = back + bytes.fromhex(line[6:45]), False
    if star:
        back += back[-16:] * (-(-(len(content) - len(back)) // 16))
    assert back == content


# Panes.


def rows(name: str, now: Sample, before: Sample | None = None, watched: float = 60.0) -> list[Row]:
    return panes.rows(PANES[name], now, before, watched)


def domain(domid: int, **more: Any) -> Domain:
    said = {"name": f"d{domid}", "state": "running", "owned": 512, "granted": 0, "mapped": 0, "in_flight": 0, **more}
    return Domain(domid, **said)


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
    assert alone["block"] == 0
    (same,) = rows("domains", now, now)
    assert same["block"] == 0


@pytest.mark.parametrize(("device", "key"), [(1, "net"), (2, "block"), (3, "usb")])
def test_each_kind_of_device_has_its_rate(device: int, key: str) -> None:
    before, now = looks(*(Stats(role=0, device=device, bytes_in=n) for n in (0, 600)))
    (row,) = rows("domains", now, before)
    assert {name: row[name] for name in ("net", "block", "usb")} == {"net": 0, "block": 0, "usb": 0, key: 300}


def test_a_driver_that_was_restarted_has_no_rate_yet() -> None:
    first = Stats(role=0, device=2, since=5, bytes_in=5000, events_sent=90)
    again = Stats(role=0, device=2, since=6, bytes_in=6000, events_sent=100)
    before, now = looks(first, again)
    assert rows("domains", now, before)[0]["block"] == 0
    ring = Ring(1, "vbd-0-ring", 9, 0, 0, 0, 0, 32)
    before, now = (sample(one.time, stats=one.stats, rings=(ring,)) for one in (before, now))
    assert rows("rings", now, before)[0]["events"] == 0


def test_no_rate_is_negative() -> None:
    before, now = looks(*(Stats(role=0, device=2, since=5, bytes_in=n, events_sent=n) for n in (5000, 100)))
    assert rows("domains", now, before)[0]["block"] == 0
    assert rows("domains", before, now)[0]["block"] == 0  # time that goes backwards


def test_what_backends_count_is_not_the_guests() -> None:
    before, now = looks(*(Stats(role=1, device=2, bytes_in=n) for n in (0, 100)))
    assert rows("domains", now, before)[0]["block"] == 0


def ring(req_prod: int, rsp_prod: int = 0, *, req_event: int = 0, rsp_event: int = 0, frame: int = 9) -> Ring:
    return Ring(1, "vbd-0-ring", frame, req_prod, req_event, rsp_prod, rsp_event, 32)


def turned(old: Ring, new: Ring, seconds: float = 2.0) -> Row:
    """The row of a ring after it has turned."""
    (row,) = rows("rings", sample(seconds, rings=(new,)), sample(0.0, rings=(old,)))
    return row


def test_a_ring_turns_so_fast() -> None:
    assert turned(ring(10), ring(30))["requests"] == 10
    assert turned(ring((1 << 32) - 5), ring(15))["requests"] == 10, "indices wrap at 2^32"
    assert turned(ring(30), ring(10))["requests"] == 0, "a frontend that was restarted begins at 0"
    assert turned(ring(10), ring(30, frame=8))["requests"] == 0, "another page is another ring"
    assert rows("rings", sample(1.0, rings=(ring(30),)))[0]["requests"] == 0


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
    assert rows("rings", now, sample(0.0, rings=(ring(0),)))[0]["events"] == 0


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
    assert waiting["why"] == f"frontend is to {waiting['front_waits']}; backend is to {waiting['back_waits']}"
    assert (waiting["front_since"], waiting["back_since"]) == ("3s", ">60s")
    wrong = Finding("error", "no-ring", "echo 1/0", "it has none")
    assert device(state.Connected, state.Connected, wrong)["why"] == "error: echo 1/0: it has none [no-ring]"
    assert device(None, state.Unknown)["front"] == "no state"


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


def test_every_pane_says_what_it_is_and_can_be_empty() -> None:
    for name, pane in PANES.items():
        assert pane.name == name
        assert pane.about
        assert rows(name, sample()) == []
        assert list(text.table(pane, []))
        known = {"domid", "kind", *(column.key for column in pane.columns), "front", "back"}
        assert set(pane.sorts) <= known


# As text, and as JSON.


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
        written = [[text.plain(cell) for cell in panes.cells(pane, row)] for row in found]
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


def test_json_has_numbers_as_numbers() -> None:
    names = [*PANES, text.TRACE]
    call = {"seq": 1, "time": 4_000_000_000, "domid": 1, "op": "alloc_frame", "in": {}, "out": {"frame": 7}}
    events = [Event(4.0, 1, "a call", call), Event(4.5, -1, "a node")]
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
    assert said["trace"] == [call, {"time": 4.5, "store": "a node"}]
    assert said["store"][0]["value"].startswith("\x1b]0;title")


# The trace.


def called(seq: int, op: str, domid: int = 1, handle: int = 3, **more: Any) -> dict[str, Any]:
    """A record, as the hypervisor has it."""
    taken = more.pop("taken", {})
    return {
        "seq": seq, "time": seq * 1_000_000_000, "domid": domid, "handle": handle, "op": op, "in": taken, **more,
    }  # fmt: skip


def event(said: dict[str, Any]) -> Event:
    return Event(said["time"] / 1e9, said["domid"], readable(said), said)


NAMED = called(
    1, "name_ring", handle=3, taken={"frame": 7, "name": "vif-0-tx"}, out={},
)  # fmt: skip
GRANTED = called(2, "grant_access", handle=3, taken={"frame": 7, "dom": 0, "flags": 0}, out={"ref": 8})
MAPPED = called(3, "map_grant_ref", 0, 5, taken={"dom": 1, "ref": 8, "flags": 2}, out={"handle": 1})
OTHER = called(4, "alloc_frame", 2, 4, out={"frame": 9})
CALLS = [event(said) for said in (NAMED, GRANTED, MAPPED, OTHER)]
NODES = [
    of_change(Change(moment, path, b"4"))
    for moment, path in (
        (1.5, "/local/domain/1/device/vif/0/state"), (2.5, "/local/domain/0/backend/vif/1/0/state"),
        (3.5, "/local/domain/1/device/vif/01/state"), (3.6, "/local/domain/0/backend/vif/0/1/state"),
        (3.7, "/local/domain/2/device/vbd/0/state"), (3.8, "/tool/vif-0"),
    )
]  # fmt: skip


def filtered(words: str) -> list[float]:
    """When what is shown was."""
    return [one.time for one in shown(list(CALLS), list(NODES), words)]


def test_calls_and_changes_in_the_order_of_time() -> None:
    assert filtered("") == sorted([1, 2, 3, 4, 1.5, 2.5, 3.5, 3.6, 3.7, 3.8])


def test_the_trace_of_a_domain() -> None:
    assert filtered("1") == [1, 1.5, 2, 3.5]
    assert filtered("0") == [2.5, 3, 3.6]
    assert filtered("77") == []


def test_the_trace_of_a_device_has_both_its_ends() -> None:
    assert filtered("vif-0") == [1, 1.5, 2, 2.5, 3]
    assert filtered("vif-1") == [3.6]
    assert filtered("vbd-0") == [3.7]


def test_the_trace_by_a_part_of_its_text() -> None:
    assert filtered("alloc_frame") == [4]
    assert filtered("/tool") == [3.8]
    assert filtered("\N{SUPERSCRIPT TWO}") == []
    assert filtered("vif-\N{SUPERSCRIPT TWO}") == []
    assert filtered("[-0") == []


def test_a_change_of_the_store_in_a_line() -> None:
    changes = (
        Change(0.25, "/local/domain/3/state", b"4"), Change(1.0, "/local/domain/3", None),
        Change(2.0, "/tool/x", b"\x1b\xff"), Change(3.0, "/local/domain", b""),
    )  # fmt: skip
    found = [of_change(change) for change in changes]
    assert [one.domid for one in found] == [3, 3, -1, -1]
    assert [one.text.partition("  store  ")[2] for one in found] == [
        "/local/domain/3/state = '4'", "/local/domain/3 removed", "/tool/x = '\\x1b\\\\xff'", "/local/domain = ''",
    ]  # fmt: skip
    assert ".250000" in found[0].text


def pipe(folder: Path, past: str) -> None:
    """A trace and its pipe."""
    (folder / "hypervisor").mkdir()
    (folder / "hypervisor" / "trace").write_text(past)
    os.mkfifo(folder / "hypervisor" / "trace_pipe")


def test_the_trace_of_a_device_that_was_there_before(tmp_path: Path) -> None:
    pipe(tmp_path, "".join(f"{json.dumps(said)}\n" for said in (NAMED, GRANTED, OTHER)))
    with closing(Feed(str(tmp_path))) as made:
        assert made.past == [NAMED, GRANTED]
        assert list(made.events) == []
        later = event(called(9, "alloc_frame", handle=3, out={"frame": 11}))
        calls = [event(MAPPED), event(OTHER), later]
        assert [one.time for one in shown(calls, [], "vif-0", made.past)] == [3, 9]
        assert shown(calls, [], "vif-0") == []


def test_the_pipe_is_read_as_it_comes_and_never_waited_for(tmp_path: Path) -> None:
    pipe(tmp_path, "")
    with closing(Feed(str(tmp_path))) as made:
        writer = os.open(tmp_path / "hypervisor" / "trace_pipe", os.O_WRONLY)
        assert made.update() == 0
        line = json.dumps(OTHER).encode()
        os.write(writer, line[:20])
        assert (made.update(), list(made.events)) == (0, [])
        os.write(writer, line[20:] + b"\n" + b'{"lost": 3}\n' + line[:5])
        assert made.update() == 2
        assert [one.domid for one in made.events] == [2, -1]
        assert made.events[0].said == OTHER
        assert made.events[1].text == "(3 calls lost)"
        os.write(writer, line[5:] + b"\n")
        assert made.update() == 1
        os.close(writer)
        assert made.update() == 0
