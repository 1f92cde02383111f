"""What is asked of a device over a connection, on its way to the device.

What changes the device's settings goes by way of the hub, which knows them. A transfer that is more than one request
can have goes in pieces, and what is asked of that endpoint meanwhile waits behind it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from functools import partial

from xenfs.abi.usbif import PipeType, Status
from xenusb import usbip
from xenusb.descriptors import TO_ENDPOINT, TO_INTERFACE, Ask, Setup
from xenusb.device import Packet
from xenusb.flights import Flights
from xenusb.hold import BUSY, GONE, NOT_FOUND, Hold
from xenusb.hub import Hub
from xenusb.remote import RESET_PORT
from xenusb.urbs import MOST, Urbs, Want
from xenusb.usbip import Short, Submit, Submitted

_TOO_MANY = -errno.ENOMEM


def _resets(asked: Submit) -> bool:
    """Whether it is a reset of the device."""
    setup = Setup.parse(asked.setup)
    return not asked.endpoint and (setup.request_type, setup.request, setup.value) == RESET_PORT


class Transfers:
    """The transfers of one connection."""

    def __init__(self, hold: Hold, hub: Hub, urbs: Urbs, send: Callable[[bytes], None]) -> None:
        """With the device that is held. Answers go to `send`."""
        self._hold, self._hub, self._urbs = hold, hub, urbs
        self._flights = Flights(urbs, send)
        self._behind: dict[tuple[int, bool], deque[Submit]] = {}
        """By endpoint that has a transfer in pieces: those that are not to overtake it."""
        self._closed = False

    def submit(self, asked: Submit) -> None:
        """Ask the device, with the next push. Raises Malformed."""
        self._flights.check(asked)
        device = self._hold.device
        if not self._hold.there:
            self._flights.refuse(asked, GONE)
        elif device.lost or not (device.address or _resets(asked)):  # address 0 is for whoever sets it up
            self._flights.refuse(asked, Status.shutdown)
        elif not self._flights.has_room(asked):
            self._flights.refuse(asked, _TOO_MANY)
        elif not asked.endpoint:
            self._control(asked)
        else:
            self._transfer(asked)

    def unlink(self, asked: Short) -> None:
        """Take one back; one that only waits behind another has nothing to wait for any more."""
        self._flights.unlink(asked)
        for behind in self._behind.values():
            for waiting in behind:
                if waiting.number == asked.value:
                    behind.remove(waiting)
                    self._flights.wake(waiting)
                    return

    def close(self) -> None:
        """Take everything back, and begin nothing more."""
        self._closed = True
        self._flights.take_back()

    def _control(self, asked: Submit) -> None:
        setup, device, hub = Setup.parse(asked.setup), self._hold.device, self._hub
        value, number = setup.value & 0xFF, setup.index & 0xFF

        def change(call: Callable[[Callable[[Status], None]], None], number: int | None = None) -> None:
            if self._hold.others(number):
                self._flights.refuse(asked, BUSY)
            else:
                self._flights.begin(asked)
                call(over)

        def over(status: Status) -> None:
            self._flights.answer(asked, Submitted(asked.number, int(status), 0))

        if _resets(asked):
            change(self._reset)
        elif setup.is_standard(Ask.set_configuration):
            change(partial(hub.set_configuration, device, value))
        elif setup.is_standard(Ask.set_interface, TO_INTERFACE):
            change(partial(hub.set_interface, device, number, value), number)
        elif setup.is_standard(Ask.set_address):
            self._flights.refuse(asked, Status.stall)
        elif setup.is_standard(Ask.clear_feature, TO_ENDPOINT) and not self._hold.may(setup.index & 0x8F):
            self._flights.refuse(asked, BUSY)
        else:
            size = min(asked.size, setup.length)
            want = Want(
                device.port, device.address, PipeType.control, 0, asked.inward, size, self._done(asked), setup,
                asked.data[:size],
            )  # fmt: skip
            self._flights.fly(asked, want)

    def _reset(self, then: Callable[[Status], None]) -> None:
        self._flights.take_back()  # also what the backend has not heard of yet
        self._hub.reset(self._hold.device, then)

    def _transfer(self, asked: Submit) -> None:
        device = self._hold.device
        endpoint = device.endpoint(asked.endpoint | (0x80 if asked.inward else 0))
        if endpoint is None or endpoint.type is PipeType.control:
            self._flights.refuse(asked, NOT_FOUND)
            return
        if not self._hold.may(endpoint.address):
            self._flights.refuse(asked, BUSY)
            return
        isoc = endpoint.type is PipeType.isoc
        packets = [Packet(one.offset, one.length) for one in asked.packets or ()]
        if isoc is (asked.packets is None) or any(one.offset + one.length > asked.size for one in packets):
            self._flights.refuse(asked, Status.inval)
            return
        if (where := (asked.endpoint, asked.inward)) in self._behind:
            self._flights.begin(asked, asked.size)
            self._behind[where].append(asked)
            return
        if asked.size > MOST and not isoc:
            self._behind[where] = deque()
            self._pieces(asked, endpoint.type)
            return
        want = Want(
            device.port, device.address, endpoint.type, endpoint.number, endpoint.inward, asked.size,
            self._done(asked), data=asked.data, packets=packets, interval=asked.interval,
            whole=bool(asked.flags & usbip.SHORT_NOT_OK),
        )  # fmt: skip
        self._flights.fly(asked, want)

    def _done(self, asked: Submit) -> Callable[[Want], None]:
        def over(want: Want) -> None:
            data = want.data if want.inward and not want.packets else b""
            if want.inward and want.packets:
                data = b"".join(want.data[one.offset : one.offset + one.actual] for one in want.packets)
            self._flights.finish(asked, want, data, want.actual)

        return over

    def _pieces(self, asked: Submit, kind: PipeType) -> None:
        """More than one request can have: one piece after the other, until one is short."""
        device = self._hold.device
        found: list[bytes] = []
        at = 0

        def begin() -> None:
            size = min(MOST, asked.size - at)
            data = asked.data[at : at + size]
            place = (device.port, device.address, kind, asked.endpoint, asked.inward)
            want = Want(*place, size, over, data=data, whole=bool(asked.flags & usbip.SHORT_NOT_OK))
            self._flights.fly(asked, want)
            self._urbs.push()

        def over(want: Want) -> None:
            nonlocal at
            at += want.actual
            found.append(want.data if asked.inward else b"")
            if want.status is Status.ok and want.actual == want.size and at < asked.size:
                if self._hold.there and not self._flights.unwanted(asked) and not self._closed:
                    begin()
                    return
                want.status = Status.shutdown
            self._flights.finish(asked, want, b"".join(found), at)
            self._go_on(asked.endpoint, inward=asked.inward)

        begin()

    def _go_on(self, endpoint: int, *, inward: bool) -> None:
        """A transfer in pieces is over: what has waited behind it may go."""
        behind = self._behind.pop((endpoint, inward))
        while behind and not self._closed:
            asked = behind.popleft()
            if not self._flights.wake(asked):
                continue
            self.submit(asked)
            if (endpoint, inward) in self._behind:
                self._behind[endpoint, inward].extend(behind)
                break
        self._urbs.push()
