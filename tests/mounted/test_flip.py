"""A page that is transferred arrives whole at its new owner, whoever holds, maps, copies or reads it meanwhile."""

from __future__ import annotations

import errno
import os

import pytest

from tests.mounted.inside import PAGE, mapped
from tests.mounted.mount import Xen
from tests.mounted.pair import Pair, whole


@pytest.fixture
def pair(mnt: Xen) -> Pair:
    return Pair(mnt)


def test_contents_arrive_whole_and_later_writes_do_not(pair: Pair) -> None:
    view = mapped(pair.path)
    fd = os.open(pair.path, os.O_RDWR)
    for byte in (b"a", b"b", b"c"):
        view[:] = whole(byte)  # dirty, and known to the page cache only
    pair.take_away("transfer")
    for data, at in ((b"later", 0), (whole(b"l"), 0), (b"l", PAGE - 1)):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.pwrite(fd, data, at)
    os.close(fd)
    assert pair.arrived.read_bytes() == whole(b"c")
    with mapped(pair.arrived) as page:
        assert page[:] == whole(b"c")
    view.close()
    assert pair.arrived.read_bytes() == whole(b"c")


def test_a_page_goes_through_several_hands_in_one_batch(pair: Pair) -> None:
    view = mapped(pair.path)
    view[:] = whole(b"x")
    refs = [pair.owner.do("accept_transfer dom=1") for _ in range(5)]
    calls = [f"transfer mfn={pair.frame} domid=1 ref={ref}" for ref in refs]
    calls += [f"end_transfer ref={ref}" for ref in refs] + [f"transfer mfn={pair.frame} domid=2 ref={pair.offer()}"]
    assert {line.split()[0] for line in pair.owner.all(calls)} == {"ok"}
    assert pair.arrived.read_bytes() == whole(b"x")
    view.close()


@pytest.mark.parametrize("mapped_too", [False, True])
def test_what_was_copied_in_goes_along_in_the_same_batch(pair: Pair, mapped_too: bool) -> None:
    source = pair.owner.do("alloc_frame")
    (pair.path.parent / str(source)).write_bytes(whole(b"s"))
    view = mapped(pair.path.parent / str(source)) if mapped_too else None
    copy = f"copy source={source} dest={pair.frame} len=4096 source_domid=self dest_domid=self"
    answers = pair.owner.all([copy, f"transfer mfn={pair.frame} domid=2 ref={pair.offer()}"])
    assert [line.split()[0] for line in answers] == ["ok", "ok"]
    assert pair.arrived.read_bytes() == whole(b"s")
    if view:
        view.close()


def test_a_copy_out_of_a_page_that_has_just_come_has_its_bytes(pair: Pair) -> None:
    view = mapped(pair.path)
    dest = pair.owner.do("alloc_frame")
    for byte in (b"a", b"b", b"c", b"d"):
        view[:] = whole(byte)
        calls = [
            f"transfer mfn={pair.frame} domid=self ref={pair.owner.do('accept_transfer dom=1')}",
            f"copy source={pair.frame} dest={dest} len=4096 source_domid=self dest_domid=self",
        ]
        assert [line.split()[0] for line in pair.owner.all(calls)] == ["ok", "ok"]
        assert (pair.path.parent / str(dest)).read_bytes() == whole(byte)
        view.close()
        view = mapped(pair.path)
    view.close()


def test_the_new_owner_shows_as_the_pages_owner(pair: Pair) -> None:
    os.chown(pair.mnt.home(2), 12001, 12001)
    pair.path.write_bytes(b"x")
    pair.take_away("transfer")
    assert pair.arrived.stat().st_uid == 12001


READER = """
    folder = home(2) / "frames"
    say("looking")
    seen = set()
    for frame in hear().split():
        while True:
            try:
                seen.add((folder / frame).read_bytes())
                break
            except FileNotFoundError:
                pass
    say(sorted((page[:1], page == page[:1] * PAGE) for page in seen))
"""


def test_a_page_read_while_it_arrives_is_whole(pair: Pair) -> None:
    frames = [pair.frame, *(pair.owner.do("alloc_frame") for _ in range(30))]
    views = [mapped(pair.path.parent / str(frame)) for frame in frames]
    for view in views:
        view[:] = whole(b"w")
    reader = pair.mnt.client(READER)
    reader.line()
    reader.say(" ".join(map(str, frames)))
    calls = [f"transfer mfn={frame} domid=2 ref={pair.offer()}" for frame in frames]
    assert set(pair.owner.all(calls)) == {"ok"}
    assert reader.line() == "[(b'w', True)]"
    for view in views:
        view.close()


def test_what_the_new_owner_writes_while_a_page_arrives_stays(pair: Pair) -> None:
    writer = pair.mnt.client("""
        folder = home(2) / "frames"
        say("looking")
        for frame in hear().split():
            while True:
                try:
                    fd = os.open(folder / frame, os.O_RDWR)
                    break
                except FileNotFoundError:
                    pass
            os.pwrite(fd, b"mine", 8)
            os.close(fd)
        say("written")
    """)
    frames = [pair.frame, *(pair.owner.do("alloc_frame") for _ in range(30))]
    views = [mapped(pair.path.parent / str(frame)) for frame in frames]
    for view in views:
        view[:] = whole(b"w")
    writer.line()
    writer.say(" ".join(map(str, frames)))
    assert set(pair.owner.all([f"transfer mfn={frame} domid=2 ref={pair.offer()}" for frame in frames])) == {"ok"}
    assert writer.line() == "written"
    for frame in frames:
        assert (pair.arrived.parent / str(frame)).read_bytes() == b"w" * 8 + b"mine" + b"w" * (PAGE - 12)
    for view in views:
        view.close()


def test_a_received_frame_that_went_on_is_not_under_its_old_offer(pair: Pair) -> None:
    offer = pair.offer()
    assert pair.owner.ask(f"transfer mfn={pair.frame} domid=2 ref={offer}") == "ok"
    page = pair.mnt.home(2) / "grants" / str(offer) / "page"
    assert page.read_bytes() == bytes(PAGE)
    back = pair.owner.do("accept_transfer dom=2")
    assert pair.receiver.ask(f"transfer mfn={pair.frame} domid=1 ref={back}") == "ok"
    pair.path.write_bytes(b"another's")
    assert not page.exists()


def test_many_pages_flip_to_and_fro_whole(pair: Pair) -> None:
    frames = [pair.owner.do("alloc_frame") for _ in range(16)]
    sides = [(pair.owner, 1, pair.path.parent), (pair.receiver, 2, pair.arrived.parent)]
    for turn in range(6):
        (giver, domid, here), (taker, other, there) = sides[turn % 2], sides[1 - turn % 2]
        views = [mapped(here / str(frame)) for frame in frames]
        for view in views:
            view[:] = whole(bytes([65 + turn]))
        offers = [taker.do(f"accept_transfer dom={domid}") for _ in frames]
        calls = [f"transfer mfn={f} domid={other} ref={r}" for f, r in zip(frames, offers, strict=True)]
        assert set(giver.all(calls)) == {"ok"}
        taken = taker.all([f"end_transfer ref={ref}" for ref in offers])
        assert taken == [f"ok completed=1 frame={frame}" for frame in frames]
        for frame in frames:
            assert (there / str(frame)).read_bytes() == whole(bytes([65 + turn]))
        for view in views:
            view.close()
