"""A domain's tree in the store, as libxl makes it for a PV guest."""

from __future__ import annotations

import time
from contextlib import suppress

from xenfs.domain import Refused, Store, Transaction
from xl.config import GuestConfig
from xl.spec import clean_up, ending

KIB = 1024
_WRITABLE = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
"""Nodes that are the guest's own."""


def write(store: Store, domid: int, config: GuestConfig) -> None:
    """Make it, all at once, in place of what is left of another of that number."""
    for transaction in store.transaction():
        with transaction as tx:
            with suppress(Refused):
                tx.rm(f"/libxl/{domid}")
            _home(tx, domid, config)
            _vm(tx, domid, config)
            _console(tx, domid)
            _node(tx, f"/libxl/{domid}", "", ["n0"])
            _node(tx, f"/libxl/{domid}/type", "pv", ["n0"])
            _node(tx, f"/libxl/{domid}/dm-version", "qemu_xen", ["n0"])


def _node(tx: Transaction, path: str, value: str, perms: list[str]) -> None:
    tx.write(path, value)
    tx.chmod(path, perms)


def _home(tx: Transaction, domid: int, config: GuestConfig) -> None:
    home, seen = f"/local/domain/{domid}", ["n0", f"r{domid}"]
    keys = {
        "": "",
        "/vm": f"/vm/{config.uuid}",
        "/name": config.name,
        "/cpu": "",
        "/cpu/0": "",
        "/cpu/0/availability": "online",
        "/memory": "",
        "/memory/static-max": str((config.maxmem or config.memory) * KIB),
        "/memory/target": str(config.memory * KIB),
        "/memory/videoram": "0",
        "/device": "",
        "/device/suspend": "",
        "/control": "",
        "/control/platform-feature-multiprocessor-suspend": "1",
        "/control/platform-feature-xs_reset_watches": "1",
        "/domid": str(domid),
        "/store": "",
        "/console": "",
    }
    for name, value in keys.items():
        _node(tx, home + name, value, seen)
    for name in _WRITABLE:
        _node(tx, f"{home}/{name}", "", [f"n{domid}"])


def _vm(tx: Transaction, domid: int, config: GuestConfig) -> None:
    home = f"/vm/{config.uuid}"
    keys = {
        "": "",
        "/name": config.name,
        "/uuid": config.uuid,
        "/image": "",
        "/image/ostype": "linux",
        "/image/cmdline": config.extra,
        "/start_time": f"{time.time():.2f}",
    }
    for name, value in keys.items():
        _node(tx, home + name, value, ["n0", f"r{domid}"])


def _console(tx: Transaction, domid: int) -> None:
    """The console is a file of output here; its keys are libxl's, but for the ring, which there is none."""
    home, back = f"/local/domain/{domid}/console", f"/local/domain/0/backend/console/{domid}/0"
    seen = ["n0", f"r{domid}"]
    front = {"backend": back, "limit": "1048576", "type": "xenconsoled", "output": "pty", "tty": ""}
    for name, value in front.items():
        _node(tx, f"{home}/{name}", value, seen)
    _node(tx, f"{home}/backend-id", "0", [f"n{domid}", "r0"])
    keys = {"frontend": home, "frontend-id": str(domid), "online": "1", "state": "1", "protocol": "vt100"}
    copy = f"/libxl/{domid}/device/console/0"
    for path, perms, first in ((back, seen, {}), (copy, ["n0"], {"frontend": home, "backend": back})):
        _node(tx, path, "", perms)
        for name, value in {**first, **keys}.items():
            _node(tx, f"{path}/{name}", value, perms)


def begin_to_end(store: Store, domid: int) -> None:
    """A domain that is there gets no more devices."""
    for transaction in store.transaction():
        with transaction as tx:
            if tx.exists(f"/local/domain/{domid}"):
                tx.write(ending(domid), "1")


def remove(store: Store, domid: int, vm: str) -> None:
    """Take away what is in the store of a domain that is about to be destroyed, besides its home, and that it is;
    `vm` is its node below /vm."""
    own = [f"/libxl/{domid}/{name}" for name in ("type", "dm-version", "device")]
    for path in (f"/local/domain/0/backend/console/{domid}/0", *own, vm if vm.startswith("/vm/") else ""):
        if path:
            for transaction in store.transaction():
                with transaction as tx:
                    clean_up(tx, path)


def end(store: Store, domid: int) -> None:
    """A domain has been destroyed; if another has its number by now, its nodes are not to be touched."""
    for transaction in store.transaction():
        with transaction as tx:
            if tx.exists(ending(domid)):
                clean_up(tx, f"/libxl/{domid}")
