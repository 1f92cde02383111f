"""What there is to see: one function a pane, from two looks to rows, for the screen, for a pipe and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from xl.kinds import why_unknown
from xl.toolstack import PAGES_PER_MIB

from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState
from xentop.look import Key, Sample, waits

Row = dict[str, Any]
BAR = 10
_OUTSIDE = 1 << 31
_BEGUN = 0.5
"""Seconds of looking that say nothing of how long something has been so."""
_CONTROL = ("-ctrl", "-conn")
"""How names of rings end that carry no data."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the key of its values, its head, and how a value is written. `least` is its width at the least."""

    key: str
    head: str
    write: Callable[[Any], str] = str
    right: bool = False
    least: int = 0


@dataclass(frozen=True, slots=True)
class Pane:
    """One pane. `wants` is what a look has to have for it; `rows` gets the look and the one before."""

    name: str
    about: str
    columns: tuple[Column, ...]
    rows: Callable[[Sample, Sample | None], Iterator[Row]]
    wants: tuple[str, ...] = ()
    sorts: tuple[str, ...] = ()
    """Keys by which it may be sorted; the first is how it comes."""


def size(number: float) -> str:
    """Bytes, with three digits."""
    for unit in ("", "K", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.0f}{unit}" if number >= 100 or not unit else f"{number:.1f}{unit}"
        number /= 1024
    return ""


def _count(number: float | None) -> str:
    return "-" if number is None else "0" if number < 0.05 else f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def rate(number: float | None) -> str:
    """Bytes a second; - when it is not known."""
    return "-" if number is None else "0" if number < 1 else f"{size(number)}/s"


def ago(seconds: float | None) -> str:
    """How long it is past; nothing for what has not been."""
    return "" if seconds is None else f"{seconds:.0f}s ago" if seconds < 120 else f"{seconds / 60:.0f}m ago"


def percent(number: float | None) -> str:
    """Of a processor; - when it is not known."""
    return "-" if number is None else f"{number:.0f}%"


def age(seconds: float | None, watched: float) -> str:
    """How long; with > when that is only how long we have looked, and - when we have only begun to."""
    if seconds is None and watched < _BEGUN:
        return "-"
    before = "" if seconds is not None else ">"
    value = watched if seconds is None else seconds
    return f"{before}{value:.0f}s" if value < 120 else f"{before}{value / 60:.0f}m"


def _seconds(now: Sample, before: Sample | None) -> float:
    return now.time - before.time if before is not None else 0.0


def _per_second(new: int, old: int | None, seconds: float) -> float | None:
    """A rate; None when it is not known."""
    return max(0.0, (new - old) / seconds) if old is not None and seconds > 0 else None


_MOVED = MappingProxyType({1: "net", 2: "block", 3: "usb"})
"""Kinds of devices by the number in their statistics."""


def _moved(now: Sample, before: Sample | None) -> dict[int, dict[str, float | None]]:
    """Bytes a second by domain and kind of device, as its frontends count them; into the guest, and out of it. None
    where one of them has not been counted twice yet.
    """
    seconds, found = _seconds(now, before), dict[int, dict[str, float | None]]()
    for key, stats in now.stats.items():
        kind = _MOVED.get(stats.device)
        if kind is None or stats.role:
            continue
        old = before.stats.get(key) if before is not None else None
        if old is not None and old.since != stats.since:
            old = None
        mine = found.setdefault(key[0], {})
        for way, field in (("in", "bytes_in"), ("out", "bytes_out")):
            rate = _per_second(getattr(stats, field), getattr(old, field) if old else None, seconds)
            mine[f"{kind}_{way}"] = _sum(mine.get(f"{kind}_{way}", 0.0), rate)
    return found


