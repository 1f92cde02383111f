"""A frame that changes hands takes its bytes along and leaves its former owner nothing; a peer's frame stays."""

# system calls are tested here, by their own names
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import mmap
import os
import signal
from pathlib import Path

import pytest

from tests.mounted.inside import PAGE, Ctl, mapped
from tests.mounted.mount import Xen, until

OWNER = """
    page = mapped(Path(hear()))
    page[:] = b"secret".ljust(PAGE, b"!")
    out, back = os.pipe()
    say("mapped")
"""
TOUCH = {"load": "page[0]", "store": "page[0:1] = b'x'"}
AWAY = ["transfer", "decrease", "free", "destroy"]


def whole(byte: bytes) -> bytes:
    return byte * PAGE


class Pair:
    """Domains 1 and 2, and a frame that goes from one to the other."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt = mnt
        for domid in (1, 2):
            (mnt.domain(domid) / "max_memory").write_text("1280")
        self.owner, self.receiver = mnt.ctl(1), mnt.ctl(2)
        self.frame = self.owner.do("alloc_frame")

    @property
    def path(self) -> Path:
        return self.mnt.home(1) / "frames" / str(self.frame)

    @property
    def arrived(self) -> Path:
        return self.mnt.home(2) / "frames" / str(self.frame)

    def offer(self) -> int:
        return self.receiver.do("accept_transfer dom=1")

    def take_away(self, how: str) -> None:
        if how == "transfer":
            assert self.owner.ask(f"transfer mfn={self.frame} domid=2 ref={self.offer()}") == "ok"
        elif how == "decrease":
            assert self.owner.ask(f"decrease_reservation frame={self.frame}") == "ok"
        elif how == "free":
            assert self.owner.ask(f"free_frame frame={self.frame}") == "ok"
        else:
            self.mnt.home(1).rmdir()


@pytest.fixture
def pair(mnt: Xen) -> Pair:
    return Pair(mnt)


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("touch", TOUCH)
def test_a_former_owner_faults(pair: Pair, how: str, touch: str) -> None:
    owner = pair.mnt.client(OWNER + f"    hear()\n    {TOUCH[touch]}\n    say('survived')")
    assert owner.ask(str(pair.path)) == "mapped"
    pair.take_away(how)
    owner.say()
    assert owner.end() == -signal.SIGBUS


@pytest.mark.parametrize("how", AWAY)
def test_a_former_owners_system_calls_fail(pair: Pair, how: str) -> None:
    owner = pair.mnt.client("""
        path = Path(hear())
        fd, page, (out, back) = os.open(path, os.O_RDWR), mapped(path), os.pipe()
        page[:] = b"secret".ljust(PAGE, b"!")
        say("mapped")

        def tried(call, *arguments):
            try:
                return call(*arguments)
            except OSError as error:
                return errno.errorcode[error.errno]

        while True:
            hear()
            say(tried(os.write, back, page), tried(os.pread, fd, PAGE, 0), tried(os.pwrite, fd, b"later", 0),
                tried(os.pwrite, fd, bytes(PAGE), 0), outcome(path, os.O_RDWR))
    """)
    assert owner.ask(str(pair.path)) == "mapped"
    pair.take_away(how)
    # a frame that was merely freed is still the domain's, empty, under a new inode
    assert owner.ask() == f"EFAULT EIO EIO EIO {'ok' if how == 'free' else 'ENOENT'}"


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


@pytest.mark.parametrize("last", ["free_frame", "decrease_reservation"])
def test_a_frame_is_scrubbed_before_it_is_used_again(pair: Pair, last: str) -> None:
    with mapped(pair.path) as view:
        view[:] = whole(b"s")
    pair.path.write_bytes(whole(b"t"))
    assert pair.owner.ask(f"{last} frame={pair.frame}") == "ok"
    again = {pair.owner.do("alloc_frame" if last == "free_frame" else "increase_reservation") for _ in range(1)}
    for frame in again:
        assert (pair.path.parent / str(frame)).read_bytes() == bytes(PAGE)
    assert pair.frame in again or last != "free_frame"


def test_a_handle_that_closes_scrubs_what_it_held(pair: Pair) -> None:
    pair.path.write_bytes(whole(b"s"))
    pair.owner.close()
    again = pair.mnt.ctl(1).do("alloc_frame")
    assert (again, (pair.path.parent / str(again)).read_bytes()) == (pair.frame, bytes(PAGE))


PEER = """
    page = mapped(home(2) / "foreign" / "1" / hear())
    page[:] = bytes([ord("p")]) * PAGE
    say("mapped")
    hear()
    say(page[:] == bytes([ord("p")]) * PAGE)
    page[0:4] = b"more"
    say(page[0:8])
    hear()
