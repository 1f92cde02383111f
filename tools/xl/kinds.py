"""Kinds of devices: how a line of a configuration becomes one, and which modules are its drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from xenfs.commands.failure import Unable
from xenfs.xenbus import Device
from xl import vbd, vif
from xl.config import pairs
from xl.spec import DeviceSpec

Lookup = Callable[[str], int]
Parse = Callable[[str, int, int, Lookup], DeviceSpec]
PARSERS: Mapping[str, Parse] = MappingProxyType({"vif": vif.parse, "vbd": vbd.parse})
FRONTENDS, BACKENDS = "xenfs.frontends", "xenfs.backends"


def modules(group: str) -> dict[str, str]:
    """The modules that are the frontends or the backends, by kind: entry points, so that anybody may add one."""
    return {entry.name: entry.module for entry in entry_points(group=group)}


def parse(kind: str, text: str, domid: int, number: int, lookup: Lookup) -> DeviceSpec:
    """A device out of its line. A kind that xl does not know takes `backend=` and plain keys for the backend."""
    if kind in PARSERS:
        return PARSERS[kind](text, domid, number, lookup)
    if kind not in modules(BACKENDS):
        raise Unable(f"there is no kind of device called {kind}")
    said = pairs(text, kind)
    host = lookup(said.pop("backend")) if said.get("backend") else 0
    devid = said.pop("devid", str(number))
    if not (devid.isascii() and devid.isdigit()):
        raise Unable(f"{kind} {text!r}: devid is a number")
    return DeviceSpec(Device(kind, domid, int(devid), host), back=said)
