"""Group G of adversarial.md, as far as it lives in the machine: hostile uses of grants, mappings and transfers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.models import Model, R
from xenfs.abi.grant_table import Copy, GntStatus, MapGrantRef, SetVersion, SwapGrantRef, Transfer, UnmapGrantRef
from xenfs.abi.wire import Wire
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CloseHandle,
    CreateDomain,
    DecreaseReservation,
    DestroyDomain,
    EndAccess,
    FreeFrame,
    GrantAccess,
    IncreaseReservation,
    NameRing,
    OpenHandle,
    SetMemory,
)
from xenfs.hypervisor import Config, Limits, Machine, binary
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.world import ByteContents

GRANTER, GRANTEE, OTHER = 1, 2, 3
FIRST = 16
"""The granter's first frame."""
SLICE = 1024
READ_ONLY, HOST_MAP = 4, 2


class Memory(Model):
    """A machine with a granter, a grantee and another, of 8 frames each."""

    def __init__(self, limits: Limits | None = None) -> None:
        config = Config(frames=64, dom0_frames=16, limits=limits or Limits(), slice=SLICE, trace=10)
        super().__init__(config, frames=8, max_frames=10)

    def status(self, request: Wire, domid: int = GRANTER) -> GntStatus | None:
        """The status of a refusal, which changes nothing."""
        return self.refused(request, domid).status

    def grant(self, dom: int = GRANTEE, frame: int = FIRST, flags: int = 0) -> int:
        return self(GrantAccess(frame=frame, dom=dom, flags=flags)).ref

    def map(self, ref: int, domid: int = GRANTEE, handle: int = 0) -> int:
        return self(MapGrantRef(ref=ref, dom=GRANTER), domid, handle).handle

    def unmap(self, mapping: int, domid: int = GRANTEE) -> None:
        self(UnmapGrantRef(handle=mapping), domid)

    def batch(self, requests: list[R], domid: int = GRANTER) -> list[tuple[int, Wire]]:
        done = binary.run(binary.emit(requests), lambda request: self(request, domid))
        return binary.parse(done)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        (32768, "bad_gntref"),
        (0xFFFFFFFF, "bad_gntref"),
        (0, "general_error"),
        (8, "general_error"),
        (32767, "general_error"),
    ],
)
def test_g1_a_reference_out_of_range_or_unused_maps_nothing(memory: Memory, ref: int, status: str) -> None:
    assert memory.status(MapGrantRef(ref=ref, dom=GRANTER), GRANTEE) is GntStatus[status]
    request = Copy(source=ref, source_domid=GRANTER, dest=24, len=1, flags=1)
    assert memory.status(request, GRANTEE) is GntStatus[status]


def test_g1_a_freed_reference_maps_nothing(memory: Memory) -> None:
    ref = memory.grant()
    memory(EndAccess(ref=ref))
    assert memory.status(MapGrantRef(ref=ref, dom=GRANTER), GRANTEE) is GntStatus.general_error


@pytest.mark.parametrize("domid", [0, GRANTER, OTHER])
def test_g1_another_than_the_grantee_maps_nothing_not_even_domain_0(memory: Memory, domid: int) -> None:
    assert memory.status(MapGrantRef(ref=memory.grant(), dom=GRANTER), domid) is GntStatus.general_error


def test_g1_a_domain_may_grant_to_itself(memory: Memory) -> None:
    memory.unmap(memory.map(memory.grant(GRANTER), GRANTER), GRANTER)
    memory(DecreaseReservation(frame=FIRST + 1))


@pytest.mark.parametrize("version", [0, 2, 3, 0xFFFFFFFF])
def test_g1_a_wrong_version_is_refused(memory: Memory, version: int) -> None:
    memory.status(SetVersion(version=version))


def test_g2_a_read_only_grant_is_not_mapped_or_copied_to_for_writing(memory: Memory) -> None:
    ref = memory.grant(flags=READ_ONLY)
    assert memory.status(MapGrantRef(ref=ref, dom=GRANTER), GRANTEE) is GntStatus.general_error
    request = Copy(source=24, dest=ref, dest_domid=GRANTER, len=1, flags=2)
    assert memory.status(request, GRANTEE) is GntStatus.general_error


