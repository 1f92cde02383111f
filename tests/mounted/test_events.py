"""Event channels as FIFOs: what is sent is heard once, by whom it is for, and by nobody else."""

# system calls are tested here, by their own names
# ruff: noqa: PTH116

from __future__ import annotations

import errno
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounted.inside import Ctl, RefusedError
from tests.mounted.mount import SOON, Xen


class Ear:
    """A port's `pending`."""

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder / "pending", os.O_RDWR | os.O_NONBLOCK)

    def heard(self, seconds: float = 0.0) -> bool:
        """Whether an event has come; takes all there are."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self.fd, 65536)
        return bool(ready)

    def close(self) -> None:
        os.close(self.fd)


class Channel:
    """A port of domain 1 that waits for domain 2."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt = mnt
        mnt.domain(1)
        mnt.domain(2)
        self.one, self.two = mnt.ctl(1), mnt.ctl(2)
        self.port = self.one.do("alloc_unbound remote_dom=2")
        self.here = mnt.home(1) / "evtchn" / str(self.port)
        self.ears: list[Ear] = []

    def ear(self, folder: Path) -> Ear:
        self.ears.append(Ear(folder))
        return self.ears[-1]

    def bind(self) -> Path:
        return self.mnt.home(2) / "evtchn" / str(self.bind_port())

    def bind_port(self) -> int:
        return self.two.do(f"bind_interdomain remote_dom=1 remote_port={self.port}")

    def close(self) -> None:
        for ear in self.ears:
            ear.close()


@pytest.fixture
def channel(mnt: Xen) -> Iterator[Channel]:
    made = Channel(mnt)
    yield made
    made.close()


def echo(path: Path) -> None:
    """As a person does it: must not block."""
    subprocess.run(["/bin/sh", "-c", 'echo > "$0"', str(path)], check=True, timeout=SOON)


def test_an_event_waits_for_a_reader_when_its_sender_is_gone(channel: Channel) -> None:
    there = channel.bind()
    ear = channel.ear(there)
    assert ear.heard()
    ear.close()
    channel.ears.clear()
    echo(channel.here / "notify")
    assert channel.ear(there).heard()
    echo(there / "notify")
    assert channel.ear(channel.here).heard()


def test_binding_raises_an_event_on_the_binder_only(channel: Channel) -> None:
    ear = channel.ear(channel.here)
    assert channel.ear(channel.bind()).heard()
    assert not ear.heard()


def test_several_events_are_read_as_one(channel: Channel) -> None:
    there = channel.bind()
    for _ in range(5):
        echo(channel.here / "notify")
        assert channel.one.ask(f"send port={channel.port}") == "ok"
    ear = channel.ear(there)
    assert ear.heard()
    assert not ear.heard()


def test_a_shell_reads_an_event_as_a_line(channel: Channel) -> None:
    there = channel.bind()
    command = 'read -r x < "$0" && echo "heard:$x"'
    done = subprocess.run(["/bin/sh", "-c", command, str(there / "pending")], capture_output=True, timeout=SOON)
    assert done.stdout == b"heard:\n"


def test_a_notify_opened_before_the_peer_binds_stays_right(channel: Channel) -> None:
    early = os.open(channel.here / "notify", os.O_WRONLY | os.O_NONBLOCK)
    os.write(early, b"\n")
    ear = channel.ear(channel.bind())
    assert ear.heard()  # of its binding; what came before is forgotten
    assert not ear.heard()
    os.write(early, b"\n")
    assert ear.heard()
    os.close(early)


def test_a_notify_without_a_peer_neither_blocks_nor_is_heard(channel: Channel) -> None:
    ear = channel.ear(channel.here)
    for _ in range(20):
        echo(channel.here / "notify")
    assert channel.one.ask(f"send port={channel.port}") == "ok"
    assert not ear.heard()
    there = channel.ear(channel.bind())
    assert there.heard()
    assert not there.heard()


