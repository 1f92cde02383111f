"""Our rings against the macros of xen/io/ring.h: one script on three pages, which must stay equal byte for byte.

page 1   frontend in Python, backend in C
page 2   frontend in C, backend in Python
page 3   both in C
"""

from __future__ import annotations

import itertools
import mmap
import random
import select
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.need import need_header, need_tool
from xenfs.abi.ring import RingFormat, u32
from xenfs.ring import BackRing, FrontRing

SOURCE = Path(__file__).with_name("ring_peer.c")
TOP = 1 << 32
FORMATS = [
    RingFormat("net_tx", struct.Struct("<IHHHH"), struct.Struct("<Hh")),
    RingFormat("net_rx", struct.Struct("<HHI"), struct.Struct("<HHHh")),
    RingFormat("blk", struct.Struct("<112s"), struct.Struct("<16s")),
    RingFormat("urb", struct.Struct("<148s"), struct.Struct("<16s")),
]


class End(Protocol):
    """What both languages can be told to do."""

    def put(self, entries: list[bytes]) -> int: ...
    def publish(self) -> bool: ...
    def take(self, limit: int) -> list[bytes]: ...
    def check(self) -> bool: ...
    def event(self, count: int) -> bool: ...


class PythonEnd:
    def __init__(self, ring: FrontRing | BackRing) -> None:
        self.ring, self.slots = ring, ring.slots

    def put(self, entries: list[bytes]) -> int:
        ring = self.ring
        if isinstance(ring, FrontRing):
            unpack = ring.layout.request.unpack
            one, many = ring.push, ring.push_many
        else:
            unpack = ring.layout.response.unpack
            one, many = ring.respond, ring.respond_many
        rows = [unpack(entry) for entry in entries]
        if len(rows) % 2:
            many(rows)
        else:
            for row in rows:
                one(*row)
        return ring.free if isinstance(ring, FrontRing) else ring.unanswered

    def publish(self) -> bool:
        return self.ring.publish()

    def take(self, limit: int) -> list[bytes]:
        layout = self.ring.layout
        codec = layout.response if isinstance(self.ring, FrontRing) else layout.request
        return [codec.pack(*row) for row in self.ring.take(limit)]

    def check(self) -> bool:
        return self.ring.final_check()

    def event(self, count: int) -> bool:
        return self.ring.request_event(count)


class CEnd:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.slots = int(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 30)[0], "ring_peer does not answer"
        line = self.process.stdout.readline()
        assert line.endswith("\n"), f"ring_peer ended: {self.process.poll()}"
        return line.strip()

    def _ask(self, *words: object) -> str:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self._answer()

    def put(self, entries: list[bytes]) -> int:
        return int(self._ask("put", *(entry.hex() for entry in entries)))

    def publish(self) -> bool:
        return self._ask("publish") == "1"

    def take(self, limit: int) -> list[bytes]:
        answer = self._ask("take", limit)
        return [] if answer == "-" else [bytes.fromhex(word) for word in answer.split()]

    def check(self) -> bool:
        return self._ask("check") == "1"

    def event(self, count: int) -> bool:
        return self._ask("event", count) == "1"


