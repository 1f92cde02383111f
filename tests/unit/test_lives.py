"""Lives: domains and handles begin and end; what they leave is released bit by bit."""

from __future__ import annotations

import errno
from typing import TypeVar

import pytest

from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, Status
from xenfs.abi.grant_table import MapGrantRef, UnmapGrantRef
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import (
    AllocFrame,
    CloseHandle,
    CreateDomain,
    CurrentReservation,
    DestroyDomain,
    GrantAccess,
    IncreaseReservation,
    NameRing,
    OpenHandle,
    Reap,
    RenameDomain,
    ShutdownDomain,
)
from xenfs.hypervisor import Config, Limits, Machine
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import frames_table, snapshot
from xenfs.hypervisor.state import Domain
from xenfs.hypervisor.world import ByteContents, EventCounts

R = TypeVar("R", bound=Wire)
FIRST = 16
"""The first frame of domain 1; domain 2 begins at 24."""


class Land:
    """A machine of 48 frames, 16 of them free, with domains 1 and 2; four resources are released in one go."""

    def __init__(self) -> None:
        self.contents, self.lines = ByteContents(), EventCounts()
        config = Config(frames=48, dom0_frames=16, limits=Limits(handles=3), slice=4)
        self.machine = Machine(config, contents=self.contents, lines=self.lines)
        self.state = self.machine.state
        for dom in (1, 2):
            self.machine.call(CreateDomain(dom=dom, frames=8))

    def __call__(self, request: R, domid: int = 0, handle: int = 0) -> R:
        world = isinstance(request, (OpenHandle, CloseHandle, Reap, MapGrantRef, UnmapGrantRef))
        return self.machine.call(request, domid, handle, world=world)

    def refuses(self, request: Wire, domid: int = 0, handle: int = 0, world: bool = False) -> str:
        before = snapshot(self.machine)
        with pytest.raises(HypercallError) as caught:
            self.machine.call(request, domid, handle, world=world)
        assert snapshot(self.machine) == before
        return errno.errorcode[caught.value.errno]

    def open(self, domid: int = 1) -> int:
        return self(OpenHandle(), domid).handle

    def mapped(self, handle: int = 0, frame: int = FIRST) -> int:
        """A grant of domain 1 that domain 2 maps; answers the mapping."""
        ref = self(GrantAccess(frame=frame, dom=2), 1).ref
        return self(MapGrantRef(ref=ref, dom=1), 2, handle).handle

    def unmap(self, mapping: int) -> None:
        self(UnmapGrantRef(handle=mapping), 2)

    def dying(self) -> list[Domain]:
        return self.state.dying


@pytest.fixture
def land() -> Land:
    return Land()


def test_a_domain_begins_with_its_frames_and_may_own_no_more(land: Land) -> None:
    assert land(CreateDomain(frames=5)).domid == 3
    domain = land.state.domains[3]
    assert (len(domain.frames), len(domain.idle), domain.max_frames, domain.state) == (5, 5, 5, "running")
    assert land.refuses(IncreaseReservation(), 3) == "ENOMEM"


def test_the_lowest_free_number_and_a_name_made_of_it_are_given(land: Land) -> None:
    land(DestroyDomain(dom=1))
    assert [land(CreateDomain(frames=1)).domid for _ in range(2)] == [1, 3]
    assert land.state.domains[3].name == "domain-3"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (CreateDomain(dom=1, frames=1), "EEXIST"),
        (CreateDomain(dom=0, frames=1), "EEXIST"),
        (CreateDomain(dom=0x7FF0, frames=1), "EINVAL"),
        (CreateDomain(dom=0xFFFE, frames=1), "EINVAL"),
        (CreateDomain(frames=1, name="domain-2"), "EEXIST"),
        (CreateDomain(frames=17), "ENOMEM"),
        (CreateDomain(frames=4, max_frames=3), "ENOMEM"),
        (RenameDomain(dom=1, name="domain-2"), "EEXIST"),
        (RenameDomain(dom=1, name="Domain-0"), "EEXIST"),
        (RenameDomain(dom=1, name=""), "EINVAL"),
        (RenameDomain(dom=9, name="x"), "ESRCH"),
        (ShutdownDomain(dom=1, reason=99), "EINVAL"),
        (ShutdownDomain(dom=9), "ESRCH"),
        (DestroyDomain(dom=9), "ESRCH"),
        (DestroyDomain(dom=0), "EPERM"),
    ],
)
def test_what_no_domain_can_be_is_refused_with_nothing_made(land: Land, request_: Wire, error: str) -> None:
    assert land.refuses(request_) == error


