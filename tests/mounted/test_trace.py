"""hypervisor/trace, trace_pipe and store_pipe: every hypercall as it was, and what is done with the store, to everybody
who follows.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mounted.inside import Ctl
from tests.mounted.mount import SOON, Xen, until


@pytest.fixture
def ctl(mnt: Xen) -> Ctl:
    mnt.domain(1)
    return mnt.ctl(1)


READ = """
    signal.signal(signal.SIGUSR1, lambda *_: say("signalled"))
    signal.siginterrupt(signal.SIGUSR1, True)
    fd = os.open(xen() / "hypervisor" / "trace_pipe", os.O_RDONLY)
    say("reading")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(4096)
    size = libc.read(fd, buffer, 4096)
    say(size, errno.errorcode.get(ctypes.get_errno()) if size < 0 else buffer.value[:6])
    hear()
"""


def test_a_signal_interrupts_a_read_that_waits(mnt: Xen, ctl: Ctl) -> None:
    reader = mnt.client(READ)
    assert reader.line() == "reading"
    until(lambda: reader.waits)
    reader.signal(signal.SIGUSR1)
    said = {reader.line(), reader.line()}
    assert said == {"signalled", "-1 EINTR"}
    again = mnt.client(READ)
    assert again.line() == "reading"
    until(lambda: again.waits)
    ctl.do("bind_ipi")
    assert again.line().endswith(repr(b'{"seq"'))


def test_ctrl_c_ends_a_cat_of_trace_pipe(mnt: Xen) -> None:
    with subprocess.Popen(["cat", str(mnt.root / "hypervisor" / "trace_pipe")], stdout=subprocess.PIPE) as cat:
        try:
            until(lambda: "fuse_" in Path(f"/proc/{cat.pid}/stack").read_text())
            cat.send_signal(signal.SIGINT)
            assert cat.wait(SOON) == -signal.SIGINT
        finally:
            cat.kill()


def follow(mnt: Xen, name: str = "trace_pipe") -> int:
    return os.open(mnt.root / "hypervisor" / name, os.O_RDONLY | os.O_NONBLOCK)


def records(fd: int) -> list[dict[str, object]]:
    """What a follower has been told."""
    data = b""
    try:
        while more := os.read(fd, 1000):
            data += more
    except BlockingIOError:
        pass
    return [json.loads(line) for line in data.splitlines()]


def test_each_follower_has_its_own_place(mnt: Xen, ctl: Ctl) -> None:
    first = follow(mnt)
    ctl.do("bind_ipi")
    second = follow(mnt)
    ctl.do("alloc_frame")
    assert [r["op"] for r in records(first)] == ["bind_ipi", "alloc_frame"]
    assert [r["op"] for r in records(second)] == ["alloc_frame"]
    assert records(first) == []
    os.close(first)
    ctl.do("bind_ipi")
    (last,) = records(second)
    assert (last["op"], last["domid"], last["out"]) == ("bind_ipi", 1, {"port": 2})
    os.close(second)


def test_a_follower_is_told_what_it_lost(mnt: Xen, ctl: Ctl) -> None:
    slow = follow(mnt)
    for _ in range(5):
        ctl.all(["current_reservation"] * 1000)
    told = records(slow)
    assert told[0] == {"lost": 5000 - 4096}
    assert len(told) == 4097
    assert [r["seq"] for r in told[1:]] == list(range(int(str(told[1]["seq"])), int(str(told[1]["seq"])) + 4096))
    os.close(slow)


def test_a_follower_in_a_poller_hears(mnt: Xen, ctl: Ctl) -> None:
    fd = follow(mnt)
    with select.epoll() as poller:
        poller.register(fd, select.EPOLLIN)
        assert poller.poll(0) == []
        ctl.do("bind_ipi")
        assert poller.poll(SOON) == [(fd, select.EPOLLIN)]
        assert len(records(fd)) == 1
        assert poller.poll(0) == []
    os.close(fd)


def test_the_trace_is_what_happened(mnt: Xen, ctl: Ctl) -> None:
    ctl.do("bind_ipi")
    ctl.ask("send port=99")
    lines = (mnt.root / "hypervisor" / "trace").read_text().splitlines()
    made, refused = (json.loads(line) for line in lines[-2:])
    assert (made["op"], made["out"]) == ("bind_ipi", {"port": 1})
    assert (refused["op"], refused["error"], refused["in"]) == ("send", "EINVAL", {"port": 99})
    assert (mnt.root / "hypervisor" / "trace").stat().st_size == len("\n".join(lines)) + 1


def test_who_follows_the_store_hears_what_is_done_with_it_from_then_on(mnt: Xen) -> None:
    node = mnt.root / "xenstore" / "tool" / "followed"
    node.write_text("before")
    first = follow(mnt, "store_pipe")
    node.write_text("1")
    second = follow(mnt, "store_pipe")
    assert node.read_text() == "1\n"
    node.unlink()
    heard = [(r["domid"], r["op"], r["in"]) for r in records(first)]
    path = "/tool/followed"
    assert heard == [(0, "store.write", {"path": path, "value": "1"}), (0, "store.rm", {"path": path})]
    assert [r["op"] for r in records(second)] == ["store.rm"]
    os.close(first)
    node.write_text("2")
    node.unlink()
    assert [r["op"] for r in records(second)] == ["store.write", "store.rm"]
    os.close(second)


def test_a_follower_of_the_store_in_a_poller_hears_and_is_told_what_it_lost(mnt: Xen) -> None:
    node = mnt.root / "xenstore" / "tool" / "followed"
    fd = follow(mnt, "store_pipe")
    with select.epoll() as poller:
        poller.register(fd, select.EPOLLIN)
        assert poller.poll(0) == []
        for number in range(5000):
            node.write_text(str(number))
        assert poller.poll(SOON) == [(fd, select.EPOLLIN)]
        *told, lost = records(fd)
        assert [r["in"]["value"] for r in told] == [str(number) for number in range(len(told))]  # type: ignore[index]
        assert lost == {"lost": 5000 - 4096}
        assert poller.poll(0) == []
    os.close(fd)
    node.unlink()


def test_a_follower_of_the_store_that_does_not_read_costs_little_whatever_is_written(mnt: Xen) -> None:
    node = mnt.root / "xenstore" / "tool" / "followed"
    fd = follow(mnt, "store_pipe")
    for _ in range(1000):
        node.write_bytes(bytes(2000))
    *told, lost = records(fd)
    kept = sum(len(json.dumps(record)) for record in told)
    assert (1 << 20) < kept <= 1 << 21
    assert lost == {"lost": 1000 - len(told)}
    os.close(fd)
    node.unlink()


def test_the_pipes_are_for_the_mounts_owner_and_not_listed(mnt: Xen) -> None:
    for pipe in (mnt.root / "hypervisor" / name for name in ("store_pipe", "trace_pipe")):
        assert pipe.stat().st_mode & 0o777 == 0o400
        assert pipe not in pipe.parent.iterdir()