"""


ATTEMPTS = ["end_access", "defer", "free_frame", "decrease", "transfer", "set_memory", "close"]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_owner_cannot_take_a_frame_from_a_peer(pair: Pair, attempt: str) -> None:
    ref = pair.owner.do(f"grant_access frame={pair.frame} dom=2")
    peer = pair.mnt.client(PEER)
    assert peer.ask(str(ref)) == "mapped"
    calls = {
        "end_access": f"end_access ref={ref}",
        "free_frame": f"free_frame frame={pair.frame}",
        "decrease": f"decrease_reservation frame={pair.frame}",
        "transfer": f"transfer mfn={pair.frame} domid=2 ref={pair.offer()}",
        "set_memory": "set_memory frames=0",
    }
    if attempt == "close":
        pair.owner.close()
    elif attempt == "defer":
        assert pair.owner.ask(f"end_access ref={ref} flags=defer") == "ok"
        assert pair.owner.ask(calls["free_frame"]).startswith("error EBUSY")
    else:
        assert pair.owner.ask(calls[attempt]).startswith("error EBUSY")
    with pair.mnt.ctl(1) as other:
        others = {other.do("alloc_frame") for _ in range(1000)}
    assert pair.frame not in others
    assert peer.ask() == "True"
    assert peer.line() == "b'morepppp'"


@pytest.mark.parametrize("how", ["rmdir", "destroy", "kill"])
def test_no_toolstack_can_take_a_frame_from_a_peer(mnt: Xen, how: str) -> None:
    mnt.domain(1)
    mnt.domain(2)
    granter = mnt.client("""
        ctl = Ctl(1)
        frame, ref = ctl.grant(2)
        say(frame)
        say(ref)
        hear()
    """)
    frame, ref = int(granter.line()), granter.line()
    peer = mnt.client(PEER)
    assert peer.ask(ref) == "mapped"
    if how == "kill":
        granter.kill()
    elif how == "rmdir":
        mnt.home(1).rmdir()
    else:
        assert mnt.ctl(0).ask("destroy_domain dom=1") == "ok"
    if how != "kill":
        assert mnt.dying() == ["1"]
        mnt.domain(1)  # the number comes again, and may own all there is
        mnt.home(1).joinpath("max_memory").write_text("16384")
        free = mnt.lines()[-1][3]
        mnt.home(1).joinpath("memory").write_text(str(1024 + int(free)))
    with mnt.ctl(1) as successor:
        assert f"frame={frame}" not in successor.all(["alloc_frame"] * 1030)
    assert not (mnt.home(1) / "frames" / str(frame)).exists() or how == "kill"
    assert peer.ask() == "True"
    assert peer.line() == "b'morepppp'"
    peer.kill()
    until(lambda: not mnt.dying())
    with Ctl(mnt.home(1)) as successor:
        if how == "kill":
            assert successor.do("alloc_frame") == frame
            assert (mnt.home(1) / "frames" / str(frame)).read_bytes() == bytes(PAGE)


def test_a_frame_of_the_dead_is_free_and_scrubbed_after_the_last_unmap(pair: Pair) -> None:
    ref = pair.owner.do(f"grant_access frame={pair.frame} dom=2")
    page = mapped(pair.mnt.home(2) / "foreign" / "1" / str(ref))
    page[:] = whole(b"p")
    pair.mnt.home(1).rmdir()
    free = int(pair.mnt.lines()[-1][3])
    page.close()
    until(lambda: int(pair.mnt.lines()[-1][3]) == free + 1)
    pair.mnt.domain(1)
    with pair.mnt.ctl(1) as successor:
        for _ in range(1024):
            frame = successor.do("alloc_frame")
            assert (pair.mnt.home(1) / "frames" / str(frame)).read_bytes() == bytes(PAGE)


def test_an_ended_grants_directory_leads_nowhere(pair: Pair) -> None:
    ref = pair.owner.do(f"grant_access frame={pair.frame} dom=2")
    folder = os.open(pair.mnt.home(1) / "grants" / str(ref), os.O_PATH)
    try:
        assert pair.owner.ask(f"end_access ref={ref}") == "ok"
        pair.take_away("transfer")
        pair.arrived.write_bytes(b"another's")
        assert os.listdir(f"/proc/self/fd/{folder}") == ["info"]
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(FileNotFoundError):
                os.open("page", flags, dir_fd=folder)
    finally:
        os.close(folder)


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


def test_madvise_brings_nothing_back(pair: Pair) -> None:
    owner = pair.mnt.client(
        OWNER
        + """
    hear()
    page.madvise(mmap.MADV_DONTNEED)
    say(page[0])
    """
    )
    assert owner.ask(str(pair.path)) == "mapped"
    pair.take_away("transfer")
    owner.say()
    assert owner.end() == -signal.SIGBUS
    assert mmap.PAGESIZE == PAGE
