"""A program under umockdev-run that has a RealDevice in a loop, as a port of usbback has; it is told by lines of JSON
what to do, and tells likewise what has happened. See Program of real_program.py.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import usb1
from xenusb.descriptors import Setup
from xenusb.device import Packet, Transfer
from xenusb.real import RealDevice

from xenfs.abi.usbif import PipeType
from xenfs.xenbus import Loop
from xenfs.xenbus.loop import Call


class Child:
    """Implements Host."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._device: RealDevice | None = None
        self._old: RealDevice | None = None
        self._numbers: dict[Transfer, int] = {}
        self._when_over: dict[int, dict[str, Any]] = {}
        self._left = b""
        self.loop.watch(sys.stdin.fileno(), self._heard)

    def tell(self, **words: Any) -> None:
        """One line."""
        print(json.dumps(words), flush=True)

    def attempt(self, call: Call) -> None:
        """See Host."""
        try:
            call()
        except OSError as error:
            self.unplugged(str(error))

    def arrived(self) -> None:
        """See Host."""
        raise AssertionError("it had its speed from the beginning")

    def unplugged(self, why: str) -> None:
        """See Host: as a port does, have done with the device."""
        self.tell(event="unplugged", why=why)
        self._close()

    def say(self, line: str) -> None:
        """See Host."""
        self.tell(event="said", line=line)

    def _heard(self) -> None:
        data = os.read(sys.stdin.fileno(), 1 << 20)
        if not data:
            self.forget()
            self.loop.stop()
        *lines, self._left = (self._left + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            getattr(self, f"_{order.pop('do')}")(**order)
            self.tell(event="did")

    def _plug(self, path: str, user: int) -> None:
        """As another user, if it may be."""
        own = os.geteuid()
        os.seteuid(user)
        try:
            self._device = RealDevice(path, self)
        except OSError as error:
            self.tell(event="plugged", error=[error.errno, error.strerror, error.filename])
        else:
            self.tell(event="plugged", speed=self._device.speed.name)
        finally:
            os.seteuid(own)

    def _submit(
        self, number: int, kind: str, endpoint: int, inward: bool, size: int, data: str = "", setup: str = "",
        packets: list[list[int]] | None = None, whole: bool = False, then: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`then` is an order for the moment when it is over."""
        room = bytearray(bytes.fromhex(data) or size)
        views = [memoryview(room)[: size // 2], memoryview(room)[size // 2 :]]
        own = Setup.parse(bytes.fromhex(setup)) if setup else None
        parts = [Packet(*packet) for packet in packets or ()]
        transfer = Transfer(PipeType[kind], endpoint, inward, size, views, self._over, own, parts, whole)
        self._numbers[transfer] = number
        if then is not None:
            self._when_over[number] = then
        device = self._device or self._old
        assert device is not None
        device.submit(transfer)

    def _over(self, transfer: Transfer) -> None:
        number = self._numbers[transfer]
        packets = [[packet.actual, packet.status] for packet in transfer.packets]
        data = transfer.data().hex() if transfer.inward else ""
        self.tell(
            event="over", number=number, status=transfer.status.name, actual=transfer.actual, data=data, packets=packets
        )  # fmt: skip
        order = self._when_over.pop(number, None)
        if order is not None:
            getattr(self, f"_{order.pop('do')}")(**order)

    def _look(self, number: int) -> None:
        """What is in the host's memory by now."""
        for transfer, own in self._numbers.items():
            if own == number:
                self.tell(event="looked", data=transfer.data().hex())

    def _cancel(self, number: int) -> None:
        device = self._device or self._old
        assert device is not None
        for transfer, own in self._numbers.items():
            if own == number:
                device.cancel(transfer)

    def _reset(self) -> None:
        device = self._device or self._old
        assert device is not None
        device.reset()

    def _raise(self) -> None:
        raise OSError("a test had this raised")

    def _close(self) -> None:
        if self._device is not None:
            self._old, self._device = self._device, None
            self._old.close()

    def forget(self) -> None:
        """Be as at the beginning."""
        self._close()
        self._old = None
        self._numbers.clear()
        self._when_over.clear()

    _forget = forget

    def _close_again(self) -> None:
        assert self._old is not None
        self._old.close()

    def _fail(self, kind: str, method: str, error: str) -> None:
        """Have a method of libusb1's fail, once."""
        owner = getattr(usb1, kind)
        own = getattr(owner, method)

        def fail(*_: object) -> None:
            setattr(owner, method, own)
            raise getattr(usb1, error)

        setattr(owner, method, fail)

    def _turns(self, count: int) -> None:
        """Whether the loop sleeps when nothing happens: how many of its turns had something to do."""
        self.tell(event="turns", busy=sum(self.loop.turn(0) for _ in range(count)))


if __name__ == "__main__":
    child = Child()
    child.tell(event="root", path=os.environ.get("UMOCKDEV_DIR", ""))
    child.loop.run()
