"""Kinds of devices: how a line of a configuration becomes one, and which modules are its drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from xenfs.commands.failure import Unable
from xenfs.xenbus import Device, DeviceClass, main
from xenfs.xenbus.classes import CLASSES
from xenfs.xenbus.end import End
from xl import usb, vbd, vif
from xl.config import pairs
from xl.spec import DeviceSpec

Lookup = Callable[[str], int]
Parse = Callable[[str, int, int, Lookup], DeviceSpec]
PARSERS: Mapping[str, Parse] = MappingProxyType({"vif": vif.parse, "vbd": vbd.parse, "vusb": usb.parse})
FRONTENDS, BACKENDS = "xenfs.frontends", "xenfs.backends"


@cache
def _driver(group: str, kind: str) -> type[End] | None:
    for entry in entry_points(group=group, name=kind):
        found: type[End] = entry.load()
        return found
    return None


def known(group: str) -> set[str]:
    """The kinds that have a driver."""
    return {entry.name for entry in entry_points(group=group)}


def check(kind: str) -> None:
    """Raise Unable, with the kinds that there are, when it is none of them."""
    there = known(FRONTENDS) | known(BACKENDS)
    if kind not in there:
        raise Unable(f"{kind}: not one of {', '.join(sorted(there))}")


@cache
def _class(kind: str) -> DeviceClass | str | None:
    """The class of a kind that others have added; why its driver cannot be loaded; None when there is none."""
    try:
        found = _driver(FRONTENDS, kind)
        return None if found is None else found.CLASS
    except Exception as error:  # what others have written may raise anything
        return f"{error}" or type(error).__name__


def device_class(kind: str) -> DeviceClass | None:
    """What is known of a kind: its keys and the order of its states. None also of one whose driver cannot be loaded."""
    found = CLASSES[kind] if kind in CLASSES else _class(kind)
    return found if isinstance(found, DeviceClass) else None


def why_unknown(kind: str) -> str:
    """Why nothing is known of a kind; "" when something is."""
    if device_class(kind) is not None:
        return ""
    found = _class(kind)
    return f"its driver cannot be loaded: {found}" if isinstance(found, str) else "of a kind that is not known here"


def driver(group: str, kind: str, words: list[str], domid: int) -> Callable[[], int] | None:
    """What to run for a device of a kind, loaded; None for a kind without driver. A driver is an entry point of the
    group, so that anybody may add one. Raises whatever loading it raises."""
    found = _driver(group, kind)
    return None if found is None else lambda: main(found, words, domid)


def parse(kind: str, text: str, domid: int, number: int, lookup: Lookup) -> DeviceSpec:
    """A device out of its line. A kind that xl does not know takes `backend=` and plain keys for the backend."""
    if kind in PARSERS:
        return PARSERS[kind](text, domid, number, lookup)
    if kind not in known(BACKENDS):
        check(kind)
        raise Unable(f"{kind}: it has no backend")
    said = pairs(text, kind)
    host = lookup(said.pop("backend")) if said.get("backend") else 0
    devid = said.pop("devid", str(number))
    if not (devid.isascii() and devid.isdigit()):
        raise Unable(f"{kind} {text!r}: devid is a number")
    return DeviceSpec(Device(kind, domid, int(devid), host), back=said)