def test_a_flood_from_before_the_binding_does_not_stop_the_machine(channel: Channel) -> None:
    flood = channel.mnt.client("""
        fd = os.open(hear(), os.O_WRONLY)
        say("flooding")
        data = bytes(65536)
        while True:
            os.write(fd, data)
    """)
    assert flood.ask(str(channel.here / "notify")) == "flooding"
    ear = channel.ear(channel.bind())
    assert ear.heard(SOON)
    assert channel.one.ask("bind_ipi") == "ok port=2"


def test_what_is_sent_to_a_closed_channel_goes_nowhere(channel: Channel) -> None:
    first = channel.bind_port()
    there = channel.mnt.home(2) / "evtchn" / str(first)
    old_notify = os.open(channel.here / "notify", os.O_RDWR | os.O_NONBLOCK)
    old_ear = channel.ear(there)
    assert old_ear.heard()
    assert channel.two.ask(f"close port={first}") == "ok"
    assert not there.exists()
    assert channel.bind_port() == first, "the number comes again"
    new_ear = channel.ear(there)
    assert new_ear.heard()
    os.write(old_notify, b"\n")
    assert not new_ear.heard()
    assert os.fstat(old_ear.fd).st_ino != os.fstat(new_ear.fd).st_ino
    echo(channel.here / "notify")
    assert new_ear.heard()
    old_ear.heard()
    echo(there / "notify")
    assert not old_ear.heard()
    os.close(old_notify)


def test_a_writer_to_a_closed_channel_is_told(channel: Channel) -> None:
    port = channel.bind_port()
    notify = os.open(channel.here / "notify", os.O_WRONLY | os.O_NONBLOCK)
    assert channel.two.ask(f"close port={port}") == "ok"
    with pytest.raises(BrokenPipeError):
        os.write(notify, b"\n")
    os.close(notify)


def test_closing_one_end_leaves_the_other_waiting_and_silent(channel: Channel) -> None:
    port = channel.bind_port()
    ear = channel.ear(channel.here)
    assert channel.two.ask(f"close port={port}") == "ok"
    assert not ear.heard()
    assert (channel.here / "info").read_text() == "state=unbound remote_domid=2 remote_port=0\n"
    again = channel.ear(channel.bind())
    assert again.heard()
    echo(channel.here / "notify")
    assert again.heard()


def test_a_handle_takes_its_ports_along(channel: Channel) -> None:
    there = channel.bind()
    channel.two.close()
    assert not there.exists()
    assert (channel.here / "info").read_text().startswith("state=unbound")


def test_reset_closes_every_port_and_numbers_begin_again(channel: Channel) -> None:
    there = channel.bind()
    channel.one.do("bind_ipi")
    ear = channel.ear(channel.here)
    assert channel.one.ask("reset") == "ok"
    assert not list((channel.mnt.home(1) / "evtchn").iterdir())
    assert (there / "info").read_text().startswith("state=unbound remote_domid=1")
    assert channel.one.ask(f"send port={channel.port}").startswith("error EINVAL")
    assert channel.one.do("alloc_unbound remote_dom=2") == channel.port
    echo(there / "notify")
    assert not channel.ear(channel.here).heard()
    assert not ear.heard()


def test_an_ipi_is_heard_by_oneself(channel: Channel) -> None:
    port = channel.one.do("bind_ipi")
    folder = channel.mnt.home(1) / "evtchn" / str(port)
    ear = channel.ear(folder)
    assert not ear.heard()
    for notify in (lambda: echo(folder / "notify"), lambda: channel.one.do(f"send port={port}")):
        notify()
        assert ear.heard()


@pytest.mark.parametrize("how", ["rmdir", "destroy", "shutdown"])
def test_domain_0_hears_of_a_domain_that_stops(channel: Channel, how: str) -> None:
    dom0 = channel.mnt.ctl(0)
    port = dom0.do("bind_virq virq=dom_exc")
    folder = channel.mnt.home(0) / "evtchn" / str(port)
    ear = channel.ear(folder)
    assert not ear.heard()
    if how == "rmdir":
        channel.mnt.home(1).rmdir()
    else:
        assert dom0.ask(f"{how}_domain dom=1") == "ok"
    assert ear.heard()
    assert sorted(path.name for path in folder.iterdir()) == ["info", "pending"]
    assert not (folder / "notify").exists(), "what the machine raises nobody else can"


