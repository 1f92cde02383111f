"""The machine ends with its daemon: nothing hangs, nothing is left, and the place can be used again."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.world import Mount
from tests.mounted.inside import Ctl, mapped
from tests.mounted.mount import REPO, SOON, Client, Xen, until

GONE = {errno.ENOTCONN, errno.ECONNABORTED}


def mounts(root: Path) -> int:
    """How many mounts there are at a place, by the kernel's list."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sum(line.split()[4] == str(root) for line in lines)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(call: Callable[..., object], *arguments: object) -> None:
    """That a call fails because the daemon is dead."""
    with pytest.raises(OSError) as error:  # noqa: PT011 - checked below
        call(*arguments)
    assert error.value.errno in GONE


USER = """
    ctl = Ctl(1)
    mine, theirs, port = hear(), hear(), hear()
    pages = [mapped(Path(mine)), mapped(Path(theirs))]
    pages[0][:4] = b"here"
    ear = os.open(home(2) / "evtchn" / port / "pending", os.O_RDWR)
    notify = os.open(home(1) / "evtchn" / port / "notify", os.O_RDWR)
    os.read(ear, 9)
    poller = select.epoll()
    poller.register(ctl.fd, 0)
    say("ready")
    hear()
    pages[0][:5] = b"still"
    os.write(notify, b"\\n")
    say(pages[1][:5], os.read(ear, 9), poller.poll(10) == [(ctl.fd, select.EPOLLERR)])
    hear()
"""


def busy_user(mnt: Xen) -> Client:
    """A process that has everything open."""
    mnt.domain(1)
    mnt.domain(2)
    owner, peer = mnt.ctl(1), mnt.ctl(2)
    frame, ref = owner.grant(2)
    port = owner.do("alloc_unbound remote_dom=2")
    assert peer.do(f"bind_interdomain remote_dom=1 remote_port={port}") == port
    user = mnt.client(USER)
    user.say(str(mnt.home(1) / "frames" / str(frame)))
    user.say(str(mnt.home(2) / "foreign" / "1" / str(ref)))
    assert user.ask(str(port)) == "ready"
    return user


def test_kill_9_leaves_pages_and_events_and_tells_pollers(own_mnt: Xen) -> None:
    user = busy_user(own_mnt)
    ctl = own_mnt.ctl(1)
    own_mnt.mount.kill()
    assert user.ask() == repr(b"still") + " " + repr(b"\n") + " True"
    for name in ("hypervisor/frames", "domains/1/ctl", "domains"):
        gone(os.open, own_mnt.root / name, os.O_RDONLY)
    gone(ctl.ask, "bind_ipi")
    poller = select.poll()
    poller.register(ctl.fd, select.POLLIN)
    assert poller.poll(0)[0][1] & select.POLLERR


def test_a_new_machine_can_be_mounted_where_one_died(own_mnt: Xen) -> None:
    user = busy_user(own_mnt)
    own_mnt.mount.kill()
    subprocess.run(["umount", "-l", str(own_mnt.root)], check=True, timeout=SOON)
    assert mounts(own_mnt.root) == 0
    own_mnt.root.rmdir()
    again = Mount(own_mnt.root)
    again.arm()
    try:
        xen = Xen(again)
        xen.domain(1)
        with Ctl(xen.home(1)) as ctl:
            assert ctl.do("alloc_frame") >= 0
        user.kill()
        assert xen.counts(1).owned == 1024
    finally:
        again.close()


BLOCKED = {
    "stat": "os.stat(home(1) / 'name')",
    "read": "(xen() / 'hypervisor' / 'frames').read_text()",
    "open": "os.open(home(1) / 'ctl', os.O_RDWR)",
    "ctl": "ctl.ask('bind_ipi')",
    "fault": "page[0]",
    "mkdir": "os.mkdir(home(7))",
}


@pytest.mark.parametrize("call", BLOCKED)
def test_a_call_to_a_stopped_daemon_waits_and_ends_when_it_goes_on(own_mnt: Xen, call: str) -> None:
    user = stuck(own_mnt, call)
    try:
        until(lambda: user.waits)
    finally:
        os.kill(own_mnt.pid, signal.SIGCONT)
    assert user.line() == "done"


@pytest.mark.parametrize("call", BLOCKED)
def test_a_client_of_a_stopped_daemon_dies_with_it(own_mnt: Xen, call: str) -> None:
    user = stuck(own_mnt, call)
    until(lambda: user.waits)
    own_mnt.mount.kill()
    if call == "fault":
        assert user.end() == -signal.SIGBUS
    else:
        assert user.line() in {errno.errorcode[code] for code in GONE}


