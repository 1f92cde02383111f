"""The one thing about which more is shown: its bytes, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from xl import rings
from xl.findings import DEAD

from xentop import frames, words
from xentop.look import Look, Sample
from xentop.panes import Row

_TITLES = MappingProxyType({
    "domains": "domain", "devices": "device", "rings": "ring", "pages": "frame", "events": "channel", "store": "node",
    "trace": "call",
})  # fmt: skip
_SAME: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"domains": ("domid", "name"), "devices": ("device",), "events": ("domid", "port"), "store": ("path",)}
)
"""By which of its values a row is found again in a later look."""


@dataclass(eq=False)
class Wanted:
    """The thing of a pane's row; its bytes, None when they are not to be had, as far as they are read."""

    pane: str
    row: Row
    read: bool = False
    content: bytes | None = None

    @property
    def title(self) -> str:
        """What kind of thing it is."""
        return _TITLES[self.pane]

    def fetch(self, look: Look, sample: Sample | None) -> None:
        """Read its bytes, where a thing of this pane has some."""
        row, content = self.row, None
        if self.pane == "rings":
            content = look.page(row["domid"], row["name"])
        elif self.pane == "pages" and sample is not None:
            runs = (run for run in sample.runs if run.first <= row["frame"] < run.first + run.count)
            owner = next((run.domid for run in runs), None)
            if owner is not None:
                with suppress(OSError):
                    content = look.frame(owner, row["frame"])
        self.content, self.read = content, True

    def describe(self, now: Sample, found: Sequence[Row], problem: str) -> list[str]:
        """In lines; `found` are the pane's rows as they are now, `problem` is why there may be no bytes."""
        row = self.row
        if self.pane in ("rings", "pages"):
            return self._bytes(now) if self.read else [problem or "looking …"]
        if self.pane in _SAME:
            same = _SAME[self.pane]
            newer = next((one for one in found if all(one[key] == row[key] for key in same)), None)
            if newer is None:
                return [" ".join(str(row[key]) for key in same) + " is not there any more"]
            row = newer
        if self.pane == "devices":
            return _device(now, row)
        return list(words.about(self.pane, row))

    def _bytes(self, now: Sample) -> list[str]:
        if self.pane == "pages":
            return list(frames.about(now, self.row["frame"], self.content))
        name = self.row["name"]
        return list(rings.words(name, self.content)) if self.content else [f"{name} is not there any more"]


def _device(now: Sample, row: Row) -> list[str]:
    state = next(one for one in now.devices if str(one.device) == row["device"])
    device, dead = state.device, [str(one) for one in state.findings if one.code in DEAD]
    lines = [row["device"], *dead]
    for end, path in (("front", device.frontend_path), ("back", device.backend_path)):
        lines.append(f"{f'{end}end':<9} {path}: {row[end]}, {row[f'{end}_since']}")
        if row[f"{end}_waits"]:
            lines.append(f"  {row[f'{end}_waits']}")
    rest = [said for said in row["findings"] if said not in dead] or ([] if dead else ["nothing is wrong with it"])
    return [*lines, "", *rest] if rest else lines
