"""The least that a toolstack does for a device, for tests of the ends alone."""

from __future__ import annotations

from contextlib import suppress

from xenfs.domain import Refused, Store
from xenfs.xenbus import Device


def attach(
    store: Store, device: Device, front: dict[str, str] | None = None, back: dict[str, str] | None = None
) -> None:
    """Write both ends."""
    guest, host = device.domid, device.backend_domid
    ends = {
        device.frontend_path: (
            [f"n{guest}", f"r{host}"],
            {"backend": device.backend_path, "backend-id": str(host), "state": "1", **(front or {})},
        ),
        device.backend_path: (
            [f"n{host}", f"r{guest}"],
            {"frontend": device.frontend_path, "frontend-id": str(guest), "online": "1", "state": "1", **(back or {})},
        ),
    }
    for transaction in store.transaction():
        with transaction as tx:
            for path, (perms, keys) in ends.items():
                tx.mkdir(path)
                tx.chmod(path, perms)
                for name, value in keys.items():
                    tx.write(f"{path}/{name}", value)
                    tx.chmod(f"{path}/{name}", perms)


def ask_to_detach(store: Store, device: Device) -> None:
    """Ask the backend to go for good."""
    for transaction in store.transaction():
        with transaction as tx:
            tx.write(f"{device.backend_path}/online", "0")
            tx.write(f"{device.backend_path}/state", "5")


def remove(store: Store, device: Device) -> None:
    """Take both ends away."""
    for path in (device.frontend_path, device.backend_path):
        with suppress(Refused):
            store.rm(path)
