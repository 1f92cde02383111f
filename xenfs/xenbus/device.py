"""Devices and their classes: where a device's nodes are, and what its class does in which order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from xenfs.abi.xenbus import XenbusState
from xenfs.xenbus import states
from xenfs.xenbus.keys import Key, Writer

_FRONTEND = re.compile(r"/local/domain/(\d{1,5})/device/([\w-]{1,32})/(\d{1,10})")
_BACKEND = re.compile(r"/local/domain/(\d{1,5})/backend/([\w-]{1,32})/(\d{1,5})/(\d{1,10})")


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """One kind of device.

    `after`: the frontend is Initialised when it has published and connects after the backend, as for block; else it is
    connected at once. `hotplug`: the backend connects only when `hotplug-status` is `connected`. `says_closing`: a
    frontend that leaves is Closing until the backend has let go; else it is Closed at once.
    """

    kind: str
    keys: tuple[Key, ...] = ()
    after: bool = False
    hotplug: bool = False
    says_closing: bool = True
    backend_kinds: tuple[str, ...] = field(default=())

    @property
    def published(self) -> XenbusState:
        """The frontend's state once its keys are there."""
        return XenbusState.Initialised if self.after else XenbusState.Connected

    @property
    def front(self) -> states.FrontTable:
        """What its frontend does."""
        return states.FRONT_AFTER if self.after else states.FRONT_AT_ONCE

    @property
    def back(self) -> states.BackTable:
        """What its backend does."""
        return states.BACK_AFTER if self.after else states.BACK_AT_ONCE

    def written_by(self, *writers: Writer) -> tuple[Key, ...]:
        """The keys that these write."""
        return tuple(key for key in self.keys if key.by in writers)


@dataclass(frozen=True, slots=True)
class Device:
    """One device: two directories, of which each names the other."""

    kind: str
    domid: int
    id: int
    backend_domid: int = 0
    backend_kind: str = ""
    """What its class is called in the backend's domain; the same when empty."""

    def __post_init__(self) -> None:
        if self.backend_kind == self.kind:
            object.__setattr__(self, "backend_kind", "")

    def __str__(self) -> str:
        return f"{self.kind} {self.domid}/{self.id}"

    @property
    def frontend_path(self) -> str:
        """The frontend's directory."""
        return f"/local/domain/{self.domid}/device/{self.kind}/{self.id}"

    @property
    def backend_path(self) -> str:
        """The backend's directory."""
        kind = self.backend_kind or self.kind
        return f"/local/domain/{self.backend_domid}/backend/{kind}/{self.domid}/{self.id}"

    @property
    def libxl_path(self) -> str:
        """The toolstack's own copy, which no guest can write."""
        return f"/libxl/{self.domid}/device/{self.kind}/{self.id}"

    @property
    def ring_prefix(self) -> str:
        """How the names of its rings begin."""
        return f"{self.kind}-{self.id}"


def parse_frontend(path: str) -> tuple[int, str, int] | None:
    """Domain, kind and number of a frontend's directory; None when it is none."""
    found = _FRONTEND.fullmatch(path)
    return (int(found[1]), found[2], int(found[3])) if found else None


def parse_backend(path: str) -> tuple[int, str, int, int] | None:
    """Domain, kind, the frontend's domain and number of a backend's directory; None when it is none."""
    found = _BACKEND.fullmatch(path)
    return (int(found[1]), found[2], int(found[3]), int(found[4])) if found else None