@pytest.mark.parametrize("side", ["source_offset", "dest_offset"])
@pytest.mark.parametrize(("offset", "length"), [(1, PAGE_SIZE), (0xFFFF, 1), (0xFFFF, 0xFFFF), (1, 0xFFFF)])
def test_g2_no_copy_leaves_the_page_or_wraps(memory: Memory, side: str, offset: int, length: int) -> None:
    request = Copy(source=memory.grant(), source_domid=GRANTER, dest=24, len=length, flags=1)
    assert memory.status(replace(request, **{side: offset}), GRANTEE) is GntStatus.bad_copy_arg


def test_g2_a_copy_of_nothing_does_nothing_whatever_else_it_says(memory: Memory) -> None:
    before = snapshot(memory.machine)
    memory(Copy(source=1 << 63, source_domid=9, source_offset=0xFFFF, dest=1 << 63, dest_domid=9, len=0, flags=0xFF))
    assert snapshot(memory.machine) == before


def test_g3_unmapping_twice_is_bad_handle(memory: Memory) -> None:
    mapping = memory.map(memory.grant())
    memory.unmap(mapping)
    assert memory.status(UnmapGrantRef(handle=mapping), GRANTEE) is GntStatus.bad_handle


@pytest.mark.parametrize("handle", [1, 1 << 31, 0xFFFFFFFF])
def test_g3_a_wrong_handle_unmaps_nothing(memory: Memory, handle: int) -> None:
    memory.map(memory.grant())
    assert memory.status(UnmapGrantRef(handle=handle), GRANTEE) is GntStatus.bad_handle


def test_g3_anothers_handle_unmaps_nothing(memory: Memory) -> None:
    mapping = memory.map(memory.grant())
    for domid in (0, GRANTER, OTHER):
        assert memory.status(UnmapGrantRef(handle=mapping), domid) is GntStatus.bad_handle


def test_g3_each_of_two_mappings_is_unmapped_for_itself(memory: Memory) -> None:
    ref = memory.grant()
    first, second = memory.map(ref), memory.map(ref)
    memory.unmap(first)
    assert memory.status(UnmapGrantRef(handle=first), GRANTEE) is GntStatus.bad_handle
    assert memory.status(EndAccess(ref=ref)) is GntStatus.eagain
    memory.unmap(second)
    memory(EndAccess(ref=ref))


def test_g4_revoking_while_mapped_is_refused_and_the_page_not_reused(memory: Memory) -> None:
    memory(AllocFrame())
    ref = memory.grant()
    mapping = memory.map(ref)
    assert memory.status(EndAccess(ref=ref)) is GntStatus.eagain
    assert FIRST not in [memory(AllocFrame()).frame for _ in range(7)]
    memory.unmap(mapping)
    memory(EndAccess(ref=ref))


def test_g4_a_page_never_unmapped_stays_counted_and_in_quarantine(memory: Memory) -> None:
    handle = memory(OpenHandle()).handle
    frame = memory(AllocFrame(), GRANTER, handle).frame
    ref = memory(GrantAccess(frame=frame, dom=GRANTEE), GRANTER, handle).ref
    memory.map(ref)
    memory.contents.page(frame)[:4] = b"mine"
    memory(CloseHandle(handle=handle))
    memory.machine.settle()
    granter = memory.state.domains[GRANTER]
    assert (granter.granted, granter.grants[ref].ending) == (1, True)
    assert frame not in [memory(AllocFrame()).frame for _ in range(7)]
    memory.status(AllocFrame())
    assert memory.contents.page(frame)[:4] == b"mine"


def test_g5_the_granters_death_leaves_the_mapper_its_page_until_it_unmaps(memory: Memory) -> None:
    mapping = memory.map(memory.grant())
    memory.contents.page(FIRST)[:4] = b"last"
    memory(DestroyDomain(dom=GRANTER), 0)
    memory(CreateDomain(dom=GRANTER, frames=len(memory.state.free)), 0)
    assert FIRST not in memory.state.domains[GRANTER].frames
    assert memory.contents.page(FIRST)[:4] == b"last"
    memory.unmap(mapping)
    assert FIRST in memory.state.free
    assert memory.contents.page(FIRST)[:4] == bytes(4)


