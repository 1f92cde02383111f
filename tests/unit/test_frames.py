"""Frames: owned by one, idle or in use, ballooned in and out, named as rings; what a handle did is undone with it."""

from __future__ import annotations

import errno
from typing import TypeVar

import pytest

from xenfs.abi.grant_table import MapGrantRef, Transfer, UnmapGrantRef
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CloseHandle,
    CreateDomain,
    CurrentReservation,
    DecreaseReservation,
    EndAccess,
    FreeFrame,
    GrantAccess,
    IncreaseReservation,
    MaximumReservation,
    NameRing,
    OpenHandle,
    SetMaxMemory,
    SetMemory,
    UnnameRing,
)
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import counts, frames_table, snapshot
from xenfs.hypervisor.world import ByteContents

R = TypeVar("R", bound=Wire)
FIRST = 16
"""The first frame of domain 1: 16 … 23; domain 2 has 24 … 31, and 32 … 39 are free."""


class Owners:
    """A machine of 40 frames with domains 1 and 2, of 8 frames and at most 12 each."""

    def __init__(self) -> None:
        self.contents = ByteContents()
        self.machine = Machine(Config(frames=40, dom0_frames=16), contents=self.contents)
        for dom in (1, 2):
            self.machine.call(CreateDomain(dom=dom, frames=8, max_frames=12))

    def __call__(self, request: R, domid: int = 1, handle: int = 0) -> R:
        return self.machine.call(request, domid, handle, world=isinstance(request, (OpenHandle, CloseHandle)))

    def refuses(self, request: Wire, number: int, domid: int = 1) -> HypercallError:
        before = snapshot(self.machine)
        with pytest.raises(HypercallError) as caught:
            self(request, domid)
        assert snapshot(self.machine) == before
        assert caught.value.errno == number
        return caught.value

    def open(self, domid: int = 1) -> int:
        return self(OpenHandle(), domid).handle

    def owned(self, domid: int = 1) -> int:
        return len(self.machine.state.domains[domid].frames)

    def idle(self, domid: int = 1) -> int:
        return len(self.machine.state.domains[domid].idle)

    @property
    def free(self) -> int:
        return len(self.machine.state.free)

    def mapped(self, frame: int, owner: int = 1, peer: int = 2) -> tuple[int, int]:
        """Grant a frame and map it at the peer; answers reference and mapping."""
        ref = self(GrantAccess(frame=frame, dom=peer), owner).ref
        mapping = self.machine.call(MapGrantRef(ref=ref, dom=owner), peer, world=True).handle
        return ref, mapping


@pytest.fixture
def call() -> Owners:
    return Owners()


def test_alloc_takes_the_lowest_idle_frame(call: Owners) -> None:
    assert [call(AllocFrame()).frame for _ in range(3)] == [FIRST, FIRST + 1, FIRST + 2]
    call(FreeFrame(frame=FIRST + 1))
    assert call(AllocFrame()).frame == FIRST + 1


def test_an_allocated_frame_is_zero_whatever_was_in_it(call: Owners) -> None:
    call.contents.page(FIRST)[:4] = b"past"
    assert call.contents.page(call(AllocFrame()).frame)[:4] == bytes(4)


def test_alloc_without_idle_frames_is_enomem_and_others_go_on(call: Owners) -> None:
    for _ in range(8):
        call(AllocFrame())
    call.refuses(AllocFrame(), errno.ENOMEM)
    assert call(AllocFrame(), 2).frame == 24


def test_freeing_an_idle_frame_is_einval(call: Owners) -> None:
    call.refuses(FreeFrame(frame=FIRST), errno.EINVAL)


@pytest.mark.parametrize("frame", [0, 24, 35, 40, 1 << 63])
def test_a_frame_of_another_or_of_nobody_is_einval(call: Owners, frame: int) -> None:
    for request in (
        FreeFrame(frame=frame),
        DecreaseReservation(frame=frame),
        GrantAccess(frame=frame, dom=2),
        NameRing(frame=frame, name="vif-0-tx"),
    ):
        call.refuses(request, errno.EINVAL)


