"""CONTROL, and the quotas as newer clients ask for them: what an administrator may do."""

from __future__ import annotations

import errno

from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.quotas import DEFAULTS
from xenfs.xenstore.store import Store

HELP = (("check", ""), ("log", "on|off"), ("print", "<string>"), ("quota", "[set <name> <val>|<domid>]"), ("help", ""))


def _check(client: Client) -> None:
    if not client.privileged:
        raise StoreError(errno.EACCES, "control", f"domain {client.domid} may not")


def _use(store: Store, domid: int) -> dict[str, int]:
    """What a domain uses of each quota that it has a part in."""
    clients = [client for client in store.clients if client.domid == domid]
    return {
        "nodes": store.tree.owned.get(domid, 0),
        "watches": sum(client.watch_count for client in clients),
        "transactions": sum(len(client.transactions) for client in clients),
        "outstanding": 0,
        "memory": store.tree.kept.get(domid, 0),
    }


def _quota(store: Store, words: list[str]) -> str:
    if not words:
        return store.quotas.report()
    if words[0] == "set" and len(words) == 3:
        store.quotas.change(words[1], words[2])
        return "OK"
    if len(words) == 1 and words[0].isascii() and words[0].isdigit() and len(words[0]) < 6:
        if int(words[0]) not in store.domains:
            raise StoreError(errno.ENOENT, f"domain {words[0]}", "there is no such domain")
        lines = [f"{name:<16}: {value:8}" for name, value in _use(store, int(words[0])).items()]
        return "\n".join([f"Domain {words[0]}:", *lines]) + "\n"
    raise StoreError(errno.EINVAL, "quota", "set <name> <val>, or a domain")


def run(store: Store, client: Client, words: list[str]) -> str:
    """Carry a command out; what it says. Raises StoreError EACCES, EINVAL."""
    _check(client)
    command, *rest = words or [""]
    if command == "help":
        return "".join(f"{name}\t{usage}\n" for name, usage in HELP)
    if command == "quota":
        return _quota(store, rest)
    if (command in ("check", "print") or (command == "log" and rest in (["on"], ["off"]))) and len(rest) < 2:
        return "OK"
    raise StoreError(errno.EINVAL, command, "there is no such command")


def get_quota(store: Store, client: Client, words: list[str]) -> str:
    """All names; one value; or what a domain may have."""
    _check(client)
    words = [word for word in words if word]
    if not words:
        return " ".join(DEFAULTS)
    if words[-1] not in store.quotas or len(words) > 2:
        raise StoreError(errno.EINVAL, words[-1], "there is no such quota")
    return str(store.quotas[words[-1]])


def set_quota(store: Store, client: Client, words: list[str]) -> None:
    """Set one for all domains; a domain of its own has none here."""
    _check(client)
    if len(words) == 3:
        raise StoreError(errno.ENOSYS, words[0], "quotas are the same for all domains")
    if len(words) != 2:
        raise StoreError(errno.EINVAL, "payload", "not a quota and a value")
    store.quotas.change(*words)
