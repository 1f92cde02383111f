"""dev/gntalloc and dev/gntdev: how long pages live, what is told at their end, and copies."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from tests.hostile.files import refused
from tests.mounted.devices import Evtchn, alloc_grefs, native, twin
from tests.mounted.inside import mapped, mprotect
from tests.mounted.mount import Xen, until
from xenfs.abi import gntalloc, gntdev
from xenfs.hypervisor.snapshot import Counts

CLEAN = Counts(1024, 0, 0, 0)


@pytest.fixture
def one(mnt: Xen) -> Iterator[int]:
    """dev/gntalloc of domain 1."""
    mnt.domain(1)
    mnt.domain(2)
    fd = os.open(mnt.home(1) / "dev" / "gntalloc", os.O_RDWR)
    yield fd
    if fd in open_fds():
        os.close(fd)
    until(lambda: mnt.counts(1) == CLEAN)
    mnt.home(1).joinpath("memory").write_text("0")  # nothing is held any more


def open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - names, not paths


def dealloc(fd: int, index: int, count: int = 1) -> None:
    twin(fd, gntalloc.DEALLOC_GREF, gntalloc.DeallocGref(index=index, count=count))


def test_a_page_stays_while_somebody_has_it_open_by_its_grant(mnt: Xen, one: int) -> None:
    index, (ref,) = alloc_grefs(one, 2, 1)
    own = mnt.home(1) / "grants" / str(ref) / "page"
    page = mapped(own)
    page[:4] = b"mine"
    dealloc(one, index)
    refused(errno.EINVAL, dealloc, one, index)
    with mapped(mnt.home(2) / "foreign" / "1" / str(ref)) as peer:  # can still be mapped, as on Xen
        assert peer[:4] == b"mine"
        page.close()
        until(lambda: not own.parent.exists() or "ending" in (own.parent / "info").read_text())
        assert peer[:4] == b"mine"
        assert "ending" in (own.parent / "info").read_text()
        refused(errno.EACCES, os.open, mnt.home(2) / "foreign" / "1" / str(ref), os.O_RDWR)
    until(lambda: not own.parent.exists())
    assert mnt.counts(1) == CLEAN


def test_looking_at_its_frame_keeps_nothing(mnt: Xen, one: int) -> None:
    index, (ref,) = alloc_grefs(one, 2, 1)
    words = (mnt.home(1) / "grants" / str(ref) / "info").read_text().split()
    frame = dict(word.split("=") for word in words)["frame"]
    view = os.open(mnt.home(1) / "frames" / frame, os.O_RDWR)
    dealloc(one, index)
    assert mnt.counts(1) == CLEAN
    os.close(view)


def test_the_owner_may_write_what_the_peer_may_only_read(mnt: Xen, one: int) -> None:
    _, (ref,) = alloc_grefs(one, 2, 1, writable=False)
    refused(errno.EACCES, os.open, mnt.home(2) / "foreign" / "1" / str(ref), os.O_RDWR)
    with mapped(mnt.home(1) / "grants" / str(ref) / "page") as page:
        page[:2] = b"ro"
    with mapped(mnt.home(2) / "foreign" / "1" / str(ref), write=False) as peer:
        assert peer[:2] == b"ro"


GRANTER = """
    from tests.mounted.devices import *
    from xenfs.abi import gntalloc
    device = Evtchn(1)
    port = device.unbound(2)
    alloc = os.open(home(1) / "dev" / "gntalloc", os.O_RDWR)
    index, (ref,) = alloc_grefs(alloc, 2, 1)
    page = mapped(home(1) / "grants" / str(ref) / "page")
    page[:8] = bytes([255]) * 8
    notify = gntalloc.UnmapNotify(index=index + 5, action=3, event_channel_port=port)
    twin(alloc, gntalloc.SET_UNMAP_NOTIFY, notify)
    say(ref, port)
    hear()
