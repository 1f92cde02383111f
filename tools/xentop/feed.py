"""The trace as it comes: hypercalls by the hypervisor's pipe, and changes of the store by the mirror."""

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
from xentop.mirror import Change

_KEPT = 2000
_ROOM = 1 << 16
_TELLING = ("grant_access", "accept_transfer", "alloc_unbound", "name_ring", "map_grant_ref", "bind_interdomain")


@dataclass(frozen=True, slots=True)
class Event:
    """One line: `domid` -1 where it is nobody's in particular; `said` is the call as the hypervisor has it."""

    time: float
    domid: int
    text: str
    said: dict[str, Any] | None = None


def of_change(change: Change) -> Event:
    """A change of the store, with the domain in whose home it is."""
    words = change.path.split("/")
    domid = int(words[3]) if change.path.startswith("/local/domain/") and words[3].isdigit() else -1
    value = "removed" if change.value is None else f"= {change.value.decode('ascii', 'backslashreplace')!r}"
    moment = time.strftime("%H:%M:%S", time.localtime(change.time)) + f"{change.time % 1:.6f}"[1:]
    return Event(change.time, domid, f"{moment}  store  {change.path} {value}")


class Feed:
    """Hypercalls, from when it is opened on. It never waits."""

    def __init__(self, point: str) -> None:
        """Open the pipe. Raises OSError."""
        self._fd = os.open(f"{point}/hypervisor/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        self._rest = b""
        self.events: deque[Event] = deque(maxlen=_KEPT)
        self.past = [
            json.loads(line)
            for line in Path(point, "hypervisor/trace").read_text().splitlines()
            if any(f'"{name}"' in line for name in _TELLING)
        ]
        """What was called before and tells whose handles are a device's."""

    def update(self) -> int:
        """Take what has come; how many calls. Raises OSError when the machine is gone."""
        count = 0
        with suppress(BlockingIOError):
            while data := os.read(self._fd, _ROOM):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    when = said.get("time", time.time_ns()) / 1e9
                    self.events.append(Event(when, said.get("domid", -1), readable(said), said))
                    count += 1
                if count >= _KEPT:
                    break
        return count

    def close(self) -> None:
        """Take no more."""
        os.close(self._fd)


def shown(
    calls: list[Event], changes: list[Event], words: str, past: Sequence[dict[str, Any]] = ()
) -> list[Event]:  # fmt: skip
    """Both in the order of time, as far as a filter lets them: a domain's number, a device such as vif-0, or a part of
    the text."""
    wanted = sorted((*calls, *changes), key=lambda event: event.time)
    if not words:
        return wanted
    if words.isdecimal():
        return [event for event in wanted if event.domid == int(words)]
    kind, _, number = words.partition("-")
    if number.isdecimal():
        device, where = DeviceFilter(words), re.escape(kind)
        node = re.compile(rf"/(device/{where}|backend/{where}/[0-9]+)/{number}[ /]")
        for said in (*past, *(event.said for event in calls if event.said is not None)):
            device.learn(said)
        return [
            event
            for event in wanted
            if (device.wants(event.said) if event.said is not None else node.search(event.text))
        ]
    return [event for event in wanted if words in event.text]