@pytest.mark.parametrize(
    "request_", [CreateDomain(frames=1), DestroyDomain(dom=2), RenameDomain(dom=2, name="x"), ShutdownDomain(dom=2)]
)
def test_guests_do_not_rule_over_domains(land: Land, request_: Wire) -> None:
    assert land.refuses(request_, 1) == "EPERM"


@pytest.mark.parametrize("request_", [OpenHandle(), CloseHandle(handle=1), Reap(budget=1), MapGrantRef(ref=8, dom=1)])
@pytest.mark.parametrize("domid", [0, 1])
def test_handles_and_mappings_are_the_filesystems(land: Land, request_: Wire, domid: int) -> None:
    land.open(domid)
    assert land.refuses(request_, domid) == "EPERM"


def test_a_name_is_free_again_after_a_rename_or_a_death(land: Land) -> None:
    land(RenameDomain(name="web"), 1)
    assert land(CreateDomain(frames=1, name="domain-1")).domid == 3
    land(DestroyDomain(dom=1))
    land(RenameDomain(dom=2, name="web"))
    assert land.state.domains[2].name == "web"


def test_a_domain_may_be_given_the_name_it_has(land: Land) -> None:
    land(RenameDomain(dom=1, name="domain-1"))
    assert land.state.domains[1].name == "domain-1"


@pytest.mark.parametrize(("reason", "state"), [(0, "poweroff"), (1, "reboot"), (2, "suspend"), (3, "crash")])
def test_a_domain_that_stopped_keeps_everything(land: Land, reason: int, state: str) -> None:
    land.mapped()
    before = len(land.state.domains[1].frames), len(land.state.domains[1].grants)
    land(ShutdownDomain(reason=reason), 1)
    assert land.state.domains[1].state == state
    assert (len(land.state.domains[1].frames), len(land.state.domains[1].grants)) == before


def test_calls_as_nobody_and_through_nothing_are_refused(land: Land) -> None:
    assert land.refuses(CurrentReservation(), 9) == "ESRCH"
    assert land.refuses(CurrentReservation(), 1, 99) == "EBADF"
    assert land.refuses(CurrentReservation(), 2, land.open(1)) == "EBADF"


def test_handle_numbers_never_come_again(land: Land) -> None:
    first = land.open()
    land(CloseHandle(handle=first), 1)
    assert land.open() > first
    assert land.refuses(CurrentReservation(), 1, first) == "EBADF"
    assert land.refuses(CloseHandle(handle=first), 1, world=True) == "EBADF"


def test_a_domain_has_so_many_handles_and_no_more(land: Land) -> None:
    handles = [land.open() for _ in range(3)]
    assert land.refuses(OpenHandle(), 1, world=True) == "EMFILE"
    land.open(2)
    land(CloseHandle(handle=handles[0]), 1)
    land.open()


def test_nobody_closes_anothers_handle_but_domain_0(land: Land) -> None:
    handle = land.open(1)
    assert land.refuses(CloseHandle(handle=handle), 2, world=True) == "EBADF"
    land(CloseHandle(handle=handle), 0)
    assert handle not in land.state.handles


def test_the_root_handle_cannot_be_closed(land: Land) -> None:
    assert land.refuses(CloseHandle(handle=0), 1, world=True) == "EBADF"


def test_a_handle_releases_a_slice_at_the_close_and_the_rest_when_reaped(land: Land) -> None:
    handle = land.open()
    for _ in range(7):
        land(AllocFrame(), 1, handle)
    land(CloseHandle(handle=handle), 1)
    assert len(land.state.domains[1].idle) == 1 + 4
    assert land(Reap(budget=2)).left == 1
    assert len(land.state.domains[1].idle) == 1 + 6
    assert land(Reap(budget=2)).left == 0
    assert len(land.state.domains[1].idle) == 8


def test_resources_go_last_allocated_first(land: Land) -> None:
    handle = land.open()
    frames = [land(AllocFrame(), 1, handle).frame for _ in range(6)]
    land(CloseHandle(handle=handle), 1)
    assert [f in land.state.domains[1].idle for f in frames] == [False, False, True, True, True, True]


