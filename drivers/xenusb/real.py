"""A real device of the host's, by its bus path such as 1-2.3, through libusb (PyPI libusb1).

libusb calls back while it handles events. Next to nothing of it may be called from there, least of all what closes it,
and what is raised there is lost; so callbacks only take note, and `_settle` acts on it afterwards.
"""

from __future__ import annotations

import errno
import select
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus.loop import Call, Gate
from xenusb.descriptors import TO_ENDPOINT, TO_INTERFACE, Ask, Setup
from xenusb.device import Host, Transfer

_NODES = Path("/dev/bus/usb")
_SPEEDS = MappingProxyType({1: Speed.low, 2: Speed.full, 3: Speed.high})
_STATUS = MappingProxyType({
    0: Status.ok, 1: Status.ioerror, 2: Status.ioerror, 3: Status.shutdown, 4: Status.stall, 5: Status.nodev,
    6: Status.babble,
})  # fmt: skip
"""By libusb's: completed, error, timed out, cancelled, stall, no device, overflow."""
_ERRNOS = MappingProxyType({-3: errno.EACCES, -4: errno.ENODEV, -6: errno.EBUSY, -12: errno.EOPNOTSUPP})
"""By libusb's: access, no device, busy, not supported."""
_GONE = 5
_HUB = 9
_NEVER = 0


def _library() -> Any:
    """The module, with the library loaded. Raises OSError."""
    try:
        import usb1

        usb1.loadLibrary()
    except ImportError:
        raise OSError(errno.ENOENT, "a real device needs libusb1; to mend it: pip install 'xenfs[usb]'") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(errno.ENOENT, f"a real device: {why}; to mend it: apt-get install libusb-1.0-0") from None
    return usb1


