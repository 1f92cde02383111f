"""Looks at machines that there are not, made up by hand."""

from __future__ import annotations

from typing import Any

from xentop import panes
from xentop.look import Ring, Sample
from xentop.panes import PANES, Row
from xentop.tables import Run

from xenfs.commands.machine import Domain, Frames


def sample(moment: float = 0.0, **more: Any) -> Sample:
    """A look."""
    return Sample(moment, more.pop("frames", Frames((), 0, 0)), **more)


def run(first: int, count: int, domid: int, mark: str = "idle", ring: str = "") -> Run:
    """Frames, of a mark in words."""
    granted, mapped = {"granted": (1, 0), "mapped": (1, 1)}.get(mark, (0, 0))
    return Run(first, count, domid, mark == "idle", granted, mapped, ring)


def owners(found: tuple[Run, ...]) -> dict[int, Run]:
    """The run of every frame; no frame is in two."""
    by_frame = {number: run for run in found for number in range(run.first, run.first + run.count)}
    assert len(by_frame) == sum(run.count for run in found)
    return by_frame


def ring(req_prod: int, rsp_prod: int = 0, *, req_event: int = 0, rsp_event: int = 0, frame: int = 9) -> Ring:
    return Ring(1, "vbd-0-ring", frame, req_prod, req_event, rsp_prod, rsp_event, 32)


def domain(domid: int, **more: Any) -> Domain:
    said = {"name": f"d{domid}", "state": "running", "owned": 512, "granted": 0, "mapped": 0, "in_flight": 0, **more}
    return Domain(domid, **said)


def rows(name: str, now: Sample, before: Sample | None = None, watched: float = 60.0) -> list[Row]:
    return panes.rows(PANES[name], now, before, watched)
