"""The domains as the store knows them, and what permissions give to each."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from xenfs.xenstore import perms
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.perms import Perm, Perms


@dataclass(slots=True)
class Known:
    """A domain that exists: since which generation, and what the store has been told of it."""

    since: int
    introduced: bool = False
    shutdown: bool = False
    target: int | None = None


class Domains(dict[int, Known]):
    """Those that exist, by number."""

    def introduced(self, domid: int) -> Known:
        """A domain that may use the store. Raises StoreError: EINVAL for domain 0, ENOENT."""
        if domid == 0:
            raise StoreError(errno.EINVAL, "domain 0", "it is the store's own")
        known = self.get(domid)
        if known is None or not known.introduced:
            raise StoreError(errno.ENOENT, f"domain {domid}", "it has not been introduced")
        return known

    def rights(self, client: Client, entries: Perms, generation: int) -> int:
        """What a client may do by the permissions of a node of that generation: a mask."""
        owner, *others = entries
        mine = (client.domid,) if client.target is None else (client.domid, client.target)
        if client.privileged or owner.domid in mine:
            return perms.ALL
        for entry in others:
            if entry.domid in mine and not entry.ignored and self._meant(entry, generation):
                return entry.mask
        return owner.mask

    def settled(self, entries: Perms, generation: int) -> Perms:
        """Entries as they are written: those for domains that have gone stay ignored for good."""
        if all(entry.ignored or self._meant(entry, generation) for entry in entries[1:]):
            return entries
        rest = (e if e.ignored or self._meant(e, generation) else replace(e, ignored=True) for e in entries[1:])
        return (entries[0], *rest)

    def _meant(self, entry: Perm, generation: int) -> bool:
        """Whether an entry is about the domain of that number that there is now, and not one before it."""
        known = self.get(entry.domid)
        return known is not None and known.since <= generation
