"""A guest's configuration file, as xl.cfg(5) has it: `key = value`, values being numbers, strings and lists."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TypeVar
from uuid import UUID

from xenfs.abi.xenfs_op import NAME_MAX
from xenfs.commands.failure import Unable

V = TypeVar("V")
ACTIONS = ("destroy", "restart", "preserve")
_EVENTS = ("on_poweroff", "on_reboot", "on_crash")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """What a guest is to be; memory in MiB. `init` is the guest's command, for a shell, and `extra` its words."""

    name: str
    uuid: str = ""
    memory: int = 16
    maxmem: int = 0
    vif: tuple[str, ...] = ()
    disk: tuple[str, ...] = ()
    usbctrl: tuple[str, ...] = ()
    usbdev: tuple[str, ...] = ()
    init: str = ""
    extra: str = ""
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "destroy"


_KNOWN = MappingProxyType({field.name: field for field in fields(GuestConfig)})
_LISTS = ("vif", "disk", "usbctrl", "usbdev")
_NUMBERS = ("memory", "maxmem")


def _statements(text: str, where: str) -> dict[str, object]:
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise Unable(f"{where}:{error.lineno}: {error.msg}") from None
    found: dict[str, object] = {}
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                raise Unable(f"{where}:{statement.lineno}: not of the form key = value")
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            raise Unable(f"{where}:{statement.lineno}: {name}: not a number, a string or a list") from None
    return found


def _value(name: str, value: object, where: str) -> object:
    def wrong(what: str) -> Unable:
        return Unable(f"{where}: {name} = {value!r}: {what}")

    if name in _LISTS:
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise wrong("not a list of strings")
        return tuple(items)
    if name in _NUMBERS:
        number = int(value) if isinstance(value, str) and value.isdigit() else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= 1 << 20:
            raise wrong("not a number of MiB, 1 to 1048576")
        return number
    if not isinstance(value, str):
        raise wrong("not a string")
    if name in _EVENTS and value not in ACTIONS:
        raise wrong(f"not one of {', '.join(ACTIONS)}")
    return value


def _named(values: Mapping[str, object], where: str) -> None:
    name = values.get("name", "")
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable() or name.isdigit():
        raise Unable(f"{where}: name = {name!r}: a guest needs a name, without / and not a number")
    if len(name.encode()) > NAME_MAX:
        raise Unable(f"{where}: name = {name!r}: longer than {NAME_MAX} bytes")
    if uuid := values.get("uuid"):
        try:
            UUID(str(uuid))
        except ValueError:
            raise Unable(f"{where}: uuid = {uuid!r}: not a UUID") from None


def parse(text: str, where: str = "config") -> tuple[GuestConfig, list[str]]:
    """Read a configuration; also the keys in it that mean nothing here. Raises Unable with file and line."""
    said = _statements(text, where)
    values = {name: _value(name, value, where) for name, value in said.items() if name in _KNOWN}
    _named(values, where)
    config = GuestConfig(**values)  # type: ignore[arg-type]
    if config.maxmem and config.maxmem < config.memory:
        raise Unable(f"{where}: maxmem = {config.maxmem}: less than memory = {config.memory}")
    return config, [name for name in said if name not in _KNOWN]


def pairs(text: str, what: str) -> dict[str, str]:
    """`key=value,key=value` of a device; a word without = stands for itself with an empty value. Raises Unable."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not key:
            if part.strip():
                raise Unable(f"{what} {text!r}: {part.strip()!r} is not key=value")
            continue
        if key in found:
            raise Unable(f"{what} {text!r}: {key} twice")
        found[key] = value if equals else ""
    return found
