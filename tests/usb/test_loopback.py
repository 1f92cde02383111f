"""A loop-back by itself: what is sent comes back."""

from __future__ import annotations

import pytest
from xenusb import loopback
from xenusb.device import Transfer
from xenusb.loopback import BULK, INTERRUPT, ISOC, Loopback

from tests.usb.gadgets import TEXT, use_ends
from tests.usb.port import OF_VENDOR, Port, got
from xenfs.abi.usbif import PipeType, Status


@pytest.mark.usefixtures("back")
@pytest.mark.parametrize(("kind", "number"), [(PipeType.bulk, BULK), (PipeType.interrupt, INTERRUPT)])
def test_what_is_sent_comes_back_in_its_order(port: Port, kind: PipeType, number: int) -> None:
    early = port.submit(kind, number, 512)
    parts = [b"", b"a", TEXT[:511], TEXT[:512], b"b"]
    for part in (b"first", *parts):
        sent = port.submit(kind, number, part, len(part) // 2)
        assert (sent.status, sent.actual) == (Status.ok, len(part))
    port.settle()
    assert got(early) == b"first"
    later = [port.submit(kind, number, 512, 100) for _ in parts]
    assert [got(transfer) for transfer in later] == parts
    assert not port.submit(kind, number, 512).over


@pytest.mark.usefixtures("back")
def test_what_there_is_no_room_for_comes_with_the_next(port: Port) -> None:
    port.bulk(BULK, TEXT[:500])
    port.bulk(BULK, b"next")
    sizes = (200, 200, 200, 200)
    assert [got(port.bulk(BULK, size)) for size in sizes] == [TEXT[:200], TEXT[200:400], TEXT[400:500], b"next"]


@pytest.mark.usefixtures("back")
def test_endpoints_have_nothing_to_do_with_each_other(port: Port) -> None:
    read_one, read_two = port.bulk(BULK, 8), port.interrupt(INTERRUPT, 8)
    port.interrupt(INTERRUPT, b"two")
    port.settle()
    assert (read_one.over, got(read_two)) == (False, b"two")
    port.bulk(BULK, b"one")
    port.settle()
    assert got(read_one) == b"one"


@pytest.mark.usefixtures("back")
def test_much_that_nobody_reads_makes_the_host_wait(port: Port) -> None:
    sent = [port.bulk(BULK, bytes((number,))) for number in range(100)]
    port.settle()
    assert [transfer.over for transfer in sent] == [True] * 64 + [False] * 36
    found = []
    for _ in range(100):
        found.append(got(port.bulk(BULK, 8)))
        port.settle()
    assert found == [bytes((number,)) for number in range(100)]
    assert all(transfer.status is Status.ok for transfer in sent)


def test_a_reset_forgets_what_was_sent(port: Port, back: Loopback) -> None:
    port.bulk(BULK, b"forgotten")
    back.reset()
    use_ends(port, back)
    transfer = port.bulk(BULK, 16)
    port.settle()
    assert not transfer.over


@pytest.mark.usefixtures("back")
def test_what_is_on_its_way_when_it_is_unplugged_comes_nowhere(port: Port) -> None:
    transfer = port.bulk(BULK, 8)
    port.bulk(BULK, b"abc")
    port.unplug()
    port.settle()
    assert (transfer.status, transfer.actual) == (Status.nodev, 0)


def packets(transfer: Transfer) -> list[tuple[Status, int]]:
    return [(Status(packet.status), packet.actual) for packet in transfer.packets]


@pytest.mark.usefixtures("back")
def test_isochronous_packets_come_back_each_as_it_was(port: Port) -> None:
    sent = port.isochronous(ISOC, b"abcdefghij", (0, 3), (3, 0), (5, 5), cuts=(2, 5))
    assert (sent.status, sent.actual, packets(sent)) == (Status.ok, 8, [(Status.ok, n) for n in (3, 0, 5)])
    back_again = port.isochronous(ISOC, 24, (0, 8), (8, 8), (16, 8), cuts=(1, 20))
    assert (back_again.status, back_again.actual) == (Status.ok, 8)
    assert packets(back_again) == [(Status.ok, 3), (Status.ok, 0), (Status.ok, 5)]
    data = back_again.data()
    assert (data[:3], data[16:21]) == (b"abc", b"fghij")


@pytest.mark.usefixtures("back")
def test_isochronous_packets_never_wait(port: Port) -> None:
    transfer = port.isochronous(ISOC, 16, (0, 8), (8, 8))
    assert (transfer.status, transfer.actual) == (Status.ok, 0)
    assert packets(transfer) == [(Status.ok, 0)] * 2


@pytest.mark.usefixtures("back")
def test_lost_and_long_packets_are_errors_of_their_own(port: Port) -> None:
    port.isochronous(ISOC, b"one.lostlongtwo.", (0, 4), (4, 4), (8, 4), (12, 4))
    transfer = port.isochronous(ISOC, 32, (0, 8), (8, 8), (16, 8), (24, 8), cuts=(9,))
    assert (transfer.status, transfer.actual) == (Status.ok, 8)
    assert packets(transfer) == [(Status.ok, 4), (Status.ioerror, 0), (Status.babble, 0), (Status.ok, 4)]
    assert transfer.data() == b"one.".ljust(24, b"\0") + b"two.".ljust(8, b"\0")


@pytest.mark.usefixtures("back")
def test_isochronous_packets_that_are_too_many_are_lost(port: Port) -> None:
    places = [(at, 1) for at in range(70)]
    port.isochronous(ISOC, bytes(range(70)), *places)
    assert got(port.isochronous(ISOC, 70, *places)) == bytes(range(64))


def test_isochronous_transfers_leave_alone_what_is_between_their_packets(port: Port, back: Loopback) -> None:
    port.isochronous(ISOC, b"abcd", (0, 2), (2, 2))
    transfer = port.make(PipeType.isoc, ISOC, 12, (5,), packets=((2, 4), (8, 4)))
    transfer.fill(b"-" * 12)
    back.submit(transfer)
    assert transfer.data() == b"--ab----cd--"


@pytest.mark.usefixtures("back")
def test_bytes_are_kept_and_given_back(port: Port) -> None:
    assert port.ask(OF_VENDOR, loopback.FETCH) == b""
    port.tell(OF_VENDOR, loopback.STORE, data=TEXT)
    assert port.ask(OF_VENDOR, loopback.FETCH, size=len(TEXT)) == TEXT
    assert port.ask(OF_VENDOR, loopback.FETCH, size=5) == TEXT[:5]
    sent = port.control(OF_VENDOR, loopback.STORE, 0, 0, b"other", 2, 1)
    assert (sent.status, sent.actual) == (Status.ok, 5)
    assert port.ask(OF_VENDOR, loopback.FETCH) == b"other"


@pytest.mark.usefixtures("back")
def test_the_vendors_halt_is_one_of_both_bulk_endpoints(port: Port) -> None:
    reads, other = [port.bulk(BULK, 8) for _ in range(2)], port.interrupt(INTERRUPT, 8)
    port.tell(OF_VENDOR, loopback.HALT)
    assert [transfer.status for transfer in reads] == [Status.stall] * 2
    assert not other.over
    assert [port.halted(address) for address in (0x81, 0x01, 0x82, 0x02)] == [True, True, False, False]
    assert port.bulk(BULK, b"abc").status is Status.stall
    port.clear(0x01)
    assert port.bulk(BULK, b"abc").status is Status.ok
    port.settle()
    assert port.bulk(BULK, 8).status is Status.stall
    port.clear(0x81)
    assert got(port.bulk(BULK, 8)) == b"abc"
