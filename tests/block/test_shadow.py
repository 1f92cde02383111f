"""What blkfront remembers, and pages in blkback: on a machine in memory, with a ring and nothing else between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xenblk.pool import Pool, Shape
from xenblk.request import Parser
from xenblk.shadow import Shadow, Wish

from xenfs.abi.blkif import SEGMENT, X86_64, Op, Request
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import BareDomain
from xenfs.hypervisor import Config
from xenfs.ring import BackRing, FrontRing
from xenfs.testing import in_memory
from xenfs.xenbus import Counters, Loop, PeerProtocolError
from xenfs.xenbus.frontend import Shared
from xenfs.xenbus.grants import IDLE_SECONDS, MOST, Grants, Pieces

SHAPE = Shape(small=3, large=2, large_pages=16)
READ, WRITE, FLUSH = int(Op.read), int(Op.write), int(Op.flush_diskcache)


class Ends:
    """A shadow, and a backend that answers when a test says so."""

    def __init__(self, front: BareDomain, back: BareDomain) -> None:
        self.front, self.back = front, back
        pool = Pool(SHAPE, self.share(SHAPE.pages), self.share(SHAPE.large))
        self.shadow = Shadow(pool, Counters(0, Loop()))
        self.shadow.eager = False
        self.done: list[tuple[str, bool]] = []
        self.connect()

    def share(self, count: int) -> Shared:
        frames = self.front.memory.alloc(count)
        return self.front.memory.view(frames).view, frames, self.front.memory.grant(frames, self.back.domid)

    def connect(self) -> None:
        """Another ring, as with another backend."""
        page = memoryview(bytearray(PAGE_SIZE))
        self.ring, channel = FrontRing(page, X86_64), self.front.events.alloc_unbound(self.back.domid)
        self.other = BackRing(page, X86_64)
        self.shadow.connect(self.ring, channel, 16)

    def wish(self, name: str, op: int = READ, sector: int = 0, size: int = PAGE_SIZE) -> None:
        self.shadow.add(Wish(op, sector, 0 if op == FLUSH else size, lambda good: self.done.append((name, good))))
        self.shadow.push()
        self.shadow.kick()

    def answer(self, *entries: Request, status: int = 0) -> None:
        for entry in entries:
            inner = entry[1] if entry[0] == Op.indirect else entry[0]
            self.other.respond(entry[3], inner, status)
        self.other.publish()
        self.shadow.answered()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with in_memory(domains=2) as xen, xen.domain(1) as front, xen.domain(2) as back:
        yield Ends(front, back)


def test_what_was_not_answered_is_asked_again_in_its_order(ends: Ends) -> None:
    ends.wish("a", WRITE, 0)
    ends.wish("b", WRITE, 8)
    ends.wish("flush", FLUSH)
    ends.wish("c", WRITE, 16)
    asked = ends.other.take()
    assert [(entry[0], entry[4]) for entry in asked] == [(WRITE, 0), (WRITE, 8), (FLUSH, 0), (WRITE, 16)]
    ends.answer(asked[1])
    ends.shadow.disconnect()
    ends.wish("d", WRITE, 24)
    ends.connect()
    *again, new = ends.other.take()
    assert again == [asked[0], asked[2], asked[3]], "and none that was acknowledged"
    assert new[4] == 24, "what came meanwhile stands behind them"
    ends.answer(*again, new)
    assert ends.done == [("b", True), ("a", True), ("flush", True), ("c", True), ("d", True)]


def test_a_large_wish_is_several_requests_and_done_with_the_last(ends: Ends) -> None:
    size = 40 * PAGE_SIZE
    ends.wish("large", READ, 100, size)
    first = ends.other.take()
    assert [(entry[0], entry[2], entry[4]) for entry in first] == [(Op.indirect, 16, 100), (Op.indirect, 16, 228)]
    ends.answer(*first)
    assert ends.done == []
    (last,) = ends.other.take()
    assert (last[0], last[1], last[4]) == (READ, 8, 356)
    ends.answer(last, status=-1)
    assert ends.done == [("large", False)]
    assert ends.shadow.idle


def test_a_full_ring_and_a_full_pool_make_wishes_wait(ends: Ends) -> None:
    for number in range(50):
        ends.wish(str(number), READ, number * 8)
    while asked := ends.other.take():
        assert len(asked) <= SHAPE.small + SHAPE.large
        ends.answer(*reversed(asked))
    assert sorted(int(name) for name, good in ends.done if good) == list(range(50))


@pytest.mark.parametrize(
    ("number", "op", "status"), [(7, READ, 0), (0, WRITE, 0), (None, WRITE, 0), (None, READ, 5), (1 << 63, READ, 0)]
)
def test_nonsense_is_the_peers_error_and_nothing_is_forgotten(
    ends: Ends, number: int | None, op: int, status: int
) -> None:
    ends.wish("a")
    (entry,) = ends.other.take()
    ends.other.respond(entry[3] if number is None else number, op, status)
    ends.other.publish()
    with pytest.raises(PeerProtocolError):
        ends.shadow.answered()
    ends.connect()
    assert ends.other.take() == [entry]


def test_when_the_disk_is_gone_everything_has_failed(ends: Ends) -> None:
    for name in "abc":
        ends.wish(name)
    ends.wish("large", READ, 0, 200 * PAGE_SIZE)
    ends.shadow.give_up()
    assert sorted(ends.done) == [("a", False), ("b", False), ("c", False), ("large", False)]
    while asked := ends.other.take():
        ends.answer(*asked)
    assert ends.shadow.idle
    assert len(ends.done) == 4, "what the backend says now is nobody's"


def test_pages_are_kept_mapped_until_they_have_not_been_used_for_long() -> None:
    now = [0.0]
    with in_memory(domains=2) as xen, xen.domain(1) as front, xen.domain(2) as back:
        frames = front.memory.alloc(8)
        refs = front.memory.grant(frames, back.domid)
        grants = Grants(back.memory, front.domid, persistent=True, clock=lambda: now[0])

        def pieces(*which: int) -> Pieces:
            raw = b"".join(SEGMENT.pack(refs[number], 0, 7) for number in which)
            return Parser(1 << 20, 512, lambda _ref, _size: b"").parse((READ, len(which), 0, 0, 0, raw)).pieces

        first = grants.use(pieces(0, 1, 2), readonly=False)
        assert [len(view) for view in first.views] == [3 * PAGE_SIZE], "one piece"
        with front.memory.view(frames[1:2]) as page:
            page[:4] = b"here"
        assert bytes(first.views[0][PAGE_SIZE : PAGE_SIZE + 4]) == b"here"
        first.done()
        second = grants.use(pieces(2, 3, 0), readonly=False)
        assert (grants.mapped, len(grants), len(second.views)) == (4, 4, 3)
        now[0] = IDLE_SECONDS + 1
        grants.expire()
        assert len(grants) == 4, "what is being used stays"
        second.done()
        grants.use(pieces(3), readonly=False).done()
        now[0] += IDLE_SECONDS - 1
        grants.expire()
        assert len(grants) == 1
        grants.close()
        assert front.memory.end_access(refs) == []
        front.memory.free(frames)


def test_a_request_for_pages_that_would_be_let_go_for_its_others_keeps_them() -> None:
    with in_memory(config=Config(frames=1 << 15, dom0_frames=64)) as xen:
        for frames in (4096, 64):
            xen.create_domain(frames=frames)
        with xen.domain(1) as front, xen.domain(2) as back:
            mine = front.memory.alloc(MOST + 4)
            refs = front.memory.grant(mine, back.domid)
            grants = Grants(back.memory, front.domid, persistent=True, clock=lambda: 0.0)

            def use(*wanted: int) -> int:
                raw = b"".join(SEGMENT.pack(ref, 0, 7) for ref in wanted)
                wish = Parser(1 << 20, 512, lambda _ref, _size: b"").parse((READ, len(wanted), 0, 0, 0, raw))
                found = grants.use(wish.pieces, readonly=False)
                size = sum(len(view) for view in found.views)
                found.done()
                return size // PAGE_SIZE

            for at in range(0, MOST, 8):
                assert use(*refs[at : at + 8]) == 8
            assert use(refs[0], *refs[MOST:]) == 5, "the oldest of all, and four for which others must go"
            assert len(grants) <= MOST
            grants.close()
            assert front.memory.end_access(refs) == []
            front.memory.free(mine)


def test_pages_of_a_frontend_that_makes_others_each_time_are_mapped_for_the_request() -> None:
    with in_memory(domains=2) as xen, xen.domain(1) as front, xen.domain(2) as back:
        frames = front.memory.alloc(3)
        refs = front.memory.grant(frames, back.domid)
        grants = Grants(back.memory, front.domid, persistent=False, clock=lambda: 0.0)
        raw = b"".join(SEGMENT.pack(ref, first, 7) for ref, first in zip(refs, (0, 0, 4), strict=True))
        wish = Parser(1 << 20, 512, lambda _ref, _size: b"").parse((WRITE, 3, 0, 0, 0, raw))
        use = grants.use(wish.pieces, readonly=True)
        assert [len(view) for view in use.views] == [2 * PAGE_SIZE, PAGE_SIZE // 2]
        assert all(view.readonly for view in use.views)
        assert front.memory.end_access(refs) == refs
        use.done()
        assert front.memory.end_access(refs) == []
        front.memory.free(frames)
