"""The table of requests: for each type of message what its payload is, and what carries it out.

Text is latin-1 here, so that every byte of a token or a value is one character and comes back as it was.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass

from xenfs.abi.xen import DOMID_SELF
from xenfs.abi.xs_wire import PAYLOAD_MAX, XsType
from xenfs.xenstore import control, paths
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.store import Store

OK = b"OK\0"
_NUMBER = re.compile(r"\s*([-+]?[0-9]+)")
FEATURES = 4
"""Watches with a depth, as newer servers announce it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: whose, in which transaction, and its payload."""

    store: Store
    client: Client
    tx: int
    payload: bytes

    def one(self, otherwise: int = errno.EINVAL) -> str:
        """The payload as one string with its NUL. Raises StoreError with the errno that xenstored has for others."""
        if self.payload.find(b"\0") != len(self.payload) - 1 or not self.payload:
            raise StoreError(otherwise, "payload", "not one string with a NUL at its end")
        return self.payload[:-1].decode("latin-1")

    def strings(self) -> list[str]:
        """The strings that end in a NUL; what is behind the last is not looked at."""
        return [part.decode("latin-1") for part in self.payload.split(b"\0")[:-1]]


def number(text: str) -> int:
    """As C's atoi has it: the digits at the beginning, 0 without any."""
    found = _NUMBER.match(text)
    return int(found[1]) if found else 0


def _domid(texts: list[str], place: int = 0) -> int:
    if len(texts) <= place:
        raise StoreError(errno.EINVAL, "payload", "a domain is missing")
    domid = number(texts[place])
    if not 0 <= domid <= 0xFFFF:
        raise StoreError(errno.EINVAL, texts[place], "not a domain")
    return domid


def _text(text: object) -> bytes:
    return f"{text}\0".encode("latin-1")


def _names(asked: Asked, path: str) -> tuple[int, bytes]:
    """The generation of a node, and its children's names with their NULs."""
    node = asked.store.look(asked.client, path, asked.tx)
    return node.generation, b"".join(name.encode() + b"\0" for name in node.names())


def _control(asked: Asked) -> bytes:
    return _text(control.run(asked.store, asked.client, asked.strings()))


def _directory(asked: Asked) -> bytes:
    _, names = _names(asked, asked.one(errno.ENOENT))
    if len(names) > PAYLOAD_MAX:
        raise StoreError(errno.E2BIG, "directory", f"{len(names)} bytes of names: ask for parts")
    return names


def _directory_part(asked: Asked) -> bytes:
    strings = asked.strings()
    if len(strings) != 2:
        raise StoreError(errno.EINVAL, "payload", "not a path and an offset")
    generation, names = _names(asked, strings[0])
    offset, head = number(strings[1]), _text(generation)
    if not 0 <= offset < len(names):
        return head + b"\0"
    room = PAYLOAD_MAX - len(head)
    rest = names[offset : offset + room]
    if offset + len(rest) < len(names) or len(rest) == room:
        return head + rest[: rest.rfind(b"\0") + 1]
    return head + rest + b"\0"


def _read(asked: Asked) -> bytes:
    return asked.store.read(asked.client, asked.one(errno.ENOENT), asked.tx)


def _get_perms(asked: Asked) -> bytes:
    return b"".join(map(_text, asked.store.get_perms(asked.client, asked.one(errno.ENOENT), asked.tx)))


def _write(asked: Asked) -> bytes:
    path, nul, value = asked.payload.partition(b"\0")
    if not nul:
        raise StoreError(errno.EINVAL, "payload", "no NUL behind the path")
    asked.store.write(asked.client, path.decode("latin-1"), value, asked.tx)
    return OK


def _mkdir(asked: Asked) -> bytes:
    asked.store.mkdir(asked.client, asked.one(errno.ENOMEM), asked.tx)
    return OK


def _rm(asked: Asked) -> bytes:
    asked.store.rm(asked.client, asked.one(errno.ENOMEM), asked.tx)
    return OK


def _set_perms(asked: Asked) -> bytes:
    path, *perms = asked.strings() or [""]
    if not perms:
        raise StoreError(errno.EINVAL, "payload", "no permissions")
    asked.store.set_perms(asked.client, path, perms, asked.tx)
    return OK


def _watch(asked: Asked) -> bytes:
    strings = asked.strings()
    if len(strings) not in (2, 3) or not asked.payload.endswith(b"\0"):
        raise StoreError(errno.EINVAL, "payload", "not a path, a token, and perhaps a depth")
    depth = number(strings[2]) if len(strings) == 3 else None
    asked.store.watch(asked.client, strings[0], strings[1], depth)
    return OK


