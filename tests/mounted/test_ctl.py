"""ctl: lines go in, as many lines come out in the same order, however they are cut; and trace_pipe, its sibling."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import threading

import pytest

from tests.mounted.inside import Ctl, mapped
from tests.mounted.mount import SOON, Xen, until

CALL = "current_reservation\n"
ANSWER = "ok frames=1024"


@pytest.fixture
def ctl(mnt: Xen) -> Ctl:
    mnt.domain(1)
    return mnt.ctl(1)


def ended(ctl: Ctl) -> bool:
    """Whether a read finds the end of file."""
    return os.read(ctl.fd, 4096) == b""


def test_many_lines_in_one_write(ctl: Ctl) -> None:
    assert ctl.all([CALL.strip()] * 500) == [ANSWER] * 500
    assert ended(ctl)


def test_a_line_may_come_in_pieces(ctl: Ctl) -> None:
    for letter in CALL:
        assert ended(ctl)
        ctl.send(letter)
    assert ctl.line() == ANSWER
    ctl.send("bind_ipi\ncurrent_res")
    assert ctl.line() == "ok port=1"
    assert ended(ctl)
    ctl.send("ervation\n")
    assert ctl.line() == ANSWER


def test_an_answer_may_be_read_in_pieces(ctl: Ctl) -> None:
    ctl.send(CALL * 3)
    expected = f"{ANSWER}\n".encode() * 3
    assert b"".join(os.read(ctl.fd, 1) for _ in expected) == expected
    assert ended(ctl)


def test_a_shell_converses(mnt: Xen, ctl: Ctl) -> None:
    script = 'exec 3<>"$0"; echo alloc_frame >&3; read -r a <&3; echo "grant_access ${a#ok } dom=0" >&3; read -r b <&3; echo "$a; $b"'
    done = subprocess.run(["/bin/sh", "-c", script, str(mnt.home(1) / "ctl")], capture_output=True, text=True, timeout=SOON, check=True)
    assert done.stdout.startswith("ok frame=")
    assert done.stdout.endswith("; ok ref=8\n")
    assert mnt.counts(1).granted == 0
    assert ctl.ask(CALL.strip()) == ANSWER


def test_reading_only_finds_the_end_and_takes_no_handle(mnt: Xen, ctl: Ctl) -> None:
    assert (mnt.home(1) / "ctl").read_bytes() == b""
    with mnt.ctl(1, os.O_RDONLY) as reader:
        assert ended(reader)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.write(reader.fd, b"bind_ipi\n")


def test_writing_only_makes_calls_unanswered(mnt: Xen, ctl: Ctl) -> None:
    port = ctl.do("bind_ipi")
    fd = os.open(mnt.home(1) / "evtchn" / str(port) / "pending", os.O_RDWR | os.O_NONBLOCK)
    (mnt.home(1) / "ctl").write_text(f"send port={port}\n")
    assert os.read(fd, 9) == b"\n"
    os.close(fd)


def test_a_read_that_must_not_wait_does_not(mnt: Xen, ctl: Ctl) -> None:
    with mnt.ctl(1, os.O_RDWR | os.O_NONBLOCK) as fast:
        assert ended(fast)
        assert fast.ask("bind_ipi") == "ok port=1"
        pipe = os.open(mnt.root / "hypervisor" / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.read(pipe, 4096)
        assert ctl.ask("bind_ipi") == "ok port=2"
        assert b"bind_ipi" in os.read(pipe, 4096)
        os.close(pipe)


@pytest.mark.parametrize("poller", ["poll", "epoll", "select"])
def test_an_answer_wakes_pollers(mnt: Xen, ctl: Ctl, poller: str) -> None:
    def ready(seconds: float) -> bool:
        if poller == "select":
            return bool(select.select([ctl.fd], [], [], seconds)[0])
        if poller == "poll":
            waiter = select.poll()
            waiter.register(ctl.fd, select.POLLIN)
            return bool(waiter.poll(seconds * 1000))
        with select.epoll() as other:
            other.register(ctl.fd, select.EPOLLIN | select.EPOLLET)
            return bool(other.poll(seconds))

    assert not ready(0)
    frame = ctl.do("alloc_frame")
    view = mapped(mnt.home(1) / "frames" / str(frame))
    view[0] = 1
    heard = []
    thread = threading.Thread(target=lambda: heard.append(ready(SOON)))
    thread.start()
    ctl.send(f"free_frame frame={frame}\n")  # the answer waits for the page to be written back
    thread.join(SOON)
    assert heard == [True]
    assert ctl.line() == "ok"
    assert not ready(0)
    view.close()


def test_ctl_always_takes_more(ctl: Ctl) -> None:
    assert select.select([], [ctl.fd], [], 0)[1] == [ctl.fd]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "EINVAL"),
        (b"   ", "EINVAL"),
        (b"no_such_thing", "ENOSYS"),
        (b"bind_ipi vcpu", "EINVAL"),
        (b"bind_ipi vcpu=1 vcpu=1", "EINVAL"),
        (b"bind_ipi vcpu=one", "EINVAL"),
        (b"bind_ipi vcpu=99999999999999999999", "EINVAL"),
        (b"send port=1\0", "EINVAL"),
        (b"\0\0\0", "ENOSYS"),
        (b"\xff\xfe\x80", "ENOSYS"),
        ("sénd port=1".encode(), "ENOSYS"),
        (b"rename_domain name=\xff", "EINVAL"),
        (b"rename_domain name='", "EINVAL"),
        (b"rename_domain name=" + b"x" * 65, "EINVAL"),
        (b"rename_domain name=a\x1bb", "EINVAL"),
        (b"x" * 5000, "EINVAL"),
        (b"x" * 60000, "EINVAL"),
        (b"send port=" + b"9" * 4000, "EINVAL"),
        (b"open_handle", "EPERM"),
        (b"close_handle handle=1", "EPERM"),
        (b"map_grant_ref dom=0 ref=8 flags=host_map", "EPERM"),
        (b"reap budget=1", "EPERM"),
    ],
)
def test_a_line_that_is_no_call_is_refused(ctl: Ctl, line: bytes, code: str) -> None:
    os.write(ctl.fd, line + b"\n")
    answer = ctl.line()
    assert answer.split()[:2] == ["error", code]
    assert answer.isprintable()
    assert ended(ctl)
    assert ctl.ask(CALL.strip()) == ANSWER


def test_a_long_line_has_one_answer_however_it_comes(ctl: Ctl) -> None:
    for size in (1, 1000, 4096, 4097):
        for _ in range(10000 // size + 1):
            os.write(ctl.fd, b"x" * size)
        assert ctl.line().startswith("error EINVAL"), "known before the line ends"
        assert ended(ctl)
        ctl.send("bind_ipi\n" + CALL)
        assert ctl.line() == ANSWER, "the rest of the long line was no call"
        assert ended(ctl)


def test_who_never_reads_is_told_to(mnt: Xen, ctl: Ctl) -> None:
    data = (b"no_such_thing\n" * 5000)[:65536]
    size = resident(mnt.pid)
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            os.write(ctl.fd, data)
    assert resident(mnt.pid) - size < 64 << 20
    other = mnt.ctl(1)
    assert other.ask(CALL.strip()) == ANSWER
    lines = 0
    while more := os.read(ctl.fd, 1 << 16):
        lines += more.count(b"\n")
    assert lines > 5000
    ctl.send("\n" + CALL)
    while (line := ctl.line()).startswith("error"):
        pass
    assert line == ANSWER


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_answers_that_wait_are_bounded_too(mnt: Xen, ctl: Ctl) -> None:
    """Each call waits for the work thread, so answers are owed for longer than they are made."""
    frame = ctl.do("alloc_frame")
    view = mapped(mnt.home(1) / "frames" / str(frame))
    data = f"copy source={frame} dest={frame} len=1 source_domid=self dest_domid=self\n".encode() * 700
    with pytest.raises(BlockingIOError):
        for _ in range(2000):
            os.write(ctl.fd, data)
    assert mnt.ctl(1).ask(CALL.strip()) == ANSWER
    while os.read(ctl.fd, 1 << 16):
        pass
    view.close()


def test_two_processes_on_one_handle_get_every_answer_once(mnt: Xen, ctl: Ctl) -> None:
    os.set_inheritable(ctl.fd, True)
    pair = mnt.client("""
        ctl = Ctl(1)
        child = os.fork()
        if child == 0:
            die_with_parent()
        for _ in range(300):
            os.write(ctl.fd, b"current_reservation\\n")
        count = 0
        while more := os.read(ctl.fd, len("ok frames=1024\\n")):
            count += more == b"ok frames=1024\\n"
        if child == 0:
            os._exit(count // 3)
        _, status = os.waitpid(child, 0)
        while os.read(ctl.fd, 4096):
            pass
        say(count, os.waitstatus_to_exitcode(status))
    """)
    here, there = (int(word) for word in pair.line().split())
    # an end of file may be found by one while the other still asks, so not all need be counted; none is torn
    assert 0 < here + 3 * there + 3 <= 603


def test_closing_in_the_middle_of_a_conversation(mnt: Xen, ctl: Ctl) -> None:
    for text in ("alloc_frame\n" * 100, "bind_ipi\nbind_i", "x" * 4000, ""):
        with mnt.ctl(1) as other:
            other.send(text)
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))
    assert ctl.do("bind_ipi") == 1


def test_a_fork_keeps_the_handle(mnt: Xen, ctl: Ctl) -> None:
    client = mnt.client("""
        ctl = Ctl(1)
        ctl.do("bind_ipi")
        child = os.fork()
        if child == 0:
            die_with_parent()
            signal.pause()
        ctl.close()
        say("closed")
        hear()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        say("gone")
        hear()
    """)
    assert client.line() == "closed"
    assert len(list((mnt.home(1) / "evtchn").iterdir())) == 1
    assert client.ask() == "gone"
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()), 1)
    assert ctl.do("bind_ipi") == 1


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
    assert again.line().startswith("4096") or again.line


def test_ctrl_c_ends_a_cat_of_trace_pipe(mnt: Xen) -> None:
    with subprocess.Popen(["cat", str(mnt.root / "hypervisor" / "trace_pipe")], stdout=subprocess.PIPE) as cat:
        try:
            until(lambda: "fuse_" in open(f"/proc/{cat.pid}/stack").read())  # noqa: SIM115 - as it is now
            cat.send_signal(signal.SIGINT)
            assert cat.wait(SOON) == -signal.SIGINT
        finally:
            cat.kill()


def follow(mnt: Xen) -> int:
    return os.open(mnt.root / "hypervisor" / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)


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
