"""What can be wrong with devices, grants and ports, found by looking at the store and the machine as they are.

The same findings serve `xenfs explain`, which asks about one device, and `xenfs lint`, which asks about all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from xenfs.abi.ring import HEADER, u32
from xenfs.abi.xen import DOMID_FIRST_RESERVED
from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Refused
from xenfs.domain.store import Reader
from xenfs.xenbus import Device, PeerProtocolError
from xenfs.xenbus.device import parse_backend, parse_frontend
from xenfs.xenbus.end import read_state
from xenfs.xenbus.keys import Key, OtherEnd, Writer
from xenfs.xenbus.states import BackStep, FrontStep
from xl.kinds import device_class
from xl.rings import slots

S = XenbusState
ERROR, WARNING = "error", "warning"
DEAD = ("frontend-dead", "backend-dead")
"""Codes of findings that a process of a device is dead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: how bad, a word for it that programs may go by, about what, and what to do."""

    severity: str
    code: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.text} [{self.code}]"


@dataclass(frozen=True, slots=True)
class PortFacts:
    """An event channel's end."""

    state: str
    remote_domid: int = 0
    remote_port: int = 0


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """To whom a page is granted, and how often it is mapped there."""

    domid: int
    maps: int


class Facts(Protocol):
    """The machine, as far as it is needed here."""

    def domids(self) -> set[int]:
        """Living domains."""

    def ports(self, domid: int) -> dict[int, PortFacts]:
        """Ports of a domain; none that may not be seen."""

    def grants(self, domid: int) -> dict[int, GrantFacts]:
        """Grants of a domain."""

    def ring(self, domid: int, name: str) -> bytes | None:
        """A named ring's page."""

    def rings(self, domid: int) -> list[str]:
        """Names of rings."""


def devices(store: Reader) -> Iterator[Device]:
    """Every device of which there is a frontend or a backend, by what its nodes say, which may be anything."""
    seen, homes = set(), [name for name in _names(store, "/local/domain") if name.isdigit()]
    for domid in homes:
        for kind in _names(store, f"/local/domain/{domid}/device"):
            for number in _names(store, f"/local/domain/{domid}/device/{kind}"):
                said = OtherEnd(store, f"/local/domain/{domid}/device/{kind}/{number}").raw("backend")
                back = parse_backend(said) if said is not None else None
                if back is not None and number.isdigit():
                    device = Device(kind, int(domid), int(number), back[0], back[1])
                    seen.add(device.backend_path)
                    yield device
    for host in homes:
        yield from (d for d in _backends(store, host) if d.backend_path not in seen)


def _backends(store: Reader, host: str) -> Iterator[Device]:
    root = f"/local/domain/{host}/backend"
    for kind in _names(store, root):
        for domid in _names(store, f"{root}/{kind}") if kind != "console" else ():
            for number in _names(store, f"{root}/{kind}/{domid}"):
                if domid.isdigit() and number.isdigit():
                    front = parse_frontend(OtherEnd(store, f"{root}/{kind}/{domid}/{number}").raw("frontend") or "")
                    yield Device(front[1] if front else kind, int(domid), int(number), int(host), kind)


def _names(store: Reader, path: str) -> tuple[str, ...]:
    with suppress(Refused):
        return store.list(path)
    return ()


def of_device(store: Reader, facts: Facts, device: Device) -> list[Finding]:
    """What is wrong with a device; first that one of its ends is dead, without which the rest would not be."""
    return sorted(_Look(store, facts, device).all(), key=lambda finding: finding.code not in DEAD)


def step_said(step: FrontStep | BackStep, found: Sequence[Finding]) -> str:
    """What an end does next, in words; "" where it would say that all is well although an end is dead."""
    if step not in (FrontStep.WORK, BackStep.WORK):
        return f"next: {step.value}"
    return "" if any(finding.code in DEAD for finding in found) else f"nothing to do: {step.value}"


