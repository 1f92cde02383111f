"""A machine lives through random lives beside a naive model of it; after every step both must agree and add up.

Longer: XENFS_HYPOTHESIS=long python -m pytest tests/property/test_machine.py
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.property.choices import DICE, EVENTS, FLIPS, GRANTS, LIVES, MEMORY, Dice, Make
from tests.property.naive import Naive
from tests.property.things import CONFIG, DOOR, HEAD
from xenfs.abi import event_channel as ec
from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.wire import Wire
from xenfs.hypervisor import Machine
from xenfs.hypervisor import errors as e
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.state import Domain, Frame, Grant, Handle, Mapping, Port, Ring
from xenfs.hypervisor.table import BY_REQUEST
from xenfs.hypervisor.trace import Record
from xenfs.hypervisor.world import ByteContents, EventCounts


class Marks(ByteContents):
    """Contents that can be looked at without being touched."""

    def head(self, frame: int) -> bytes:
        page = self._pages.get(frame)
        return bytes(HEAD) if page is None else bytes(page[:HEAD])


class Life(RuleBasedStateMachine):
    """One machine, its naive model, and what every mapping saw when it was made."""

    config = CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.contents, self.lines = Marks(), EventCounts()
        self.machine = Machine(self.config, contents=self.contents, lines=self.lines)
        self.state, self.naive = self.machine.state, Naive(lingering=self.config.lingering_maps)
        self.naive.live[0], self.naive.most[0] = 0, CONFIG.frames
        self.naive.grow(0, CONFIG.dom0_frames)
        self.views: dict[Mapping, tuple[Domain, bytearray]] = {}
        self.writes = 0

    def do(self, make: Make, dice: Dice) -> None:
        naive = self.naive
        domid = dice.of(sorted(naive.live), (9,))
        me = naive.live.get(domid, 0)
        handle = dice.of((0, *naive.open(me)), (99,))
        self.call(make(dice, naive, me), domid, handle)

    def call(self, request: Wire, domid: int = 0, handle: int = 0) -> None:
        """Make a call; both models must agree on how it ends, and a refusal must change nothing."""
        row = BY_REQUEST[type(request)]
        note(f"{row.name} by domain {domid} through {handle}: {request}")
        before = snapshot(self.machine)
        expected = self.predict(row.name, domid, handle, request, row.access.name)
        answer: Wire | e.HypercallError
        try:
            answer = self.machine.call(request, domid, handle, world=row.access.name == "WORLD")
        except e.HypercallError as error:
            answer = error
        if isinstance(answer, e.HypercallError):
            assert type(answer) is expected, f"{request}: {answer!r}, the naive model says {expected}"
            assert isinstance(answer, (*row.errors, *DOOR)), f"{row.name} may not fail with {answer!r}"
            assert snapshot(self.machine) == before, f"{request} was refused and changed something"
            return
        assert isinstance(expected, dict), f"{request} succeeded, the naive model says {expected}"
        assert {name: getattr(answer, name) for name in expected} == expected
        if isinstance(answer, gt.MapGrantRef):
            mapping = self.state.domains[domid].maps[answer.handle]
            self.views[mapping] = (mapping.frame.owner, self.contents.page(mapping.frame.number))

    def predict(self, op_name: str, domid: int, handle: int, request: Wire, access: str) -> Any:
        if domid not in self.naive.live:
            return e.NoSuchDomain
        me = self.naive.live[domid]
        if handle and handle not in self.naive.open(me):
            return e.NoSuchHandle
        if access == "CONTROL" and me:
            return e.NotPermitted
        try:
            return getattr(self.naive, op_name)(me, ("handle", handle) if handle else ("root", me), request)
        except e.HypercallError as error:
            return type(error)

    @initialize(frames=st.tuples(st.integers(0, 20), st.integers(4, 12)))
    def begin(self, frames: tuple[int, int]) -> None:
        for domid, count in enumerate(frames, 1):
            self.call(op.CreateDomain(dom=domid, frames=count, max_frames=count + 4))
            self.call(op.OpenHandle(), domid)

    @rule(kind=st.sampled_from(sorted(LIVES)), dice=DICE)
    def live(self, kind: str, dice: Dice) -> None:
        self.do(LIVES[kind], dice)

    @rule(kind=st.sampled_from([*sorted(MEMORY), "alloc"]), dice=DICE)
    def balloon(self, kind: str, dice: Dice) -> None:
        self.do(MEMORY[kind], dice)

    @rule(kind=st.sampled_from([*sorted(GRANTS), *["grant", "map"]]), dice=DICE)
    def grant(self, kind: str, dice: Dice) -> None:
        self.do(GRANTS[kind], dice)

    @rule(kind=st.sampled_from(sorted(FLIPS)), dice=DICE)
    def flip(self, kind: str, dice: Dice) -> None:
        self.do(FLIPS[kind], dice)

    @rule(kind=st.sampled_from([*sorted(EVENTS), *["bind", "send", "unbound"]]), dice=DICE)
    def signal(self, kind: str, dice: Dice) -> None:
        self.do(EVENTS[kind], dice)

    @rule(dice=DICE)
    def write(self, dice: Dice) -> None:
        """A domain stores a marker in a frame of its own or one that it maps writable."""
        me = dice.of(list(self.naive.live.values()), (0,))
        mapped = [t.frame for t in self.naive.of("map", me) if t.frame is not None and not t.readonly]
        frame = dice.of([*mapped, *self.naive.owned(me)], (0,))
        if frame in mapped or self.naive.owner[frame] == me:
            self.writes += 1
            marker = bytes([me + 1, self.writes % 256, *b"marker"])
            self.contents.page(frame)[:8] = marker
            self.naive.write(frame, 0, marker)

    def everyone(self) -> list[Domain]:
        """The living, the dying, and the dead of which only handles are left."""
        domains = [*self.state.domains.values(), *self.state.dying, *(h.domain for h in self.state.closing)]
        return list(dict.fromkeys(domains))

    @invariant()
    def it_all_adds_up(self) -> None:
        self.every_frame_is_free_or_has_one_owner()
        self.idle_and_busy_frames_are_all_of_a_domain()
        self.counts_add_up()
        self.mappings_see_the_same_page_of_the_same_owner()
        self.bytes_are_those_that_somebody_allowed_wrote()
        self.ports_are_paired_or_alone()
        self.every_resource_is_listed_by_its_one_handle()
        self.only_mapped_frames_are_left_of_the_dead()
        self.the_naive_model_agrees()

    def every_frame_is_free_or_has_one_owner(self) -> None:
        placed = [n for frames in (self.state.free, *(d.frames for d in self.everyone())) for n in frames]
        assert sorted(placed) == list(range(CONFIG.frames))

    def idle_and_busy_frames_are_all_of_a_domain(self) -> None:
        for domain in self.everyone():
            busy = [n for n, f in self.state.busy.items() if f.owner is domain]
            assert sorted([*domain.idle, *busy]) == list(domain.frames)
        assert all(f.number == n and (f.use or f.holder) for n, f in self.state.busy.items())

    def counts_add_up(self) -> None:
        grants, maps = Counter[Frame](), Counter[Frame]()
        readers, writers = Counter[Grant](), Counter[Grant]()
        for domain in self.everyone():
            access = [g for g in domain.grants.values() if g.type is gt.Gtf.permit_access]
            offers = [g for g in domain.grants.values() if g.type is gt.Gtf.accept_transfer]
            assert domain.granted == len(access)
            assert domain.in_flight == sum(g.frame is None for g in offers)
            grants.update(g.frame for g in access if g.frame)
            for mapping in domain.maps.values():
                maps[mapping.frame] += 1
                (readers if mapping.readonly else writers)[mapping.grant] += 1
            for taken, table in (
                (domain.refs, domain.grants),
                (domain.map_numbers, domain.maps),
                (domain.port_numbers, domain.ports),
            ):
                assert taken.in_use == len(table) <= taken.count
            assert all(g.domain is domain and g.ref == n for n, g in domain.grants.items())
        for frame in self.state.busy.values():
            assert (frame.grants, frame.maps) == (grants.pop(frame, 0), maps.pop(frame, 0))
        assert not grants
        assert not maps
        for grant in (g for domain in self.everyone() for g in domain.grants.values()):
            assert (grant.readers, grant.writers) == (readers.pop(grant, 0), writers.pop(grant, 0))
            assert grant.maps or not grant.ending
        assert not readers
        assert not writers

    def mappings_see_the_same_page_of_the_same_owner(self) -> None:
        for mapping in (m for domain in self.everyone() for m in domain.maps.values()):
            owner, page = self.views[mapping]
            assert self.state.busy[mapping.frame.number] is mapping.frame
            assert mapping.frame is mapping.grant.frame
            assert mapping.frame.owner is owner is mapping.grant.domain
            assert self.contents.page(mapping.frame.number) is page

    def bytes_are_those_that_somebody_allowed_wrote(self) -> None:
        for frame, owner in self.naive.owner.items():
            seen, written = self.contents.head(frame), self.naive.head(frame)
            if frame not in self.state.busy and owner is not None and not any(seen):
                self.naive.heads.pop(frame, None)
            else:
                assert seen == written, f"frame {frame} reads {seen!r}"

    def ports_are_paired_or_alone(self) -> None:
        lines: list[int] = []
        for domain in self.everyone():
            for number, port in domain.ports.items():
                assert (port.number, port.domain) == (number, domain)
                assert (port.peer is not None) is (port.state is ec.PortState.interdomain)
                assert port.peer is None or port.peer.peer is port
                assert port.state not in (ec.PortState.closed, ec.PortState.pirq)
            virqs = {(p.virq, p.vcpu): p for p in domain.ports.values() if p.state is ec.PortState.virq}
            assert domain.virqs == virqs
            lines += [p.line for p in domain.ports.values()]
        lines += [p.line for p in self.ghosts()]
        assert sorted(lines) == sorted(self.lines.events)

    def listed(self) -> Iterator[tuple[Frame | Ring | Grant | Mapping | Port, Handle]]:
        handles = [*self.state.closing, *(d.root for d in self.everyone()), *self.state.handles.values()]
        for handle in dict.fromkeys(handles):
            assert not handle.closed or handle in self.state.closing or not handle.owns
            yield from ((thing, handle) for thing in handle.owns)

    def left_behind(self, mapping: Mapping) -> bool:
        """Whether a dead domain's mapping only waits for the world to release it."""
        return mapping.domain in self.state.dying and mapping not in mapping.handle.owns

    def ghosts(self) -> list[Port]:
        """Ports that a reset took away and that wait to be released."""
        things = (t for h in self.state.closing if h.number < 0 for t in h.owns)
        return [t for t in things if isinstance(t, Port) and t.domain.ports.get(t.number) is not t]

    def every_resource_is_listed_by_its_one_handle(self) -> None:
        listed = Counter(self.listed())
        expected = Counter[Any]()
        for domain in self.everyone():
            owned: list[Ring | Mapping | Port | Grant] = [*domain.rings.values(), *domain.ports.values()]
            owned += [m for m in domain.maps.values() if not (m.handle.closed and self.left_behind(m))]
            owned += [g for g in domain.grants.values() if not g.ending]
            expected.update((thing, thing.handle) for thing in owned)
        expected.update((f, f.holder) for f in self.state.busy.values() if f.holder)
        expected.update((port, port.handle) for port in self.ghosts())
        assert listed == expected
        assert set(listed.values()) <= {1}

    def only_mapped_frames_are_left_of_the_dead(self) -> None:
        if not self.state.closing:
            for domain in self.state.dying:
                assert not any((domain.ports, domain.rings, domain.handles, domain.idle))
                assert all(grant.ending for grant in domain.grants.values())
                assert all(self.state.busy[n].maps for n in domain.frames)
                assert domain.frames or domain.maps
                assert self.config.lingering_maps or not domain.maps

    def the_naive_model_agrees(self) -> None:
        naive = self.naive
        assert {d: set(x.frames) for d, x in self.state.domains.items()} == {
            d: set(naive.owned(who)) for d, who in naive.live.items()
        }
        for domid, who in naive.live.items():
            domain = self.state.domains[domid]
            assert list(domain.idle) == naive.idle(who)
            assert {
                (g.ref, g.grantee, g.readonly, g.ending, g.frame and g.frame.number) for g in domain.grants.values()
            } == {(t.number, t.to, t.readonly, t.ending, t.frame) for t in naive.of("grant", who)}
            assert {(m.number, m.readonly, m.frame.number) for m in domain.maps.values()} == {
                (t.number, t.readonly, t.frame) for t in naive.of("map", who)
            }
            assert {
                (p.number, p.state.name, p.virq or p.remote_domid, p.peer and p.peer.number, self.lines.events[p.line])
                for p in domain.ports.values()
            } == {(t.number, t.state, t.to, t.of and t.of.number, t.events) for t in naive.of("port", who)}
            assert {(r.name, r.frame.number) for r in domain.rings.values()} == {
                (t.number, t.frame) for t in naive.of("ring", who)
            }

    def teardown(self) -> None:
        self.machine.settle()
        self.naive.go_on(1 << 20)
        self.it_all_adds_up()
        records = [Record.parse(record.line()) for record in self.machine.trace.since(0)[1]]
        again = Machine.replay(self.config, records)
        assert snapshot(again) == snapshot(self.machine)
        wind_down(again)


