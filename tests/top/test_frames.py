"""The map of frames, and all about one of them, without a screen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xentop import frames, tables
from xentop.frames import FREE, MOVED, WIDTH, Line
from xentop.tables import Grants, Run

from tests.top.samples import owners, run, sample
from xenfs.hypervisor.tables import pages_table
from xenfs.testing import in_memory

pytestmark = pytest.mark.timeout(120)


IDLE = "\N{MIDDLE DOT}"


def test_a_letter_for_what_each_frame_is() -> None:
    marks = [run(0, 1, 1, "held", "vif-0-tx"), run(1, 1, 1, "mapped"), run(2, 1, 1, "granted"), run(3, 1, 1, "held")]
    (line,) = frames.lines(sample(runs=(*marks, run(4, 1, 1))), None)
    assert line.marks == f"RMgo{IDLE}" + FREE * (WIDTH - 5)
    assert line.owners == (1,) * 5 + (None,) * (WIDTH - 5)
    assert line.said() == "domain 1"
    for mark, word in zip("RMgo", ("ring", "mapped", "granted", "held"), strict=True):
        assert f"{mark} {word}" in frames.LEGEND


def test_a_line_has_sixty_four_frames_of_whoever_they_are() -> None:
    runs = (run(60, 8, 1, "held"), run(70, 2, 2, "granted"), run(130, 1, 3))
    first, second, third = frames.lines(sample(runs=runs), None)
    assert (first.first, second.first, third.first) == (0, 64, 128)
    assert first.marks == FREE * 60 + "oooo"
    assert second.marks == "oooo" + FREE * 2 + "gg" + FREE * 56
    assert second.said() == "domain 1: 4, domain 2: 2"
    assert third.marks == FREE * 2 + IDLE + FREE * 61
    assert str(second).startswith("      64 \N{BOX DRAWINGS LIGHT VERTICAL} oooo  gg ")
    assert all(len(str(line)) <= line.wide for line in (first, second, third))


def test_lines_that_say_the_same_are_counted() -> None:
    found = list(frames.lines(sample(runs=(run(0, 64 * 5, 0), run(320, 64 * 2, 1), run(448, 1, 1, "held"))), None))
    assert [(line.first, line.same) for line in found] == [(0, 0), (0, 4), (320, 0), (0, 1), (448, 0)]
    assert str(found[1]).strip() == "\N{VERTICAL ELLIPSIS} 4 lines more of the same"
    assert str(found[3]).strip() == "\N{VERTICAL ELLIPSIS} 1 line more of the same"


def test_lines_with_a_gap_between_them_are_not_the_same() -> None:
    found = list(frames.lines(sample(runs=(run(0, 64, 1), run(128, 64, 1), run(192, 64, 1))), None))
    assert [(line.first, line.same) for line in found] == [(0, 0), (128, 0), (0, 1)]


def test_the_map_of_one_domain() -> None:
    runs = (run(0, 64, 0), run(64, 3, 1, "held"), run(67, 3, 2, "held"))
    (line,) = frames.lines(sample(runs=runs), None, 2)
    assert line.marks == FREE * 3 + "ooo" + FREE * 58
    assert line.said() == "domain 2"
    assert list(frames.lines(sample(runs=runs), None, 9)) == []


RUNS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 200), st.integers(0, 2)), max_size=8)


def placed(given: list[tuple[int, int, int]]) -> tuple[Run, ...]:
    """Runs one behind the other, with gaps."""
    at, found = 0, []
    for gap, count, domid in given:
        found.append(run(at + gap, count, domid, ("held", "idle", "granted")[count % 3]))
        at += gap + count
    return tuple(found)


@given(RUNS)
def test_the_map_is_every_frame_once(given: list[tuple[int, int, int]]) -> None:
    runs = placed(given)
    wanted = {number: (one.mark, one.domid) for one in runs for number in range(one.first, one.first + one.count)}
    found: dict[int, tuple[str, int]] = {}
    last = Line(0)
    for line in frames.lines(sample(runs=runs), None):
        for step in range(1, line.same + 1) if line.same else (0,):
            shown_line = last if line.same else line
            for place, owner in enumerate(shown_line.owners):
                if owner is not None:
                    found[shown_line.first + step * WIDTH + place] = shown_line.marks[place], owner
        if not line.same:
            last = line
    assert found == wanted


@given(RUNS, RUNS)
def test_frames_that_have_changed_hands(first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]) -> None:
    old, new = placed(first), placed(second)
    before, after = ({n: one.domid for n, one in owners(runs).items()} for runs in (old, new))
    wanted = {number for number, domid in after.items() if before.get(number, domid) != domid}
    assert frames.moved(sample(runs=new), sample(runs=old)) == wanted


def test_a_flip_is_seen_on_the_map_for_one_look() -> None:
    with in_memory(domains=2) as xen, xen.domain(1) as giver, xen.domain(2) as taker:
        taker.memory.decrease_reservation(taker.memory.alloc())
        (ref,) = taker.memory.accept_transfer(1)
        (frame,) = giver.memory.alloc()
        looks = [sample(runs=tables.runs(pages_table(xen.machine)))]
        giver.memory.transfer([frame], 2, [ref])
        taker.memory.end_transfer([ref])
        looks += [sample(runs=tables.runs(pages_table(xen.machine))) for _ in range(2)]
        maps = [list(frames.lines(now, before)) for before, now in pairwise(looks)]
    marks = [[(line.first, line.marks.index(MOVED)) for line in lines if MOVED in line.marks] for lines in maps]
    assert marks == [[(frame - frame % WIDTH, frame % WIDTH)], []]


def test_all_about_a_frame() -> None:
    lines = (
        "1 8 2 permit_access rw 70 2 -", "1 9 0 permit_access ro 70 0 ending", "1 10 2 permit_access rw 71 0 -",
        "2 8 1 accept_transfer rw - 0 -",
    )  # fmt: skip
    grants = Grants("\n".join(("domid ref to type access frame maps state", *lines)) + "\n")
    now = sample(runs=(run(70, 1, 1, "mapped", "vbd-0-ring"), run(80, 4, 2)), grants=grants)
    assert list(frames.about(now, 70, b"a" * 40)) == [
        "frame 70 belongs to domain 1, held, ring vbd-0-ring",
        "  grant 8 to domain 2: permit_access rw, mapped 2 times",
        "  grant 9 to domain 0: permit_access ro, not mapped, ending",
        "",
        "0000  6161 6161 6161 6161 6161 6161 6161 6161  aaaaaaaaaaaaaaaa",
        "*",
        "0020  6161 6161 6161 6161                      aaaaaaaa",
    ]
    assert list(frames.about(now, 82, None)) == [
        "frame 82 belongs to domain 2, idle", "  granted to nobody", "  its content cannot be read",
    ]  # fmt: skip
    assert list(frames.about(now, 7, b"x")) == ["frame 7 belongs to nobody"]


@given(st.lists(st.sampled_from([bytes(16), b"0123456789abcdef", b"\n\x7f\xff" * 5 + b" ", b"short"]), max_size=9))
def test_a_dump_can_be_read_back(parts: list[bytes]) -> None:
    content, back = b"".join(parts), b""
    star = False
    lines = list(frames.dump(content))
    assert all(line.isprintable() for line in lines)
    for line in lines:
        if line == "*":
            star = True
            continue
        at = int(line[:4], 16)
        if star:
            back += back[-16:] * ((at - len(back)) // 16)
        assert at == len(back)
        back, star = back + bytes.fromhex(line[6:45]), False
    if star:
        back += back[-16:] * (-(-(len(content) - len(back)) // 16))
    assert back == content
