"""A device as umockdev has it: what it is in /sys, and its node in /dev.

The node is a terminal in the place of umockdev's, for poll says the same of both: writable while there is a transfer to
be reaped (output is not stopped), and an error once the device is unplugged (the other end is closed).
"""

from __future__ import annotations

import os
import pty
import termios
import tty
from dataclasses import dataclass
from pathlib import Path

from xenusb.descriptors import Configuration, DeviceDescriptor


def aside(path: Path) -> Path:
    """Where a file is while another has its place."""
    return path.with_name(f".{path.name}")


@dataclass(frozen=True)
class Sample:
    """A device for umockdev: at a bus path, with a speed in Mbit/s, in its first configuration."""

    path: str
    address: int
    about: DeviceDescriptor
    configurations: tuple[Configuration, ...]
    speed: str = "480"

    @property
    def bus(self) -> int:
        return int(self.path.removeprefix("usb").partition("-")[0])

    @property
    def place(self) -> str:
        """In /sys: a hub's directory holds those of what is behind it."""
        steps = [self.path]
        while "." in steps[0]:
            steps.insert(0, steps[0].rpartition(".")[0])
        if "-" in self.path:
            steps.insert(0, f"usb{self.bus}")
        return "/".join(("/devices/pci0000:00/0000:00:14.0", *steps))

    @property
    def node(self) -> str:
        """In /dev."""
        return f"bus/usb/{self.bus:03}/{self.address:03}"

    def describe(self) -> str:
        """For umockdev-run --device."""
        binary = self.about.emit() + b"".join(one.emit() for one in self.configurations)
        properties = {"DEVNAME": f"/dev/{self.node}", "DEVTYPE": "usb_device", "SUBSYSTEM": "usb", "MAJOR": 189}
        attributes = {
            "busnum": self.bus, "devnum": self.address, "speed": self.speed,
            "bConfigurationValue": self.configurations[0].value,
        }  # fmt: skip
        lines = [f"P: {self.place}", f"N: {self.node}", f"E: MINOR={self.address - 1}"]
        lines += [f"E: {name}={value}" for name, value in properties.items()]
        lines += [f"A: {name}={value}\\n" for name, value in attributes.items()]
        return "\n".join((*lines, f"H: descriptors={binary.hex().upper()}", "", ""))


class Terminal:
    """The node of a device, in the place of umockdev's, until it is closed."""

    def __init__(self, node: Path) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.name, self._node, self._hung_up = os.ttyname(self._slave), node, False
        node.rename(aside(node))
        node.symlink_to(self.name)

    def ready(self, *, is_ready: bool) -> None:
        """Whether there is something to be reaped."""
        if not self._hung_up:
            termios.tcflow(self._slave, termios.TCOON if is_ready else termios.TCOOFF)

    def hang_up(self) -> None:
        """The device is gone; fine if it is."""
        if not self._hung_up:
            self._hung_up = True
            os.close(self._master)
            self._node.unlink()

    def close(self) -> None:
        """Have all as it was. Raises FileNotFoundError when it is not there any more."""
        os.close(self._slave)
        self.hang_up()
        aside(self._node).rename(self._node)