def _unwatch(asked: Asked) -> bytes:
    strings = asked.strings()
    if len(strings) != 2:
        raise StoreError(errno.EINVAL, "payload", "not a path and a token")
    asked.store.unwatch(asked.client, *strings)
    return OK


def _transaction_start(asked: Asked) -> bytes:
    return _text(asked.store.begin(asked.client, asked.tx))


def _transaction_end(asked: Asked) -> bytes:
    if asked.payload not in (b"T\0", b"F\0"):
        raise StoreError(errno.EINVAL, "payload", "neither T nor F")
    asked.store.end(asked.client, asked.tx, asked.payload == b"T\0")
    return OK


def _introduce(asked: Asked) -> bytes:
    strings = asked.strings()
    if len(strings) < 3:
        raise StoreError(errno.EINVAL if asked.client.privileged else errno.EACCES, "payload", "not three numbers")
    asked.store.introduce(asked.client, _domid(strings), number(strings[2]))
    return OK


def _release(asked: Asked) -> bytes:
    asked.store.release(asked.client, _domid(asked.strings()))
    return OK


def _resume(asked: Asked) -> bytes:
    asked.store.resume(asked.client, _domid(asked.strings()))
    return OK


def _set_target(asked: Asked) -> bytes:
    strings = asked.strings()
    asked.store.set_target(asked.client, _domid(strings), _domid(strings, 1))
    return OK


def _get_domain_path(asked: Asked) -> bytes:
    strings = asked.strings()
    return _text(paths.home(number(strings[0]) & 0xFFFF if strings else 0))


def _is_domain_introduced(asked: Asked) -> bytes:
    domid = _domid(asked.strings())
    introduced = asked.store.is_introduced(asked.client, domid) or domid == DOMID_SELF
    return b"T\0" if introduced else b"F\0"


def _reset_watches(asked: Asked) -> bytes:
    asked.store.reset(asked.client)
    return OK


def _get_feature(asked: Asked) -> bytes:
    strings = [text for text in asked.strings() if text]
    if strings:
        asked.store.is_introduced(asked.client, _domid(strings))
    return _text(FEATURES)


def _set_feature(asked: Asked) -> bytes:
    strings = asked.strings()
    if asked.store.is_introduced(asked.client, _domid(strings)):
        raise StoreError(errno.EBUSY, strings[0], "the domain has been introduced")
    if len(strings) != 2 or number(strings[1]) & ~FEATURES:
        raise StoreError(errno.EINVAL, "payload", "not a domain and features that there are")
    raise StoreError(errno.ENOSYS, "features", "they are the same for all")


def _get_quota(asked: Asked) -> bytes:
    return _text(control.get_quota(asked.store, asked.client, asked.strings()))


def _set_quota(asked: Asked) -> bytes:
    control.set_quota(asked.store, asked.client, asked.strings())
    return OK


REQUESTS: dict[int, Callable[[Asked], bytes]] = {
    XsType.CONTROL: _control,
    XsType.DIRECTORY: _directory,
    XsType.READ: _read,
    XsType.GET_PERMS: _get_perms,
    XsType.WATCH: _watch,
    XsType.UNWATCH: _unwatch,
    XsType.TRANSACTION_START: _transaction_start,
    XsType.TRANSACTION_END: _transaction_end,
    XsType.INTRODUCE: _introduce,
    XsType.RELEASE: _release,
    XsType.GET_DOMAIN_PATH: _get_domain_path,
    XsType.WRITE: _write,
    XsType.MKDIR: _mkdir,
    XsType.RM: _rm,
    XsType.SET_PERMS: _set_perms,
    XsType.IS_DOMAIN_INTRODUCED: _is_domain_introduced,
    XsType.RESUME: _resume,
    XsType.SET_TARGET: _set_target,
    XsType.RESET_WATCHES: _reset_watches,
    XsType.DIRECTORY_PART: _directory_part,
    XsType.GET_FEATURE: _get_feature,
    XsType.SET_FEATURE: _set_feature,
    XsType.GET_QUOTA: _get_quota,
    XsType.SET_QUOTA: _set_quota,
}
"""By type. Whatever is not here, also an event or an error sent as a request, gets ENOSYS."""
WITHOUT_TRANSACTION = frozenset({XsType.WATCH, XsType.UNWATCH})
"""Types whose transaction number is not looked at."""
