"""A device that is to be: what the toolstack writes for it, in both directories and in its own copy (libxl)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from xenfs.abi.xenbus import XenbusState
from xenfs.commands.failure import Unable
from xenfs.commands.running import RunDirectory
from xenfs.domain import Refused, Store, Transaction
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state
from xenfs.xenbus.keys import OtherEnd

INIT_SECONDS, HOTPLUG_SECONDS, DESTROY_SECONDS = 10.0, 40.0, 10.0
"""How long libxl waits."""
HELD = ("hotplug-status", "port-status")
"""Nodes that a backend takes away when nothing is left on the host's side of the device."""
_DEPTH = 2
"""Slashes of `/libxl/<domid>`; homes have one more, and a value or children."""


class Taken(Unable):
    """There is a device of that number already."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Keys in the order in which libxl writes them; `fixed` are the frontend's that the guest may only read."""

    device: Device
    front: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    back: Mapping[str, str] = field(default_factory=dict)
    hotplug: bool = False

    def _front(self) -> dict[str, str]:
        device = self.device
        own = {"backend": device.backend_path, "backend-id": str(device.backend_domid), "state": "1"}
        return {**own, **self.front}

    def _back(self) -> dict[str, str]:
        common = {"frontend-id": str(self.device.domid), "online": "1", "state": "1"}
        return {"frontend": self.device.frontend_path, **self.back, **common}

    def write(self, tx: Transaction) -> None:
        """Write all of it, in place of whatever is there."""
        device = self.device
        guest, host = device.domid, device.backend_domid
        front_perms, back_perms = [f"n{guest}", f"r{host}"], [f"n{host}", f"r{guest}"]
        _directory(tx, device.frontend_path, front_perms, self._front())
        for name, value in self.fixed.items():
            _node(tx, f"{device.frontend_path}/{name}", value, back_perms)
        _directory(tx, device.backend_path, back_perms, self._back())
        copy = {"frontend": device.frontend_path, "backend": device.backend_path, **self._back()}
        _directory(tx, device.libxl_path, ["n0"], copy)


def _node(tx: Transaction, path: str, value: str, perms: list[str]) -> None:
    tx.write(path, value)
    tx.chmod(path, perms)


def _directory(tx: Transaction, path: str, perms: list[str], keys: Mapping[str, str]) -> None:
    with suppress(Refused):
        tx.rm(path)
    tx.mkdir(path)
    tx.chmod(path, perms)
    for name, value in keys.items():
        _node(tx, f"{path}/{name}", value, perms)


