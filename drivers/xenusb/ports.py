"""A port of usbback: which device is in it, at which address, and whether another has that device already.

What `port/N` says is `<kind>:<argument>`, or a bus path such as 3-1.5 for a real device. Kinds are the entry points of
the group `xenusb.devices`; `python:<module>:<class>:<argument>` is a class by name.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import re
import socket
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from xenfs.abi.usbif import Speed, Status
from xenfs.xenbus.loop import Call, Loop
from xenusb.device import Host, Transfer, UsbDevice

if TYPE_CHECKING:
    from xenusb.back import UsbBack

STATUS = "port-status"
"""Keys `port-status/N` of the backend's: what is in a port, or why nothing is."""
GROUP = "xenusb.devices"
COMING = "connecting"
"""The status of a device that does not have its speed yet."""
_BUS_PATH = re.compile(r"\d+-\d+(\.\d+)*")
_SHOWN = 200
_BY_NAME = ("python", "usbip", "serial")
"""What is made of no file, or of one that it makes itself."""
Make = Callable[[str, Host], UsbDevice]


def find(text: str) -> tuple[Make, str]:
    """What makes the device that a port's text names, and its argument. Raises OSError."""
    if _BUS_PATH.fullmatch(text):
        from xenusb.real import RealDevice

        return RealDevice, text
    kind, _, argument = text.partition(":")
    if kind == "python":
        module, _, rest = argument.partition(":")
        name, _, argument = rest.partition(":")
        return _load(module, name, text), argument
    for entry in entry_points(group=GROUP, name=kind):
        made: Make = entry.load()
        return made, argument
    known = sorted({entry.name for entry in entry_points(group=GROUP)})
    raise OSError(errno.EINVAL, f"neither a bus path such as 1-2 nor a device of {', '.join(known)}, python", text)


def _load(module: str, name: str, text: str) -> Make:
    try:
        found: Make = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise OSError(errno.ENOENT, f"{type(error).__name__}: {error}", text) from None
    return found


class Claim:
    """A device that nobody else may have meanwhile: by a lock on the file that it is made of, else by its name."""

    def __init__(self, text: str) -> None:
        """Claim what a port's text names. Raises OSError: EBUSY when another port has it."""
        kind, _, argument = text.partition(":")
        path = argument.partition(",")[0]
        name = text
        try:
            if kind == "serial" and path:
                name = f"serial:{os.path.realpath(Path(path).parent)}/{Path(path).name}"
            if kind not in _BY_NAME and path and Path(path).exists():
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
                self._held: int | socket.socket = os.open(path, flags)
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                self._held = socket.socket(socket.AF_UNIX)
                if argument or _BUS_PATH.fullmatch(text):
                    self._held.bind(f"\0xenusb {os.geteuid()} {sha256(name.encode()).hexdigest()[:32]}")
        except OSError as error:
            if hasattr(self, "_held"):
                self.close()
            if error.errno in (errno.EAGAIN, errno.EADDRINUSE):
                raise OSError(errno.EBUSY, "it is in another port already", text) from None
            raise OSError(error.errno, error.strerror, path) from None

    def close(self) -> None:
        """Let go."""
        if isinstance(self._held, int):
            os.close(self._held)
        else:
            self._held.close()


class Seat:
    """A device's hold on the port that it was made in. Implements Host; once the device is out it says nothing more."""

    def __init__(self, port: Port) -> None:
        """In a port."""
        self._port = port

    @property
    def loop(self) -> Loop:
        """See Host."""
        return self._port.back.loop

    def attempt(self, call: Call) -> None:
        """See Host."""
        try:
            call()
        except Exception as error:  # of a class that a user wrote, perhaps
            self.unplugged(words(error))

    def arrived(self) -> None:
        """See Host."""
        if self._port.seat is self:
            self._port.arrived()

    def unplugged(self, why: str) -> None:
        """See Host."""
        if self._port.seat is self:
            self._port.lose(why)

    def say(self, line: str) -> None:
        """See Host."""
        if self._port.seat is self:
            self._port.say(line)


class Port:
    """One port."""

    def __init__(self, number: int, back: UsbBack) -> None:
        """Empty."""
        self.number, self.back = number, back
        self.device: UsbDevice | None = None
        self.speed = Speed.none
        self.seat: Seat | None = None
        self.address = 0
        self.status = "empty"
        self._text: str | None = None
        self._claim: Claim | None = None

    def say(self, line: str) -> None:
        """For the log."""
        self.back.log(f"{self.back!r}: port {self.number}: {line}")

    def plug(self, text: str) -> None:
        """Have in it what a text says, unless that is so."""
        if text == self._text:
            return
        self.empty()
        self._text = text
        if text:
            self._fill(text)
        self.back.report(self)

    def _fill(self, text: str) -> None:
        self.seat = Seat(self)
        try:
            make, argument = find(text)
            self._claim = Claim(text)
            device = make(argument, self.seat)
            speed = Speed(device.speed)
        except Exception as error:  # of a class that a user wrote, perhaps
            self.seat = None
            self._let_go()
            self.status = f"error {words(error)}"[:_SHOWN]
            self.say(words(error))
        else:
            self.device, self.status = device, COMING
            if speed:
                self._there(speed)

    def _there(self, speed: Speed) -> None:
        self.speed, self.status = speed, f"connected {speed.name}"
        self.back.plugged(self, speed)

    def arrived(self) -> None:
        """A device that was made without its speed has it now."""
        if self.device is not None and not self.speed:
            self._there(Speed(self.device.speed))
            self.back.report(self)

    def empty(self) -> None:
        """Unplug what is in it."""
        device, self.device, self.seat = self.device, None, None
        told = self.speed
        self.address, self.status, self._text, self.speed = 0, "empty", "", Speed.none
        if device is not None:
            try:
                device.close()
            except Exception as error:
                self.say(words(error))
            if told:
                self.back.plugged(self, Speed.none)
        self._let_go()

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def lose(self, why: str) -> None:
        """The device has gone: the text stays, and plugging the same again begins with taking it away."""
        if self.device is not None:
            text = self._text
            self.say(why)
            self.empty()
            self._text, self.status = text, f"error {why}"[:_SHOWN]
            self.back.report(self)

    def reset(self) -> None:
        """There is another frontend: the device is as just plugged in."""
        self.address = 0
        if self.device is not None and self.seat is not None:
            self.seat.attempt(self.device.reset)

    def submit(self, transfer: Transfer) -> None:
        """For the device, when there is one."""
        device, seat = self.device, self.seat
        if device is None or seat is None:
            transfer.end(Status.nodev)
            return
        try:
            device.submit(transfer)
        except Exception as error:
            transfer.end(Status.ioerror)
            seat.unplugged(words(error))

    def cancel(self, transfer: Transfer) -> None:
        """Have the device forget it."""
        device, seat = self.device, self.seat
        if device is not None and seat is not None:
            seat.attempt(lambda: device.cancel(transfer))
        transfer.end(Status.shutdown)


def words(error: Exception) -> str:
    """What is said of an error: an OSError speaks for itself."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