@pytest.mark.parametrize("request_", [FreeFrame(frame=FIRST), DecreaseReservation(frame=FIRST)])
@pytest.mark.parametrize("use", ["granted", "mapped", "ring"])
def test_a_frame_in_use_is_ebusy(call: Owners, use: str, request_: Wire) -> None:
    call(AllocFrame())
    if use == "ring":
        call(NameRing(frame=FIRST, name="vif-0-tx"))
    elif use == "granted":
        call(GrantAccess(frame=FIRST, dom=2))
    else:
        call.mapped(FIRST)
    assert use in str(call.refuses(request_, errno.EBUSY))


def test_a_frame_may_be_freed_through_another_handle_of_its_domain(call: Owners) -> None:
    frame = call(AllocFrame(), 1, call.open()).frame
    call(FreeFrame(frame=frame), 1, call.open())
    assert call.idle() == 8


def test_closing_a_handle_frees_its_frames_and_no_others(call: Owners) -> None:
    first, second = call.open(), call.open()
    for handle in (first, second, first):
        call(AllocFrame(), 1, handle)
    call(CloseHandle(handle=first))
    assert [n for n in range(FIRST, FIRST + 8) if n not in call.machine.state.domains[1].idle] == [FIRST + 1]


def test_a_closed_handles_frame_stays_as_long_as_another_handle_grants_it(call: Owners) -> None:
    handle = call.open()
    frame = call(AllocFrame(), 1, handle).frame
    ref = call(GrantAccess(frame=frame, dom=2)).ref
    call.contents.page(frame)[:4] = b"kept"
    call(CloseHandle(handle=handle))
    assert frame not in call.machine.state.domains[1].idle
    assert call.contents.page(frame)[:4] == b"kept"
    call(EndAccess(ref=ref))
    assert frame in call.machine.state.domains[1].idle


def test_increase_gives_a_zeroed_free_frame_and_decrease_takes_it_back(call: Owners) -> None:
    frame = call(IncreaseReservation()).frame
    assert (frame, call.owned(), call.free) == (32, 9, 7)
    call.contents.page(frame)[:4] = b"mine"
    call(DecreaseReservation(frame=frame))
    assert (call.owned(), call.free) == (8, 8)
    assert call(IncreaseReservation(), 2).frame == frame
    assert call.contents.page(frame)[:4] == bytes(4)


def test_increase_stops_at_the_domains_maximum(call: Owners) -> None:
    for _ in range(4):
        call(IncreaseReservation())
    error = call.refuses(IncreaseReservation(), errno.ENOMEM)
    assert (error.value, error.limit) == (12, 12)


def test_increase_stops_when_the_machine_has_no_more(call: Owners) -> None:
    call(CreateDomain(dom=3, frames=8), 0)
    call.refuses(IncreaseReservation(), errno.ENOMEM)


def test_an_idle_frame_can_be_given_back(call: Owners) -> None:
    call(DecreaseReservation(frame=FIRST + 5))
    assert call.owned() == call.idle() == 7


@pytest.mark.parametrize(("frames", "free"), [(8, 8), (0, 16), (3, 13), (12, 4)])
def test_set_memory_balloons_to_the_number(call: Owners, frames: int, free: int) -> None:
    call(SetMemory(frames=frames))
    assert (call.owned(), call.idle(), call.free) == (frames, frames, free)


def test_set_memory_scrubs_what_it_takes(call: Owners) -> None:
    for frame in range(FIRST, FIRST + 8):
        call.contents.page(frame)[:6] = b"secret"
    call(SetMemory(frames=0))
    call(SetMemory(frames=12), 2)
    assert not any(any(call.contents.page(f)) for f in call.machine.state.domains[2].frames)


