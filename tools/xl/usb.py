"""usbctrl and usbdev: what lines of xl.cfg say of USB controllers, and of what is in their ports (xl.cfg(5))."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from xenusb.ports import COMING, STATUS

from xenfs.commands.failure import Unable
from xenfs.domain import Store
from xenfs.xenbus import Device
from xenfs.xenbus.keys import OtherEnd
from xl.config import pairs
from xl.spec import DESTROY_SECONDS, DeviceSpec, Taken, Waiting, attached

MOST_PORTS = 31
_DEFAULT_PORTS = 8
_CONTROLLER = ("type", "version", "ports", "backend", "controller", "devid")
_DEVICE = ("type", "hostbus", "hostaddr", "controller", "port", "device")
_TYPES = ("auto", "pv", "qusb")
_SYSFS = Path("/sys/bus/usb/devices")
Domid = Callable[[str], int]


def parse(text: str, domid: int, number: int, lookup: Domid) -> DeviceSpec:
    """A controller of a domain; `number` unless the line says otherwise. Raises Unable."""
    said = pairs(text, "usbctrl")
    for name in said:
        if name not in _CONTROLLER:
            raise Unable(f"usbctrl {text!r}: unknown key {name}; known are {', '.join(_CONTROLLER)}")
    kind = said.get("type") or "pv"
    if kind not in _TYPES:
        raise Unable(f"usbctrl {text!r}: type is one of {', '.join(_TYPES)}")
    version = _number(said, "version", text, 2, 1, 2)
    ports = _number(said, "ports", text, _DEFAULT_PORTS, 1, MOST_PORTS)
    number = _number(said, "controller" if said.get("controller") else "devid", text, number, 0, 1 << 16)
    host = lookup(said["backend"]) if said.get("backend") else 0
    back = {
        "type": "pv" if kind == "auto" else kind,
        "usb-ver": str(version),
        "num-ports": str(ports),
        "port": "",
        **{f"port/{port}": "" for port in range(1, ports + 1)},
    }
    return DeviceSpec(Device("vusb", domid, number, host, "qusb" if kind == "qusb" else ""), back=back)


def _number(said: dict[str, str], name: str, text: str, default: int, low: int, high: int) -> int:
    word = said.get(name, "") or str(default)
    if not (word.isascii() and word.isdigit() and low <= int(word) <= high):
        raise Unable(f"usb {text!r}: {name} is a number from {low} to {high}")
    return int(word)


def parse_device(text: str) -> tuple[str, int | None, int | None]:
    """What is to be plugged in, and into which controller and port, if the line says so. Raises Unable."""
    text, marked, device = text.partition("device=") if re.search(r"(^|,)\s*device=", text) else (text, "", "")
    said = pairs(text, "usbdev")
    for name in said:
        if name not in _DEVICE:
            raise Unable(f"usbdev {text!r}: unknown key {name}; known are {', '.join(_DEVICE)}")
    if said.get("type", "hostdev") != "hostdev":
        raise Unable(f"usbdev {text!r}: the one type is hostdev")
    if marked:
        what = device.strip()
    elif said.get("hostbus") and said.get("hostaddr"):
        what = bus_path(_number(said, "hostbus", text, 0, 1, 255), _number(said, "hostaddr", text, 0, 1, 127))
    else:
        raise Unable(f"usbdev {text!r}: it needs hostbus= and hostaddr=, or device=, which stands last")
    if not what or len(what) > 1000 or not what.isprintable():
        raise Unable(f"usbdev {text!r}: device= is <kind>:<argument>, or a bus path such as 1-2")
    controller = _number(said, "controller", text, 0, 0, 1 << 16) if "controller" in said else None
    port = _number(said, "port", text, 1, 1, MOST_PORTS) if "port" in said else None
    return what, controller, port


def bus_path(bus: int, address: int) -> str:
    """The bus path of a device of the host's, which stays while its address does not. Raises Unable."""
    for home in _SYSFS.glob("*-*"):
        numbers = [home / name for name in ("busnum", "devnum")]
        if all(path.exists() for path in numbers) and [int(path.read_text()) for path in numbers] == [bus, address]:
            return home.name
    raise Unable(f"the host has no USB device at bus {bus}, address {address}")


