"""A real device of the host's, by its bus path such as 1-2.3, through libusb (PyPI libusb1)."""

from __future__ import annotations

import errno
import select
from types import MappingProxyType
from typing import Any

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus.loop import Gate
from xenusb.descriptors import TO_ENDPOINT, TO_INTERFACE, Ask, Configuration, Kind, Setup
from xenusb.device import Host, Transfer

_SPEEDS = MappingProxyType({1: Speed.low, 2: Speed.full, 3: Speed.high})
_STATUS = MappingProxyType({
    0: Status.ok, 1: Status.ioerror, 2: Status.ioerror, 3: Status.shutdown, 4: Status.stall, 5: Status.nodev,
    6: Status.babble,
})  # fmt: skip
"""By libusb's: completed, error, timed out, cancelled, stall, no device, overflow."""
_GONE = 5
_WAIT = 0


def _library() -> Any:
    """The module, with the library loaded. Raises OSError."""
    try:
        import usb1

        usb1.getVersion()
    except ImportError:
        raise OSError(errno.ENOENT, "a real device needs libusb1; to mend it: pip install 'xenfs[usb]'") from None
    except OSError as error:
        raise OSError(errno.ENOENT, f"{error}; to mend it: apt-get install libusb-1.0-0") from None
    return usb1