def test_set_memory_beyond_the_maximum_or_the_machine_is_enomem(call: Owners) -> None:
    call.refuses(SetMemory(frames=13), errno.ENOMEM)
    call(SetMaxMemory(dom=1, frames=40), 0)
    call.refuses(SetMemory(frames=17), errno.ENOMEM)


def test_set_memory_below_what_is_in_use_is_ebusy(call: Owners) -> None:
    for _ in range(3):
        call(AllocFrame())
    error = call.refuses(SetMemory(frames=2), errno.EBUSY)
    assert (error.value, error.limit) == (3, 8)
    call(SetMemory(frames=3))
    assert (call.owned(), call.idle()) == (3, 0)


def test_a_domain_above_a_lowered_maximum_keeps_its_frames_and_may_only_shrink(call: Owners) -> None:
    call(SetMaxMemory(dom=1, frames=5), 0)
    assert call.owned() == 8
    call.refuses(SetMemory(frames=9), errno.ENOMEM)
    call.refuses(IncreaseReservation(), errno.ENOMEM)
    call(SetMemory(frames=6))
    assert call.owned() == 6


def test_a_domain_above_a_lowered_maximum_may_be_set_to_what_it_has(call: Owners) -> None:
    call(SetMaxMemory(dom=1, frames=5), 0)
    call(SetMemory(frames=8))
    assert call.owned() == 8


def test_the_maximum_is_at_most_the_machine(call: Owners) -> None:
    call.refuses(SetMaxMemory(dom=1, frames=41), errno.EINVAL, 0)
    call(SetMaxMemory(dom=1, frames=40), 0)
    assert call(MaximumReservation()).frames == 40


@pytest.mark.parametrize("dom", [1, DOMID_SELF])
def test_a_domain_sees_its_own_reservation(call: Owners, dom: int) -> None:
    assert call(CurrentReservation(dom=dom)).frames == 8
    assert call(MaximumReservation(dom=dom)).frames == 12


@pytest.mark.parametrize("request_", [CurrentReservation(dom=1), MaximumReservation(dom=1), SetMemory(dom=1, frames=1)])
def test_other_domains_memory_is_for_domain_0_only(call: Owners, request_: Wire) -> None:
    call.refuses(request_, errno.EPERM, 2)
    call(request_, 0)


def test_memory_of_no_domain_is_esrch(call: Owners) -> None:
    call.refuses(CurrentReservation(dom=9), errno.ESRCH, 0)


def test_closing_gives_back_what_was_ballooned_in(call: Owners) -> None:
    handle = call.open()
    for _ in range(3):
        call(IncreaseReservation(), 1, handle)
    call(CloseHandle(handle=handle))
    assert (call.owned(), call.idle(), call.free) == (8, 8, 8)


def test_closing_refills_what_was_ballooned_out(call: Owners) -> None:
    handle = call.open()
    for frame in (FIRST, FIRST + 3):
        call(DecreaseReservation(frame=frame), 1, handle)
    call(CloseHandle(handle=handle))
    assert (call.owned(), call.idle(), call.free) == (8, 8, 8)


def test_what_went_in_and_out_again_leaves_nothing_to_settle(call: Owners) -> None:
    handle = call.open()
    call(DecreaseReservation(frame=call(IncreaseReservation(), 1, handle).frame), 1, handle)
    assert call.machine.state.handles[handle].balance == 0
    call(CloseHandle(handle=handle))
    assert (call.owned(), call.free) == (8, 8)


def test_what_the_root_handle_did_is_for_good(call: Owners) -> None:
    call(IncreaseReservation())
    call(CloseHandle(handle=call.open()))
    assert call.owned() == 9


def test_a_refill_stops_when_the_machine_has_no_more(call: Owners) -> None:
    handle = call.open()
    for frame in range(FIRST, FIRST + 4):
        call(DecreaseReservation(frame=frame), 1, handle)
    call(CreateDomain(dom=3, frames=10), 0)
    call(CloseHandle(handle=handle))
    assert (call.owned(), call.free) == (6, 0)