def test_a_port_tells_its_state(channel: Channel) -> None:
    assert (channel.here / "info").read_text() == "state=unbound remote_domid=2 remote_port=0\n"
    there = channel.bind()
    assert (channel.here / "info").read_text() == f"state=interdomain remote_domid=2 remote_port={there.name}\n"
    assert (there / "info").read_text() == f"state=interdomain remote_domid=1 remote_port={channel.port}\n"
    virq = channel.one.do("bind_virq virq=timer")
    assert (channel.here.parent / str(virq) / "info").read_text() == "state=virq virq=timer vcpu=0\n"
    ipi = channel.one.do("bind_ipi")
    assert (channel.here.parent / str(ipi) / "info").read_text() == "state=ipi vcpu=0\n"


@pytest.mark.parametrize("port", ["0", "77", "-1", "4294967295", "4294967296", "1e9", ""])
def test_e1_a_send_to_a_port_that_is_not_there(channel: Channel, port: str) -> None:
    with pytest.raises(RefusedError) as refused:
        channel.one.do(f"send port={port}")
    assert refused.value.code == "EINVAL"


def test_e2_a_storm_leaves_the_others_their_events(channel: Channel) -> None:
    ear = channel.ear(channel.bind())
    assert ear.heard()
    storms = [
        channel.mnt.client("""
            fd = os.open(hear(), os.O_WRONLY | os.O_NONBLOCK)
            say("storm")
            while True:
                try:
                    os.write(fd, b"\\n")
                except BlockingIOError:
                    pass
        """)
        for _ in range(2)
    ]
    other = channel.one.do("alloc_unbound remote_dom=2")
    for storm in storms:
        assert storm.ask(str(channel.here.parent / str(other) / "notify")) == "storm"
    begun = time.monotonic()
    for _ in range(50):
        assert channel.one.ask(f"send port={channel.port}") == "ok"
        assert ear.heard(SOON)
    assert time.monotonic() - begun < SOON


def test_e6_a_full_channel_still_takes_events(channel: Channel) -> None:
    there = channel.bind()
    notify = os.open(channel.here / "notify", os.O_WRONLY | os.O_NONBLOCK)
    os.write(notify, bytes(1 << 20))
    with pytest.raises(BlockingIOError):
        os.write(notify, b"\n")
    for _ in range(3):
        assert channel.one.ask(f"send port={channel.port}") == "ok"
    ear = channel.ear(there)
    assert ear.heard()
    os.close(notify)


def test_e8_a_port_that_waited_for_a_dead_domain_is_for_its_successor(channel: Channel) -> None:
    channel.mnt.home(2).rmdir()
    echo(channel.here / "notify")
    channel.mnt.domain(2)
    with Ctl(channel.mnt.home(2)) as successor:
        port = successor.do(f"bind_interdomain remote_dom=1 remote_port={channel.port}")
        ear = channel.ear(channel.mnt.home(2) / "evtchn" / str(port))
        assert ear.heard()
        assert not ear.heard()
        echo(channel.here / "notify")
        assert ear.heard()


def test_an_event_reaches_a_poller(channel: Channel) -> None:
    ear = channel.ear(channel.bind())
    assert ear.heard()
    with select.epoll() as poller:
        poller.register(ear.fd, select.EPOLLIN)
        assert poller.poll(0) == []
        echo(channel.here / "notify")
        assert poller.poll(SOON) == [(ear.fd, select.EPOLLIN)]


def test_a_fifo_cannot_be_had_by_the_daemons_door(channel: Channel) -> None:
    ino = (channel.here / "pending").stat().st_ino
    hidden = channel.mnt.root / ".lines"
    assert list(hidden.iterdir()) == []
    for name in (str(ino), f"0{ino}", "²", "x", "9" * 30):
        with pytest.raises(FileNotFoundError):
            os.stat(hidden / name)
    with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        os.mkfifo(channel.here / "more")
