"""An emulated device: everything that devices have in common, so that a new one is what it says of itself and what
it does with its own data.

    class Thermometer(Gadget):
        about = About(0x1209, 0x0001, "Example", "Thermometer")
        interfaces = (Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.interrupt, 8, 10),)),)

        def give(self, endpoint: int, size: int) -> bytes | None:
            return b"21.5 C"

`give` is asked for what the host wants to have, `take` given what it sends, `control` asked for what a class or a
vendor defines. `give` and `take` may say None or False: not now, which USB calls NAK; `ready` then has the endpoint
asked again. Each may raise Stall: the endpoint then stays halted until the host clears it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from xenfs.abi.usbif import PipeType, Speed, Status
from xenusb import descriptors
from xenusb.descriptors import (
    STANDARD,
    TO_DEVICE,
    TO_ENDPOINT,
    TO_INTERFACE,
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Kind,
    Setup,
)
from xenusb.device import Host, Packet, Transfer

_HALT = 0
"""The feature of an endpoint."""
_MOST_CONTROL = 4096


class Stall(Exception):
    """The device does not do this."""


@dataclass(frozen=True, slots=True)
class About:
    """What a device says of itself as a whole."""

    vendor: int
    product: int
    maker: str
    name: str
    serial: str = ""
    klass: int = 0
    subclass: int = 0
    protocol: int = 0


class Gadget:
    """The base of an emulated device, with one configuration. Implements UsbDevice."""

    about: About
    interfaces: tuple[Interface, ...]
    speed: Speed = Speed.high
    extra: bytes = b""
    """Descriptors that stand before the first interface."""

    def __init__(self, argument: str, host: Host) -> None:
        """Plug it in. Raises OSError."""
        self.argument, self.host = argument, host
        self.configured = 0
        self.settings: dict[int, int] = {}
        self._ends: dict[int, Endpoint] = {}
        self._waiting: dict[int, deque[Transfer]] = {}
        self._halted: set[int] = set()

    # What a device has of its own.

    def control(self, setup: Setup, data: bytes) -> bytes:
        """A request of a class or a vendor; `data` is what the host sends with it. What the host gets. Raises Stall."""
        raise Stall

    def give(self, endpoint: int, size: int) -> bytes | None:
        """At most `size` bytes for the host, or None: not now. Raises Stall."""
        return None

    def take(self, endpoint: int, data: bytes) -> bool:
        """Take all that the host sends; False: not now. Raises Stall."""
        return True

    def packet_in(self, endpoint: int, size: int) -> bytes | None:
        """One isochronous packet for the host, or None: an error."""
        return b""

    def packet_out(self, endpoint: int, data: bytes) -> None:
        """One isochronous packet of the host's."""

    def transfer(self, transfer: Transfer) -> bool:
        """Carry one transfer out, and end it; False: not now. Raises Stall. For devices that move many bytes.

        Only what has ended its transfer may have another endpoint asked.
        """
        number = transfer.endpoint
        if transfer.type is PipeType.isoc:
            self._packets(transfer)
        elif not transfer.inward:
            if not self.take(number, transfer.data()):
                return False
            transfer.end(Status.ok, transfer.size)
        elif (data := self.give(number, transfer.size)) is None:
            return False
        else:
            transfer.answer(data)
        return True

    def progress(self, transfer: Transfer) -> int:
        """Bytes of a transfer that is not over and was moved in part, should it be taken back now."""
        return 0

    def restarted(self) -> None:
        """The host has reset the device, or chosen its configuration."""

    def closed(self) -> None:
        """The device is unplugged: let go of what it holds."""

    # What devices call.

    def ready(self, endpoint: int, *, inward: bool) -> None:
        """What was not possible may be now: go on with what waits for an endpoint."""
        address = endpoint | (0x80 if inward else 0)
        waiting = self._waiting.get(address)
        while waiting and address not in self._halted:
            transfer = waiting.popleft()
            try:
                if not self.transfer(transfer):
                    waiting.appendleft(transfer)
                    return
            except Stall:
                transfer.end(Status.stall)
                self.halt(endpoint, inward=inward)
            except OSError as error:
                self.host.say(f"{error.filename or self.about.name}: {error.strerror}")
                transfer.end(Status.ioerror)
            except Exception:  # what unplugs a user's device leaves nothing behind
                transfer.end(Status.ioerror)
                raise

    def halt(self, endpoint: int, *, inward: bool) -> None:
        """Have an endpoint answer STALL until the host clears that."""
        address = endpoint | (0x80 if inward else 0)
        self._halted.add(address)
        self._end(address, Status.stall)

    def waits(self, endpoint: int, *, inward: bool) -> bool:
        """Whether the host waits for an endpoint."""
        return bool(self._waiting.get(endpoint | (0x80 if inward else 0)))

    # UsbDevice.

    def submit(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        if not transfer.endpoint:
            self._asked(transfer)
            return
        end = self._ends.get(transfer.address)
        if end is None or end.type is not transfer.type:
            transfer.end(Status.inval)
        elif transfer.address in self._halted:
            transfer.end(Status.stall)
        else:
            self._waiting[transfer.address].append(transfer)
            if len(self._waiting[transfer.address]) == 1:
                self.ready(transfer.endpoint, inward=transfer.inward)

    def cancel(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        waiting = self._waiting.get(transfer.address)
        if waiting is not None and transfer in waiting:
            waiting.remove(transfer)
        transfer.end(Status.shutdown, self.progress(transfer))

    def reset(self) -> None:
        """See UsbDevice."""
        self._configure(0)

    def close(self) -> None:
        """See UsbDevice."""
        for address in list(self._waiting):
            self._end(address, Status.nodev)
        self.closed()

    def _end(self, address: int, status: Status) -> None:
        waiting = self._waiting.get(address)
        while waiting:
            waiting.popleft().end(status)

    def _configure(self, value: int) -> None:
        for address in list(self._waiting):
            self._end(address, Status.shutdown)
        self._halted.clear()
        self.configured = value
        self.settings = {}
        self._set_ends()
        self.restarted()

    def _set_ends(self) -> None:
        """Have the endpoints of the settings chosen, and no others."""
        ends: dict[int, Endpoint] = {}
        if self.configured:
            for one in self.interfaces:
                if one.alternate == self.settings.get(one.number, 0):
                    ends |= {end.address: end for end in one.endpoints}
        for address in list(self._waiting):
            if self._ends.get(address) is not ends.get(address):
                self._end(address, Status.shutdown)
        self._ends = ends
        self._waiting = {address: self._waiting.get(address, deque()) for address in ends}
        self._halted &= set(ends)

    def _packets(self, transfer: Transfer) -> None:
        buffer = memoryview(bytearray(transfer.data()))
        moved = 0
        for packet in transfer.packets:
            self._packet(transfer, packet, buffer[packet.offset : packet.offset + packet.length])
            moved += packet.actual
        if transfer.inward:
            transfer.fill(bytes(buffer))
        transfer.end(Status.ok, moved)

    def _packet(self, transfer: Transfer, packet: Packet, room: memoryview) -> None:
        if not transfer.inward:
            self.packet_out(transfer.endpoint, bytes(room))
            packet.actual = len(room)
        elif (data := self.packet_in(transfer.endpoint, len(room))) is None:
            packet.status = Status.ioerror
        elif len(data) > len(room):
            packet.status = Status.babble
        else:
            room[: len(data)] = data
            packet.actual = len(data)

    # Control transfers.

    @property
    def configuration(self) -> Configuration:
        """The one that it has."""
        return Configuration(self.interfaces, extra=self.extra)

    def _asked(self, transfer: Transfer) -> None:
        setup = transfer.setup
        if setup is None:
            transfer.end(Status.inval)
            return
        sent = b"" if setup.inward else transfer.data()[: setup.length]
        try:
            answer = self._standard(setup) if setup.kind == STANDARD else self.control(setup, sent)
        except Stall:
            transfer.end(Status.stall)
        except OSError as error:
            self.host.say(f"{error.filename or self.about.name}: {error.strerror}")
            transfer.end(Status.ioerror)
        else:
            if setup.inward:
                transfer.answer(answer[: min(setup.length, _MOST_CONTROL)])
            else:
                transfer.end(Status.ok, len(sent))

    def _standard(self, setup: Setup) -> bytes:
        handlers = {
            (Ask.get_descriptor, TO_DEVICE): self._descriptor,
            (Ask.get_descriptor, TO_INTERFACE): lambda setup: self.control(setup, b""),
            (Ask.get_configuration, TO_DEVICE): lambda _: bytes((self.configured,)),
            (Ask.set_configuration, TO_DEVICE): self._choose,
            (Ask.get_interface, TO_INTERFACE): self._get_interface,
            (Ask.set_interface, TO_INTERFACE): self._set_interface,
            (Ask.get_status, TO_DEVICE): lambda _: bytes(2),
            (Ask.get_status, TO_INTERFACE): lambda setup: bytes(2 * len(self._get_interface(setup))),
            (Ask.get_status, TO_ENDPOINT): lambda setup: bytes((int(self._end_of(setup) in self._halted), 0)),
            (Ask.clear_feature, TO_ENDPOINT): self._clear,
            (Ask.set_feature, TO_ENDPOINT): self._set_halt,
        }
        handle = handlers.get((Ask(setup.request), setup.recipient)) if setup.request in list(Ask) else None
        if handle is None:
            raise Stall
        return handle(setup) or b""

    def _descriptor(self, setup: Setup) -> bytes:
        kind, number = setup.value >> 8, setup.value & 0xFF
        about = self.about
        device = DeviceDescriptor(
            about.vendor, about.product, klass=about.klass, subclass=about.subclass, protocol=about.protocol,
            packet=8 if self.speed is Speed.low else 64,
            strings=(1, 2, 3 if about.serial else 0),
        )  # fmt: skip
        if kind == Kind.device:
            return device.emit()
        if kind == Kind.configuration and not number:
            return self.configuration.emit()
        if kind == Kind.qualifier and self.speed is Speed.high:
            return device.qualifier()
        if kind == Kind.string and number <= 3:
            said = ("", about.maker, about.name, about.serial)[number]
            return descriptors.string(said) if number else descriptors.languages()
        raise Stall

    def _choose(self, setup: Setup) -> None:
        if setup.value not in (0, self.configuration.value):
            raise Stall
        self._configure(setup.value)

    def _get_interface(self, setup: Setup) -> bytes:
        if not self.configured or self.configuration.interface(setup.index) is None:
            raise Stall
        return bytes((self.settings.get(setup.index, 0),))

    def _set_interface(self, setup: Setup) -> None:
        if not self.configured or self.configuration.interface(setup.index, setup.value) is None:
            raise Stall
        for one in self.interfaces:
            if one.number == setup.index:
                self._halted -= {end.address for end in one.endpoints}
        self.settings[setup.index] = setup.value
        self._set_ends()

    def _end_of(self, setup: Setup) -> int:
        address = setup.index & 0x8F
        if address & 0x0F and address not in self._ends:
            raise Stall
        return address

    def _clear(self, setup: Setup) -> None:
        if setup.value != _HALT:
            raise Stall
        address = self._end_of(setup)
        self._halted.discard(address)
        self.ready(address & 0x0F, inward=bool(address & 0x80))

    def _set_halt(self, setup: Setup) -> None:
        if setup.value != _HALT:
            raise Stall
        address = self._end_of(setup)
        if address & 0x0F:
            self.halt(address & 0x0F, inward=bool(address & 0x80))