class RealDevice:
    """The device. Implements UsbDevice. While it is here the host's own drivers have nothing of it."""

    def __init__(self, argument: str, host: Host) -> None:
        """Open it. Raises OSError when it is absent, or not ours to have."""
        usb = self._usb = _library()
        self._host, self._path = host, argument
        self._running: dict[Transfer, Any] = {}
        self._ended: deque[Any] = deque()
        self._claimed: list[int] = []
        self._theirs: set[int] = set()
        self._gone = self._closed = False
        self._device: Any = None
        self._handle: Any = None
        self._context = usb.USBContext()
        self._epoll = select.epoll()
        try:
            self._open()
        except usb.USBError as error:
            self._let_go()
            raise self._words(error) from None
        except Exception:
            self._let_go()
            raise
        self._gate = Gate(host.loop, self._epoll.fileno(), lambda: host.attempt(self._work))
        self._gate.open()

    def _open(self) -> None:
        self._context.open()
        device = self._device = self._find(self._path)
        if device.getDeviceClass() == _HUB:
            raise OSError(errno.EINVAL, "it is a hub, which is the host's", self._path)
        speed = device.getDeviceSpeed()
        if speed not in _SPEEDS:
            raise OSError(errno.EPROTONOSUPPORT, f"its speed is {speed}; usbif knows low, full and high", self._path)
        self.speed = _SPEEDS[speed]
        self._handle = device.open()
        self._claim()
        self._context.setPollFDNotifiers(self._watched, self._forgotten)
        for fd, events in self._context.getPollFDList():
            self._epoll.register(fd, events)
        with suppress(self._usb.USBErrorNotSupported):
            self._context.hotplugRegisterCallback(self._left, self._usb.HOTPLUG_EVENT_DEVICE_LEFT, 0)

    def _find(self, path: str) -> Any:
        bus, _, ports = path.partition("-")
        wanted = int(bus), [int(port) for port in ports.split(".")]
        found = []
        for device in self._context.getDeviceList(skip_on_error=True):
            there = device.getBusNumber(), list(device.getPortNumberList())
            if there == wanted:
                return device
            if there[1]:
                found.append(f"{there[0]}-{'.'.join(map(str, there[1]))}")
        if not found and not _NODES.is_dir():
            raise OSError(errno.ENODEV, f"the host has no USB: there is no {_NODES}", path)
        raise OSError(errno.ENODEV, f"there is no such device; there are {', '.join(sorted(found)) or 'none'}", path)

    def _words(self, error: Any) -> OSError:
        """For what libusb said while it was opened."""
        code = _ERRNOS.get(error.value, errno.EIO)
        if not _NODES.is_dir():
            why = f"the host has no USB: there is no {_NODES}"
        elif code == errno.EACCES:
            why = "not ours to open; to mend it: as root, or by a rule of udev"
        elif code == errno.EBUSY:
            why = "another program has it"
        else:
            why = f"libusb: {error}"
        return OSError(code, why, self._path)

    def _watched(self, fd: int, events: int, _data: object) -> None:
        self._epoll.register(fd, events)

    def _forgotten(self, fd: int, _data: object) -> None:
        self._epoll.unregister(fd)

    def _left(self, _context: object, device: Any, _event: int) -> None:
        self._gone |= device == self._device

    def _work(self) -> None:
        try:
            self._context.handleEventsTimeout(0)
        except self._usb.USBErrorInterrupted:
            return  # there is a next time
        except self._usb.USBError as error:
            raise OSError(errno.EIO, f"libusb: {error}", self._path) from None
        self._settle()

    def _settle(self) -> None:
        """Tell of what is over. Whoever hears of it may ask for more, or close."""
        while self._ended:
            self._over(self._ended.popleft())
        if self._gone:
            self._lost()

    def _lost(self) -> None:
        self._gone = False
        if not self._closed:
            self._host.unplugged(f"{self._path}: it is gone")

    def _settings(self) -> Iterator[Any]:
        """All settings of all interfaces of the configuration that it is in."""
        value = self._handle.getConfiguration()
        for configuration in self._device.iterConfigurations():
            if configuration.getConfigurationValue() == value:
                for interface in configuration:
                    yield from interface

    def _claim(self) -> None:
        """Have all interfaces of the configuration that it is in. libusb could have the host's drivers let go and
        return by itself, but they would return also for each change of the configuration, and be in its way.
        """
        for number in sorted({setting.getNumber() for setting in self._settings()}):
            with suppress(self._usb.USBErrorNotSupported, self._usb.USBErrorNotFound):
                if self._handle.kernelDriverActive(number):
                    self._handle.detachKernelDriver(number)
                    self._theirs.add(number)
            self._handle.claimInterface(number)
            self._claimed.append(number)

    def _release(self) -> None:
        for number in self._claimed:
            with suppress(self._usb.USBError):
                self._handle.releaseInterface(number)
        self._claimed = []

    def submit(self, transfer: Transfer) -> None:
        """See UsbDevice. What changes the device's settings goes through libusb, which keeps track of them."""
        if self._closed:
            transfer.end(Status.nodev)
            return
        change = None if transfer.setup is None else self._change(transfer.setup)
        try:
            if change is None:
                self._start(transfer)
            else:
                change()
        except self._usb.USBErrorNoDevice:
            transfer.end(Status.nodev)
            self._lost()
        except self._usb.USBError:
            transfer.end(Status.inval if change is None else Status.stall)
        else:
            if change is not None:
                transfer.end(Status.ok)

    def _change(self, setup: Setup) -> Call | None:
        """What does a request, if it is one that libusb has a call for."""
        if setup.is_standard(Ask.set_configuration):
            return lambda: self._configure(setup.value)
        if setup.is_standard(Ask.set_interface, TO_INTERFACE):
            return lambda: self._set_interface(setup.index, setup.value)
        if setup.is_standard(Ask.clear_feature, TO_ENDPOINT) and not setup.value:
            return lambda: self._handle.clearHalt(setup.index)
        return None

    def _configure(self, value: int) -> None:
        self._stop(transfer for transfer in list(self._running) if transfer.type is not PipeType.control)
        self._release()
        try:
            self._handle.setConfiguration(value or -1)
        finally:
            self._claim()

    def _set_interface(self, number: int, alternate: int) -> None:
        """Its transfers end here: the kernel would end them as if they had been carried out."""
        ends = {end.getAddress() for setting in self._settings() if setting.getNumber() == number for end in setting}
        self._stop(transfer for transfer in list(self._running) if transfer.address in ends)
        self._handle.setInterfaceAltSetting(number, alternate)

    def _stop(self, transfers: Iterable[Transfer]) -> None:
        for transfer in transfers:
            self.cancel(transfer)
        if self._closed:  # by somebody who has heard of it
            raise self._usb.USBErrorNoDevice

    def _start(self, transfer: Transfer) -> None:
        lengths = [packet.length for packet in transfer.packets if packet.length]
        if transfer.type is PipeType.isoc and not lengths:  # libusb1 does not take what moves nothing
            transfer.end(Status.ok)
            return
        own = self._handle.getTransfer(len(lengths))
        self._fill(own, transfer, lengths)
        own.submit()
        self._running[transfer] = own

    def _fill(self, own: Any, transfer: Transfer, lengths: list[int]) -> None:
        setup = transfer.setup
        data: Any = transfer.size if transfer.inward else transfer.data()
        rest = self._ended.append, transfer, _NEVER
        if setup is not None:
            data = transfer.size if setup.inward else transfer.data()
            own.setControl(setup.request_type, setup.request, setup.value, setup.index, data, *rest)
        elif transfer.type is PipeType.bulk:
            own.setBulk(transfer.address, data, *rest)
        elif transfer.type is PipeType.interrupt:
            own.setInterrupt(transfer.address, data, *rest)
        else:
            if not transfer.inward:
                data = b"".join(data[one.offset : one.offset + one.length] for one in transfer.packets)
            own.setIsochronous(transfer.address, sum(lengths) if transfer.inward else data, *rest, lengths)

    def _over(self, own: Any) -> None:
        transfer: Transfer = own.getUserData()
        status = own.getStatus()
        self._gone |= status == _GONE
        del self._running[transfer]
        if not transfer.over:
            actual = own.getActualLength()
            if transfer.type is PipeType.isoc:
                actual = self._isochronous(transfer, own)
            elif transfer.inward:
                transfer.fill(bytes(own.getBuffer()[:actual]))
            transfer.end(_STATUS.get(status, Status.ioerror), actual)
        own.close()

    @staticmethod
    def _isochronous(transfer: Transfer, own: Any) -> int:
        """Put each packet where it belongs; how many bytes that were."""
        room, moved = bytearray(transfer.size), 0
        asked = [packet for packet in transfer.packets if packet.length]
        for packet, (status, data) in zip(asked, own.iterISO(), strict=True):
            packet.status, packet.actual = _STATUS.get(status, Status.ioerror), len(data)
            moved += packet.actual
            if transfer.inward:
                room[packet.offset : packet.offset + packet.actual] = data
        if transfer.inward:
            transfer.fill(bytes(room))
        return moved

    def cancel(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        own = self._running.get(transfer)
        transfer.end(Status.shutdown)
        if own is not None:
            with suppress(self._usb.USBError):  # it is over, and about to be heard of
                own.cancel()

    def reset(self) -> None:
        """See UsbDevice. It stays in its configuration: a frontend sets one anyway, and the host had set this."""
        try:
            self._stop(list(self._running))
            self._handle.resetDevice()
        except (self._usb.USBErrorNotFound, self._usb.USBErrorNoDevice):  # another after the reset, or none
            self._lost()
        except self._usb.USBError as error:
            self._host.say(f"{self._path}: not reset: {error}")

    def close(self) -> None:
        """See UsbDevice."""
        if self._closed:
            return
        self._closed = True
        self._gate.shut()
        for transfer in list(self._running):
            transfer.end(Status.nodev)
        self._let_go()
        self._running.clear()
        self._ended.clear()

    def _let_go(self) -> None:
        """Whatever there is of it. What still runs is cancelled, and waited for, which is short."""
        with suppress(self._usb.USBError):
            if self._handle is not None:
                self._release()
                for number in sorted(self._theirs):
                    with suppress(self._usb.USBError):
                        self._handle.attachKernelDriver(number)
                self._handle.close()
        with suppress(self._usb.USBError):
            self._context.close()
        self._epoll.close()