def test_a_refill_stops_at_the_maximum(call: Owners) -> None:
    handle = call.open()
    for frame in range(FIRST, FIRST + 4):
        call(DecreaseReservation(frame=frame), 1, handle)
    call(SetMaxMemory(dom=1, frames=5), 0)
    call(CloseHandle(handle=handle))
    assert call.owned() == 5


def test_closing_while_above_a_lowered_maximum_refills_nothing_and_succeeds(call: Owners) -> None:
    handle = call.open()
    call(DecreaseReservation(frame=FIRST), 1, handle)
    call(SetMaxMemory(dom=1, frames=4), 0)
    call(CloseHandle(handle=handle))
    assert call.owned() == 7
    assert not call.machine.state.closing


def test_a_frame_still_mapped_cannot_be_given_back_at_the_close(call: Owners) -> None:
    handle = call.open()
    frame = call(IncreaseReservation(), 1, handle).frame
    for _ in range(8):
        call(AllocFrame())
    _, mapping = call.mapped(frame)
    call(CloseHandle(handle=handle))
    assert frame in call.machine.state.domains[1].frames
    call.machine.call(UnmapGrantRef(handle=mapping), 2, world=True)
    assert call.owned() == 9


def test_a_flip_counts_in_both_balances(call: Owners) -> None:
    sender, receiver = call.open(1), call.open(2)
    ref = call(AcceptTransfer(dom=1), 2, receiver).ref
    call(Transfer(mfn=FIRST, domid=2, ref=ref), 1, sender)
    assert (call.owned(1), call.owned(2)) == (7, 9)
    call(CloseHandle(handle=receiver), 2)
    call(CloseHandle(handle=sender), 1)
    assert (call.owned(1), call.owned(2), call.free) == (8, 8, 8)


@pytest.mark.parametrize("name", ["", "vif", "vif-0", "Vif-0-tx", "vif-0-", "vif-0-t x", "vif--tx", "../../-0-x"])
def test_a_ring_name_is_device_number_ring(call: Owners, name: str) -> None:
    call.refuses(NameRing(frame=FIRST, name=name), errno.EINVAL)


def test_a_ring_is_named_and_unnamed(call: Owners) -> None:
    call(NameRing(frame=FIRST, name="vif-0-tx"))
    assert call.machine.state.domains[1].rings["vif-0-tx"].frame.number == FIRST
    assert call.idle() == 7
    call(UnnameRing(name="vif-0-tx"))
    assert call.idle() == 8
    call.refuses(UnnameRing(name="vif-0-tx"), errno.ENOENT)


def test_a_name_is_taken_once_and_a_frame_has_one_name(call: Owners) -> None:
    call(NameRing(frame=FIRST, name="vif-0-tx"))
    call.refuses(NameRing(frame=FIRST + 1, name="vif-0-tx"), errno.EEXIST)
    call.refuses(NameRing(frame=FIRST, name="vif-0-rx"), errno.EBUSY)
    call(NameRing(frame=24, name="vif-0-tx"), 2)


def test_closing_a_handle_takes_its_names_away(call: Owners) -> None:
    handle = call.open()
    call(NameRing(frame=FIRST, name="vif-0-tx"), 1, handle)
    call(CloseHandle(handle=handle))
    assert not call.machine.state.domains[1].rings
    assert call.idle() == 8


def test_the_counts_are_owned_granted_mapped_and_in_flight(call: Owners) -> None:
    call.mapped(FIRST)
    call(AcceptTransfer(dom=1), 2)
    one, two = (counts(call.machine.state.domains[d]) for d in (1, 2))
    assert (one.owned, one.granted, one.mapped, one.in_flight) == (8, 1, 0, 0)
    assert (two.owned, two.granted, two.mapped, two.in_flight) == (8, 0, 1, 1)
    assert frames_table(call.machine).endswith("total 40 free 8\n")
