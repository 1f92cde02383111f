"""vbd: what a line of xl.cfg says of a disk (xl-disk-configuration(5))."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from xenfs.commands.failure import Unable
from xenfs.xenbus import Device
from xl.config import pairs
from xl.spec import DeviceSpec

_POSITIONS = ("target", "format", "vdev", "access")
_FORMATS = ("raw", "qcow2", "vhd", "vdi", "vmdk", "qcow", "empty")
_FLAGS = ("cdrom", "discard", "no-discard", "direct-io-safe", "readonly", "r", "ro", "w", "rw")
_KEYS = (*_POSITIONS, "devtype", "backend", "backendtype", "script")
_ACCESS = {"": "w", "r": "r", "ro": "r", "w": "w", "rw": "w", "!": "w", "w!": "w"}
Domid = Callable[[str], int]


def virtual_device(name: str) -> int:
    """The number of a disk by its name in the guest, such as xvda or sdb1. Raises ValueError."""
    if name.isdigit():
        return int(name)
    found = re.fullmatch(r"(xvd|sd|hd)([a-z]{1,2})(\d{0,2})", name)
    if found is None:
        raise ValueError(f"{name!r} is no disk such as xvda or sda1")
    disk = 0
    for letter in found[2]:
        disk = disk * 26 + ord(letter) - ord("a") + 1
    disk, part = disk - 1, int(found[3] or 0)
    if found[1] == "xvd":
        return 202 << 8 | disk << 4 | part if disk < 16 and part < 16 else 1 << 28 | disk << 8 | part
    if found[1] == "sd" and disk < 16 and part < 16:
        return 8 << 8 | disk << 4 | part
    if found[1] == "hd" and disk < 4 and part < 64:
        return (3 if disk < 2 else 22) << 8 | (disk % 2) << 6 | part
    raise ValueError(f"{name!r}: there are not so many such disks")


def parse(text: str, domid: int, number: int, lookup: Domid) -> DeviceSpec:
    """A disk of a domain; `number` is not used, since the name says it. Raises Unable."""
    del number
    said = _words(text)
    target, vdev = said.get("target", ""), said.get("vdev", "")
    if not vdev:
        raise Unable(f"disk {text!r}: it needs vdev, such as vdev=xvda")
    try:
        device_number = virtual_device(vdev)
    except ValueError as error:
        raise Unable(f"disk {text!r}: {error}") from None
    cdrom = "cdrom" in said or said.get("devtype") == "cdrom"
    mode = _mode(said, text, cdrom)
    if said.get("format", "raw") not in (*_FORMATS, ""):
        raise Unable(f"disk {text!r}: format is one of {', '.join(_FORMATS)}")
    if not target and not cdrom:
        raise Unable(f"disk {text!r}: it needs target, a file or device")
    if target and "backend" not in said and not Path(target).exists():
        raise Unable(f"disk {text!r}: {target}: there is no such file")
    device = Device("vbd", domid, device_number, lookup(said["backend"]) if said.get("backend") else 0)
    form = said.get("format") or "raw"
    back = {
        "params": target if form in ("raw", "empty") else f"{form}:{target}",
        "script": said.get("script") or "/etc/xen/scripts/block",
        "frontend-id": str(domid),
        "online": "1",
        "removable": "1" if cdrom else "0",
        "bootable": "1",
        "state": "1",
        "dev": vdev,
        "type": "phy",
        "mode": mode,
        "device-type": "cdrom" if cdrom else "disk",
        **({"direct-io-safe": "1"} if "direct-io-safe" in said else {}),
        "discard-enable": "0" if "no-discard" in said or mode == "r" else "1",
        "specification": "xen",
    }
    front = {
        "virtual-device": str(device_number),
        "device-type": "cdrom" if cdrom else "disk",
        "trusted": "1",
        "protocol": "x86_64-abi",
    }
    return DeviceSpec(device, front, {}, back, hotplug=True)


def _words(text: str) -> dict[str, str]:
    """By name; words without = are, in this order, target, format, vdev and access, or flags."""
    found, free = dict[str, str](), list(_POSITIONS)
    *parts, last = text.partition("target=") if "target=" in text else (text, "", "")
    if last:
        found["target"] = last.strip()  # may have commas: it stands last
        free.remove("target")
        text = parts[0]
    for name, value in pairs(text, "disk").items():
        if value or f"{name}=" in text.replace(" ", ""):
            if name not in _KEYS:
                raise Unable(f"disk {text!r}: unknown key {name}; known are {', '.join(_KEYS)}")
            found[name] = value
            if name in free:
                free.remove(name)
        elif name in _FLAGS and not ("access" in free and len(free) == 1):
            found[name] = ""
        elif free:
            found[free.pop(0)] = name
        else:
            raise Unable(f"disk {text!r}: {name!r}: one word too many")
    return found


def _mode(said: dict[str, str], text: str, cdrom: bool) -> str:
    word = said.get("access") or next((flag for flag in ("r", "ro", "w", "rw", "readonly") if flag in said), "")
    word = "r" if word == "readonly" else word
    if word not in _ACCESS:
        raise Unable(f"disk {text!r}: access is r or w")
    return "r" if cdrom else _ACCESS[word]
