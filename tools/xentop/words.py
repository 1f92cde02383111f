"""All about a row of a pane in words, a line each, written as in the pane; what there is none of is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from xentop.panes import Row, ago, percent, rate

_Words = Callable[[Row], str]


def counted(number: int, what: str) -> str:
    """So many of it."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _of(key: str, what: str) -> _Words:
    """A count, none when it is 0."""
    return lambda row: counted(row[key], what) if row[key] else ""


def _flow(kind: str) -> _Words:
    """Bytes a second of a kind of device, both ways; none of a domain that has no such."""

    def words(row: Row) -> str:
        into, out = row.get(f"{kind}_in"), row.get(f"{kind}_out")
        if into is None or out is None:
            return ""
        return f"{rate(row[kind])}, of which {rate(into)} into the domain and {rate(out)} out of it"

    return words


def _value(key: str, write: Callable[[Any], str] = str) -> _Words:
    return lambda row: write(row[key]) if row[key] not in (None, "", []) else ""


def _memory(row: Row) -> str:
    return f"{row['memory']:.0f} MiB, {counted(row['frames'], 'frame')}"


_LINES: Mapping[str, tuple[tuple[str, _Words], ...]] = MappingProxyType({
    "domains": (
        ("domain", lambda row: f"{row['domid']} {row['name']}"),
        ("state", _value("state")),
        ("memory", _memory),
        ("granted", _of("granted", "frame")),
        ("mapped", _of("mapped", "frame")),
        ("being given", _of("in_flight", "frame")),
        ("event channels", _of("ports", "port")),
        ("devices", _of("devices", "device")),
        ("backend of", _of("backends", "device")),
        ("net", _flow("net")),
        ("block", _flow("block")),
        ("usb", _flow("usb")),
        ("processor", lambda row: f"{percent(row['cpu'])} of one" if row["cpu"] is not None else ""),
    ),
    "events": (
        ("port", lambda row: f"{row['port']} of domain {row['domid']}"),
        ("state", _value("state")),
        ("other end", lambda row: _other(row)),
        ("event pending at", lambda row: " and ".join(map(_end, row["pending"]))),
    ),
    "store": (
        ("path", _value("path")),
        ("value", _value("value")),
        ("changed", _value("changed", ago)),
        ("watched by", _value("watched_by", lambda ends: ", ".join(f"domain {domid}" for domid in ends))),
    ),
})  # fmt: skip


def _end(said: str) -> str:
    domid, _, port = said.partition(":")
    return f"port {port} of domain {domid}"


def _other(row: Row) -> str:
    if row["state"] == "unbound":
        return f"none yet: it waits for domain {row['remote_domid']}"
    if row["state"] != "interdomain":
        return ""
    return _end(f"{row['remote_domid']}:{row['remote_port']}")


def about(pane: str, row: Row) -> Iterator[str]:
    """What there is to say of a row of any pane; of one that has no words of its own, as it is."""
    for name, words in _LINES.get(pane, ()):
        if said := words(row):
            yield f"{name:<16} {said}"
    if pane not in _LINES:
        yield from (f"{name:<16} {value}" for name, value in row.items())
