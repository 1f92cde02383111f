"""Memory: frames, grants, mappings, flips, copies."""

from __future__ import annotations

import errno

import pytest

from tests.conformance.refusals import refusal
from tests.conformance.world import World
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE
from xenfs.domain import BareDomain, CopySegment


def test_a_granted_page_is_the_same_memory(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(3)
    refs = granter.memory.grant(frames, grantee.domid)
    with granter.memory.view(frames) as mine, grantee.memory.map(granter.domid, refs) as theirs:
        assert len(mine) == len(theirs) == 3 * PAGE_SIZE
        assert bytes(mine) == bytes(3 * PAGE_SIZE)
        mine[PAGE_SIZE - 2 : PAGE_SIZE + 3] = b"hello"
        assert bytes(theirs[PAGE_SIZE - 2 : PAGE_SIZE + 3]) == b"hello"
        theirs[0] = 7
        assert mine[0] == 7


def test_pages_map_in_the_order_of_their_references(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(3)
    refs = granter.memory.grant(frames, grantee.domid)
    with granter.memory.view(frames) as mine:
        for i in range(3):
            mine[i * PAGE_SIZE] = i + 1
        with grantee.memory.map(granter.domid, refs[::-1], readonly=True) as theirs:
            assert [theirs[i * PAGE_SIZE] for i in range(3)] == [3, 2, 1]


def test_a_read_only_grant_maps_read_only(granter: BareDomain, grantee: BareDomain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(), grantee.domid, readonly=True)
    with refusal(errno.EACCES) as caught:
        grantee.memory.map(granter.domid, refs)
    assert caught.value.status == GntStatus.general_error
    with grantee.memory.map(granter.domid, refs, readonly=True) as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


def test_end_access_names_what_is_still_mapped(granter: BareDomain, grantee: BareDomain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(3), grantee.domid)
    region = grantee.memory.map(granter.domid, [refs[1]])
    assert granter.memory.end_access(refs) == [refs[1]]
    region.close()
    assert granter.memory.end_access([refs[1]]) == []
    with refusal(errno.ENOENT):
        granter.memory.end_access([refs[1]])


def test_a_deferred_end_lets_the_mapper_keep_its_page(granter: BareDomain, grantee: BareDomain) -> None:
    (frame,) = granter.memory.alloc()
    refs = granter.memory.grant([frame], grantee.domid)
    with grantee.memory.map(granter.domid, refs) as theirs:
        assert granter.memory.end_access(refs, defer=True) == []
        with refusal(errno.EACCES):
            grantee.memory.map(granter.domid, refs)
        with granter.memory.view([frame]) as mine:
            mine[:4] = b"live"
        assert bytes(theirs[:4]) == b"live"
        with refusal(errno.EBUSY):
            granter.memory.free([frame])
    granter.memory.free([frame])


def test_a_map_that_fails_in_the_middle_maps_nothing(granter: BareDomain, grantee: BareDomain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(2), grantee.domid)
    with refusal(errno.EACCES):
        grantee.memory.map(granter.domid, [*refs, refs[-1] + 1])
    assert granter.memory.end_access(refs) == []


def test_a_view_held_past_its_region_reads_zeros_and_cannot_crash(granter: BareDomain, grantee: BareDomain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(), grantee.domid)
    region = grantee.memory.map(granter.domid, refs)
    part = region.view[8:16]
    part[:] = b"8 bytes."
    region.close()
    region.close()
    assert bytes(part) == bytes(8)
    assert granter.memory.end_access(refs) == []


def test_freed_frames_come_back_empty(granter: BareDomain) -> None:
    frames = granter.memory.alloc(4)
    with granter.memory.view(frames) as view:
        view[:] = b"\xaa" * len(view)
    granter.memory.free(frames)
    again = granter.memory.alloc(4)
    assert again == frames
    with granter.memory.view(again) as view:
        assert not any(view)


def test_only_ones_own_frames_can_be_viewed(granter: BareDomain, grantee: BareDomain) -> None:
    with refusal(errno.EINVAL):
        grantee.memory.view(granter.memory.alloc())


def test_a_flip_moves_the_bytes_and_leaves_the_former_owner_nothing(granter: BareDomain, grantee: BareDomain) -> None:
    grantee.memory.decrease_reservation(grantee.memory.alloc(2))
    refs = grantee.memory.accept_transfer(granter.domid, 3)
    frames = granter.memory.alloc(2)
    with granter.memory.view(frames) as before:
        before[: PAGE_SIZE + 1] = b"x" * (PAGE_SIZE + 1)
    assert granter.memory.transfer(frames, grantee.domid, refs[:2]) == [GntStatus.okay] * 2
    arrived = grantee.memory.end_transfer(refs)
    assert arrived == [*frames, None]
    with grantee.memory.view(frames) as after:
        assert bytes(after) == b"x" * (PAGE_SIZE + 1) + bytes(PAGE_SIZE - 1)
    with refusal(errno.EINVAL):
        granter.memory.view(frames)


def test_a_refused_transfer_leaves_the_frame(granter: BareDomain, grantee: BareDomain) -> None:
    (frame,) = granter.memory.alloc()
    (ref,) = grantee.memory.accept_transfer(granter.domid)
    assert granter.memory.transfer([frame, frame], grantee.domid, [ref + 1, ref]) == [GntStatus.general_error] * 2
    with granter.memory.view([frame]) as view:
        assert len(view) == PAGE_SIZE


def test_copy_answers_for_each_segment(granter: BareDomain, grantee: BareDomain) -> None:
    (source,), (dest,) = granter.memory.alloc(), grantee.memory.alloc()
    (ref,) = granter.memory.grant([source], grantee.domid, readonly=True)
    with granter.memory.view([source]) as view:
        view[100:105] = b"bytes"
    good = CopySegment(source=ref, source_domid=1, source_offset=100, dest=dest, dest_offset=4091, length=5)
    long = CopySegment(source=ref, source_domid=1, source_offset=100, dest=dest, dest_offset=4092, length=5)
    back = CopySegment(source=dest, dest=ref, dest_domid=1, length=5)
    assert grantee.memory.copy([good, long, back]) == [
        GntStatus.okay,
        GntStatus.bad_copy_arg,
        GntStatus.general_error,
    ]
    with grantee.memory.view([dest]) as view:
        assert bytes(view[4091:]) == b"bytes"
        assert not any(view[:4091])


def test_alloc_takes_all_or_nothing(granter: BareDomain) -> None:
    with refusal(errno.ENOMEM):
        granter.memory.alloc(1025)
    assert len(granter.memory.alloc(1024)) == 1024


def test_ballooning_through_a_handle_is_undone_with_it(world: World) -> None:
    own = world.counts(0).owned
    with world.domain(0) as dom0:
        assert len(dom0.memory.increase_reservation(10)) == 10
        assert world.counts(0).owned == own + 10
    assert world.counts(0).owned == own
    with world.domain(1) as other:
        other.memory.decrease_reservation(other.memory.alloc(10))
        assert world.counts(1).owned == 1014
    assert world.counts(1).owned == 1024


def test_a_ring_name_keeps_its_frame_in_use(granter: BareDomain) -> None:
    (frame,) = granter.memory.alloc()
    granter.memory.name_ring("vif-0-tx", frame)
    with refusal(errno.EBUSY):
        granter.memory.free([frame])
    with refusal(errno.EEXIST):
        granter.memory.name_ring("vif-0-tx", granter.memory.alloc()[0])
    granter.memory.unname_ring("vif-0-tx")
    granter.memory.free([frame])


def test_values_that_fit_no_field_are_refused(granter: BareDomain) -> None:
    for call in (
        lambda: granter.memory.free([-1]),
        lambda: granter.memory.grant([0], 1 << 16),
        lambda: granter.memory.name_ring("vif-0-" + "x" * 60, 0),
        lambda: granter.events.bind_virq(1 << 32),
    ):
        with refusal(errno.EINVAL):
            call()


def test_a_large_batch_is_one_call(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(1024)
    refs = granter.memory.grant(frames * 8, grantee.domid)
    assert len(set(refs)) == 8192
    with grantee.memory.map(granter.domid, refs[-1024:]) as theirs, granter.memory.view(frames) as mine:
        mine[::PAGE_SIZE] = bytes(range(256)) * 4
        assert bytes(theirs[::PAGE_SIZE]) == bytes(range(256)) * 4
    assert granter.memory.end_access(refs) == []


def test_grants_are_all_or_none(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(2)
    with refusal(errno.EINVAL):
        granter.memory.grant([*frames, 1 << 40], grantee.domid)
    granter.memory.free(frames)


def test_a_refused_frame_keeps_its_hold_and_the_ones_before_it_are_free(granter: BareDomain) -> None:
    first, named = granter.memory.alloc(2)
    granter.memory.name_ring("vif-0-tx", named)
    for give_back in (granter.memory.free, granter.memory.decrease_reservation):
        with refusal(errno.EBUSY):
            give_back([first, named])
        (first,) = granter.memory.alloc()
    granter.memory.unname_ring("vif-0-tx")
    granter.memory.free([named])


def test_what_cannot_be_mapped_says_why(granter: BareDomain, grantee: BareDomain) -> None:
    (ref,) = granter.memory.grant(granter.memory.alloc(), grantee.domid)
    for domid, refs, code in (
        (granter.domid, [ref + 1], errno.EACCES),
        (granter.domid, [1 << 20], errno.ENOENT),
        (granter.domid, [-1], errno.EINVAL),
        (granter.domid, [1 << 32], errno.EINVAL),
        (grantee.domid, [ref], errno.EACCES),
        (77, [ref], errno.ESRCH),
        (1 << 16, [ref], errno.EINVAL),
    ):
        with refusal(code):
            grantee.memory.map(domid, refs)
    with refusal(errno.EACCES):
        granter.memory.map(granter.domid, [ref])
    with pytest.raises(ValueError, match="at least one page"):
        grantee.memory.map(granter.domid, [])
    with pytest.raises(ValueError, match="at least one page"):
        granter.memory.view([])


def test_a_domain_maps_what_it_granted_to_itself(granter: BareDomain) -> None:
    frames = granter.memory.alloc()
    refs = granter.memory.grant(frames, DOMID_SELF)
    with granter.memory.map(DOMID_SELF, refs) as again, granter.memory.view(frames) as view:
        view[0] = 3
        assert again[0] == 3
    assert granter.memory.end_access(refs) == []


def test_an_offer_that_nobody_took_is_withdrawn(granter: BareDomain, grantee: BareDomain) -> None:
    refs = grantee.memory.accept_transfer(granter.domid, 2)
    assert grantee.memory.end_transfer(refs) == [None, None]
    with refusal(errno.ENOENT):
        grantee.memory.end_transfer(refs)


def test_statuses_are_answered_for_what_fits_no_field_too(granter: BareDomain, grantee: BareDomain) -> None:
    (frame,) = granter.memory.alloc()
    assert granter.memory.transfer([frame, frame], grantee.domid, [-1, 9]) == [GntStatus.general_error] * 2
    wild = CopySegment(source=frame, dest=frame, source_offset=1 << 16, length=1)
    good = CopySegment(source=frame, dest=frame, dest_offset=8, length=8)
    assert granter.memory.copy([wild, good]) == [GntStatus.general_error, GntStatus.okay]


def in_one_go(giver: BareDomain, taker: BareDomain, texts: list[bytes]) -> list[int]:
    """Flip pages that begin with these texts, as netback and netfront do; the frames, which the taker holds."""
    _, refs = taker.memory.take_flips([], taker.memory.alloc(len(texts)), giver.domid, len(texts))
    frames = giver.memory.alloc(len(texts))
    giver.memory.write_frames(frames, memoryview(b"".join(text.ljust(PAGE_SIZE, b"\0") for text in texts)))
    statuses, new = giver.memory.give_flips(frames, taker.domid, refs, len(texts))
    assert (statuses, len(new)) == ([GntStatus.okay] * len(texts), len(texts))
    assert giver.memory.give_flips([], taker.domid, [], 3) == ([], []), "it may own no more"
    giver.memory.free(new)
    arrived, _ = taker.memory.take_flips(refs, [], giver.domid)
    assert arrived == frames
    return frames


def read(domain: BareDomain, frames: list[int]) -> list[bytes]:
    """What is in frames."""
    room = [memoryview(bytearray(PAGE_SIZE)) for _ in frames]
    domain.memory.read_frames(frames, room)
    return [bytes(page) for page in room]


def test_pages_are_flipped_in_one_go_with_nothing_but_what_was_put_there(
    granter: BareDomain, grantee: BareDomain
) -> None:
    texts = [b"one", b"two", b"three"]
    for _ in range(2):
        frames = in_one_go(granter, grantee, texts)
        assert read(grantee, frames[::-1]) == [text.ljust(PAGE_SIZE, b"\0") for text in texts[::-1]]
        with refusal(errno.EINVAL):
            read(granter, frames[:1])
        grantee.memory.write_frames(frames, memoryview(b"\xff" * 3 * PAGE_SIZE))
        grantee.memory.decrease_reservation(frames)  # the next ones are these again
        texts = [b"", b"x"]


def test_what_is_refused_stays_and_is_said_of_each(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(2)
    assert granter.memory.give_flips(frames, grantee.domid, [7, 8]) == ([GntStatus.general_error] * 2, [])
    assert read(granter, frames) == [bytes(PAGE_SIZE)] * 2
    (used,) = grantee.memory.alloc()
    (ref,) = grantee.memory.grant([used], granter.domid)
    (idle,) = grantee.memory.alloc()
    with refusal(errno.EBUSY):
        grantee.memory.take_flips([], [used, idle], granter.domid, 0)
    with refusal(errno.EINVAL):
        grantee.memory.free([idle])  # it was given back all the same
    assert grantee.memory.end_access([ref]) == []


def test_pages_without_mapping_and_mapped_are_the_same_memory(granter: BareDomain, grantee: BareDomain) -> None:
    frames = granter.memory.alloc(3)
    refs = granter.memory.grant(frames, grantee.domid)
    with granter.memory.view(frames[1:2]) as own, grantee.memory.map(granter.domid, refs) as theirs:
        granter.memory.write_frames(frames, memoryview(b"a" * PAGE_SIZE + b"b" * PAGE_SIZE + b"c" * PAGE_SIZE))
        assert (own[5], bytes(theirs[::PAGE_SIZE])) == (ord("b"), b"abc")
        theirs[PAGE_SIZE] = ord("x")
        theirs[2 * PAGE_SIZE + 1] = ord("y")
        assert [page[:2] for page in read(granter, frames)] == [b"aa", b"xb", b"cy"]
    granter.memory.end_access(refs)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_ones_own_frames_are_read_and_written(granter: BareDomain, grantee: BareDomain, which: int) -> None:
    frames = granter.memory.alloc(3)
    frames[which] = grantee.memory.alloc()[0]
    with refusal(errno.EINVAL):
        read(granter, frames)
    with refusal(errno.EINVAL):
        granter.memory.write_frames(frames, memoryview(bytes(3 * PAGE_SIZE)))
