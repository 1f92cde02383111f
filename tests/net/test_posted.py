"""The pages a guest posts: found where they are mapped, joined where they lie together, used in their order."""

from __future__ import annotations

from xennet.pages import Pages
from xennet.posted import Posted

from xenfs.abi.netif import RX, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.testing import in_memory

SLOTS = 8


def requests(*pairs: tuple[int, int]) -> bytes:
    return b"".join(RX.request.pack(number, ref) for number, ref in pairs)


def test_pages_are_joined_and_the_second_is_left_out() -> None:
    with in_memory(domains=2) as xen, xen.domain(1) as front, xen.domain(2) as back:
        frames = front.memory.alloc(SLOTS)
        refs = front.memory.grant(frames, back.domid)
        pages = Pages(back.memory, front.domid)
        pages.add(refs, readonly=False)
        posted = Posted(SLOTS, pages)
        posted.add(requests(*enumerate(refs)))
        assert posted.count == SLOTS
        views = posted.room(4)
        assert views is not None
        assert [len(view) for view in views] == [PAGE_SIZE, 2 * PAGE_SIZE]
        views[1][:4] = b"here"
        with front.memory.view([frames[2]]) as page:
            assert bytes(page[:4]) == b"here"
        assert posted.whole(1, 2) == b"".join(RX.response.pack(n, 0, int(RxFlag.more_data), PAGE_SIZE) for n in (1, 2))
        posted.drop(3)
        assert (posted.number(0), posted.ref(1), posted.count) == (3, refs[4], SLOTS - 3)
        posted.add(requests((7, refs[0]), (6, refs[1])))
        assert [posted.number(place) for place in range(5, 7)] == [7, 6]
        pages.close()
        front.memory.end_access(refs)
        front.memory.free(frames)


def test_what_is_mapped_no_longer_is_seen_at_once() -> None:
    with in_memory(domains=2) as xen, xen.domain(1) as front, xen.domain(2) as back:
        frames = front.memory.alloc(2)
        refs = front.memory.grant(frames, back.domid)
        pages = Pages(back.memory, front.domid)
        posted = Posted(SLOTS, pages)
        posted.add(requests((0, refs[0]), (1, refs[1])))
        assert posted.room(1) is None
        pages.add(refs, readonly=False)
        assert posted.room(1) is not None
        pages.remove(refs)
        assert posted.room(1) is None
        pages.close()
        front.memory.end_access(refs)
        front.memory.free(frames)
