"""The machine as a map of frames: a line for 64 of them, a letter for what each is, a colour for whose.

    4096 │ RRRRgggggggg····  domain 1

Frames that have changed hands since the look before are shown as ⇄ for that look. Lines that would say the same as the
one before are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xentop.look import Sample
from xentop.tables import Run

WIDTH = 64
_BESIDE, _WORDS = 13, 20
"""Characters before and behind a line's frames, and in `domain 32751: 64, ` for one of its owners."""
MOVED, FREE = "\N{RIGHTWARDS ARROW OVER LEFTWARDS ARROW}", " "
LEGEND = f"R ring  M mapped by a peer  g granted  o held  \N{MIDDLE DOT} idle  {MOVED} changed hands  blank free"
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green", "bright_yellow",
           "bright_magenta", "bright_blue", "bright_red")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """Frames `first` on: a mark and an owner for each; or, with `same`, so many lines like the one before."""

    first: int
    marks: str = ""
    owners: tuple[int | None, ...] = ()
    same: int = 0

    @property
    def wide(self) -> int:
        """Characters, at the most."""
        return _BESIDE + WIDTH + (1 if self.same else len(set(self.owners))) * _WORDS

    def said(self) -> str:
        """Who owns them."""
        counts: dict[int, int] = {}
        for owner in self.owners:
            if owner is not None:
                counts[owner] = counts.get(owner, 0) + 1
        if len(counts) == 1:
            return f"domain {next(iter(counts))}"
        return ", ".join(f"domain {domid}: {count}" for domid, count in sorted(counts.items()))

    def __str__(self) -> str:
        if self.same:
            return f"{'':>8} \N{VERTICAL ELLIPSIS} {self.same} line{'s' if self.same > 1 else ''} more of the same"
        return f"{self.first:>8} \N{BOX DRAWINGS LIGHT VERTICAL} {self.marks:<{WIDTH}}  {self.said()}"


def moved(now: Sample, before: Sample | None) -> set[int]:
    """Frames that belong to another domain than at the look before."""
    if before is None or not before.runs or before.runs is now.runs:
        return set()
    old, at = _spans(before), 0
    found: set[int] = set()
    for run in now.runs:
        stop = run.first + run.count
        while at < len(old) and old[at][0] + old[at][1] <= run.first:
            at += 1
        for place in range(at, len(old)):
            first, count, domid = old[place]
            if first >= stop:
                break
            if domid != run.domid:
                found.update(range(max(first, run.first), min(first + count, stop)))
    return found


def _spans(sample: Sample) -> list[tuple[int, int, int]]:
    """Runs joined where the owner is the same."""
    found: list[tuple[int, int, int]] = []
    for run in sample.runs:
        if found and found[-1][2] == run.domid and found[-1][0] + found[-1][1] == run.first:
            found[-1] = (found[-1][0], found[-1][1] + run.count, run.domid)
        else:
            found.append((run.first, run.count, run.domid))
    return found


def lines(now: Sample, before: Sample | None, domid: int | None = None) -> Iterator[Line]:
    """The map; of one domain's frames alone, if asked."""
    changed = moved(now, before)
    last: tuple[str, tuple[int | None, ...]] | None = None
    same = start = 0
    for first, marks, whose in _rows(now.runs, domid):
        if changed:
            marks = "".join(
                MOVED if first + place in changed and mark != FREE else mark for place, mark in enumerate(marks)
            )
        if last == (marks, whose) and first == start + WIDTH:
            same, start = same + 1, first
            continue
        if same:
            yield Line(0, same=same)
        yield Line(first, marks, whose)
        last, same, start = (marks, whose), 0, first
    if same:
        yield Line(0, same=same)


def _rows(runs: tuple[Run, ...], domid: int | None) -> Iterator[tuple[int, str, tuple[int | None, ...]]]:
    """Lines of 64, of which at least one frame is somebody's."""
    marks, whose, at = [FREE] * WIDTH, [None] * WIDTH, -1  # type: list[str], list[int | None], int
    for run in runs:
        if domid not in (None, run.domid):
            continue
        number, end = run.first, run.first + run.count
        while number < end:
            line = number // WIDTH
            if line != at:
                if at >= 0:
                    yield at * WIDTH, "".join(marks), tuple(whose)
                marks, whose, at = [FREE] * WIDTH, [None] * WIDTH, line
            if number == line * WIDTH and end - number >= WIDTH:  # the most are so
                alike, owners, at = run.mark * WIDTH, (run.domid,) * WIDTH, -1
                for whole in range(line, end // WIDTH):
                    yield whole * WIDTH, alike, owners
                number = end // WIDTH * WIDTH
                continue
            stop = min(end, (line + 1) * WIDTH)
            count, place = stop - number, number % WIDTH
            marks[place : place + count] = [run.mark] * count
            whose[place : place + count] = [run.domid] * count
            number = stop
    if at >= 0:
        yield at * WIDTH, "".join(marks), tuple(whose)


def about(sample: Sample, number: int, content: bytes | None) -> Iterator[str]:
    """A frame: whose, its grants, who maps it, and its bytes."""
    run = next((run for run in sample.runs if run.first <= number < run.first + run.count), None)
    if run is None:
        yield f"frame {number} belongs to nobody"
        return
    use = "idle" if run.idle else "held"
    yield f"frame {number} belongs to domain {run.domid}, {use}" + (f", ring {run.ring}" if run.ring else "")
    grants = [grant for grant in sample.grants if grant.frame == number]
    for grant in grants:
        maps = f"mapped {grant.maps} times" if grant.maps else "not mapped"
        ending = ", ending" if grant.ending else ""
        yield f"  grant {grant.ref} to domain {grant.to}: {grant.kind} {grant.access}, {maps}{ending}"
    if not grants:
        yield "  granted to nobody"
    if content is None:
        yield "  its content cannot be read"
        return
    yield ""
    yield from dump(content)


def dump(content: bytes) -> Iterator[str]:
    """Bytes as xxd shows them; lines that repeat are left out, as hexdump does."""
    last, starred = b"", False
    for at in range(0, len(content), 16):
        part = content[at : at + 16]
        if part == last:
            if not starred:
                yield "*"
            starred = True
            continue
        last, starred = part, False
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{at:04x}  {part.hex(' ', 2):<39}  {text}"