class Waiting:
    """Waiting for a device's nodes, with a deadline."""

    def __init__(self, store: Store, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch a path."""
        self._store, self._path, self._clock = store, path, clock

    def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Whether it comes true in time."""
        deadline = self._clock() + seconds
        watch = self._store.watch(self._path, f"wait{id(self)}")
        try:
            while not true():
                left = deadline - self._clock()
                if left <= 0 or (watch.wait(left) is None and self._clock() >= deadline):
                    return true()
            return True
        finally:
            watch.close()


def add(store: Store, spec: DeviceSpec) -> None:
    """Write a device. Raises Taken when there is one already, and Unable when its domain is being destroyed."""
    device = spec.device
    for transaction in store.transaction():
        with transaction as tx:
            if tx.exists(f"{device.libxl_path}/backend"):
                raise Taken(f"{device} is attached already")
            if tx.exists(ending(device.domid)):
                raise Unable(f"domain {device.domid} is being destroyed")
            spec.write(tx)


def ending(domid: int) -> str:
    """The node that says that a domain gets no more devices, as it is being destroyed."""
    return f"/libxl/{domid}/destroying"


def _absent(place: RunDirectory | None, domid: int) -> str:
    """Why a backend in a domain may not have come: its supervisor is not there, or has written what it could not do."""
    name = f"devd-{domid}"
    pid = place and place.holder(f"{name}.pid")
    if not (place and pid):
        return f"is xenfs devd{f' --domain {domid}' if domid else ''} running?"
    log = place.path / f"{name}.log"
    where = f"its log {log}" if log.exists() else "what it prints"
    return f"xenfs devd is running (pid {pid}); why not may be in {where}"


def wait_ready(store: Store, spec: DeviceSpec, place: RunDirectory | None = None) -> None:
    """Wait for the backend, and for its hotplug. Raises Unable with what is missing.

    `place` is where the supervisors of backends leave their traces, to look for one that does not come.
    """
    device, path = spec.device, spec.device.backend_path
    waiting, other = Waiting(store, path), OtherEnd(store, path)

    def failed() -> bool:
        return (
            read_state(store, path) in (XenbusState.Closing, XenbusState.Closed)
            or other.raw("hotplug-status") == "error"
        )

    def offered() -> bool:
        return read_state(store, path) not in (XenbusState.Initialising, XenbusState.Unknown) or failed()

    if not waiting.until(offered, INIT_SECONDS):
        why = _absent(place, device.backend_domid)
        raise Unable(f"{device}: its backend did not come within {INIT_SECONDS:.0f} s: {why}")

    def plugged() -> bool:
        return other.raw("hotplug-status") == "connected" or failed()

    if spec.hotplug and not failed() and not waiting.until(plugged, HOTPLUG_SECONDS):
        raise Unable(f"{device}: no hotplug-status within {HOTPLUG_SECONDS:.0f} s")
    if failed():
        raise Unable(f"{device}: {problem(store, device)}")


def problem(store: Store, device: Device) -> str:
    """What the backend says is wrong with it."""
    said = OtherEnd(store, device.backend_path).raw("hotplug-error")
    if not said:
        node = device.backend_path.removeprefix(f"/local/domain/{device.backend_domid}/")
        said = OtherEnd(store, f"/local/domain/{device.backend_domid}/error/{node}").raw("error")
    return said or "the backend has closed, and does not say why"


def attached(store: Store, domid: int, kind: str = "") -> list[Device]:
    """The devices of a domain, by the toolstack's own copy."""
    found = []
    for name in [kind] if kind else _list(store, f"/libxl/{domid}/device"):
        for number in _list(store, f"/libxl/{domid}/device/{name}"):
            said = OtherEnd(store, f"/libxl/{domid}/device/{name}/{number}").raw("backend") or ""
            words = said.split("/")
            if number.isdigit() and len(words) == 8 and words[3].isdigit():
                found.append(Device(name, domid, int(number), int(words[3]), words[5]))
    return found


def _list(store: Store, path: str) -> tuple[str, ...]:
    with suppress(Refused):
        return store.list(path)
    return ()


def detach(store: Store, devices: Iterable[Device], *, destroy: bool = False) -> list[Device]:
    """Ask the backends to close, wait for them, and remove everything; those that did not close in time.

    Destroying takes the frontend's nodes away first: the guest is not asked.
    """
    asked = list(devices)
    for device in asked:
        _ask(store, device, destroy=destroy)
    deadline, late = time.monotonic() + DESTROY_SECONDS, []
    for device in asked:
        path = device.backend_path

        def closed(path: str = path) -> bool:
            return read_state(store, path) in (XenbusState.Closed, XenbusState.Unknown)

        if not Waiting(store, path).until(closed, max(0.0, deadline - time.monotonic())):
            late.append(device)
        remove(store, device)
    return late


def _ask(store: Store, device: Device, *, destroy: bool) -> None:
    for transaction in store.transaction():
        with transaction as tx:
            if destroy:
                with suppress(Refused):
                    tx.rm(device.frontend_path)
            state = read_state(tx, device.backend_path)
            if state is XenbusState.Initialising:
                _remove(tx, device)  # no backend has ever come, nor will one now
            elif state is not XenbusState.Unknown:
                tx.write(f"{device.backend_path}/online", "0")
                if state is not XenbusState.Closed or _held(tx, device):
                    tx.write(f"{device.backend_path}/state", "5")


def _held(tx: Transaction, device: Device) -> bool:
    """Whether a backend has something of the device: one that is Closed may do so, until it knows that it is to go."""
    paths = [f"{device.backend_path}/{name}" for name in HELD]
    return any(tx.exists(path) and (tx.read(path) or tx.list(path)) for path in paths)


def remove(store: Store, device: Device) -> None:
    """Take all nodes of a device away, and directories above that are empty then."""
    for transaction in store.transaction():
        with transaction as tx:
            _remove(tx, device)


def _remove(tx: Transaction, device: Device) -> None:
    for path in (device.frontend_path, device.backend_path, device.libxl_path):
        clean_up(tx, path)


def clean_up(tx: Transaction, path: str) -> None:
    """Remove a node, and those above it that are left without children; the homes of domains stay."""
    with suppress(Refused):
        tx.rm(path)
    while (path := path.rpartition("/")[0]).count("/") > _DEPTH:
        try:
            if tx.list(path) or tx.read(path):
                return
            tx.rm(path)
        except Refused as refused:
            if refused.errno != errno.ENOENT:
                raise