@pytest.fixture(scope="session")
def ring_peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled against the installed headers."""
    compiler = need_tool("gcc", "gcc")
    need_header("xen/io/ring.h", "libxen-dev")
    program = tmp_path_factory.mktemp("ring_peer") / "ring_peer"
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-D__XEN_INTERFACE_VERSION__=0x00040e00"]
    subprocess.run([*command, "-o", str(program), str(SOURCE)], check=True, timeout=100)
    return program


@contextmanager
def end_in_c(program: Path, side: str, path: Path, layout: RingFormat, start: int) -> Iterator[CEnd]:
    command = [str(program), side, layout.name, str(path), str(path.stat().st_size), str(start)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield CEnd(process)
        finally:
            process.kill()
            process.wait(30)


@contextmanager
def end_in_python(side: str, view: memoryview, layout: RingFormat, start: int) -> Iterator[PythonEnd]:
    with FrontRing(view, layout, start=start) if side == "front" else BackRing(view, layout, start=start) as ring:
        yield PythonEnd(ring)


class Pages:
    """The three pages with the six ends on them, equal from the first byte on."""

    def __init__(
        self, stack: ExitStack, program: Path, layout: RingFormat, where: Path, start: int, pages: int
    ) -> None:
        self.slots = layout.slots(4096 * pages)
        self.views: list[memoryview] = []
        self.ends: dict[str, list[End]] = {"front": [], "back": []}
        noise = random.Random(start).randbytes(4096 * pages)
        for number, languages in enumerate((("python", "c"), ("c", "python"), ("c", "c"))):
            path = where / f"page{number}"
            path.write_bytes(noise)
            with path.open("r+b") as file:
                view = stack.enter_context(memoryview(stack.enter_context(mmap.mmap(file.fileno(), 0))))
            self.views.append(view)
            for side, language in zip(("front", "back"), languages, strict=True):
                end: PythonEnd | CEnd
                if language == "python":
                    end = stack.enter_context(end_in_python(side, view, layout, start))
                else:
                    end = stack.enter_context(end_in_c(program, side, path, layout, start))
                assert end.slots == self.slots
                self.ends[side].append(end)
        self.assert_equal()

    def assert_equal(self) -> None:
        first, *others = (bytes(view) for view in self.views)
        for other in others:
            if other != first:
                at = next(at for at in range(len(first)) if first[at] != other[at])
                pytest.fail(f"pages differ from byte {at}: {first[at : at + 16].hex()}, {other[at : at + 16].hex()}")


class Script:
    """Random actions, each on the same end of all three pages; counts what was moved and keeps the flags met."""

    def __init__(self, pages: Pages, layout: RingFormat, chance: random.Random) -> None:
        self.pages, self.chance = pages, chance
        self.size = {"front": layout.request.size, "back": layout.response.size}
        self.room = {"front": pages.slots, "back": 0}
        self.taken = {"front": 0, "back": 0}
        self.met: set[tuple[str, str, bool]] = set()

    def step(self) -> None:
        side = self.chance.choice(("front", "back"))
        action = self.chance.choice((self.put, self.put, self.flag, self.flag, self.flag, self.take, self.take))
        answers = action(side, self.pages.ends[side])
        assert answers[0] == answers[1] == answers[2], (side, action)
        self.pages.assert_equal()

    def put(self, side: str, ends: list[End]) -> list[int]:
        few = min(self.room[side], self.chance.randrange(1, 40))
        count = self.room[side] if self.chance.random() < 0.1 else self.chance.randint(0, few)
        entries = [self.chance.randbytes(self.size[side]) for _ in range(count)]
        rooms = [end.put(entries) for end in ends]
        self.room[side] -= count
        assert rooms[0] == self.room[side]
        return rooms

    def take(self, side: str, ends: list[End]) -> list[list[bytes]]:
        limit = self.chance.choice((1, 5, 10_000))
        taken = [end.take(limit) for end in ends]
        self.room[side] += len(taken[0])
        self.taken[side] += len(taken[0])
        return taken

    def flag(self, side: str, ends: list[End]) -> list[bool]:
        verb, count = self.chance.choice(("publish", "check", "event")), self.chance.randint(1, 12)
        if verb == "publish":
            flags = [end.publish() for end in ends]
        elif verb == "check":
            flags = [end.check() for end in ends]
        else:
            flags = [end.event(count) for end in ends]
        self.met.add((side, verb, flags[0]))
        return flags


@pytest.mark.parametrize(
    ("layout", "pages"), [*((f, 1) for f in FORMATS), (FORMATS[2], 4)], ids=lambda v: getattr(v, "name", v)
)
def test_python_and_c_make_the_same_pages(ring_peer: Path, tmp_path: Path, layout: RingFormat, pages: int) -> None:
    start, wanted = TOP - 1000, 8000
    with ExitStack() as stack:
        three = Pages(stack, ring_peer, layout, tmp_path, start, pages)
        script = Script(three, layout, random.Random(f"{layout.name} {pages}"))
        while script.taken["front"] < wanted:
            script.step()
        req_prod, _, rsp_prod, _ = struct.unpack_from("<4I", three.views[0])
    assert u32(rsp_prod - start) >= wanted
    assert u32(req_prod - rsp_prod) <= three.slots
    every = itertools.product(("front", "back"), ("publish", "check", "event"), (False, True))
    assert script.met == set(every)
