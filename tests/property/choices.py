"""Requests for a random life: mostly valid arguments drawn from what exists, rarely wild ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.property.naive import Naive
from tests.property.things import CONFIG, DOMIDS, NAMES, RARELY, WILD_NAME, T
from xenfs.abi import event_channel as ec
from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF, Virq


class Dice:
    """Bytes that choose among what there is, rarely among what is wild."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def of(self, usual: Sequence[T], wild: Sequence[T]) -> T:
        byte = next(self._left, 0)
        choices = usual if usual and byte < 256 - RARELY else wild
        return choices[byte % len(choices)]


Make = Callable[[Dice, Naive, int], Wire]
FRAMES, NUMBERS, WILD_DOMIDS = range(CONFIG.frames + 2), range(13), (*DOMIDS, 9, 0xFFFF)


def numbers(naive: Naive, kind: str, me: int, **like: Any) -> list[int]:
    return [int(t.number) for t in naive.of(kind, me) if all(getattr(t, k) == v for k, v in like.items())]


def peers(naive: Naive, kind: str, me: int, **like: Any) -> list[tuple[int, int]]:
    """(domid, number) of what all domains have for this one."""
    mine = naive.domid(me)
    return [(d, n) for d, who in naive.live.items() for n in numbers(naive, kind, who, to=mine, **like)]


def anything(naive: Naive, kind: str) -> list[tuple[int, int]]:
    return [(d, n) for d, who in naive.live.items() for n in numbers(naive, kind, who)] or [(9, 9)]


def domid(dice: Dice, naive: Naive) -> int:
    return dice.of(sorted(naive.live), WILD_DOMIDS)


def ref(dice: Dice, naive: Naive, me: int, offer: bool) -> int:
    return dice.of(numbers(naive, "grant", me, offer=offer), NUMBERS)


def a_create(dice: Dice, naive: Naive, _me: int) -> Wire:
    frames = dice.of(range(9), (50, 65))
    dom = dice.of([d for d in DOMIDS if d not in naive.live], DOMIDS)
    return op.CreateDomain(dom=dom, frames=frames, max_frames=frames + dice.of(range(1, 6), (0,)))


def a_map(dice: Dice, naive: Naive, me: int) -> Wire:
    dom, ref = dice.of(peers(naive, "grant", me, offer=False), anything(naive, "grant"))
    return gt.MapGrantRef(dom=dom, ref=ref, flags=dice.of((2, 6), (7,)))


def a_copy(dice: Dice, naive: Naive, me: int) -> Wire:
    refs = [(n, d, True) for d, n in peers(naive, "grant", me, offer=False)]
    usual = [*refs, *((f, DOMID_SELF, False) for f in naive.owned(me))]
    wild = [(0, DOMID_SELF, False), (8, 9, True), (8, 0, False), *((n, d, True) for d, n in anything(naive, "grant"))]
    (a, a_dom, a_ref), (b, b_dom, b_ref) = dice.of(usual, wild), dice.of(usual, wild)
    a_at, b_at = dice.of((0, 4, 8), (4093,)), dice.of((0, 4, 8), (4093,))
    return gt.Copy(
        source=a,
        source_domid=a_dom,
        source_offset=a_at,
        dest=b,
        dest_domid=b_dom,
        dest_offset=b_at,
        len=dice.of((8, 4), (0,)),
        flags=a_ref | b_ref << 1,
    )


def a_transfer(dice: Dice, naive: Naive, me: int) -> Wire:
    still = [f for f in naive.owned(me) if not naive.used(f)]
    dom, ref = dice.of(peers(naive, "grant", me, offer=True), anything(naive, "grant"))
    return gt.Transfer(mfn=dice.of(still, FRAMES), domid=dom, ref=ref)


def a_bind(dice: Dice, naive: Naive, me: int) -> Wire:
    dom, port = dice.of(peers(naive, "port", me, state="unbound"), anything(naive, "port"))
    return ec.BindInterdomain(remote_dom=dom, remote_port=port)


LIVES: dict[str, Make] = {
    "create": a_create,
    "destroy": lambda d, n, _: op.DestroyDomain(dom=d.of([x for x in n.live if x], (0, 1, 9))),
    "open": lambda *_: op.OpenHandle(),
    "close": lambda d, n, me: op.CloseHandle(handle=d.of(n.open(me), NUMBERS)),
    "reap": lambda d, *_: op.Reap(budget=d.of((1, 2, 3, 0), (50,))),
}
MEMORY: dict[str, Make] = {
    "alloc": lambda *_: op.AllocFrame(),
    "free": lambda d, n, me: op.FreeFrame(
        frame=d.of([f for f in n.owned(me) if n.held(f)], FRAMES), flags=d.of((0, 0, 1), (0,))
    ),
    "increase": lambda *_: op.IncreaseReservation(),
    "decrease": lambda d, n, me: op.DecreaseReservation(frame=d.of(n.owned(me), FRAMES)),
    "memory": lambda d, n, _: op.SetMemory(dom=d.of((DOMID_SELF, *n.live), (9,)), frames=d.of(range(14), (40, 65))),
    "most": lambda d, n, _: op.SetMaxMemory(dom=domid(d, n), frames=d.of(range(4, 20), (0, 64))),
    "name": lambda d, n, me: op.NameRing(frame=d.of(n.owned(me), FRAMES), name=d.of(NAMES, (WILD_NAME,))),
    "unname": lambda d, n, me: op.UnnameRing(name=d.of([str(t.number) for t in n.of("ring", me)], NAMES)),
}
GRANTS: dict[str, Make] = {
    "grant": lambda d, n, me: op.GrantAccess(
        frame=d.of(n.owned(me), FRAMES), dom=domid(d, n), flags=d.of((0, 4), (1,))
    ),
    "end": lambda d, n, me: op.EndAccess(ref=ref(d, n, me, False), flags=d.of((0, 1), (0,))),
    "map": a_map,
    "unmap": lambda d, n, me: gt.UnmapGrantRef(handle=d.of(numbers(n, "map", me), NUMBERS)),
    "release": lambda d, n, _: op.ReleaseMapping(mapping=d.of([t.serial for t in n.of("map")], NUMBERS)),
    "copy": a_copy,
}
FLIPS: dict[str, Make] = {
    "accept": lambda d, n, _: op.AcceptTransfer(dom=domid(d, n)),
    "transfer": a_transfer,
    "end": lambda d, n, me: op.EndTransfer(ref=ref(d, n, me, True)),
}
EVENTS: dict[str, Make] = {
    "unbound": lambda d, n, _: ec.AllocUnbound(dom=d.of((DOMID_SELF,), WILD_DOMIDS), remote_dom=domid(d, n)),
    "bind": a_bind,
    "virq": lambda d, *_: ec.BindVirq(virq=d.of((Virq.TIMER, Virq.DOM_EXC, Virq.ARGO), (24,))),
    "ipi": lambda *_: ec.BindIpi(),
    "send": lambda d, n, me: ec.Send(port=d.of(numbers(n, "port", me), NUMBERS)),
    "close": lambda d, n, me: ec.Close(port=d.of(numbers(n, "port", me), NUMBERS)),
    "reset": lambda d, *_: ec.Reset(dom=d.of((DOMID_SELF,), (1, 9))),
}
DICE = st.binary(min_size=10, max_size=10).map(Dice)
