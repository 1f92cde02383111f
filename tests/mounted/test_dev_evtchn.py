"""dev/evtchn beside the FIFOs: the two forms are the ends of one channel, and nothing is lost between them."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
from pathlib import Path

import pytest

from tests.hostile.files import descriptors, refused
from tests.mounted.devices import Evtchn, native, twin
from tests.mounted.mount import Xen, until
from xenfs.abi import evtchn


def pair(mnt: Xen) -> tuple[Path, Path]:
    return mnt.domain(1), mnt.domain(2)


def written(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"\n")
    os.close(fd)


def gone(path: Path) -> None:
    until(lambda: not path.exists(), 1)


def waits(path: Path, seconds: float = 10.0) -> bool:
    """Whether an event comes into a FIFO; it is taken out."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        return bool(select.select([fd], [], [], seconds)[0] and os.read(fd, 4096))
    finally:
        os.close(fd)


@pytest.mark.parametrize("device_binds", [False, True])
def test_a_device_at_one_end_and_fifos_at_the_other(mnt: Xen, device_binds: bool) -> None:
    one, two = pair(mnt)
    device, ctl = Evtchn(one), mnt.ctl(2)
    if device_binds:
        there = ctl.do("alloc_unbound remote_dom=1")
        here = device.bind(2, there)
        assert device.heard() == [here]
        device.unmask(here)
    else:
        here = device.unbound(2)
        there = ctl.do(f"bind_interdomain remote_dom=1 remote_port={here}")
        assert waits(two / f"evtchn/{there}/pending")
    for _ in range(3):
        device.notify(here)
        assert waits(two / f"evtchn/{there}/pending")
        written(two / f"evtchn/{there}/notify")
        assert device.heard() == [here]
        written(two / f"evtchn/{there}/notify")
        assert device.heard(0) == []  # masked until it is written back
        device.unmask(here)
        assert device.heard() == [here]
        device.unmask(here)
        assert device.heard(0) == []
    device.close()


def test_an_event_sent_before_the_device_binds_goes_nowhere(mnt: Xen) -> None:
    _, two = pair(mnt)
    ctl, device = mnt.ctl(2), Evtchn(mnt.home(1))
    there = ctl.do("alloc_unbound remote_dom=1")
    written(two / f"evtchn/{there}/notify")
    early = os.open(two / f"evtchn/{there}/notify", os.O_WRONLY)
    here = device.bind(2, there)
    assert device.heard() == [here]
    device.unmask(here)
    assert device.heard(0) == []
    os.write(early, b"\n")  # but the descriptor opened then is right now
    assert device.heard() == [here]
    os.close(early)
    device.close()


def test_two_devices(mnt: Xen) -> None:
    one, two = pair(mnt)
    a, b = Evtchn(one), Evtchn(two)
    here = a.unbound(2)
    there = b.bind(1, here)
    assert b.heard() == [there]
    b.unmask(there)
    for _ in range(1000):
        a.notify(here)
        assert b.heard() == [there]
        b.unmask(there)
        b.notify(there)
        assert a.heard() == [here]
        a.unmask(here)
    a.close()
    b.close()


def test_what_a_number_may_be(mnt: Xen) -> None:
    one, _ = pair(mnt)
    device = Evtchn(one)
    request = evtchn.BindUnboundPort(remote_domain=2)
    assert native(device.fd, evtchn.BIND_UNBOUND_PORT, request)[0] == 1
    assert twin(device.fd, evtchn.BIND_UNBOUND_PORT, request)[0] == 2
    refused(errno.ENOTTY, twin, device.fd, evtchn.BIND_UNBOUND_PORT, request.emit() + bytes(4))
    for direction in (1, 2):
        number = evtchn.BIND_UNBOUND_PORT.native | direction << 30
        refused(errno.ENOTTY, fcntl.ioctl, device.fd, number, bytearray(4))
    assert [p.name for p in sorted((one / "evtchn").iterdir())] == ["1", "2"]
    device.close()


def test_a_storm_at_a_masked_port_costs_the_daemon_nothing(mnt: Xen) -> None:
    one, two = pair(mnt)
    device, ctl = Evtchn(one), mnt.ctl(2)
    here = device.unbound(2)
    there = ctl.do(f"bind_interdomain remote_dom=1 remote_port={here}")
    fd = os.open(two / f"evtchn/{there}/notify", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"\n")
    assert device.heard() == [here]

    def woken() -> int:
        status = Path(f"/proc/{mnt.pid}/status").read_text()
        return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)

    before = woken()
    for _ in range(50_000):
        os.write(fd, b"\n")
    assert woken() - before < 100
    device.unmask(here)
    assert device.heard() == [here]
    device.unmask(here)
    assert device.heard(0) == []
    os.close(fd)
    device.close()


