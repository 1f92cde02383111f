"""Sticks without a USB: their commands, given as hexadecimal, over a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from xenblk.disk import FileDisk
from xenusb.scsi import Failed, Scsi, Sense

BLOCKS = 2048
TWO_TERABYTES = 1 << 41
"""So much is 2**32 blocks."""
COMMANDS = bytes.fromhex("00 03 08 0a 12 1a 1b 1e 23 25 28 2a 2f 35 5a 88 8a 91 9e a8 aa")
"""All that there are."""


def image(path: Path, size: int = BLOCKS * 512) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def power_on(disk: FileDisk, vendor: str = "xenfs", product: str = "USB stick", serial: str = "0123ABCD") -> Scsi:
    return Scsi(disk, vendor, product, serial)


def told(unit: Scsi, words: str) -> bytes:
    """The answer of a command, which is in hexadecimal."""
    found = unit.command(bytes.fromhex(words))
    assert isinstance(found, bytes)
    return found


def refused(unit: Scsi, words: str) -> Sense:
    """What a command fails with."""
    with pytest.raises(Failed) as failed:
        unit.command(bytes.fromhex(words))
    assert unit.sense == failed.value.sense
    return failed.value.sense


def sensed(unit: Scsi) -> tuple[int, int, int]:
    """Key, code and qualifier, as REQUEST SENSE tells them."""
    data = told(unit, "030000001200")
    assert (len(data), data[0], data[7]) == (18, 0x70, 10)
    return data[2], data[12], data[13]
