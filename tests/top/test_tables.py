"""The tables of hypervisor/, read back."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xentop import tables
from xentop.tables import Grant, Grants, Named, PortLine

from tests.top.samples import owners
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain import Refused
from xenfs.domain.inprocess import InProcessDomain, InProcessXen
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.tables import grants_table, pages_table, ports_table, rings_table
from xenfs.testing import in_memory

pytestmark = pytest.mark.timeout(120)


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
