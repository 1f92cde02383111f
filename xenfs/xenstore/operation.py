"""What is done with the store, told to whoever follows it.

Told is what changes the store, or who hears of changes, also when it is refused; not what only reads. A line is one
JSON object, as the trace of hypercalls has them: time (nanoseconds), domid, op (`store.write` …), in, and out or error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from xenfs.xenstore.errors import StoreError

if TYPE_CHECKING:
    from xenfs.xenstore.client import Client
    from xenfs.xenstore.store import Store

PREFIX = "store."
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a domain's, with its arguments by name, and its result or why it was refused."""

    domid: int
    name: str
    takes: Mapping[str, Any]
    gives: Any = None
    error: StoreError | None = None

    def line(self, time: int) -> str:
        """One line of JSON, without its newline."""
        said: dict[str, Any] = {"time": time, "domid": self.domid, "op": f"{PREFIX}{self.name}"}
        said["in"] = {name: _text(value) for name, value in self.takes.items() if value or name != "tx"}
        if self.error is not None:
            said |= {"error": self.error.name, "text": str(self.error)}
        else:
            said["out"] = {} if self.gives is None else {"tx": self.gives}
        return json.dumps(said)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    return list(value) if isinstance(value, tuple) else value


def followed(
    method: Callable[Concatenate[Store, Client, P], R],
) -> Callable[Concatenate[Store, Client, P], R]:
    """Have an operation of the store's told, where somebody follows."""
    names = [*signature(method).parameters][2:]

    @wraps(method)
    def told(store: Store, client: Client, /, *arguments: P.args, **more: P.kwargs) -> R:
        if (tell := store.operated) is None:
            return method(store, client, *arguments, **more)
        takes = dict(zip(names, arguments, strict=False)) | more
        if isinstance(path := takes.get("path"), str) and not path.startswith(("/", "@")):
            takes["path"] = f"/local/domain/{client.domid}/{path}"
        try:
            gives = method(store, client, *arguments, **more)
        except StoreError as error:
            tell(Operation(client.domid, method.__name__, takes, error=error))
            raise
        tell(Operation(client.domid, method.__name__, takes, gives))
        return gives

    return told