@pytest.mark.parametrize("call", ["stat", "ctl"])
def test_a_client_of_a_stopped_daemon_can_be_killed(own_mnt: Xen, call: str) -> None:
    user = stuck(own_mnt, call)
    until(lambda: user.waits)
    user.signal(signal.SIGKILL)
    os.kill(own_mnt.pid, signal.SIGCONT)
    assert user.end() == -signal.SIGKILL
    assert own_mnt.counts(1).owned == 1024


def stuck(mnt: Xen, call: str) -> Client:
    """A client in a call to the daemon, which is stopped."""
    mnt.domain(1)
    user = mnt.client(f"""
        ctl = Ctl(1)
        page = mapped(home(1) / "frames" / str(ctl.do("alloc_frame")))
        say("ready")
        hear()
        try:
            {BLOCKED[call]}
            say("done")
        except OSError as error:
            say(errno.errorcode[error.errno])
        hear()
    """)
    assert user.line() == "ready"
    os.kill(mnt.pid, signal.SIGSTOP)
    user.say()
    return user


READERS = """
    pipe = os.open(xen() / "hypervisor" / "trace_pipe", os.O_RDONLY)
    say("reading")
    try:
        while os.read(pipe, 65536):
            pass
    except OSError as error:
        say(errno.errorcode[error.errno])
    hear()
"""


def test_sigterm_ends_a_busy_machine_cleanly(own_mnt: Xen) -> None:
    user, reader = busy_user(own_mnt), own_mnt.client(READERS)
    assert reader.line() == "reading"
    os.kill(own_mnt.pid, signal.SIGTERM)
    until(lambda: not alive(own_mnt.pid), 5)
    assert mounts(own_mnt.root) == 0
    assert reader.line() in {errno.errorcode[code] for code in GONE}
    assert user.ask() == repr(b"still") + " " + repr(b"\n") + " True"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_too(own_mnt: Xen, number: int) -> None:
    os.kill(own_mnt.pid, number)
    until(lambda: not alive(own_mnt.pid), 5)
    assert mounts(own_mnt.root) == 0


def test_sigterm_in_a_storm(own_mnt: Xen) -> None:
    own_mnt.domain(1)
    storms = [
        own_mnt.client("""
            say("storm")
            try:
                while True:
                    with Ctl(1) as ctl:
                        frame = ctl.do("alloc_frame")
                        page = mapped(home(1) / "frames" / str(frame))
                        page[:] = bytes(PAGE)
                        ctl.do("bind_ipi")
                        ctl.do(f"free_frame frame={frame}")
            except (OSError, EOFError) as error:
                say("over")
        """)
        for _ in range(3)
    ]
    for storm in storms:
        assert storm.line() == "storm"
    os.kill(own_mnt.pid, signal.SIGTERM)
    until(lambda: not alive(own_mnt.pid), 5)
    assert mounts(own_mnt.root) == 0
    for storm in storms:
        assert storm.end() in (0, -signal.SIGBUS)


def test_umount_from_outside_ends_the_daemon(own_mnt: Xen) -> None:
    own_mnt.domain(1)
    subprocess.run(["umount", str(own_mnt.root)], check=True, timeout=SOON)
    until(lambda: not alive(own_mnt.pid), 5)


@pytest.mark.parametrize("what", ["channel", "ctl"])
def test_umount_is_busy_while_somebody_uses_the_machine(own_mnt: Xen, what: str) -> None:
    own_mnt.domain(1)
    ctl = own_mnt.ctl(1)
    if what == "channel":
        # the port outlives every descriptor of a client's: only the daemon's own keeps the mount busy
        assert ctl.ask("reset") == "ok"
        assert own_mnt.ctl(0).do("alloc_unbound dom=1 remote_dom=0") == 1
        ctl.close()
    failed = subprocess.run(["umount", str(own_mnt.root)], capture_output=True, text=True, timeout=SOON, check=False)
    assert failed.returncode
    assert "busy" in failed.stderr
    assert own_mnt.counts(1).owned == 1024
    ctl.close()


def test_a_lazy_umount_ends_the_daemon_with_the_last_user(own_mnt: Xen) -> None:
    user = busy_user(own_mnt)
    own_mnt.close_handles()
    subprocess.run(["umount", "-l", str(own_mnt.root)], check=True, timeout=SOON)
    user.kill()
    until(lambda: not alive(own_mnt.pid), 5)


def test_a_mount_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xenfs.daemon", str(tmp_path / "nowhere")]
    failed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=SOON, check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == f"xenfs: cannot mount on {tmp_path / 'nowhere'}"


def test_dirty_pages_do_not_keep_a_killed_daemon(own_mnt: Xen) -> None:
    own_mnt.domain(1)
    ctl = own_mnt.ctl(1)
    views = [mapped(own_mnt.home(1) / "frames" / str(ctl.do("alloc_frame"))) for _ in range(50)]
    for view in views:
        view[:] = b"x" * len(view)
    own_mnt.mount.kill()
    for view in views:
        assert view[:1] == b"x"
        view.close()
    ctl.close()
