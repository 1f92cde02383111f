"""What the filesystem alone may ask of the machine, about ports, grants and mappings of a domain."""

from __future__ import annotations

import pytest

from xenfs.abi.event_channel import AllocUnbound, Status
from xenfs.abi.grant_table import MapGrantRef
from xenfs.abi.xenfs_op import (
    AllocFrame,
    CloseHandle,
    CreateDomain,
    DestroyDomain,
    EndAccess,
    FreeFrame,
    GrantAccess,
    KeepPort,
    OpenHandle,
    ReachGrant,
    ReleaseMapping,
)
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import BadGrantRef, BadMapping, BadPort, FrameInUse, GrantInUse, GrantRefused, NotOwned


@pytest.fixture
def machine() -> Machine:
    made = Machine(Config(frames=64, dom0_frames=16, lingering_maps=True))
    for domid in (1, 2):
        made.call(CreateDomain(dom=domid, frames=8))
    return made


def granted(machine: Machine, flags: int = 0) -> tuple[int, int]:
    """A frame of domain 1 and its grant to domain 2."""
    frame = machine.call(AllocFrame(), 1).frame
    return frame, machine.call(GrantAccess(frame=frame, dom=2, flags=flags), 1).ref


def mapped(machine: Machine, ref: int) -> int:
    """The serial of a mapping that domain 2 makes."""
    handle = machine.call(MapGrantRef(dom=1, ref=ref, flags=2), 2, world=True).handle
    return machine.state.domains[2].maps[handle].serial


def test_a_kept_port_outlives_its_handle(machine: Machine) -> None:
    handle = machine.call(OpenHandle(), 1, world=True).handle
    ports = [machine.call(AllocUnbound(remote_dom=2), 1, handle).port for _ in range(2)]
    machine.call(KeepPort(port=ports[0]), 1, world=True)
    machine.call(CloseHandle(handle=handle), 1, world=True)
    assert machine.call(Status(port=ports[0]), 1).status == 1
    assert machine.call(Status(port=ports[1]), 1).status == 0
    with pytest.raises(BadPort):
        machine.call(KeepPort(port=ports[1]), 1, world=True)
    machine.call(DestroyDomain(dom=1))
    machine.settle()
    assert not machine.state.dying


def test_a_grant_is_reached_as_it_allows(machine: Machine) -> None:
    frame, ref = granted(machine)
    readonly, other = granted(machine, 4)
    assert machine.call(ReachGrant(dom=1, ref=ref, flags=1), 2, world=True).frame == frame
    assert machine.call(ReachGrant(dom=1, ref=other), 2, world=True).frame == readonly
    for request, domid, error in (
        (ReachGrant(dom=1, ref=other, flags=1), 2, GrantRefused),
        (ReachGrant(dom=1, ref=ref), 0, GrantRefused),
        (ReachGrant(dom=1, ref=31_999_999), 2, BadGrantRef),
    ):
        with pytest.raises(error):
            machine.call(request, domid, world=True)
    machine.call(EndAccess(ref=ref), 1)


def test_a_dead_domains_mapping_waits_to_be_released(machine: Machine) -> None:
    frame, ref = granted(machine)
    serial = mapped(machine, ref)
    machine.call(DestroyDomain(dom=2))
    machine.settle()
    assert [domain.domid for domain in machine.state.dying] == [2]
    with pytest.raises(GrantInUse):
        machine.call(EndAccess(ref=ref), 1)
    machine.call(ReleaseMapping(mapping=serial), world=True)
    assert not machine.state.dying
    with pytest.raises(BadMapping):
        machine.call(ReleaseMapping(mapping=serial), world=True)
    machine.call(EndAccess(ref=ref), 1)
    machine.call(FreeFrame(frame=frame), 1)


def test_both_ends_of_a_mapping_may_die_in_either_order(machine: Machine) -> None:
    for first, second in ((1, 2), (2, 1)):
        _, ref = granted(machine)
        serial = mapped(machine, ref)
        for domid in (first, second):
            machine.call(DestroyDomain(dom=domid))
            machine.settle()
        assert {domain.domid for domain in machine.state.dying} == {1, 2}
        machine.call(ReleaseMapping(mapping=serial), world=True)
        assert not machine.state.dying
        for domid in (1, 2):
            machine.call(CreateDomain(dom=domid, frames=8))


def test_a_frame_freed_with_defer_goes_with_its_last_use(machine: Machine) -> None:
    frame, ref = granted(machine)
    serial = mapped(machine, ref)
    with pytest.raises(FrameInUse):
        machine.call(FreeFrame(frame=frame), 1)
    machine.call(FreeFrame(frame=frame, flags=1), 1)
    machine.call(EndAccess(ref=ref, flags=1), 1)
    assert frame in machine.state.busy
    machine.call(ReleaseMapping(mapping=serial), world=True)
    assert frame in machine.state.domains[1].idle
    with pytest.raises(NotOwned):
        machine.call(FreeFrame(frame=frame, flags=1), 2)