def test_a_handle_waits_for_those_closed_before_it(land: Land) -> None:
    first, second = land.open(), land.open()
    for handle in (second, *[first] * 7):
        land(AllocFrame(), 1, handle)
    land(CloseHandle(handle=first), 1)
    waiting = {n for n, frame in land.state.busy.items() if frame.holder}
    assert waiting == {FIRST, FIRST + 1, FIRST + 2, FIRST + 3}
    land(CloseHandle(handle=second), 1)
    assert not land.state.busy


def test_settle_finishes_and_reap_says_whether_there_is_more(land: Land) -> None:
    for _ in range(7):
        land(AllocFrame(), 1)
    land(DestroyDomain(dom=1))
    assert land.state.closing
    land.machine.settle()
    assert not land.state.closing
    assert not land.machine.reap()


def test_a_dead_domain_is_gone_at_once_and_its_frames_are_free_and_scrubbed(land: Land) -> None:
    land.contents.page(FIRST)[:6] = b"secret"
    land(DestroyDomain(dom=1))
    assert 1 not in land.state.domains
    assert len(land.state.free) == 24
    assert land.contents.page(FIRST)[:6] == bytes(6)
    assert not land.dying()


def test_death_releases_every_kind_of_resource(land: Land) -> None:
    handle = land.open(2)
    mapping_owner_port = land(AllocUnbound(remote_dom=2), 1).port
    land(BindInterdomain(remote_dom=1, remote_port=mapping_owner_port), 2, handle)
    land.mapped(handle)
    land(NameRing(frame=24, name="vif-0-tx"), 2, handle)
    land(AllocFrame(), 2)
    land(GrantAccess(frame=26, dom=1), 2)
    land(DestroyDomain(dom=2))
    land.machine.settle()
    assert not land.dying()
    assert len(land.state.free) == 24
    assert land.state.busy[FIRST].maps == 0
    status = land(Status(port=mapping_owner_port), 1)
    assert (status.status, status.remote_dom) == (1, 2)
    assert len(land.lines.events) == 1


def test_a_mapped_frame_keeps_its_dead_owner_among_the_dying_until_the_last_unmap(land: Land) -> None:
    mappings = [land.mapped(), land.mapped()]
    land.contents.page(FIRST)[:4] = b"kept"
    land(DestroyDomain(dom=1))
    land.machine.settle()
    (dead,) = land.dying()
    assert list(dead.frames) == [FIRST]
    assert "1      dying" in frames_table(land.machine)
    land.unmap(mappings[0])
    assert land.contents.page(FIRST)[:4] == b"kept"
    land.unmap(mappings[1])
    assert not land.dying()
    assert FIRST in land.state.free
    assert land.contents.page(FIRST)[:4] == bytes(4)


def test_two_dead_domains_of_one_number_are_told_apart(land: Land) -> None:
    old = land.mapped()
    land(DestroyDomain(dom=1))
    land(CreateDomain(dom=1, frames=4))
    frame = land(AllocFrame(), 1).frame
    new = land.mapped(frame=frame)
    land(DestroyDomain(dom=1))
    land.machine.settle()
    assert [list(d.frames) for d in land.dying()] == [[FIRST], [frame]]
    land.unmap(new)
    assert [list(d.frames) for d in land.dying()] == [[FIRST]]
    land.unmap(old)
    assert not land.dying()


def test_domains_that_map_each_other_die_without_a_rest(land: Land) -> None:
    land.mapped()
    ref = land(GrantAccess(frame=24, dom=1), 2).ref
    land(MapGrantRef(ref=ref, dom=2), 1)
    land(DestroyDomain(dom=1))
    land(DestroyDomain(dom=2))
    land.machine.settle()
    assert not land.dying()
    assert len(land.state.free) == 32


def test_a_dead_domain_stays_listed_until_all_it_had_is_released(land: Land) -> None:
    ref = land(GrantAccess(frame=0, dom=3)).ref
    land(CreateDomain(dom=3, frames=5))
    land(MapGrantRef(ref=ref, dom=0), 3)
    for _ in range(5):
        land(AllocFrame(), 3)
    land(DestroyDomain(dom=3))
    land(Reap(budget=1))
    assert land.state.busy[0].maps == 1
    assert [d.domid for d in land.dying()] == [3]
