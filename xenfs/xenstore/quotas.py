"""What an unprivileged domain may have. Defaults and off-by-ones are those of C xenstored 4.17 (2.12)."""

from __future__ import annotations

import errno

from xenfs.xenstore.errors import StoreError

DEFAULTS: dict[str, tuple[int, str]] = {
    "nodes": (1000, "Nodes per domain"),
    "watches": (128, "Watches per domain"),
    "transactions": (10, "Transactions per domain"),
    "outstanding": (20, "Outstanding requests per domain"),
    "transaction-nodes": (1024, "Max. number of accessed nodes per transaction"),
    "memory": (2621440, "Total Xenstore memory per domain (error level)"),
    "node-size": (2048, "Max. size of a node"),
    "path-max": (2048, "Max. length of a node path"),
    "permissions": (5, "Max. number of permissions per node"),
}


class Quotas(dict[str, int]):
    """The values now, by name."""

    def __init__(self) -> None:
        """Begin with the defaults."""
        super().__init__({name: value for name, (value, _) in DEFAULTS.items()})

    def change(self, name: str, value: str) -> None:
        """Set one. Raises StoreError EINVAL for a name or a number that is none."""
        if name not in self or not (value.isascii() and value.isdigit() and len(value) < 10):
            raise StoreError(errno.EINVAL, name, f"{value!r} cannot be a quota")
        self[name] = int(value)

    def report(self) -> str:
        """As `xenstore-control quota` shows it."""
        lines = [f"{name:<17}: {value:8} {DEFAULTS[name][1]}" for name, value in self.items()]
        return "\n".join(["Quota settings:", *lines]) + "\n"