class RealDevice:
    """The device. Implements UsbDevice. While it is here the host's own drivers have nothing of it."""

    def __init__(self, argument: str, host: Host) -> None:
        """Open it. Raises OSError when it is absent, or not ours to have."""
        usb = self._usb = _library()
        self._host, self._path = host, argument
        self._context = usb.USBContext()
        self._handle: Any = None
        self._running: dict[Transfer, Any] = {}
        try:
            self._context.open()
            device = self._find(argument)
            speed = device.getDeviceSpeed()
            if speed not in _SPEEDS:
                raise OSError(errno.EPROTONOSUPPORT, f"its speed is {speed}; usbif knows low, full and high", argument)
            self.speed = _SPEEDS[speed]
            self._handle = device.open()
            self._handle.setAutoDetachKernelDriver(True)
            self._claimed: list[int] = []
            self._claim()
        except usb.USBError as error:
            self._let_go()
            raise OSError(errno.EACCES, f"{error}", argument) from None
        except OSError:
            self._let_go()
            raise
        self._epoll = select.epoll()
        for fd, events in self._context.getPollFDList():
            self._epoll.register(fd, events)
        self._context.setPollFDNotifiers(self._watched, self._forgotten)
        self._gate = Gate(host.loop, self._epoll.fileno(), lambda: host.attempt(self._work))
        self._gate.open()

    def _find(self, path: str) -> Any:
        bus, _, ports = path.partition("-")
        wanted = int(bus), [int(port) for port in ports.split(".")]
        found = []
        for device in self._context.getDeviceIterator(skip_on_error=True):
            there = device.getBusNumber(), list(device.getPortNumberList())
            if there == wanted:
                return device
            if there[1]:
                found.append(f"{there[0]}-{'.'.join(map(str, there[1]))}")
        raise OSError(errno.ENODEV, f"there is no such device; there are {', '.join(sorted(found)) or 'none'}", path)

    def _watched(self, fd: int, events: int, _data: object) -> None:
        self._epoll.register(fd, events)

    def _forgotten(self, fd: int, _data: object) -> None:
        self._epoll.unregister(fd)

    def _work(self) -> None:
        self._context.handleEventsTimeout(0)

    def _claim(self) -> None:
        """Have all interfaces of the configuration that it is in."""
        for number in self._claimed:
            self._handle.releaseInterface(number)
        self._claimed = []
        data = self._handle.controlRead(0x80, Ask.get_descriptor, Kind.configuration << 8, 0, 4096, 1000)
        found = Configuration.parse(bytes(data))
        if found is not None and self._handle.getConfiguration():
            for number in sorted({one.number for one in found.interfaces}):
                self._handle.claimInterface(number)
                self._claimed.append(number)

    def submit(self, transfer: Transfer) -> None:
        """See UsbDevice. What changes the device's settings goes through libusb, which keeps track of them."""
        setup = transfer.setup
        try:
            if setup is not None and self._setting(setup):
                transfer.end(Status.ok, 0)
                return
            own = self._handle.getTransfer(len(transfer.packets))
            self._fill(own, transfer, setup)
            self._running[transfer] = own
            own.submit()
        except self._usb.USBError as error:
            self._running.pop(transfer, None)
            stalled = isinstance(error, self._usb.USBErrorPipe)
            gone = isinstance(error, self._usb.USBErrorNoDevice)
            transfer.end(Status.stall if stalled else Status.nodev if gone else Status.inval)
            if gone:
                self._host.unplugged(f"{self._path}: it is gone")

    def _setting(self, setup: Setup) -> bool:
        """Whether it was one of the requests that libusb has calls for, and is done."""
        if setup.is_standard(Ask.set_configuration):
            for number in self._claimed:
                self._handle.releaseInterface(number)
            self._claimed = []
            self._handle.setConfiguration(setup.value or -1)
            self._claim()
        elif setup.is_standard(Ask.set_interface, TO_INTERFACE):
            self._handle.setInterfaceAltSetting(setup.index, setup.value)
        elif setup.is_standard(Ask.clear_feature, TO_ENDPOINT) and not setup.value:
            self._handle.clearHalt(setup.index)
        else:
            return False
        return True

    def _fill(self, own: Any, transfer: Transfer, setup: Setup | None) -> None:
        data: Any = transfer.size if transfer.inward else bytearray(transfer.data())
        if setup is not None:
            what = (setup.request_type, setup.request, setup.value, setup.index)
            data = setup.length if setup.inward else data
            own.setControl(*what, data, self._over, transfer, _WAIT)
        elif transfer.type is PipeType.bulk:
            own.setBulk(transfer.address, data, self._over, transfer, _WAIT)
        elif transfer.type is PipeType.interrupt:
            own.setInterrupt(transfer.address, data, self._over, transfer, _WAIT)
        else:
            lengths = [packet.length for packet in transfer.packets]
            whole = transfer.data()
            packed = b"".join(whole[one.offset : one.offset + one.length] for one in transfer.packets)
            buffer: Any = sum(lengths) if transfer.inward else bytearray(packed)
            own.setIsochronous(transfer.address, buffer, self._over, transfer, _WAIT, lengths)

    def _over(self, own: Any) -> None:
        transfer: Transfer = own.getUserData()
        self._running.pop(transfer, None)
        status = own.getStatus()
        if transfer.over:
            return
        if transfer.type is PipeType.isoc and not status:
            room, moved = bytearray(transfer.size), 0
            for packet, (state, data) in zip(transfer.packets, own.iterISO(), strict=True):
                packet.status = _STATUS.get(state, Status.ioerror)
                packet.actual = len(data)
                moved += packet.actual
                room[packet.offset : packet.offset + len(data)] = data
            if transfer.inward:
                transfer.fill(bytes(room))
            transfer.end(Status.ok, moved)
        else:
            actual = own.getActualLength()
            if transfer.inward and transfer.type is not PipeType.isoc:
                transfer.fill(bytes(own.getBuffer()[:actual]))
            transfer.end(_STATUS.get(status, Status.ioerror), actual)
        if status == _GONE:
            self._host.unplugged(f"{self._path}: it is gone")

    def cancel(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        own = self._running.get(transfer)
        transfer.end(Status.shutdown)
        if own is not None:
            try:
                own.cancel()
            except self._usb.USBError:
                return  # it is over, and about to be heard of

    def reset(self) -> None:
        """See UsbDevice."""
        for transfer in list(self._running):
            self.cancel(transfer)
        try:
            self._handle.resetDevice()
            self._claim()
        except self._usb.USBError as error:
            self._host.say(f"{self._path}: not reset: {error}")

    def close(self) -> None:
        """See UsbDevice."""
        for transfer in list(self._running):
            transfer.end(Status.nodev)
        self._gate.shut()
        self._let_go()
        self._epoll.close()

    def _let_go(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._context.close()
