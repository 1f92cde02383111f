"""The trace as it comes: hypercalls, and what is done with the store, by two pipes of the hypervisor's."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenfs.commands.trace import DeviceFilter, readable
from xenfs.xenstore.operation import PREFIX

HEAD = "time             domid  call \N{RIGHTWARDS ARROW} result, or what is done with the store"
_KEPT = 2000
_ROOM = 1 << 16
_TELLING = ("grant_access", "accept_transfer", "alloc_unbound", "name_ring", "map_grant_ref", "bind_interdomain")


@dataclass(frozen=True, slots=True)
class Event:
    """One line: `domid` whose it is, -1 for nobody's; `said` as the hypervisor has it."""

    time: float
    domid: int
    text: str
    said: dict[str, Any]

    @property
    def of_store(self) -> bool:
        """Whether it was done with the store, and is no hypercall."""
        return str(self.said.get("op", "")).startswith(PREFIX)

    @classmethod
    def of(cls, said: dict[str, Any]) -> Event:
        """As a pipe has it."""
        return cls(said.get("time", time.time_ns()) / 1e9, said.get("domid", -1), readable(said), said)


class _Pipe:
    """Lines as they come. It never waits."""

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        self._rest = b""

    def take(self) -> list[bytes]:
        """Those that have come, or some of many. Raises OSError when the machine is gone."""
        found: list[bytes] = []
        with suppress(BlockingIOError):
            while len(found) < _KEPT and (data := os.read(self._fd, _ROOM)):
                *lines, self._rest = (self._rest + data).split(b"\n")
                found += lines
        return found

    def close(self) -> None:
        """Take no more."""
        os.close(self._fd)


class Feed:
    """All of it, from when it is opened on."""

    def __init__(self, point: str) -> None:
        """Open the pipes. Raises OSError."""
        self._pipes = [_Pipe(f"{point}/hypervisor/trace_pipe")]
        try:
            self._pipes.append(_Pipe(f"{point}/hypervisor/store_pipe"))
            past = Path(point, "hypervisor/trace").read_text()
        except BaseException:
            self.close()
            raise
        self.events: deque[Event] = deque(maxlen=_KEPT)
        """The last of it."""
        self.past = [json.loads(line) for line in past.splitlines() if any(f'"{name}"' in line for name in _TELLING)]
        """What was called before and tells whose handles are a device's."""

    def update(self) -> list[Event]:
        """Take what has come, and give it. Raises OSError when the machine is gone."""
        found = [Event.of(json.loads(line)) for pipe in self._pipes for line in pipe.take()]
        found.sort(key=lambda event: event.time)
        self.events.extend(found)
        return found

    def close(self) -> None:
        """Take no more."""
        for pipe in self._pipes:
            pipe.close()


def domain_of(words: str) -> int | None:
    """The domain that a filter is for; None for one that is a text."""
    return int(words) if re.fullmatch(r"[0-9]{1,9}", words) else None


def shown(events: Sequence[Event], words: str, past: Sequence[dict[str, Any]] = ()) -> list[Event]:
    """What a filter lets through: a domain's number, which is whose it is or in whose home, a device such as vif-0, or
    a part of the text.
    """
    if not words:
        return [*events]
    if (domid := domain_of(words)) is not None:
        home = f"/local/domain/{domid}/"
        return [one for one in events if one.domid == domid or (one.of_store and home in one.text)]
    kind, _, number = words.partition("-")
    if number.isdecimal():
        device, where = DeviceFilter(words), re.escape(kind)
        node = re.compile(rf"/(device/{where}|backend/{where}/[0-9]+)/{number}[ /]")
        for said in (*past, *(event.said for event in events if not event.of_store)):
            device.learn(said)
        return [event for event in events if (node.search(event.text) if event.of_store else device.wants(event.said))]
    return [event for event in events if words in event.text]