def wind_down(machine: Machine) -> None:
    """End everything but domain 0: nothing may be left, and all memory is back."""
    state = machine.state
    for domid in [d for d in state.domains if d]:
        machine.call(op.DestroyDomain(dom=domid))
    machine.settle()
    for handle in list(state.handles):
        machine.call(op.CloseHandle(handle=handle), world=True)
    machine.settle()
    for serial in list(state.mappings):
        machine.call(op.ReleaseMapping(mapping=serial), world=True)
    assert not state.dying
    assert len(state.free) + len(state.domains[0].frames) == CONFIG.frames
    assert all(frame.owner.domid == 0 for frame in state.busy.values())
    assert all(not grant.maps for grant in state.domains[0].grants.values())
    assert all(port.peer is None or port.peer.domain.domid == 0 for port in state.domains[0].ports.values())


PROFILE = os.environ.get("XENFS_HYPOTHESIS", "short")
QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
settings.register_profile(
    "short",
    max_examples=200,
    stateful_step_count=80,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=QUIET,
)
settings.register_profile(
    "long", max_examples=2000, stateful_step_count=150, deadline=None, database=None, suppress_health_check=QUIET
)
TestMachine = Life.TestCase
TestMachine.settings = settings.get_profile(PROFILE)


class LingeringLife(Life):
    """The machine of the mount, where what the dead mapped waits for their processes."""

    config = replace(CONFIG, lingering_maps=True)


TestLingeringMachine = LingeringLife.TestCase
TestLingeringMachine.settings = settings.get_profile(PROFILE)
pytestmark = pytest.mark.timeout(900 if PROFILE == "short" else 0)  # it is the shrinking of a failure that takes long
