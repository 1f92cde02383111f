"""The guest's devices: what is plugged in is asked what it is, given an address and its first configuration.

A device that comes back in the same port after its backend has died, and says the same of itself, is the same device:
it is set up again as it was, and whoever uses it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus import Loop, PeerProtocolError
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
    Kind,
    Setup,
)
from xenusb.urbs import Urbs, Want

CONTROL_SECONDS = 5.0
"""How long a device may take to answer for itself (Linux's USB_CTRL_GET_TIMEOUT)."""
_MOST_CONFIGURATIONS = 8
_MOST_DESCRIPTORS = 16384
_IN = 0x80
_PATIENCE = 6.0
"""Seconds in which a device is expected back, once there is another backend; a usbip server may take five."""
Steps = Generator[Want, Want, None]
Taken = Callable[[], None]


class User(Protocol):
    """Who uses a device, or one of its interfaces."""

    def gone(self) -> None:
        """The device is unplugged."""

    def leave(self, then: Callable[[str], None]) -> None:
        """Somebody else wants it: `then` hears `ok`, or `busy`."""


@dataclass(eq=False)
class Attached:
    """One device."""

    port: int
    speed: Speed
    address: int = 0
    reserved: int = 0
    """The address that it is being given."""
    device: DeviceDescriptor | None = None
    raw: bytes = b""
    configurations: list[bytes] = field(default_factory=list)
    parsed: list[Configuration] = field(default_factory=list)
    strings: tuple[str, str, str] = ("", "", "")
    value: int = 0
    settings: dict[int, int] = field(default_factory=dict)
    claims: dict[int, User] = field(default_factory=dict)
    whole: User | None = None
    """Who has all of it to itself."""
    lost: bool = False
    """Whether its backend has died, and it may come back."""
    problem: str = ""
    asking: Want | None = None
    """The step that is being taken, while it says what it is."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What it says of itself."""
        return self.speed, self.raw, tuple(self.configurations), self.strings

    @property
    def configuration(self) -> Configuration | None:
        """The one that it is in."""
        return next((one for one in self.parsed if one.value == self.value), None)

    def endpoint(self, address: int) -> Endpoint | None:
        """An endpoint of the settings that it is in."""
        if (found := self.configuration) is None:
            return None
        for interface in found.interfaces:
            if interface.alternate == self.settings.get(interface.number, 0):
                for endpoint in interface.endpoints:
                    if endpoint.address == address:
                        return endpoint
        return None

    def want(self, setup: Setup, done: Callable[[Want], None], data: bytes = b"") -> Want:
        """A control transfer."""
        inward = setup.inward and bool(setup.length)
        return Want(self.port, self.address, PipeType.control, 0, inward, setup.length, done, setup, data)


class Hub:
    """The ports of one controller."""

    def __init__(self, urbs: Urbs, loop: Loop, ports: int, changed: Callable[[Attached], None],
                 removed: Callable[[Attached], None]) -> None:  # fmt: skip
        """`changed`: a device is there and configured, perhaps again; `removed`: it is not any more."""
        self._urbs, self._loop, self.ports = urbs, loop, ports
        self._changed, self._removed = changed, removed
        self.devices: dict[int, Attached] = {}
        self._coming: dict[int, Attached] = {}
        self._turn = 0

    def plug(self, port: int, speed: int) -> None:
        """Something was plugged in, or out. Raises PeerProtocolError."""
        if not 1 <= port <= self.ports or speed > Speed.high:
            raise PeerProtocolError(f"something of speed {speed} in port {port} of {self.ports}")
        known = self.devices.get(port)
        self._forget(port)
        if known is not None and not (known.lost and not known.address and speed):
            self.unplug(port)
        if speed:
            device = Attached(port, Speed(speed))
            self._coming[port] = device
            self._run(self._enumerate(device), lambda: self._arrived(device), device)

    def _forget(self, port: int) -> None:
        """Ask no more what is in a port."""
        device = self._coming.pop(port, None)
        if device is not None and device.asking is not None:
            self._urbs.cancel(device.asking)

    def unplug(self, port: int) -> None:
        """A device is gone."""
        device = self.devices.pop(port, None)
        self._forget(port)
        if device is not None:
            users = {id(user): user for user in (*device.claims.values(), device.whole) if user is not None}
            device.claims, device.whole = {}, None
            for user in users.values():
                user.gone()
            self._urbs.drop(port)
            self._removed(device)

    def lose(self) -> None:
        """The backend is gone, and with it every address; the devices may come back."""
        self._coming.clear()
        self._turn += 1
        for device in self.devices.values():
            device.lost, device.address = True, 0

    def expect(self) -> None:
        """There is another backend: what does not come back soon is gone."""
        turn = self._turn

        def look() -> None:
            if turn == self._turn:
                for device in list(self.devices.values()):
                    if device.lost and not device.address and device.port not in self._coming:
                        self.unplug(device.port)

        self._loop.later(_PATIENCE, look)

    def close(self) -> None:
        """Everything is gone."""
        for port in list(self.devices):
            self.unplug(port)

    # One step after the other.

    def _run(self, steps: Steps, done: Taken, coming: Attached | None = None) -> None:
        """Take steps: each is a transfer, and gets it back when it is over. Those of a device that is coming end when
        it is not any more.
        """

        def begin(want: Want) -> None:
            want.done = go_on
            if coming is not None:
                coming.asking = want
            self._urbs.submit(want, CONTROL_SECONDS)
            self._urbs.push()

        def go_on(want: Want) -> None:
            if coming is not None and self._coming.get(coming.port) is not coming:
                return
            try:
                following = steps.send(want)
            except StopIteration:
                done()
            else:
                begin(following)

        try:
            first = next(steps)
        except StopIteration:
            done()
        else:
            begin(first)

    def _get(self, device: Attached, kind: Kind, number: int, size: int, index: int = 0) -> Want:
        setup = Setup(_IN | STANDARD << 5 | TO_DEVICE, Ask.get_descriptor, kind << 8 | number, index, size)
        return device.want(setup, lambda _: None)

    def _enumerate(self, device: Attached) -> Steps:
        """As Linux does it: who are you, your address, then everything else."""
        head = yield self._get(device, Kind.device, 0, 64)
        if head.status is not Status.ok or len(head.data) < 8:
            device.problem = f"it does not say what it is ({head.status.name})"
            return
        device.reserved = self._address()
        said = yield device.want(Setup(0, Ask.set_address, device.reserved), lambda _: None)
        if said.status is not Status.ok:
            device.problem = f"it does not take an address ({said.status.name})"
            return
        device.address = device.reserved
        whole = yield self._get(device, Kind.device, 0, 18)
        device.raw = whole.data
        device.device = DeviceDescriptor.parse(whole.data)
        if device.device is None:
            device.problem = "its device descriptor is none"
            return
        for number in range(min(device.device.configurations, _MOST_CONFIGURATIONS)):
            first = yield self._get(device, Kind.configuration, number, 9)
            total = int.from_bytes(first.data[2:4], "little") if len(first.data) >= 4 else 0
            if first.status is not Status.ok or not 9 <= total <= _MOST_DESCRIPTORS:
                device.problem = f"its configuration {number} says that it has {total} bytes"
                continue
            found = yield self._get(device, Kind.configuration, number, total)
            parsed = Configuration.parse(found.data)
            if parsed is not None:
                device.configurations.append(found.data)
                device.parsed.append(parsed)
        texts = []
        for number in device.device.strings:
            said_text = ""
            if number:
                answer = yield self._get(device, Kind.string, number, 255, descriptors.ENGLISH)
                said_text = descriptors.text(answer.data) if answer.status is Status.ok else ""
            texts.append(said_text)
        device.strings = (texts[0], texts[1], texts[2])

    def _address(self) -> int:
        there = (*self.devices.values(), *self._coming.values())
        taken = {device.address for device in there} | {device.reserved for device in there}
        return next(number for number in range(1, 128) if number not in taken)

    def _arrived(self, device: Attached) -> None:
        """It has said what it is, or has not."""
        if self._coming.get(device.port) is not device:
            return
        del self._coming[device.port]
        before = self.devices.get(device.port)
        if before is not None and before.lost:
            if before.identity == device.identity:
                before.address = before.reserved = device.address
                self._run(self._as_before(before), lambda: self._back(before))
                return
            self.unplug(device.port)
        self.devices[device.port] = device
        if device.parsed:
            self.set_configuration(device, device.parsed[0].value, lambda _status: self._changed(device))
        else:
            self._changed(device)

    def _as_before(self, device: Attached) -> Steps:
        setups = [Setup(0, Ask.set_configuration, device.value)] if device.value else []
        for number, setting in device.settings.items():
            setups.append(Setup(TO_INTERFACE, Ask.set_interface, setting, number))
        for setup in setups:
            said = yield device.want(setup, lambda _: None)
            if said.status is Status.nodev:  # another may be in its port by now
                return

    def _back(self, device: Attached) -> None:
        if device.address:  # else it is lost again
            device.lost = False
            self._changed(device)

    # What changes a device's settings, so that they are known here.

    def set_configuration(self, device: Attached, value: int, done: Callable[[Status], None]) -> None:
        """Choose one."""

        def over(want: Want) -> None:
            if want.status is Status.ok or device.lost:  # then it gets it when it is back
                device.value, device.settings = value, {}
            done(want.status)

        self._ask(device, Setup(0, Ask.set_configuration, value), over)

    def set_interface(self, device: Attached, number: int, setting: int, done: Callable[[Status], None]) -> None:
        """Choose a setting of an interface."""

        def over(want: Want) -> None:
            if want.status is Status.ok:
                device.settings[number] = setting
            done(want.status)

        self._ask(device, Setup(TO_INTERFACE, Ask.set_interface, setting, number), over)

    def clear_halt(self, device: Attached, address: int, done: Callable[[Want], None]) -> None:
        """Have an endpoint go on."""
        self._ask(device, Setup(TO_ENDPOINT, Ask.clear_feature, 0, address), done)

    def _ask(self, device: Attached, setup: Setup, done: Callable[[Want], None]) -> None:
        self._urbs.submit(device.want(setup, done), CONTROL_SECONDS)
        self._urbs.push()

    def reset(self, device: Attached, done: Callable[[Status], None]) -> None:
        """Reset the port: the device gets its address and its settings again. What it had been asked for is over."""
        address, device.address = device.reserved, 0

        def steps() -> Steps:
            # whoever speaks to address 0 speaks to a device that was just reset
            said = yield device.want(Setup(0, Ask.set_address, address), lambda _: None)
            if said.status is not Status.ok:
                device.problem = f"it does not take an address ({said.status.name})"
                return
            device.address = address
            yield from self._as_before(device)

        self._run(steps(), lambda: done(Status.ok if device.address else Status.ioerror))
