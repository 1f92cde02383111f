"""Group L of adversarial.md: clients that wreck themselves, the daemon's limits, or the filesystem's patience."""

# system calls are tested here, by their own names
# ruff: noqa: PTH116

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import threading
from pathlib import Path

import pytest

from tests.hostile.files import answers, descriptors, refused
from tests.mounted.inside import PAGE, Ctl, mapped, number, outcome
from tests.mounted.mount import SOON, Xen, until
from xenfs.hypervisor.snapshot import Counts

MAX_OFFSET = 2**63 - 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def test_l1_a_guest_killed_at_any_step_leaves_nothing(mnt: Xen) -> None:
    mnt.domain(1)
    before = descriptors(mnt.pid)
    for step in range(1, 12):
        guest = mnt.client(f"""
            steps = iter(range({step}))
            def at_step():
                if next(steps, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
            at_step(); ctl = Ctl(1)
            at_step(); frame = ctl.do("alloc_frame")
            at_step(); page = mapped(home(1) / "frames" / str(frame)); page[:] = bytes(PAGE)
            at_step(); ref = ctl.do(f"grant_access frame={{frame}} dom=0")
            at_step(); ctl.do(f"name_ring frame={{frame}} name=vif-0-tx")
            at_step(); port = ctl.do("alloc_unbound remote_dom=0")
            at_step(); fd = os.open(home(1) / "evtchn" / str(port) / "pending", os.O_RDWR | os.O_NONBLOCK)
            at_step(); offer = ctl.do("accept_transfer dom=0")
            at_step(); ctl.send("alloc_frame\\nalloc_fr")
            at_step(); os.listdir(home(1) / "frames")
            os.kill(os.getpid(), signal.SIGKILL)
        """)
        guest.end()
        until(lambda: mnt.counts(1) == Counts(1024, 0, 0, 0))
        until(lambda: not [path for kind in ("evtchn", "grants", "rings") for path in (mnt.home(1) / kind).iterdir()])
    assert descriptors(mnt.pid) == before


def test_l3_ports_fail_clearly_when_the_daemon_has_no_descriptor_left(own_mnt: Xen) -> None:
    mnt = own_mnt
    mnt.domain(1)
    ctl = mnt.ctl(1)
    _, hard = resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, (64, hard))
    said = ctl.all(["alloc_unbound remote_dom=0"] * 64)
    made = [number(line) for line in said if line.startswith("ok")]
    assert 10 < len(made) < 64
    assert said[-1].startswith("error ENOSPC machine: its daemon has no descriptor left")
    assert "RLIMIT_NOFILE" in said[-1]
    refused(errno.ENFILE, os.stat, mnt.home(1) / "evtchn" / "1" / "notify")
    for call in ("bind_ipi", "bind_virq virq=timer", f"bind_interdomain remote_dom=1 remote_port={made[0]}"):
        assert ctl.ask(call).startswith("error ENOSPC")
    answers(mnt)
    fd = os.open(mnt.home(1) / "evtchn" / "1" / "pending", os.O_RDWR | os.O_NONBLOCK)
    os.close(fd)
    for port in made[:3]:
        assert ctl.ask(f"close port={port}") == "ok"
    assert ctl.do("bind_ipi") == made[0]
    os.stat(mnt.home(1) / "evtchn" / str(made[5]) / "notify")
    resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert ctl.do("alloc_unbound remote_dom=0")


def test_l3_a_domain_that_takes_all_its_handles_is_alone_with_it(mnt: Xen) -> None:
    mnt.domain(1)
    hoard: list[int] = []
    try:
        while outcome(mnt.home(1) / "ctl", os.O_RDWR) == "ok":
            hoard.append(os.open(mnt.home(1) / "ctl", os.O_RDWR))
        assert outcome(mnt.home(1) / "ctl", os.O_RDWR) == "EMFILE"
        assert len(hoard) == 1024 or len(hoard) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100
        os.close(hoard.pop())
        answers(mnt)
        Ctl(mnt.home(1)).close()
    finally:
        for fd in hoard:
            os.close(fd)


STORM = """
    path, flags = Path(hear()), int(hear())
    ends = time.monotonic() + 1.5
    count = 0
    while time.monotonic() < ends:
        fds = [os.open(path, flags) for _ in range(20)]
        for fd in fds:
            os.close(fd)
        count += 20
    say(count)
"""


