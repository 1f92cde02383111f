"""Numbers and names of disks (xen-vbd-interface(7)): 51712 is xvda."""

from __future__ import annotations

_EXTENDED = 1 << 28


def disk_name(number: int) -> str:
    """The name of a disk, or of a partition that is one, by its number."""
    if number & _EXTENDED:
        return _name("xvd", (number >> 8) & 0xFFFFF, number & 0xFF)
    major, minor = number >> 8, number & 0xFF
    if major == 202:
        return _name("xvd", minor >> 4, minor & 15)
    if major == 8:
        return _name("sd", minor >> 4, minor & 15)
    if major in (3, 22):
        return _name("hd", (minor >> 6) + (2 if major == 22 else 0), minor & 63)
    return f"vbd{number}"


def _name(kind: str, disk: int, part: int) -> str:
    letters = ""
    disk += 1
    while disk:
        disk, letter = divmod(disk - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"{kind}{letters}{part or ''}"
