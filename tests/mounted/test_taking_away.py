"""A frame that is taken away leaves its former owner nothing; one that a peer maps is not taken away."""

# system calls are tested here, by their own names
# ruff: noqa: PTH208

from __future__ import annotations

import mmap
import os
import signal

import pytest

from tests.mounted.inside import PAGE, Ctl, mapped
from tests.mounted.mount import Xen, until
from tests.mounted.pair import Pair, whole

OWNER = """
    page = mapped(Path(hear()))
    page[:] = b"secret".ljust(PAGE, b"!")
    out, back = os.pipe()
    say("mapped")
"""
TOUCH = {"load": "page[0]", "store": "page[0:1] = b'x'"}
AWAY = ["transfer", "decrease", "free", "destroy"]


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
