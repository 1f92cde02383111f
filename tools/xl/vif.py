"""vif: what a line of xl.cfg says of a network interface (xl-network-configuration(5))."""

from __future__ import annotations

import re
from collections.abc import Callable

from xennet.mac import random_mac
from xennet.rate import parse_rate
from xennet.sources import networks

from xenfs.commands.failure import Unable
from xenfs.xenbus import Device
from xl.config import pairs
from xl.spec import DeviceSpec

SCRIPTS = "/etc/xen/scripts/"
_KEYS = (
    "mac", "bridge", "ip", "script", "rate", "backend", "vifname", "mtu", "gatewaydev", "type", "model", "devid",
    "trusted", "rx",
)  # fmt: skip
Domid = Callable[[str], int]


def parse(text: str, domid: int, number: int, lookup: Domid) -> DeviceSpec:
    """A vif of a domain; `number` unless `devid` says otherwise. `lookup` finds a domain by name. Raises Unable."""
    said = pairs(text, "vif")
    for name in said:
        if name not in _KEYS:
            raise Unable(f"vif {text!r}: unknown key {name}; known are {', '.join(_KEYS)}")
    mac = _mac(said.get("mac", ""), text)
    script = said.get("script") or "vif-bridge"
    bridge = said.get("bridge") or ("xenbr0" if script == "vif-bridge" else "")
    for name in ("bridge", "vifname", "gatewaydev"):
        _interface(said, name, text)
    _addresses(said.get("ip", ""), text)
    number = _number(said, "devid", text, number, 0, 1 << 16)
    mtu = _number(said, "mtu", text, 1500, 68, 65535)
    rx, trusted = said.get("rx", ""), said.get("trusted", "1")
    if rx not in ("", "flip", "copy") or trusted not in ("0", "1"):
        raise Unable(f"vif {text!r}: rx is flip or copy, and trusted 0 or 1")
    device = Device("vif", domid, number, lookup(said["backend"]) if said.get("backend") else 0)
    back = {
        "frontend-id": str(domid),
        "online": "1",
        "state": "1",
        "script": script if script.startswith("/") else SCRIPTS + script,
        "mac": mac,
        **_given(said, "ip", "vifname", "gatewaydev"),
        **({"rate": "{},{}".format(*_rate(said["rate"], text))} if said.get("rate") else {}),
        **({"bridge": bridge} if bridge else {}),
        **({"mtu": str(mtu)} if mtu != 1500 else {}),
        "handle": str(number),
        "type": "vif",
        "hotplug-status": "",
        **_given(said, "rx"),
    }
    front = {"handle": str(number), "mac": mac, "trusted": trusted, **_given(said, "rx")}
    return DeviceSpec(device, front, {"mtu": str(mtu)}, back, hotplug=True)


def _given(said: dict[str, str], *names: str) -> dict[str, str]:
    return {name: said[name] for name in names if said.get(name)}


def _number(said: dict[str, str], name: str, text: str, default: int, low: int, high: int) -> int:
    word = said.get(name, "") or str(default)
    if not (word.isascii() and word.isdigit() and low <= int(word) <= high):
        raise Unable(f"vif {text!r}: {name} is a number from {low} to {high}")
    return int(word)


def _mac(word: str, text: str) -> str:
    if not word:
        return random_mac()
    found = word.lower().replace("-", ":")
    if not re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", found) or int(found[:2], 16) & 1:
        raise Unable(f"vif {text!r}: mac is six bytes in hexadecimal with colons, and no group address")
    return found


def _interface(said: dict[str, str], name: str, text: str) -> None:
    word = said.get(name, "")
    if word and not re.fullmatch(r"[!-.0-~]{1,15}", word):
        raise Unable(
            f"vif {text!r}: {name} is the name of an interface, of 15 characters at most, without / and blanks"
        )


def _addresses(words: str, text: str) -> None:
    try:
        networks(words.split())
    except ValueError as error:
        raise Unable(f"vif {text!r}: ip: {error}") from None


def _rate(word: str, text: str) -> tuple[int, int]:
    try:
        return parse_rate(word)
    except ValueError as error:
        raise Unable(f"vif {text!r}: rate: {error}") from None