def fill(specs: Sequence[DeviceSpec], texts: Iterable[str], domid: int) -> list[DeviceSpec]:
    """Controllers with devices in their ports, as a configuration has them; with one more when there is none."""
    found = {spec.device.id: spec for spec in specs}
    for text in texts:
        what, controller, port = parse_device(text)
        if not found and controller in (None, 0):
            found[0] = parse("", domid, 0, lambda _: 0)
        places = [
            (number, at)
            for number, spec in sorted(found.items())
            if controller in (None, number)
            for at in range(1, int(spec.back["num-ports"]) + 1)
            if not spec.back[f"port/{at}"] and port in (None, at)
        ]
        if not places:
            raise Unable(f"usbdev {text!r}: there is no such controller, or no such port of it that is free")
        number, at = places[0]
        found[number] = replace(found[number], back={**found[number].back, f"port/{at}": what})
    return list(found.values())


def controllers(store: Store, domid: int) -> list[Device]:
    """Those of a domain."""
    return attached(store, domid, "vusb")


def ports(store: Store, device: Device) -> dict[int, str]:
    """What is to be in each port."""
    end = OtherEnd(store, device.backend_path)
    return {number: end.raw(f"port/{number}") or "" for number in range(1, end.number("num-ports", 1, MOST_PORTS) + 1)}


def plug(store: Store, device: Device, port: int, what: str) -> None:
    """Have something in a port, or with "" nothing, and wait until it is so. Raises Taken when there is something
    already, and Unable; then it is empty."""
    _write(store, device, port, what)
    try:
        wait_plugged(store, device, [port])
    except Unable:
        _write(store, device, port, "")
        with suppress(Unable):  # so that whoever tries again does not find the old reason
            wait_plugged(store, device, [port])
        raise


def _write(store: Store, device: Device, port: int, what: str) -> None:
    for transaction in store.transaction():
        with transaction as tx:
            if what and tx.read(f"{device.libxl_path}/port/{port}"):
                raise Taken(f"{device}: there is something in port {port} already")
            for path in (device.backend_path, device.libxl_path):
                tx.write(f"{path}/port/{port}", what)


def wait_plugged(store: Store, device: Device, wanted: Iterable[int]) -> None:
    """Wait until the backend says of ports that what is to be in them is there, or is not. Raises Unable."""
    end = OtherEnd(store, device.backend_path)
    for port in wanted:
        key, filled = f"{STATUS}/{port}", bool(end.raw(f"port/{port}"))

        def settled(key: str = key, filled: bool = filled) -> bool:
            said = end.raw(key)
            return said not in (None, "", COMING) and (said != "empty") is filled

        if not Waiting(store, f"{device.backend_path}/{key}").until(settled, DESTROY_SECONDS):
            if end.raw(key) == COMING:
                raise Unable(f"{device}: port {port}: not connected within {DESTROY_SECONDS:.0f} s")
            raise Unable(f"{device}: its backend has not looked at port {port} within {DESTROY_SECONDS:.0f} s")
        verdict, _, why = (end.raw(key) or "").partition(" ")
        if filled and verdict == "error":
            raise Unable(f"{device}: port {port}: {why}")


def rows(store: Store, devices: Iterable[Device]) -> Iterator[str]:
    """xl usb-list, and behind each port what the backend has there and what the guest makes of it."""
    yield f"{'Devid':<6} {'Type':<6} {'BE':<3} {'state':<5} {'usb-ver':<7} {'ports':<5}"
    for device in devices:
        back, front = OtherEnd(store, device.backend_path), OtherEnd(store, device.frontend_path)
        words = back.raw("type") or "?", device.backend_domid, front.raw("state") or "-"
        kind, host, state = words
        version, count = back.raw("usb-ver") or "?", back.raw("num-ports") or "?"
        yield f"{device.id:<6d} {kind:<6} {host:<3d} {state:<5} {version:<7} {count:<5}"
        for number, what in ports(store, device).items():
            said = [part for part in (what, back.raw(f"{STATUS}/{number}"), front.raw(f"port/{number}")) if part]
            yield f"  Port {number}: {', '.join(said) if what else ''}".rstrip()
