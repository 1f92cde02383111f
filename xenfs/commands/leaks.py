"""What is still held in a machine when a program that used it has ended."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from dataclasses import replace

from xenfs.commands.machine import Domain, Frames, frames, within

SETTLE_SECONDS = 1.0
"""How long the daemon may take to release, slice by slice, what a dead process held."""


def held(before: Frames, after: Frames) -> list[str]:
    """A line for each domain that holds more than it did, empty when nothing leaks."""
    was = {d.domid: d for d in before.domains if not d.dying}
    lines = []
    for domain in after.domains:
        old = was.get(domain.domid, replace(domain, granted=0, mapped=0, in_flight=0, ports=()))
        if words := list(_dying(domain) if domain.dying else _more(old, domain)):
            lines.append(f"{domain}: {', '.join(words)}")
    return lines


def _dying(domain: Domain) -> Iterator[str]:
    yield f"dying, {domain.owned} frames are still mapped by others"


def _more(old: Domain, new: Domain) -> Iterator[str]:
    for what in ("granted", "mapped", "in_flight"):
        count = getattr(new, what) - getattr(old, what)
        if count > 0:
            yield f"{count} frames {what.replace('_', ' ')}"
    if ports := sorted(set(new.ports or ()) - set(old.ports or ())):
        yield f"open ports {' '.join(map(str, ports))}"


def _settle(point: str, before: Frames) -> Frames:
    """The machine once nothing leaks, or after the time: each change of the machine is a reason to look again."""
    deadline = time.monotonic() + SETTLE_SECONDS
    pipe = os.open(f"{point}/hypervisor/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while True:
            after = frames(point)
            left = deadline - time.monotonic()
            if left <= 0 or not held(before, after) or not poller.poll(left * 1000):
                return after
            os.read(pipe, 1 << 16)
    finally:
        os.close(pipe)


def leaked(point: str, before: Frames) -> list[str]:
    """What is held now and was not before. Raises Unable, OSError where the machine does not tell."""
    return held(before, within(point, lambda: _settle(point, before)))
