"""Groups U (U6, U9) and R (R10, R11) against usbfront: a backend that answers transfers with nonsense, or never."""

from __future__ import annotations

import errno

import pytest
from xenusb.device import Packet
from xenusb.urbs import IDS, LASTING_IDS, MORE_IDS, MOST
from xenusb.usbip import Code, Short, Submitted

from tests.hostile.usb_back import UsbBack
from tests.hostile.usb_front import DEVICE, FAILED, IN, back, early, good, hasty, machine, reads
from tests.hostile.usb_liars import BULK, ISOC_END, NEVER, QUIET, Dead, Gizmo, MockStick, honest, when
from xenfs.abi.usbif import Status, Urb
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry

__all__ = ["back", "early", "hasty", "machine"]
pytestmark = pytest.mark.timeout(120)


# Answers to transfers.


def test_u9_bytes_that_cannot_have_been_moved(back: UsbBack) -> None:
    handle = back.open()
    for actual, size in ((-1, 0), (-(1 << 31), 0), (0, 0), (101, 100), ((1 << 31) - 1, 100)):
        back.lie = lambda _urb, answer, actual=actual: [(answer[0], 0xFFFF, 0, actual, -1)]  # type: ignore[misc]
        assert back.call(lambda: handle.transfer(IN | BULK, size=100)).data == b"g" * size
        assert back.call(lambda: handle.transfer(BULK, b"x" * 100)).actual == size
        whole = back.call(lambda: handle.transfer(IN | BULK, size=3 * MOST))
        assert whole.data == b"g" * (3 * MOST if actual > MOST else max(0, actual))


@pytest.mark.parametrize("address", [IN | BULK, BULK])
def test_u9_a_status_that_is_none_is_a_shutdown(back: UsbBack, address: int) -> None:
    handle = back.open()
    for status in (1, 108, (1 << 31) - 1, -1, -5, -109, -(1 << 31)):
        back.lie = lambda urb, answer, status=status: [(answer[0], 0, status, urb.length, 1 << 30)]  # type: ignore[misc]
        with pytest.raises(OSError, match="shutdown") as caught:
            back.call(lambda: handle.transfer(address, b"x" * 8, 8))
        assert caught.value.errno == errno.ESHUTDOWN


def test_u9_isochronous_packets_of_more_than_there_was_room_for(back: UsbBack) -> None:
    handle = back.open()

    def lie(urb: Urb, answer: Entry) -> list[Entry]:
        back.describe(urb, [(0xFFFF_FFFF, -(1 << 31)), (0, 1 << 30)])
        return [(answer[0], 7, 0, 0, -5)]

    back.lie = lie
    packets = [Packet(0, 10), Packet(40, 60)]
    answer = back.call(lambda: handle.transfer(IN | ISOC_END, size=100, packets=packets))
    assert (answer.data, answer.errors) == (b"g" * 10, 0)
    assert [(one.actual, one.status) for one in answer.packets] == [(10, -(1 << 31)), (0, 1 << 30)]
    back.lie = lambda _urb, answer: [answer]
    assert back.says(handle) == 1


@pytest.mark.parametrize("number", [IDS - 1, IDS, 65535])
def test_r10_a_response_to_no_request_breaks_the_device(back: UsbBack, number: int) -> None:
    raw = back.raw()
    back.lie = lambda _urb, answer: [(number, *answer[1:])]
    raw.send(raw.control(DEVICE))
    back.serve_until(lambda: back.state() is not S.Connected)
    back.until_stopped(f"response for request {number}, which is not in flight")
    back.again()


def test_r10_a_response_that_comes_twice(back: UsbBack) -> None:
    raw = back.raw()
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    back.lie = lambda _urb, answer: [answer, answer]
    raw.send(raw.control(DEVICE, number=2))
    back.serve_until(lambda: back.state() is not S.Connected)
    back.until_stopped("which is not in flight")
    back.again()


def test_r10_a_response_to_what_is_taken_back_twice(back: UsbBack) -> None:
    raw = back.raw()
    raw.send(raw.submit(QUIET), raw.submit(QUIET, number=2))
    back.serve_until(lambda: len(back.left) == 2)
    back.deaf = True
    raw.send(Short(Code.unlink, 9, 1))
    back.serve_until(lambda: back.asked[-1].pipe.unlink)
    first = (back.asked[-2].id, 0, 0, 8, 0)
    back.answer(first, first)
    back.until_stopped("which is not in flight")
    back.again()


# Transfers that are never answered.


