"""Where a domain's own nodes are: made when a domain comes, so that one without a toolstack can use the store too."""

from __future__ import annotations

from xenfs.xenstore import paths
from xenfs.xenstore.client import Client
from xenfs.xenstore.store import Store

OWN = ("data", "device", "error")
"""Nodes in which a domain may write."""


class Homes:
    """Makes them, as domain 0."""

    def __init__(self, store: Store) -> None:
        """Begin with domain 0's."""
        self._store = store
        self._client = store.connect(Client(0, lambda _path, _token: None))
        self._make(0, "Domain-0")

    def _make(self, domid: int, name: str) -> None:
        store, client, home = self._store, self._client, paths.home(domid)
        for path, value in ((home, ""), (f"{home}/name", name), (f"{home}/domid", str(domid))):
            store.write(client, path, value.encode())
            store.set_perms(client, path, ["n0", f"r{domid}"] if domid else ["n0"])
        for own in OWN:
            store.mkdir(client, f"{home}/{own}")
            store.set_perms(client, f"{home}/{own}", [f"n{domid}"])

    def came(self, domid: int, name: str) -> None:
        """A domain has been made: it may use the store at once."""
        self._store.domain_came(domid)
        self._make(domid, name)
        self._store.introduce(self._client, domid, 1)

    def renamed(self, domid: int, name: str) -> None:
        """It has another name."""
        self._store.write(self._client, f"{paths.home(domid)}/name", name.encode())

    def gone(self, domid: int) -> None:
        """It has been destroyed: its home goes, then what else it owns."""
        self._store.rm(self._client, paths.home(domid))
        self._store.domain_gone(domid)
