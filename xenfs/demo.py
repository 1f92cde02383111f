"""What there is today, in ten seconds: two domains, a ring, event channels and flipped pages on a machine in memory."""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from xenfs.abi.grant_table import GntStatus
from xenfs.abi.ring import RingFormat
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Domain
from xenfs.ring import BackRing, FrontRing

if TYPE_CHECKING:
    from xenfs.domain.inprocess import InProcessXen

ECHO = RingFormat("echo", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
"""The entry layout of a netif transmit ring: gref, offset, flags, id, size; answered by id, status."""
DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Echoed:
    """What the ring carried."""

    requests: int
    seconds: float
    wakeups: int


def frames(xen: InProcessXen, title: str) -> Table:
    """Who owns what, as a table."""
    from xenfs.hypervisor.snapshot import counts

    table = Table(title=title, title_justify="left")
    for column in ("domain", "owned", "granted", "mapped", "in flight"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for domid, domain in sorted(xen.machine.state.domains.items()):
        c = counts(domain)
        table.add_row(f"{domid} {domain.name}", str(c.owned), str(c.granted), str(c.mapped), str(c.in_flight))
    table.add_row("free", str(len(xen.machine.state.free)), "", "", "")
    return table


def publish(front: Domain, back: Domain) -> None:
    """The toolstack's part: tell each end where the other is."""
    front.store.mkdir("device/echo/0")
    front.store.chmod("device/echo/0", [f"n{front.domid}", f"r{back.domid}"])
    front.store.write("device/echo/0/backend-id", str(back.domid))
    front.store.write("device/echo/0/state", "1")


def backend(domain: Domain, front_domid: int, requests: int) -> None:
    """Find the ring through the store, map it, and answer every request."""
    home = f"/local/domain/{front_domid}/device/echo/0"
    watch = domain.store.watch(f"{home}/state")
    while domain.store.read(f"{home}/state") != b"4":
        if watch.wait(DEADLINE) is None:
            raise TimeoutError("the frontend never connected")
    watch.close()
    ref, port = (int(domain.store.read(f"{home}/{key}")) for key in ("ring-ref", "event-channel"))
    with (
        domain.memory.map(front_domid, [ref]) as page,
        domain.events.bind_interdomain(front_domid, port) as channel,
        BackRing(page, ECHO) as ring,
    ):
        answered = 0
        while answered < requests:
            batch = ring.take()
            if batch:
                ring.respond_many([(ident, 0) for _, _, _, ident, _ in batch])
                answered += len(batch)
                if ring.publish():
                    channel.notify()
            elif not ring.final_check() and not channel.wait(DEADLINE):
                raise TimeoutError("the frontend went silent")


def frontend(domain: Domain, back: Domain, requests: int) -> Echoed:
    """Make the ring, offer it through the store, send requests and count the answers."""
    (frame,) = domain.memory.alloc()
    (ref,) = domain.memory.grant([frame], back.domid)
    domain.memory.name_ring("echo-0-tx", frame)
    with domain.memory.view([frame]) as page, domain.events.alloc_unbound(back.domid) as channel:
        ring = FrontRing(page, ECHO)
        for transaction in domain.store.transaction():
            with transaction as t:
                t.write("device/echo/0/ring-ref", str(ref))
                t.write("device/echo/0/event-channel", str(channel.port))
        server = threading.Thread(target=backend, args=(back, domain.domid, requests), daemon=True)
        server.start()
        domain.store.write("device/echo/0/state", "4")
        sent = done = wakeups = 0
        began = time.perf_counter()
        while done < requests:
            batch = min(ring.free, requests - sent)
            ring.push_many([(ref, 0, 0, i & 0xFFFF, 64) for i in range(sent, sent + batch)])
            sent += batch
            if ring.publish():
                channel.notify()
            answers = ring.take()
            done += len(answers)
            if not answers and not ring.final_check():
                wakeups += 1
                if not channel.wait(DEADLINE):
                    raise TimeoutError("the backend went silent")
        seconds = time.perf_counter() - began
        server.join()
        ring.release()
    domain.memory.unname_ring("echo-0-tx")
    domain.memory.end_access([ref])
    domain.memory.free([frame])
    return Echoed(requests, seconds, wakeups)


def flip(xen: InProcessXen, console: Console, giver: Domain, taker: Domain, pages: int) -> None:
    """Receive by page flipping: the taker gives pages back and posts offers, the giver hands filled pages over."""
    spare = taker.memory.alloc(pages)
    taker.memory.decrease_reservation(spare)
    refs = taker.memory.accept_transfer(giver.domid, pages)
    console.print(frames(xen, f"domain {taker.domid} gave {pages} pages back and accepts {pages} transfers"))
    filled = giver.memory.increase_reservation(pages)
    with giver.memory.view(filled) as view:
        for i in range(pages):
            view[i * PAGE_SIZE : i * PAGE_SIZE + 16] = f"packet {i:<9}".encode()
        statuses = giver.memory.transfer(filled, taker.domid, refs)
        stale = bytes(view[:9])
    arrived = [frame for frame in taker.memory.end_transfer(refs) if frame is not None]
    with taker.memory.view(arrived) as view:
        texts = [bytes(view[i * PAGE_SIZE : i * PAGE_SIZE + 16]).decode().strip() for i in range(len(arrived))]
    okay = statuses.count(GntStatus.okay)
    console.print(f"flipped {okay} of {pages} pages; domain {taker.domid} reads: {texts[0]} … {texts[-1]}")
    console.print(f"the former owner's mapping reads {stale!r}\n")
    taker.memory.free(arrived)


def demo(
    requests: Annotated[int, typer.Option(help="Requests to send through the ring.", min=1)] = 200_000,
    pages: Annotated[int, typer.Option(help="Pages to flip.", min=1, max=512)] = 64,
) -> None:
    """Show the machine at work: a ring between two domains, and page flipping."""
    # here and not above: every other command would wait for the import
    from xenfs.domain.inprocess import InProcessXen
    from xenfs.testing import assert_clean

    console = Console()
    with InProcessXen(clock=time.time_ns) as xen:
        with xen.domain(0) as back, xen.domain(xen.create_domain("guest")) as front:
            console.print(frames(xen, "domain 0, which has the backend, and a guest, which has the frontend"))
            publish(front, back)
            echoed = frontend(front, back, requests)
            rate = echoed.requests / echoed.seconds
            console.print(
                f"\n{echoed.requests} requests through one shared page in {echoed.seconds:.2f} s, {rate:,.0f} a second;"
                f" the frontend slept {echoed.wakeups} times\n"
            )
            flip(xen, console, back, front, pages)
            console.print(frames(xen, "every count is back where it was"))
            console.print("\n[bold]the last hypercalls[/bold]")
            for record in xen.machine.trace.since(xen.machine.trace.last - 3)[1]:
                console.print(record.line(), soft_wrap=True, markup=False, highlight=False)
        assert_clean(xen)
        console.print("\nboth domains closed; nothing is left in use")