class _Look:
    """One look at one device."""

    def __init__(self, store: Reader, facts: Facts, device: Device) -> None:
        self.store, self.facts, self.device = store, facts, device
        self.kind = device_class(device.kind)
        self.front = OtherEnd(store, device.frontend_path)
        self.back = OtherEnd(store, device.backend_path)
        self.own = read_state(store, device.frontend_path)
        self.other = read_state(store, device.backend_path)

    def _found(self, severity: str, code: str, text: str) -> Finding:
        return Finding(severity, code, str(self.device), text)

    def all(self) -> Iterator[Finding]:
        yield from self._dangling()
        yield from self._states()
        yield from self._errors()
        yield from self._hotplug()
        yield from self._keys()
        if S.Unknown not in (self.own, self.other):
            yield from self._backend_alive()
            yield from self._sharing()

    def _dangling(self) -> Iterator[Finding]:
        living = self.facts.domids()
        if self.own is S.Unknown:
            why = "" if self.device.domid in living else f", and there is no domain {self.device.domid}"
            text = f"a backend without frontend: {self.front.path} is missing{why}; remove {self.back.path}"
            yield self._found(ERROR, "dangling-backend", text)
        if self.other is S.Unknown:
            gone = self.device.backend_domid not in living
            why = f", and there is no domain {self.device.backend_domid}" if gone else ""
            text = f"a frontend without backend: {self.back.path} is missing{why}; detach the device"
            yield self._found(ERROR, "dangling-frontend", text)

    def _states(self) -> Iterator[Finding]:
        for end, state in ((self.front, self.own), (self.back, self.other)):
            if state is None or state in (S.Reconfiguring, S.Reconfigured):
                said = str(end.raw("state"))[:40]
                yield self._found(ERROR, "illegal-state", f"{end.path}/state = {said!r} is no state that it may have")

    def _errors(self) -> Iterator[Finding]:
        for end, domid in ((self.front, self.device.domid), (self.back, self.device.backend_domid)):
            home = f"/local/domain/{domid}"
            said = OtherEnd(self.store, f"{home}/error{end.path.removeprefix(home)}").raw("error")
            if said:
                code = "no-ring-ref" if said.endswith("ring-ref is missing") else "error-node"
                yield self._found(ERROR, code, f"domain {domid} says: {said[:200]}")

    def _hotplug(self) -> Iterator[Finding]:
        if self.kind is None or not self.kind.hotplug or self.other in (S.Unknown, S.Closed, S.Closing):
            return
        status, path = self.back.raw("hotplug-status"), f"{self.back.path}/hotplug-status"
        if status == "error":
            text = f"{path} = error: {self.back.raw('hotplug-error') or 'no reason'}"
            yield self._found(ERROR, "hotplug-failed", text)
        elif status != "connected" and self.other is not S.Initialising:
            said = "missing" if status is None else repr(status)
            text = f"{path} is {said}: the backend waits for `connected` from hotplug"
            yield self._found(ERROR, "hotplug-missing", text)

    def _keys(self) -> Iterator[Finding]:
        if self.kind is None:
            return
        published = self.own in (S.Initialised, S.Connected)
        sides = (
            (self.front, (Writer.toolstack_front,), self.own is not S.Unknown),
            (self.back, (Writer.toolstack,), self.other is not S.Unknown),
            (self.front, (Writer.frontend,), published),
            (self.back, (Writer.backend,), self.other is S.Connected),
        )
        for end, writers, due in sides:
            for key in self.kind.written_by(*writers):
                yield from self._key(end, key, due)
        if self.own is S.Initialising and self.other is S.InitWait:
            missing = [k.name for k in self.kind.written_by(Writer.frontend) if k.required and not self._has(k)]
            if missing:
                text = f"the backend waits: the frontend has not written {', '.join(missing)}; does its driver run?"
                ring = any(name.endswith("ring-ref") for name in missing)
                yield self._found(ERROR, "no-ring-ref" if ring else "not-published", text)

    def _has(self, key: Key) -> bool:
        return self.front.raw(key.name) is not None

    def _key(self, end: OtherEnd, key: Key, due: bool) -> Iterator[Finding]:
        if end.raw(key.name) is None:
            if due and key.required:
                code = "no-ring-ref" if key.name.endswith("ring-ref") else "missing-key"
                yield self._found(ERROR, code, f"{end.path}/{key.name} is missing; the {key.by.name} writes it")
            return
        try:
            end.get(key.name, key.kind)
        except PeerProtocolError as error:
            yield self._found(ERROR, "malformed-key", str(error))

    def _backend_alive(self) -> Iterator[Finding]:
        """A backend that is connected has ports of its own domain bound to the frontend's."""
        device = self.device
        if self.other is S.Initialising:
            text = f"no backend has come: is devd running in domain {device.backend_domid}?"
            yield self._found(ERROR, "no-backend", text)
        elif self.other is S.Closed and self.own is S.Initialising and self.back.raw("online") != "0":
            text = "the frontend waits for a backend that does not answer; is devd running?"
            yield self._found(ERROR, "backend-dead", text)

    def _ports(self) -> dict[str, int]:
        names = [n for n in _names(self.store, self.front.path) if n.startswith("event-channel")]
        said = {name: self.front.raw(name) or "" for name in names}
        return {name: int(text) for name, text in said.items() if text.isdigit() and int(text)}

    def _refs(self) -> dict[str, int]:
        names = [n for n in _names(self.store, self.front.path) if "ring-ref" in n]
        said = {name: self.front.raw(name) or "" for name in names}
        return {name: int(text) for name, text in said.items() if text.isdigit()}

    def _sharing(self) -> Iterator[Finding]:
        """What both ends share, when the store says that they do."""
        device = self.device
        if self.own not in (S.Initialised, S.Connected) or device.domid not in self.facts.domids():
            return
        known, granted = self.facts.ports(device.domid), self.facts.grants(device.domid)
        ports, refs = self._ports(), self._refs()
        if ports and not any(port in known for port in ports.values()):
            text = "the frontend says Connected, but none of its ports is there: its driver is dead"
            yield self._found(ERROR, "frontend-dead", text)
            return
        for name, ref in refs.items():
            if ref not in granted:
                text = f"{self.front.path}/{name} = {ref}: there is no such grant: it was revoked too early"
                yield self._found(ERROR, "grant-revoked", text)
        if self.other is S.Connected:
            mapped = any(granted[ref].maps for ref in refs.values() if ref in granted)
            yield from self._unbound(ports, known, mapped)
        yield from self._full()

    def _unbound(self, ports: dict[str, int], known: dict[int, PortFacts], mapped: bool) -> Iterator[Finding]:
        loose = {name: port for name, port in ports.items() if port in known and known[port].state == "unbound"}
        if loose and not mapped:
            text = "both ends say Connected, but the backend has let go of everything: it is dead; is devd running?"
            yield self._found(ERROR, "backend-dead", text)
            return
        for name, port in loose.items():
            text = f"{self.front.path}/{name} = {port}: nobody is bound to the channel at the backend's end"
            yield self._found(ERROR, "channel-unbound", text)

    def _full(self) -> Iterator[Finding]:
        prefix = f"{self.device.ring_prefix}-"
        for name in self.facts.rings(self.device.domid):
            if not name.startswith(prefix):
                continue
            page, size = self.facts.ring(self.device.domid, name), slots(name)
            if page is None or size is None:
                continue
            req_prod, _, rsp_prod, _ = HEADER.unpack_from(page)[:4]
            fill = u32(req_prod - rsp_prod)
            if fill > size:
                yield self._found(ERROR, "ring-broken", f"rings/{name}: {fill} requests ahead in a ring of {size}")
            elif fill == size and not name.endswith(("-rx", "-conn")):  # in these it is what the frontend has posted
                text = f"rings/{name} is full: {size} requests without an answer; the backend does not work"
                yield self._found(WARNING, "ring-full", text)


def of_machine(facts: Facts) -> Iterator[Finding]:
    """Grants and ports that lead to domains that are not there."""
    living = facts.domids()
    for domid in sorted(living):
        for ref, grant in sorted(facts.grants(domid).items()):
            if grant.domid not in living and grant.domid < DOMID_FIRST_RESERVED:
                text = f"grant {ref} is for domain {grant.domid}, which does not exist"
                yield Finding(WARNING, "leaked-grant", f"domain {domid}", text)
        for port, end in sorted(facts.ports(domid).items()):
            if end.state in ("unbound", "interdomain") and end.remote_domid not in living:
                text = f"port {port} waits for domain {end.remote_domid}, which does not exist"
                yield Finding(WARNING, "leaked-port", f"domain {domid}", text)


def everything(store: Reader, facts: Facts) -> list[Finding]:
    """What is wrong anywhere."""
    found: list[Finding] = []
    for device in devices(store):
        found += of_device(store, facts, device)
    return [*found, *of_machine(facts)]