def test_l4_an_open_and_close_storm(files: list[Path], mnt: Xen) -> None:
    before, ctl = descriptors(mnt.pid), mnt.ctl(1)
    storms = [mnt.client(STORM) for _ in range(4)]
    for storm, path in zip(storms, (files[9], files[4], files[3], mnt.root / "hypervisor" / "trace"), strict=True):
        storm.say(str(path))
        storm.say(str(os.O_RDWR if path.name != "trace" else os.O_RDONLY))
    for _ in range(100):
        assert ctl.ask("current_reservation") == "ok frames=1024"
    for storm in storms:
        assert int(storm.line()) > 20
    until(lambda: mnt.counts(2).mapped == 0)
    assert descriptors(mnt.pid) == before


def test_l4_a_name_looked_up_without_end_costs_nothing(files: list[Path], mnt: Xen) -> None:
    """Every lookup counts a reference that must be given back, though no name is ever kept."""
    size = resident(mnt.pid)
    for _ in range(2000):
        os.stat(files[4])
        os.stat(files[6])
        os.stat(mnt.root / "domains" / "1" / "ctl")
        with pytest.raises(FileNotFoundError):
            os.stat(mnt.home(1) / "nothing")
    assert resident(mnt.pid) - size < 4 << 20


def test_l4_a_poller_that_never_hears_costs_nothing(mnt: Xen) -> None:
    mnt.domain(1)
    ctl, size = mnt.ctl(1), resident(mnt.pid)
    poller = select.poll()
    poller.register(ctl.fd, select.POLLIN)
    for _ in range(5000):
        assert poller.poll(0) == []
    ctl.send("bind_ipi\n")
    assert poller.poll(SOON * 1000) == [(ctl.fd, select.POLLIN)]
    assert resident(mnt.pid) - size < 4 << 20


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def test_l5_clients_that_wait_forever_hold_nobody_up(mnt: Xen) -> None:
    mnt.domain(1)
    waiters = [
        mnt.client(
            """
            pipes = [os.open(xen() / "hypervisor" / "trace_pipe", os.O_RDONLY) for _ in range(10)]
            ctl = Ctl(1)
            port = ctl.do("bind_ipi")
            ear = os.open(home(1) / "evtchn" / str(port) / "pending", os.O_RDWR)

            def wait(fd):
                while True:
                    os.read(fd, 1)

            for fd in [ear, *pipes]:
                threading.Thread(target=wait, args=(fd,), daemon=True).start()
            say("waiting")
            select.select([ctl.fd], [], [])
            """
        )
        for _ in range(3)
    ]
    for waiter in waiters:
        assert waiter.line() == "waiting"
    ctl = mnt.ctl(1)
    for _ in range(200):
        assert ctl.ask("current_reservation") == "ok frames=1024"
    answers(mnt)
    for waiter in waiters:
        waiter.kill()
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))


def test_l5_a_stopped_client_holds_nobody_up(mnt: Xen) -> None:
    mnt.domain(1)
    client = mnt.client("""
        ctl = Ctl(1)
        frame, ref = ctl.grant(0)
        say(ref)
        page = mapped(home(0) / "foreign" / "1" / str(ref))
        page[:] = bytes(PAGE)
        ctl.send("alloc_frame\\n" * 500)
        say("ready")
        while True:
            page[0] = (page[0] + 1) % 256
    """)
    client.line()
    assert client.line() == "ready"
    client.signal(19)
    answers(mnt)
    mnt.home(1).rmdir()
    assert mnt.dying() == ["1"]
    client.kill()
    until(lambda: not mnt.dying())


def test_l4_many_threads_at_once(files: list[Path], mnt: Xen) -> None:
    """More callers than one batch takes; answers that wait for the work thread must not starve."""
    storm = mnt.client("""
        path = hear()

        def look():
            while True:
                os.stat(path)

        for _ in range(100):
            threading.Thread(target=look, daemon=True).start()
        say("storm")
        hear()
    """)
    assert storm.ask(str(files[0])) == "storm"
    done = threading.Event()
    ctl = mnt.ctl(1)

    def flips() -> None:
        for _ in range(20):
            frame = ctl.do("alloc_frame")
            with mapped(mnt.home(1) / "frames" / str(frame)) as page:
                page[0] = 1
                assert ctl.ask(f"free_frame frame={frame}") == "ok"
        done.set()

    worker = threading.Thread(target=flips)
    worker.start()
    assert done.wait(SOON)
    worker.join()