def test_g5_a_successor_in_the_granters_number_cannot_end_the_deads_grant(memory: Memory) -> None:
    ref = memory.grant()
    mapping = memory.map(ref)
    memory(DestroyDomain(dom=GRANTER), 0)
    memory(CreateDomain(dom=GRANTER, frames=4), 0)
    assert memory.status(EndAccess(ref=ref, flags=1)) is GntStatus.bad_gntref
    frame = memory(AllocFrame()).frame
    assert memory.grant(frame=frame) == ref
    memory.unmap(mapping)
    assert ref in memory.state.domains[GRANTER].grants


@pytest.mark.parametrize("how", ["handle", "domain"])
def test_g5_the_mappers_end_drops_the_counts(memory: Memory, how: str) -> None:
    handle = memory(OpenHandle(), GRANTEE).handle
    ref = memory.grant()
    for _ in range(3):
        memory.map(ref, handle=handle)
    memory(CloseHandle(handle=handle) if how == "handle" else DestroyDomain(dom=GRANTEE), 0)
    assert memory.state.domains[GRANTER].grants[ref].maps == 0
    memory(EndAccess(ref=ref))
    assert not memory.state.busy


def ungranted(_: Memory) -> int:
    return 0


def mapped(memory: Memory) -> int:
    memory.map(memory.grant())
    return FIRST


def granted(memory: Memory) -> int:
    memory.grant()
    return FIRST


def a_ring(memory: Memory) -> int:
    memory(NameRing(frame=FIRST, name="vif-0-tx"))
    return FIRST


@pytest.mark.parametrize("frame", [ungranted, mapped, granted, a_ring])
def test_g6_a_page_not_owned_or_in_use_is_not_transferred(memory: Memory, frame: Callable[[Memory], int]) -> None:
    ref = memory(AcceptTransfer(dom=GRANTER), GRANTEE).ref
    number = frame(memory)
    memory.contents.page(number)[:4] = b"mine"
    assert memory.status(Transfer(mfn=number, domid=GRANTEE, ref=ref)) is GntStatus.bad_page
    assert memory.contents.page(number)[:4] == b"mine"


def test_g6_without_headroom_nothing_is_transferred(memory: Memory) -> None:
    ref = memory(AcceptTransfer(dom=GRANTER), GRANTEE).ref
    for _ in range(2):
        memory(IncreaseReservation(), GRANTEE)
    assert memory.status(Transfer(mfn=FIRST, domid=GRANTEE, ref=ref)) is GntStatus.general_error
    assert FIRST in memory.state.domains[GRANTER].frames


def test_g6_an_offer_takes_one_page_and_an_access_grant_none(memory: Memory) -> None:
    offer = memory(AcceptTransfer(dom=GRANTER), GRANTEE).ref
    access = memory(GrantAccess(frame=24, dom=GRANTER), GRANTEE).ref
    memory(Transfer(mfn=FIRST, domid=GRANTEE, ref=offer))
    for ref in (offer, access):
        assert memory.status(Transfer(mfn=FIRST + 1, domid=GRANTEE, ref=ref)) is GntStatus.general_error


def test_g7_every_element_of_a_batch_has_a_status_and_failures_stop_nothing(memory: Memory) -> None:
    refs = [memory(AcceptTransfer(dom=GRANTER), GRANTEE).ref for _ in range(3)]
    asked = [
        Transfer(mfn=FIRST, domid=GRANTEE, ref=refs[0]),
        Transfer(mfn=0, domid=GRANTEE, ref=refs[1], status=1),
        Transfer(mfn=FIRST + 1, domid=9, ref=refs[1], status=7),
        Transfer(mfn=FIRST + 1, domid=GRANTEE, ref=0),
        Transfer(mfn=FIRST + 1, domid=GRANTEE, ref=refs[1], status=-5),
    ]
    done = memory.batch(asked)
    assert [getattr(request, "status", None) for _, request in done] == [0, -9, -2, -1, 0]
    assert [result for result, _ in done] == [0, -errno.EINVAL, -errno.ESRCH, -errno.EACCES, 0]
    assert FIRST + 1 in memory.state.domains[GRANTEE].frames


def test_g7_no_failure_of_a_map_or_copy_leaves_status_okay(memory: Memory) -> None:
    maps = [MapGrantRef(ref=n, dom=d) for n in (0, 8, 40000) for d in (GRANTER, 9, 0xFFFF)]
    copies = [Copy(source=n, source_domid=d, dest=0, len=1, flags=1) for n in (0, 8) for d in (GRANTER, 9)]
    for result, request in [*memory.batch(maps, GRANTEE), *memory.batch(copies, GRANTEE)]:
        assert result < 0
        assert getattr(request, "status", 0) in range(-13, 0)


