"""What there is in the naive model of a machine: a list of things, and questions answered by looking through it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from xenfs.abi.xen import DOMID_SELF
from xenfs.hypervisor import Config, Limits
from xenfs.hypervisor import errors as e

CONFIG = Config(
    frames=64,
    dom0_frames=16,
    limits=Limits(grants=5, maps=3, ports=4, handles=3),
    dom0_limits=Limits(grants=6, maps=4, ports=5, handles=4),
    slice=2,
    trace=1 << 20,
)
RARELY = 6
"""How many of 256 arguments are wild."""
DOMIDS = (1, 2, 3)
NAMES, WILD_NAME = ("vif-0-tx", "vif-0-rx", "vbd-1-ring"), "Ring"
HEAD = 16
"""Bytes at the beginning of each page that are compared."""
DOOR = (e.NoSuchDomain, e.NoSuchHandle, e.NotPermitted)
T = TypeVar("T")
Key = tuple[str, int]
Results = dict[str, int]


def no(why: type[e.HypercallError]) -> NoReturn:
    raise why("naive", "no")


@dataclass(eq=False)
class Thing:
    """What a handle owns, in the naive model: a hold, ring, grant, map or port. A domain is a number used once."""

    kind: str
    owner: int
    key: Key | None
    number: int | str = 0
    frame: int | None = None
    to: int = 0
    readonly: bool = False
    offer: bool = False
    ending: bool = False
    of: Thing | None = None
    serial: int = 0
    state: str = ""
    events: int = 0

    @property
    def at(self) -> int:
        """The frame of a thing that has one."""
        assert self.frame is not None
        return self.frame


@dataclass(eq=False)
class Things:
    """The machine as a list of things in order of age; every question is answered by looking through all of it."""

    lingering: bool = False
    owner: dict[int, int | None] = field(default_factory=lambda: dict.fromkeys(range(CONFIG.frames)))
    live: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)
    things: list[Thing] = field(default_factory=list)
    handles: dict[int, int] = field(default_factory=dict)
    closing: list[Key] = field(default_factory=list)
    balance: Counter[Key] = field(default_factory=Counter)
    heads: dict[int, bytes] = field(default_factory=dict)
    handles_made: int = 0
    resets: int = 0
    maps_made: int = 0

    def limits(self, me: int) -> Limits:
        return CONFIG.limits if me else CONFIG.dom0_limits

    def of(self, kind: str, me: int | None = None) -> list[Thing]:
        return [t for t in self.things if t.kind == kind and me in (None, t.owner)]

    def get(self, kind: str, me: int, number: int | str) -> Thing | None:
        return next((t for t in self.of(kind, me) if t.number == number), None)

    def domid(self, me: int) -> int:
        return next(n for n, who in self.live.items() if who == me)

    def open(self, me: int) -> list[int]:
        return [n for n, who in self.handles.items() if who == me and ("handle", n) not in self.closing]

    def find(self, domid: int) -> int:
        return self.live[domid] if domid in self.live else no(e.NoSuchDomain)

    def on(self, frame: int, *kinds: str) -> list[Thing]:
        return [t for t in self.things if t.frame == frame and t.kind in kinds and not t.offer]

    def held(self, frame: int) -> Thing | None:
        return next(iter(self.on(frame, "hold")), None)

    def used(self, frame: int) -> bool:
        return bool(self.on(frame, "ring", "grant", "map"))

    def owned(self, me: int) -> list[int]:
        return [f for f, who in self.owner.items() if who == me]

    def idle(self, me: int) -> list[int]:
        return [f for f in self.owned(me) if not self.used(f) and not self.held(f)]

    def free(self) -> list[int]:
        return [f for f, who in self.owner.items() if who is None]

    def maps(self, grant: Thing) -> list[Thing]:
        return [t for t in self.of("map") if t.of is grant]

    def give(self, frame: int, me: int | None) -> None:
        self.owner[frame] = me
        self.heads.pop(frame, None)

    def movable(self, me: int, frame: int) -> Thing | None:
        if self.owner.get(frame) != me:
            no(e.NotOwned)
        return no(e.FrameInUse) if self.used(frame) else self.held(frame)

    def new(
        self, kind: str, me: int, key: Key, first: int, count: int, full: type[e.HypercallError], **rest: Any
    ) -> Thing:
        number = next((n for n in range(first, first + count) if not self.get(kind, me, n)), None)
        if number is None:
            no(full)
        self.things.append(Thing(kind, me, key, number, **rest))
        return self.things[-1]

    def gone(self, thing: Thing) -> None:
        """A thing goes; a dead domain's frame that nothing keeps any more goes too."""
        self.things.remove(thing)
        frame = thing.frame
        if frame is None or thing.offer or self.used(frame) or self.held(frame):
            return
        if thing.kind == "hold" or self.owner[frame] not in self.live.values():
            self.heads.pop(frame, None)
        if self.owner[frame] not in self.live.values():
            self.owner[frame] = None

    def release(self, thing: Thing) -> None:
        if thing.kind == "grant" and self.maps(thing):
            thing.ending, thing.key = True, None
            return
        if thing.kind in ("port", "ghost") and thing.of is not None:
            thing.of.state, thing.of.of = "unbound", None
        grant = thing.of if thing.kind == "map" else None
        self.gone(thing)
        if grant is not None and grant.ending and not self.maps(grant):
            self.gone(grant)

    def closed(self, thing: Thing) -> bool:
        return thing.key in self.closing

    def go_on(self, budget: int) -> None:
        while self.closing:
            key = self.closing[0]
            while mine := [t for t in self.things if t.key == key]:
                if not budget:
                    return
                budget -= 1
                if mine[-1].kind == "map" and self.lingering and mine[-1].owner not in self.live.values():
                    mine[-1].key = None
                else:
                    self.release(mine[-1])
            while key[0] == "root" and (idle := self.idle(key[1])):
                if not budget:
                    return
                budget -= 1
                for frame in range(idle[-1], -1, -1):  # one run, the highest
                    if frame not in idle:
                        break
                    self.give(frame, None)
            self.closing.pop(0)
            self.finish(key)

    def finish(self, key: Key) -> None:
        kind, number = key
        if kind == "handle" and (me := self.handles.pop(number)) in self.live.values():
            for frame in self.idle(me)[::-1][: max(0, self.balance[key])]:
                self.give(frame, None)
            for frame in self.free()[: max(0, min(-self.balance[key], self.most[me] - len(self.owned(me))))]:
                self.give(frame, me)

    def grow(self, me: int, count: int) -> None:
        if count > len(self.free()) or len(self.owned(me)) + count > self.most[me]:
            no(e.NoFrame)
        for frame in self.free()[:count]:
            self.give(frame, me)

    def target(self, me: int, domid: int) -> int:
        if domid in (DOMID_SELF, self.domid(me)):
            return me
        return no(e.NotPermitted) if me else self.find(domid)

    def raised(self, virq: int) -> None:
        for port in self.of("port", 0):
            port.events += port.state == "virq" and port.to == virq and not self.closed(port)
