"""What there is today, in a few seconds: a ring between two processes, event channels and flipped pages on a mount.

The backend is a process of its own that enters domain 0; the frontend, here, enters a guest. Without a mount
(`--in-process`) both are threads on a machine in memory, by the very same functions.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.table import Table

from xenfs.abi.grant_table import GntStatus
from xenfs.abi.ring import RingFormat
from xenfs.abi.xen import PAGE_SIZE
from xenfs.commands.checks import obstacle
from xenfs.commands.failure import Unable, command
from xenfs.domain import BareDomain
from xenfs.ring import BackRing, FrontRing

ECHO = RingFormat("echo", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
"""The entry layout of a netif transmit ring: gref, offset, flags, id, size; answered by id, status."""
DEADLINE = 10.0
RING = "echo-0-tx"


@dataclass(frozen=True, slots=True)
class Echoed:
    """What the ring carried."""

    requests: int
    seconds: float
    wakeups: int


class Stage(Protocol):
    """Where the demonstration takes place: two domains, and a way to have the backend work beside us."""

    @property
    def front(self) -> BareDomain:
        """The guest."""

    @property
    def back(self) -> BareDomain:
        """Domain 0."""

    def frames(self) -> str:
        """The text of hypervisor/frames."""

    def look(self) -> list[str]:
        """What of the ring can be looked at."""

    def trace(self) -> list[str]:
        """The last hypercalls."""

    def backend(self, ref: int, port: int, requests: int) -> AbstractContextManager[None]:
        """Have the backend answer so many requests; ends when it has."""


def frames(stage: Stage, title: str) -> Table:
    """Who owns what, as a table."""
    head, *lines, total = stage.frames().splitlines()
    columns = head.split()
    table = Table(title=title, title_justify="left", caption=total, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("domid", "state", "name") else "right")
    for line in lines:
        table.add_row(*line.split(None, len(columns) - 1))
    return table


def backend(domain: BareDomain, front_domid: int, ref: int, port: int, requests: int) -> None:
    """Map the ring and answer every request."""
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


def frontend(stage: Stage, console: Console, requests: int) -> Echoed:
    """Make the ring, grant it, send requests and count the answers."""
    domain = stage.front
    (frame,) = domain.memory.alloc()
    (ref,) = domain.memory.grant([frame], stage.back.domid)
    domain.memory.name_ring(RING, frame)
    with domain.memory.view([frame]) as page, domain.events.alloc_unbound(stage.back.domid) as channel:
        ring = FrontRing(page, ECHO)
        with stage.backend(ref, channel.port, requests):
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
        ring.release()
        for line in stage.look():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    domain.memory.unname_ring(RING)
    domain.memory.end_access([ref])
    domain.memory.free([frame])
    return Echoed(requests, seconds, wakeups)


def flip(stage: Stage, console: Console, pages: int) -> None:
    """Receive by page flipping: the taker gives pages back and posts offers, the giver hands filled pages over."""
    giver, taker = stage.back, stage.front
    spare = taker.memory.alloc(pages)
    taker.memory.decrease_reservation(spare)
    refs = taker.memory.accept_transfer(giver.domid, pages)
    console.print(frames(stage, f"the guest gave {pages} pages back and accepts {pages} transfers"))
    filled = giver.memory.increase_reservation(pages)
    with giver.memory.view(filled) as view:
        for i in range(pages):
            view[i * PAGE_SIZE : i * PAGE_SIZE + 16] = f"packet {i:<9}".encode()
    statuses = giver.memory.transfer(filled, taker.domid, refs)
    arrived = [frame for frame in taker.memory.end_transfer(refs) if frame is not None]
    with taker.memory.view(arrived) as view:
        texts = [bytes(view[i * PAGE_SIZE : i * PAGE_SIZE + 16]).decode().strip() for i in range(len(arrived))]
    okay = statuses.count(GntStatus.okay)
    console.print(f"flipped {okay} of {pages} pages; domain {taker.domid} reads: {texts[0]} … {texts[-1]}\n")
    taker.memory.free(arrived)


class Mounted:
    """On the mount at $XEN."""

    def __init__(self, root: Path, front: BareDomain, back: BareDomain) -> None:
        """Take the two domains."""
        self._root, self.front, self.back = root, front, back

    def frames(self) -> str:
        """See Stage."""
        return (self._root / "hypervisor" / "frames").read_text()

    def look(self) -> list[str]:
        """See Stage."""
        home = self._root / "domains" / str(self.front.domid)
        found = subprocess.run(
            ["ls", "-lR", "grants", "rings", "evtchn"], cwd=home, capture_output=True, text=True, check=True
        )
        return [f"$ cd $XEN/domains/{self.front.domid}; ls -lR grants rings evtchn", *found.stdout.splitlines()]

    def trace(self) -> list[str]:
        """See Stage."""
        return (self._root / "hypervisor" / "trace").read_text().splitlines()[-3:]

    @contextmanager
    def backend(self, ref: int, port: int, requests: int) -> Iterator[None]:
        """See Stage: a process of its own."""
        words = [str(number) for number in (self.front.domid, ref, port, requests)]
        process = subprocess.Popen([sys.executable, "-m", "xenfs.demo", *words])
        try:
            yield
            if process.wait(DEADLINE):
                raise RuntimeError("the backend failed")
        finally:
            process.kill()
            process.wait()


class InProcess:
    """On a machine in memory."""

    def __init__(self) -> None:
        """Make the machine with its guest."""
        from xenfs.domain.inprocess import InProcessXen

        self.xen = InProcessXen(clock=time.time_ns)
        self.back, self.front = self.xen.domain(0), self.xen.domain(self.xen.create_domain("guest"))

    def frames(self) -> str:
        """See Stage."""
        from xenfs.hypervisor.snapshot import frames_table

        return frames_table(self.xen.machine)

    def look(self) -> list[str]:
        """See Stage: there are no files."""
        return []

    def trace(self) -> list[str]:
        """See Stage."""
        return [record.line() for record in self.xen.machine.trace.since(self.xen.machine.trace.last - 3)[1]]

    @contextmanager
    def backend(self, ref: int, port: int, requests: int) -> Iterator[None]:
        """See Stage: a thread."""
        words = (self.back, self.front.domid, ref, port, requests)
        server = threading.Thread(target=backend, args=words, daemon=True)
        server.start()
        yield
        server.join(DEADLINE)

    def close(self) -> None:
        """End the machine; raises when anything is still held."""
        from xenfs.testing import assert_clean

        self.front.close()
        self.back.close()
        assert_clean(self.xen)
        self.xen.close()


def perform(stage: Stage, console: Console, requests: int, pages: int) -> None:
    """The demonstration itself."""
    console.print(frames(stage, "domain 0, which has the backend, and a guest, which has the frontend"))
    echoed = frontend(stage, console, requests)
    rate = echoed.requests / echoed.seconds
    console.print(
        f"\n{echoed.requests} requests through one shared page in {echoed.seconds:.2f} s, {rate:,.0f} a second;"
        f" the frontend slept {echoed.wakeups} times\n"
    )
    flip(stage, console, pages)
    console.print(frames(stage, "every count is back where it was"))
    console.print("\n[bold]the last hypercalls[/bold]")
    for line in stage.trace():
        console.print(line, soft_wrap=True, markup=False, highlight=False)


@command("demo-ring")
def demo(
    requests: Annotated[int, typer.Option(help="Requests to send through the ring.", min=1)] = 200_000,
    pages: Annotated[int, typer.Option(help="Pages to flip.", min=1, max=512)] = 64,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without a mount: on a machine in memory.")] = False,
) -> None:
    """Show the machine at work: a ring between two processes, and page flipping. On a mount of its own, or at $XEN."""
    console = Console()
    if in_process:
        stage = InProcess()
        perform(stage, console, requests, pages)
        stage.close()
        console.print("\nboth domains closed; nothing is left in use")
    elif "XEN" not in os.environ:
        if problem := obstacle():
            raise Unable(f"{problem}; or try xenfs demo-ring --in-process, which needs no mount")
        xenfs = [sys.executable, "-m", "xenfs"]
        own = [*xenfs, "demo-ring", "--requests", str(requests), "--pages", str(pages)]
        os.execv(sys.executable, [*xenfs, "run", "--", *own])
    else:
        on_mount(Path(os.environ["XEN"]), console, requests, pages)


def on_mount(root: Path, console: Console, requests: int, pages: int) -> None:
    """Make a guest on the mount, perform, and end it."""
    from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
    from xenfs.domain.mounted import MountedDomain

    with MountedDomain(0, root) as back:
        domid = back.call(CreateDomain(name="demo")).domid
        try:
            with MountedDomain(domid, root) as front:
                perform(Mounted(root, front, back), console, requests, pages)
        finally:
            back.call(DestroyDomain(dom=domid))


def main(front_domid: int, ref: int, port: int, requests: int) -> None:
    """The backend, as a process of its own."""
    from xenfs.domain.mounted import MountedDomain

    with MountedDomain(0, os.environ["XEN"]) as domain:
        backend(domain, front_domid, ref, port, requests)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