def test_g8_a_mapped_entry_is_not_swapped(memory: Memory) -> None:
    a, b = memory.grant(), memory.grant(frame=FIRST + 1)
    memory.map(a)
    for request in (SwapGrantRef(ref_a=a, ref_b=b), SwapGrantRef(ref_a=b, ref_b=a)):
        assert memory.status(request) is GntStatus.eagain


def test_g8_a_reference_revoked_while_mapped_is_not_given_out_again(memory: Memory) -> None:
    ref = memory.grant()
    mapping = memory.map(ref)
    memory(EndAccess(ref=ref, flags=1))
    assert ref not in [memory.grant(frame=FIRST + 1) for _ in range(20)]
    memory.unmap(mapping)
    assert memory.grant(OTHER, FIRST + 1) == ref


def test_g8_a_mapping_keeps_its_page_when_its_number_and_its_entry_are_reused(memory: Memory) -> None:
    mapping = memory.map(memory.grant())
    memory.unmap(mapping)
    memory(EndAccess(ref=8))
    assert memory.grant(frame=FIRST + 1) == 8
    assert memory.map(8) == mapping
    assert memory.state.domains[GRANTEE].maps[mapping].frame.number == FIRST + 1


def test_g9_a_full_maptrack_refuses_maps_and_hurts_nobody_else() -> None:
    memory = Memory(Limits(maps=50))
    ref, other = memory.grant(), memory.grant(OTHER)
    mappings = [memory.map(ref) for _ in range(50)]
    assert memory.status(MapGrantRef(ref=ref, dom=GRANTER), GRANTEE) is GntStatus.no_space
    memory.map(other, OTHER)
    memory.unmap(mappings[7])
    memory.map(ref)


@pytest.mark.parametrize("how", ["handle", "domain"])
def test_g9_a_hundred_thousand_grants_go_in_slices_while_others_work(how: str) -> None:
    memory = Memory(Limits(grants=100_000))
    handle = memory(OpenHandle()).handle
    for _ in range(100_000):
        memory(GrantAccess(frame=FIRST, dom=GRANTEE), GRANTER, handle)
    granter, slices = memory.state.domains[GRANTER], 1
    memory(CloseHandle(handle=handle) if how == "handle" else DestroyDomain(dom=GRANTER), 0)
    assert granter.granted == 100_000 - SLICE
    while memory.state.closing:
        before = granter.granted
        memory.machine.reap()
        assert before - granter.granted <= SLICE
        frame = memory(AllocFrame(), OTHER).frame
        memory(FreeFrame(frame=frame), OTHER)
        slices += 1
    assert slices == -(-100_000 // SLICE)
    assert not granter.grants
    assert not memory.state.busy
    assert not memory.state.dying


class Drops(ByteContents):
    """Counts how often frames are dropped."""

    drops = 0

    def drop(self, start: int, stop: int) -> None:
        self.drops += 1
        super().drop(start, stop)


def test_g9_memory_in_a_thousand_pieces_goes_in_slices_too() -> None:
    contents = Drops()
    machine = Machine(Config(frames=2100, dom0_frames=16, slice=16), contents=contents)
    machine.call(CreateDomain(dom=1, frames=2000))
    machine.call(CreateDomain(dom=2, frames=4))
    frames = [machine.call(AllocFrame(), 1).frame for _ in range(2000)]
    for frame in frames[::2]:
        machine.call(FreeFrame(frame=frame), 1)
    machine.call(DestroyDomain(dom=1))
    while machine.state.closing:
        before = contents.drops
        machine.reap()
        assert contents.drops - before <= 2 * machine.config.slice
    assert len(machine.state.free) == 2100 - 16 - 4


@pytest.mark.parametrize("frame", [mapped, granted, a_ring])
def test_g10_a_page_in_use_is_not_given_back(memory: Memory, frame: Callable[[Memory], int]) -> None:
    assert memory.status(DecreaseReservation(frame=frame(memory))) is GntStatus.bad_page
    memory.status(SetMemory(frames=0))
    memory(SetMemory(frames=1))
    assert list(memory.state.domains[GRANTER].frames) == [FIRST]
