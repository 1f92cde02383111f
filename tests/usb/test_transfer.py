"""A transfer: what is given fills it, and how it ends."""

from __future__ import annotations

import pytest

from tests.usb.port import Port, got
from xenfs.abi.usbif import PipeType, Status


def test_what_is_given_fills_view_after_view(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 10, (3, 0, 2))
    assert transfer.fill(b"abcdefg") == 7
    assert [bytes(view) for view in transfer.views] == [b"abc", b"", b"de", b"fg\0\0\0"]


def test_no_more_is_given_than_there_is_room_for(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4, (3,))
    transfer.answer(b"abcdefg")
    assert (transfer.status, transfer.actual, got(transfer)) == (Status.ok, 4, b"abcd")


def test_what_the_host_sends_is_copied(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, b"abcdefg", (3, 1))
    data = transfer.data()
    transfer.views[0][:] = b"xyz"
    assert (data, transfer.data()) == (b"abcdefg", b"xyzdefg")


def test_a_transfer_ends_once(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4)
    transfer.end(Status.ok, 3)
    transfer.end(Status.shutdown)
    transfer.answer(b"abcd")
    assert (port.ended, transfer.status, transfer.actual) == ([transfer], Status.ok, 3)


@pytest.mark.parametrize(
    ("data", "actual", "status"),
    [
        (4, 4, Status.ok),
        (4, 3, Status.ioerror),
        (4, 0, Status.ioerror),
        (0, 0, Status.ok),
        (b"abcd", 3, Status.ok),
    ],
)
def test_less_than_all_is_an_error_where_the_host_says_so(
    port: Port, data: bytes | int, actual: int, status: Status
) -> None:
    transfer = port.make(PipeType.bulk, 1, data, whole=True)
    transfer.end(Status.ok, actual)
    assert (transfer.status, transfer.actual) == (status, actual)
    stalled = port.make(PipeType.bulk, 1, data, whole=True)
    stalled.end(Status.stall)
    assert stalled.status is Status.stall


def test_actual_is_never_more_than_there_was(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4)
    transfer.end(Status.ok, 5)
    assert transfer.actual == 4
