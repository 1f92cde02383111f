"""The emulated devices: what each is of, what it has, and how it is made to wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from xenusb.descriptors import TO_DEVICE, TO_INTERFACE, Ask, Endpoint
from xenusb.device import Transfer
from xenusb.gadget import Gadget
from xenusb.keyboard import Keyboard
from xenusb.loopback import Loopback
from xenusb.serial import Serial
from xenusb.stick import Stick

from tests.usb.port import Port
from xenfs.abi.usbif import PipeType

LIMIT = 1 << 18
"""More bytes than any pipe or pty keeps for a reader that does not come."""
TEXT = bytes(range(256)) * 3


def image(path: Path, blocks: int = 8) -> Path:
    """An image in which every block is another."""
    path.write_bytes(b"".join(f"block {number}".encode().ljust(512, b".") for number in range(blocks)))
    return path


def fifo(path: Path) -> Path:
    """A FIFO that nobody has open."""
    os.mkfifo(path)
    return path


Arguments = Callable[[Path], str]
DEVICES: dict[str, tuple[type[Gadget], Arguments]] = {
    "stick": (Stick, lambda path: str(image(path / "image"))),
    "keyboard": (Keyboard, lambda path: str(fifo(path / "keys"))),
    "serial": (Serial, lambda path: str(path / "line")),
    "loopback": (Loopback, lambda _: ""),
}


def ends_of(gadget: Gadget) -> list[Endpoint]:
    """Endpoints of all its settings."""
    return [end for one in gadget.interfaces for end in one.endpoints]


def use_ends(port: Port, gadget: Gadget) -> None:
    """Choose the settings that have endpoints."""
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    for one in gadget.interfaces:
        if one.alternate:
            port.tell(TO_INTERFACE, Ask.set_interface, one.alternate, one.number)


def waiting(port: Port, gadget: Gadget) -> list[Transfer]:
    """Two transfers for every endpoint on which the device has nothing to say."""
    use_ends(port, gadget)
    ends = [end for end in ends_of(gadget) if end.inward and end.type is not PipeType.isoc]
    found = [port.submit(end.type, end.number, 64) for end in ends for _ in range(2)]
    assert found
    assert not any(transfer.over for transfer in found)
    port.ended.clear()
    return found