def test_u6_what_is_taken_back_and_not_answered_holds_up_nobody(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    raw, other = back.raw(), back.open()
    back.deaf = True
    raw.send(*[raw.submit(QUIET, number=number) for number in range(1, 5)])
    raw.send(*[Short(Code.unlink, 100 + number, number) for number in range(1, 5)])
    for at in range(5):
        assert back.says(other) == 1
        assert reads(back, file, (1 << 18) + at * (1 << 16)) == good()
    assert sum(urb.pipe.unlink for urb in back.asked) == 4
    back.again()


def test_u6_a_backend_that_takes_nothing_back_leaves_readers_an_error(hasty: UsbBack) -> None:
    device = MockStick()
    hasty.plug(2, device)
    file = hasty.until_disk(2)
    device.lie, hasty.deaf = when(0x28, NEVER["never anything"]), True
    assert reads(hasty, file, 1 << 19) == FAILED
    hasty.plug(3, Dead())
    hasty.until_there(3, "it does not say what it is (shutdown)")
    device.lie = honest
    del hasty.devices[3]
    hasty.again()
    assert reads(hasty, hasty.until_disk(2), 1 << 19) == good()


def test_u6_what_was_done_before_it_was_taken_back_was_done(back: UsbBack) -> None:
    raw = back.raw()
    back.deaf = True
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    raw.send(Short(Code.unlink, 2, 1))
    back.serve_until(lambda: back.asked[-1].pipe.unlink)
    ((number, urb),) = back.left.items()
    back.put(urb, b"in time!")
    back.answer((number, 0, 0, 8, 0), (back.asked[-1].id, 0, int(Status.inval), 0, 0))
    done, unlinked = raw.answers(2)
    assert isinstance(done, Submitted)
    assert (done.status, done.data) == (0, b"in time!")
    assert isinstance(unlinked, Short)
    assert unlinked.value == 0
    assert raw.statuses(raw.submit(BULK)) == [0]


def test_r11_transfers_for_nobody_are_no_more_than_there_are_ids(back: UsbBack) -> None:
    back.deaf = True
    asked = len(back.asked)
    for _ in range(30):
        raw = back.raw()
        raw.send(*[raw.submit(QUIET, number=number) for number in range(40)])
        raw.close()
    back.serve_until(lambda: len(back.asked) - asked == 2 * MORE_IDS)
    assert len(back.places()) == 1
    assert len(back.asked) - asked == 2 * MORE_IDS, "and as many to take them back"
    assert {urb.id for urb in back.asked} <= set(range(IDS))
    back.again()


def test_r11_what_may_last_for_ever_leaves_room_for_the_rest(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    raw, other = back.raw(), back.open()
    raw.send(*[raw.submit(QUIET, number=number) for number in range(1, 1000)])
    back.serve_until(lambda: len(back.left) == MORE_IDS)
    assert back.says(other) == 1
    assert reads(back, file, 1 << 19, 1 << 17) == good(1 << 17)
    back.plug(3, Gizmo(3))
    back.until_there(3)
    raw.close()
    back.serve_until(lambda: not back.left)
    assert back.call(lambda: other.transfer(IN | BULK, size=8)).data == b"g" * 8


def test_r11_whoever_reads_much_that_does_not_come_may_write(back: UsbBack) -> None:
    for port in (2, 3, 4):
        back.plug(port, Gizmo(port))
        back.until_there(port)
    busy = [back.raw(port) for port in (1, 2, 3, 4)]
    for raw in busy:
        for inward in (True, False):
            data = b"" if inward else bytes(8)
            first = 1 if inward else 101
            raw.send(*[raw.submit(QUIET, number=first + at, inward=inward, data=data) for at in range(16)])
    back.serve_until(lambda: len(back.left) == LASTING_IDS)
    ends = [(urb.pipe.port, urb.pipe.inward) for urb in back.left.values()]
    assert set(ends) == {(port, inward) for port in (1, 2, 3, 4) for inward in (True, False)}
    for raw in busy[:2]:
        raw.close()
    for raw in busy[2:]:
        raw.send(raw.submit(BULK, 4, number=200, inward=False, data=b"abcd"))
        (answer,) = raw.answers(1)
        assert isinstance(answer, Submitted)
        assert (answer.number, answer.status, answer.actual) == (200, 0, 4)


def test_u7_what_was_wanted_of_a_device_that_is_gone_is_not_asked_of_the_next(back: UsbBack) -> None:
    back.plug(2, Gizmo(2))
    back.until_there(2)
    raw = back.raw(2)
    raw.send(*[raw.submit(QUIET, 6, number=number, inward=False, data=b"secret") for number in range(20)])
    back.alive()
    flying = [(number, 0, int(Status.nodev), 0, 0) for number in back.left]
    assert 0 < len(flying) < 20
    back.left.clear()
    back.unplug(2)
    back.until_gone(2)
    back.plug(2, Gizmo(3))
    back.until_there(2, "1209:0003")
    back.asked.clear()
    back.answer(*flying)
    assert {answer.status for answer in raw.answers(20) if isinstance(answer, Submitted)} == {Status.nodev}
    back.alive()
    assert [urb for urb in back.asked if urb.pipe.port == 2] == []