"""


@pytest.mark.parametrize(
    "end", ["os.close(alloc); page.close(); hear()", "os.close(alloc); os.close(device.fd); page.close(); hear()", ""]
)
def test_the_peer_is_told_when_the_granter_goes_in_whatever_way(mnt: Xen, end: str) -> None:
    """The byte is cleared before the event, and the event is sent although its own dev/evtchn may be closed."""
    mnt.domain(1)
    mnt.domain(2)
    user = mnt.client(GRANTER + f"    {end}\n")
    ref, port = map(int, user.line().split())
    listener = Evtchn(mnt.home(2))
    here = listener.bind(1, port)
    assert listener.heard() == [here]
    listener.unmask(here)
    with mapped(mnt.home(2) / "foreign" / "1" / str(ref)) as peer:
        assert peer[:8] == bytes([255]) * 8
        if end:
            user.say()
        else:
            user.kill()
        assert listener.heard() == [here]
        assert peer[:8] == bytes([255] * 5 + [0] + [255] * 2)
    user.kill()
    listener.close()
    until(lambda: mnt.counts(1) == CLEAN)
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))


def test_a_notification_replaced_or_cancelled_lets_its_port_go(mnt: Xen, one: int) -> None:
    index, _ = alloc_grefs(one, 2, 1)
    device = Evtchn(mnt.home(1))
    ports = [device.unbound(2) for _ in range(2)]

    def notify(action: int, port: int) -> None:
        request = gntalloc.UnmapNotify(index=index, action=action, event_channel_port=port)
        twin(one, gntalloc.SET_UNMAP_NOTIFY, request)

    notify(2, ports[0])
    notify(2, ports[1])
    device.unbind(ports[0])
    device.unbind(ports[1])
    names = [path.name for path in (mnt.home(1) / "evtchn").iterdir()]
    assert names == [str(ports[1])]  # the notification alone keeps it
    refused(errno.ENOTCONN, device.notify, ports[1])
    notify(0, 0)
    assert not list((mnt.home(1) / "evtchn").iterdir())
    device.close()


def test_ends_behind_the_devices_back_do_no_harm(mnt: Xen, one: int) -> None:
    index, refs = alloc_grefs(one, 2, 3)
    ctl = mnt.ctl(1)
    assert ctl.ask(f"end_access ref={refs[0]}") == "ok"
    frame, ref = ctl.grant(2)
    assert ref == refs[0]
    assert ctl.ask(f"swap_grant_ref ref_a={refs[1]} ref_b={refs[2]}") == "ok"
    dealloc(one, index, 3)
    assert ctl.ask(f"end_access ref={ref}") == "ok"
    assert ctl.ask(f"free_frame frame={frame}") == "ok"
    assert mnt.counts(1) == CLEAN


def test_maps_that_are_only_listed_are_bounded(mnt: Xen) -> None:
    mnt.domain(1)
    fd = os.open(mnt.home(1) / "dev" / "gntdev", os.O_RDWR)
    request = gntdev.MapGrantRef(count=65536).emit()[:16] + bytes(8 * 65536)
    for _ in range(4):
        native(fd, gntdev.MAP_GRANT_REF, request)
    refused(errno.ENOMEM, native, fd, gntdev.MAP_GRANT_REF, request)
    os.close(fd)
    fd = os.open(mnt.home(1) / "dev" / "gntdev", os.O_RDWR)
    native(fd, gntdev.MAP_GRANT_REF, request)
    os.close(fd)


def test_gntdevs_notice_clears_the_byte_and_sends_the_event_when_its_process_dies(mnt: Xen, one: int) -> None:
    _, (ref,) = alloc_grefs(one, 2, 1)
    page = mapped(mnt.home(1) / "grants" / str(ref) / "page")
    page[:4] = b"live"
    user = mnt.client("""
        from tests.mounted.devices import *
        from xenfs.abi import gntdev
        device = Evtchn(2)
        port = device.bind(1, int(hear()))
        fd = os.open(home(2) / "dev" / "gntdev", os.O_RDWR)
        request = gntdev.MapGrantRef(count=1, domid=1, ref=int(hear()))
        _, data = twin(fd, gntdev.MAP_GRANT_REF, request)
        index = gntdev.MapGrantRef.parse(data).index
        notify = gntdev.UnmapNotify(index=index + 1, action=3, event_channel_port=port)
        twin(fd, gntdev.SET_UNMAP_NOTIFY, notify)
        say("set")
        hear()
    """)
    listener = Evtchn(mnt.home(1))
    port = listener.unbound(2)
    user.say(str(port))
    assert user.ask(str(ref)) == "set"
    assert listener.heard(0) == []
    user.kill()
    assert listener.heard() == [port]
    assert page[:4] == b"l\0ve"
    page.close()
    listener.close()


def segment(source: int, dest: int, length: int, flags: int) -> bytes:
    return struct.pack("<QQHHhxx", source, dest, length, flags, 0)


def grant(ref: int, offset: int, domid: int = 1) -> int:
    return int.from_bytes(struct.pack("<IHH", ref, offset, domid), "little")


def copy(fd: int, *segments: bytes, inline: bool = False) -> list[int]:
    """The statuses."""
    data, count = b"".join(segments), len(segments)
    if inline:
        _, answer = twin(fd, gntdev.GRANT_COPY, gntdev.GrantCopy(count=count, segments=0).emit() + data)
        answer = answer[16:]
    else:
        buffer = ctypes.create_string_buffer(data, len(data))
        native(fd, gntdev.GRANT_COPY, gntdev.GrantCopy(count=count, segments=ctypes.addressof(buffer)))
        answer = buffer.raw
    return [status for *_, status in struct.iter_unpack("<QQHHhxx", answer)]


@pytest.mark.parametrize("inline", [False, True])
def test_copies_are_seen_at_once_and_in_order(mnt: Xen, one: int, inline: bool) -> None:
    _, (a, b) = alloc_grefs(one, 2, 2)
    fd = os.open(mnt.home(2) / "dev" / "gntdev", os.O_RDWR)
    own = mapped(mnt.home(1) / "grants" / str(a) / "page")
    memory = ctypes.create_string_buffer(b"hello there", 64)
    at = ctypes.addressof(memory)
    own[100:104] = b"page"
    statuses = copy(
        fd,
        segment(at, grant(a, 0), 11, 2),
        segment(grant(a, 0), grant(b, 4000), 11, 3),
        segment(grant(b, 4000), at + 20, 11, 1),
        segment(at + 20, grant(a, 200), 5, 2),  # what the segment before has written
        segment(grant(a, 100), at + 40, 4, 1),  # what a live mapping has stored
        inline=inline,
    )
    assert statuses == [0] * 5
    assert memory.raw[20:31] == b"hello there"
    assert memory.raw[40:44] == b"page"
    assert (own[:5], own[200:205]) == (b"hello", b"hello")
    own.close()
    os.close(fd)


def test_thousands_of_segments(mnt: Xen, one: int) -> None:
    _, (ref,) = alloc_grefs(one, 2, 1)
    fd = os.open(mnt.home(2) / "dev" / "gntdev", os.O_RDWR)
    memory = ctypes.create_string_buffer(bytes(i % 251 for i in range(3000)), 3000)
    at = ctypes.addressof(memory)
    assert copy(fd, *(segment(at + i, grant(ref, i), 1, 2) for i in range(3000))) == [0] * 3000
    assert mapped(mnt.home(2) / "foreign" / "1" / str(ref), write=False)[:3000] == memory.raw
    os.close(fd)


def test_local_memory_may_be_pages_of_this_very_mount_that_nobody_has_touched(mnt: Xen, one: int) -> None:
    """The daemon serves the fault that its own reading of the caller's memory causes."""
    _, refs = alloc_grefs(one, 2, 1)
    ctl = mnt.ctl(2)
    frames = [ctl.do("alloc_frame") for _ in range(2)]
    (mnt.home(2) / "frames" / str(frames[0])).write_bytes(b"from a page")
    fd = os.open(mnt.home(2) / "dev" / "gntdev", os.O_RDWR)
    pages = [mapped(mnt.home(2) / "frames" / str(frame)) for frame in frames]
    source, dest = (ctypes.addressof(ctypes.c_char.from_buffer(page)) for page in pages)
    assert copy(fd, segment(source, grant(refs[0], 0), 11, 2), segment(grant(refs[0], 0), dest, 11, 1)) == [0, 0]
    assert pages[1][:11] == b"from a page"
    os.close(fd)


def test_memory_that_the_caller_cannot_write_is_efault(mnt: Xen, one: int) -> None:
    _, (ref,) = alloc_grefs(one, 2, 1)
    fd = os.open(mnt.home(2) / "dev" / "gntdev", os.O_RDWR)
    memory = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mprotect(at, mmap.PROT_READ)
    refused(errno.EFAULT, copy, fd, segment(grant(ref, 0), at, 4, 1))
    assert copy(fd, segment(at, grant(ref, 0), 4, 2)) == [0]
    os.close(fd)