def _sum(*rates: float | None) -> float | None:
    """All together; None as soon as one is not known."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def domains(now: Sample, before: Sample | None) -> Iterator[Row]:
    """Every domain: what it has, and what it is doing."""
    moved = _moved(now, before)
    ports = Counter(port.domid for port in now.ports)
    fronts = Counter(state.device.domid for state in now.devices)
    backs = Counter(state.device.backend_domid for state in now.devices)
    for one in now.frames.domains:
        rates = moved.get(one.domid, {})
        none = 0.0 if _seconds(now, before) > 0 else None
        yield {
            "domid": one.domid, "name": one.name, "state": one.state, "memory": one.owned / PAGES_PER_MIB,
            "frames": one.owned, "granted": one.granted, "mapped": one.mapped, "in_flight": one.in_flight,
            "dying": one.dying, "ports": ports[one.domid], "devices": fronts[one.domid], "backends": backs[one.domid],
            "net": _sum(rates.get("net_in", none), rates.get("net_out", none)),
            "block": _sum(rates.get("block_in", none), rates.get("block_out", none)),
            "usb": _sum(rates.get("usb_in", none), rates.get("usb_out", none)), **rates, "cpu": now.cpu.get(one.domid),
        }  # fmt: skip


def _state(state: XenbusState | None) -> str:
    return "no state" if state is None else state.name


def _waits(kind: str, front: str, back: str) -> str:
    if unknown := why_unknown(kind):
        return unknown
    said = (("frontend", front), ("backend", back))
    return "; ".join(f"{end} {words}" for end, words in said if words) or "no state"


def devices(now: Sample, before: Sample | None) -> Iterator[Row]:
    """Every device: where both ends stand, since when, and what each waits for."""
    del before
    for one in now.devices:
        front, back = waits(one)
        wrong = [str(finding) for finding in one.findings]
        first = next((f"{said.severity}: {said.text} [{said.code}]" for said in one.findings), "")
        steady = one.front is one.back is XenbusState.Connected and not wrong
        yield {
            "device": str(one.device), "kind": one.device.kind, "domid": one.device.domid, "id": one.device.id,
            "backend_domid": one.device.backend_domid, "front": _state(one.front), "front_age": one.front_age,
            "back": _state(one.back), "back_age": one.back_age, "front_waits": front, "back_waits": back,
            "why": "working" if steady else first or _waits(one.device.kind, front, back),
            "findings": wrong,
        }  # fmt: skip


def bar(fill: int, slots: int) -> str:
    """How full, as a picture that needs no colour."""
    if fill > slots:
        return "!" * BAR
    cells = -(-fill * BAR // slots)
    return "#" * cells + "." * (BAR - cells)


def _asked(event: int, prod: int) -> bool:
    """Whether the other side has asked to hear of the next that is produced."""
    return 0 < (event - prod) % (1 << 32) < _OUTSIDE


def _events(now: Sample, before: Sample | None) -> dict[Key, float | None]:
    """Notifications a second of both ends of each device, by its frontend's statistics, which do not tell its rings
    apart: at the first of them that carries data.
    """
    first: dict[tuple[int, str], str] = {}
    for ring in now.rings:
        if not ring.name.endswith(_CONTROL):
            first.setdefault((ring.domid, "-".join(ring.name.split("-")[:2])), ring.name)
    found = dict[Key, float | None]()
    for (domid, device), name in first.items():
        key: Key = (domid, f"{device}-stats")
        new, old = now.stats.get(key), before.stats.get(key) if before is not None else None
        if new is not None and old is not None and old.since == new.since:
            found[domid, name] = _per_second(_rung(new), _rung(old), _seconds(now, before))
    return found


def _rung(stats: Stats) -> int:
    return stats.events_sent + stats.events_received


def rings(now: Sample, before: Sample | None) -> Iterator[Row]:
    """Every ring: its indices, how full it is, and how fast it turns. Events are the device's, at one ring of it; None
    at the others, of which it is not known.
    """
    known = {(one.domid, one.name): one for one in before.rings} if before is not None else {}
    events = _events(now, before)
    for one in now.rings:
        old = known.get((one.domid, one.name))
        same = old is not None and old.frame == one.frame
        turned = (one.req_prod - old.req_prod) % (1 << 32) if old is not None and same else _OUTSIDE
        yield {
            "domid": one.domid, "name": one.name, "frame": one.frame, "fill": one.fill, "slots": one.slots,
            "bar": bar(one.fill, one.slots), "req_prod": one.req_prod, "rsp_prod": one.rsp_prod,
            "req_event": one.req_event, "rsp_event": one.rsp_event,
            "requests": _per_second(turned, 0, _seconds(now, before)) if turned < _OUTSIDE else None,
            "events": events.get((one.domid, one.name)), "wants_requests": _asked(one.req_event, one.req_prod),
            "wants_responses": _asked(one.rsp_event, one.rsp_prod), "broken": one.fill > one.slots,
        }  # fmt: skip


def pages(now: Sample, before: Sample | None) -> Iterator[Row]:
    """Every frame that somebody owns, in runs of the same."""
    del before
    for run in now.runs:
        yield {
            "first": run.first, "count": run.count, "domid": run.domid, "mark": run.mark, "granted": run.granted,
            "mapped": run.mapped, "ring": run.ring, "idle": run.idle,
        }  # fmt: skip


def events(now: Sample, before: Sample | None) -> Iterator[Row]:
    """Every event channel, both ends in one row; an end without another stands alone."""
    del before
    seen = set()
    known = {(port.domid, port.port): port for port in now.ports}
    for port in now.ports:
        if (port.domid, port.port) in seen:
            continue
        other = known.get((port.remote_domid, port.remote_port)) if port.state == "interdomain" else None
        if other is not None:
            seen.add((other.domid, other.port))
        waiting = [f"{end.domid}:{end.port}" for end in (port, other) if end is not None and end.pending]
        yield {
            "domid": port.domid, "port": port.port, "state": port.state, "remote_domid": port.remote_domid,
            "remote_port": port.remote_port, "pending": waiting,
            "other": f"{port.remote_domid}:{port.remote_port}" if other is not None else f"{port.remote_domid}:?"
            if port.state == "unbound" else "",
        }  # fmt: skip


def store(now: Sample, before: Sample | None) -> Iterator[Row]:
    """The tree, with who watches what, and when a node has changed."""
    del before
    watched: dict[str, list[int]] = {}
    for domid, path, _ in now.watches:
        watched.setdefault(path, []).append(domid)
    for path, depth, value in now.nodes:
        changed, ends = now.ages.get(path), watched.get(path)
        row = _node(path, depth, value)
        yield row if changed is None and ends is None else {
            **row, "changed": changed, "watched_by": sorted(set(ends or ())),
        }  # fmt: skip


@lru_cache(1 << 15)
def _node(path: str, depth: int, value: bytes) -> Row:
    """A node that nobody watches, and that has not changed: so are most, again and again. Not to be written to."""
    return {
        "path": path, "depth": depth, "name": path.rpartition("/")[2],
        "value": value.decode("ascii", "backslashreplace"), "changed": None, "watched_by": [],
    }  # fmt: skip


PANES: Mapping[str, Pane] = MappingProxyType({
    pane.name: pane
    for pane in (
        Pane(
            "domains", "what every domain has, and what it does",
            (
                Column("domid", "id", right=True), Column("name", "name", least=8), Column("state", "state"),
                Column("memory", "MiB", "{:.0f}".format, right=True), Column("granted", "granted", right=True),
                Column("mapped", "mapped", right=True), Column("in_flight", "flight", right=True),
                Column("ports", "ports", right=True), Column("devices", "dev", right=True),
                Column("net", "net", rate, right=True, least=7), Column("block", "block", rate, right=True, least=7),
                Column("usb", "usb", rate, right=True, least=7), Column("cpu", "cpu", percent, right=True, least=4),
            ),
            domains, ("ports",), ("domid", "cpu", "net", "block", "usb", "memory", "name"),
        ),
        Pane(
            "devices", "where every device stands, and what it waits for",
            (
                Column("device", "device", least=10), Column("backend_domid", "be", right=True),
                Column("front", "frontend", least=12), Column("front_since", "since", right=True, least=5),
                Column("back", "backend", least=12), Column("back_since", "since", right=True, least=5),
                Column("why", "what it waits for"),
            ),
            devices, (), ("domid", "kind", "front", "back"),
        ),
        Pane(
            "rings", "every ring, live",
            (
                Column("domid", "id", right=True), Column("name", "ring", least=14), Column("bar", "fill", least=BAR),
                Column("fill", "in", right=True), Column("slots", "of", right=True),
                Column("req_prod", "req_prod", right=True, least=8),
                Column("rsp_prod", "rsp_prod", right=True, least=8),
                Column("requests", "req/s", _count, right=True, least=6),
                Column("events", "evt/s", _count, right=True, least=6), Column("asks", "asked to hear of"),
                Column("req_event", "req_event", right=True), Column("rsp_event", "rsp_event", right=True),
            ),
            rings, (), ("domid", "requests", "fill", "name"),
        ),
        Pane(
            "pages", "every frame by its owner",
            (
                Column("first", "frame", right=True), Column("count", "count", right=True),
                Column("domid", "owner", right=True), Column("mark", "is"), Column("granted", "granted", right=True),
                Column("mapped", "mapped", right=True), Column("ring", "ring"),
            ),
            pages, ("pages",),
        ),
        Pane(
            "events", "event channels, as pairs",
            (
                Column("domid", "id", right=True), Column("port", "port", right=True),
                Column("state", "state", least=11), Column("other", "other end", least=9),
                Column("pending", "event pending at", " ".join),
            ),
            events, ("ports",), ("domid", "state"),
        ),
        Pane(
            "store", "the tree of xenstore",
            (
                Column("path", "path", least=20), Column("value", "value"), Column("changed", "changed", ago),
                Column("watched_by", "watched by", lambda ends: " ".join(map(str, ends))),
            ),
            store, ("store", "watches"),
        ),
    )
})  # fmt: skip


def rows(pane: Pane, now: Sample, before: Sample | None, watched: float) -> list[Row]:
    """The rows of a pane, with what is only for the eye. `watched`: seconds since we began to look."""
    found = list(pane.rows(now, before))
    for row in found:
        if pane.name == "devices":
            row["front_since"], row["back_since"] = (age(row[key], watched) for key in ("front_age", "back_age"))
        elif pane.name == "rings":
            wants = [name for name, key in (("req", "wants_requests"), ("rsp", "wants_responses")) if row[key]]
            row["asks"] = "+".join(wants) or "-"
    return found


def cells(pane: Pane, row: Row) -> Sequence[str]:
    """A row as it is written."""
    return [column.write(row.get(column.key, "")) for column in pane.columns]