def test_ports_between_devices_need_no_descriptor_until_somebody_looks(mnt: Xen) -> None:
    pair(mnt)
    device = Evtchn(mnt.home(0))
    before = descriptors(mnt.pid)
    ports = [device.unbound(2) for _ in range(5000)]
    assert descriptors(mnt.pid) == before
    last = mnt.home(0) / "evtchn" / str(ports[-1])
    assert sorted(p.name for p in last.iterdir()) == ["info", "notify", "pending"]
    assert (last / "pending").is_fifo()
    assert descriptors(mnt.pid) == before + 1
    device.close()
    until(lambda: not list((mnt.home(0) / "evtchn").iterdir()))
    until(lambda: descriptors(mnt.pid) == before)


def test_reading_only_never_waits(mnt: Xen) -> None:
    one, _ = pair(mnt)
    for path in sorted((one / "dev").iterdir()):
        assert path.read_bytes() == b""
    device = Evtchn(one, os.O_RDONLY)
    port = device.unbound(2)
    assert os.read(device.fd, 4) == b""
    assert port == 1
    device.close()


def test_a_reader_waits_while_another_thread_writes(mnt: Xen) -> None:
    mnt.domain(1)
    user = mnt.client("""
        from tests.mounted.devices import *
        device = Evtchn(1)
        here = device.unbound(1)
        there = device.bind(1, here)
        device.heard()
        seen = []
        reader = threading.Thread(target=lambda: seen.append(os.read(device.fd, 4096)))
        reader.start()
        device.unmask(there)
        device.notify(here)
        reader.join()
        say(struct.unpack("<I", seen[0])[0] == there)
    """)
    assert user.line() == "True"


def test_kill_9_frees_the_ports_and_the_peer_may_be_bound_again(mnt: Xen) -> None:
    pair(mnt)
    server = Evtchn(mnt.home(1))
    port = server.unbound(2)
    for _ in range(2):
        user = mnt.client("""
            from tests.mounted.devices import *
            device = Evtchn(2)
            port = device.bind(1, int(hear()))
            say(port)
            os.read(device.fd, 4)
            os.read(device.fd, 4)
        """)
        there = int(user.ask(str(port)))
        mnt.until_info(1, port, "state=interdomain")
        user.kill()
        gone(mnt.home(2) / "evtchn" / str(there))
        mnt.until_info(1, port, "state=unbound")
        server.notify(port)
    server.close()


def test_a_destroyed_domain_tells_who_waits_at_its_devices(mnt: Xen) -> None:
    mnt.domain(1)
    user = mnt.client("""
        from tests.mounted.devices import *
        one, two = Evtchn(1), Evtchn(1)
        codes = []
        def wait():
            try:
                os.read(one.fd, 4)
            except OSError as error:
                codes.append(errno.errorcode[error.errno])
        thread = threading.Thread(target=wait)
        thread.start()
        say("waiting")
        events = two.ready()
        thread.join()
        say(*codes, events == select.POLLERR)
        try:
            two.unbound(0)
        except OSError as error:
            say(errno.errorcode[error.errno])
    """)
    assert user.line() == "waiting"
    until(lambda: user.waits)
    mnt.home(1).rmdir()
    assert user.line() == "ENODEV True"
    assert user.line() == "ESRCH"


def test_a_port_closed_by_another_door_is_dead_here_though_its_number_comes_again(mnt: Xen) -> None:
    one, two = pair(mnt)
    device, ctl, other = Evtchn(one), mnt.ctl(1), mnt.ctl(2)
    port = device.unbound(2)
    assert ctl.ask(f"close port={port}") == "ok"
    assert ctl.do("alloc_unbound remote_dom=2") == port
    there = other.do(f"bind_interdomain remote_dom=1 remote_port={port}")
    assert waits(two / f"evtchn/{there}/pending")
    device.notify(port)
    assert not waits(two / f"evtchn/{there}/pending", 0)
    written(two / f"evtchn/{there}/notify")
    assert device.heard(0) == []
    device.unbind(port)
    assert ctl.ask(f"status port={port}").startswith("ok status=interdomain")
    device.close()
    assert ctl.ask(f"status port={port}").startswith("ok status=interdomain")


def test_threads_bind_and_unbind_side_by_side(mnt: Xen) -> None:
    mnt.domain(1)
    device, failures = Evtchn(mnt.home(1)), list[BaseException]()

    def work() -> None:
        try:
            for _ in range(100):
                device.unbind(device.unbound(0))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert not list((mnt.home(1) / "evtchn").iterdir())
    device.close()
