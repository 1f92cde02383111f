"""Who has a device, or interfaces of it: a kernel that has imported it has all of it, a program what it has claimed.

What an import gives back, and a stick, is first made as just plugged in; until then nobody else has it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from xenfs.abi.usbif import Status
from xenusb.hub import Attached, Hub
from xenusb.unit import interface_of
from xenusb.usbip import Code

BUSY, GONE, NOT_FOUND = -errno.EBUSY, -errno.ENODEV, -errno.ENOENT
"""Answers, as usbfs gives them."""


def being_renewed(device: Attached) -> bool:
    """Whether nobody has it any more, but it is not yet ready for others."""
    return isinstance(device.whole, Hold) and device.whole.closed


class Hold:
    """What one connection has of a device. Implements User."""

    def __init__(
        self, device: Attached, hub: Hub, release: Callable[[Attached], None], unplugged: Callable[[], None]
    ) -> None:
        """Nothing yet. `release` is told when the device may be another's, `unplugged` when it has gone."""
        self.device = device
        self._hub, self._release, self._unplugged = hub, release, unplugged
        self._taking = False
        """Whether a driver has been asked to let go of it."""
        self.closed = False
        """Whether it is over."""

    @property
    def there(self) -> bool:
        """Whether the device is still plugged in."""
        return self._hub.devices.get(self.device.port) is self.device

    # All of it.

    def take(self, then: Callable[[bool], None]) -> None:
        """Have its drivers let go, and have all of it: `then` hears whether that is so. A program keeps it."""
        owners = set(self.device.claims.values())
        drivers = [owner for owner in owners if not isinstance(owner, Hold)]
        if len(drivers) != len(owners):
            then(False)
            return
        self.device.whole = self

        def said(words: str) -> None:
            if words == "busy" or self.closed:
                ready(Status.shutdown)
            else:
                self._renew(ready)

        def ready(status: Status) -> None:
            self._taking = False
            ours = status is Status.ok and not self.closed
            if not ours:
                self._give_back()
            then(ours)

        if drivers:
            self._taking = True
            drivers[0].leave(said)
        else:
            then(True)

    def _renew(self, then: Callable[[Status], None]) -> None:
        """Have it as just plugged in: whoever had it may have left it in the middle of something."""
        device = self.device
        if device.parsed:
            device.value, device.settings = device.parsed[0].value, {}
        if device.lost or not self.there:
            then(Status.ok)
        else:
            self._hub.reset(device, then)

    def _give_back(self) -> None:
        if self.device.whole is self:
            self.device.whole = None
        self._release(self.device)

    # Interfaces of it.

    def others(self, number: int | None) -> bool:
        """Whether somebody else has an interface, or with None any of it."""
        owners = {owner for one, owner in self.device.claims.items() if number in (None, one)} | {self.device.whole}
        return bool(owners - {self, None})

    def may(self, address: int) -> bool:
        """Whether an endpoint's interface is ours, or nobody's: then it becomes ours."""
        if self.device.whole is not None:
            return self.device.whole is self
        found = self.device.configuration
        for interface in found.interfaces if found else ():
            if any(end.address == address for end in interface.endpoints):
                return self.device.claims.setdefault(interface.number, self) is self
        return True

    def do(self, code: int, number: int, answer: Callable[[int], None]) -> None:
        """What usbfs has ioctls for, with an interface."""
        device = self.device
        known = {one.number for one in device.configuration.interfaces} if device.configuration else set()
        owner = device.claims.get(number)
        if not self.there:
            answer(GONE)
        elif number not in known:
            answer(NOT_FOUND)
        elif code == Code.claim:
            answer(0 if device.whole is None and device.claims.setdefault(number, self) is self else BUSY)
        elif code == Code.driver_active:
            answer(int(owner is not None and not isinstance(owner, Hold)))
        elif code == Code.release:
            if owner is self:
                del device.claims[number]
            answer(0 if owner is self else -errno.EINVAL)
        elif code == Code.attach_driver:
            self._release(device)
            answer(BUSY if isinstance(device.claims.get(number), Hold) else 0)
        elif owner is None or isinstance(owner, Hold):
            answer(-errno.ENODATA)
        else:
            owner.leave(lambda words: answer(BUSY if words == "busy" else 0))

    # Its end.

    def gone(self) -> None:
        """See User."""
        self._unplugged()

    def leave(self, then: Callable[[str], None]) -> None:
        """See User: a program does not let go because others want it to."""
        then("busy")

    def close(self) -> None:
        """What was had is given back."""
        self.closed = True
        if self._taking:
            return  # `take` gives it back
        device = self.device
        mine = [number for number, owner in device.claims.items() if owner is self]
        for number in mine:
            del device.claims[number]
        if device.whole is self or (mine and not device.claims and interface_of(device) is not None):
            device.whole = self  # until others can have it
            self._renew(lambda _status: self._give_back())
        else:
            self._release(device)
