"""The network: two guests, each behind a netfront, two rings and a netback, on one bridge of the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from xenfs.abi.stats import Stats
from xl.demo.show import Failed, Show

GUESTS = {"alpha": 1, "beta": 2}
_PORT = "7000"
_POUR = (sys.executable, "-m", "xl.demo.pour")


@dataclass(frozen=True, slots=True)
class Poured:
    """A transfer as its two ends saw it."""

    size: int
    seconds: float
    same: bool

    def __str__(self) -> str:
        verdict = "checksums are equal" if self.same else "CHECKSUMS DIFFER"
        rate = self.size * 8 / self.seconds / 1e9
        return f"{self.size >> 20} MiB in {self.seconds:.2f} s, {rate:.2f} Gbit/s; {verdict}"


def pour(show: Show, mebibytes: int, *, during: threading.Event | None = None) -> Poured:
    """Send from alpha to beta. `during` is set as soon as it has begun. Raises Failed."""
    show.typed(f"xenfs exec alpha -- serve {mebibytes} MiB &  xenfs exec beta -- fetch 10.40.0.1")
    server = show.start("xenfs", "exec", "alpha", "--", *_POUR, "serve", _PORT, str(mebibytes), quiet=True)
    try:
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise Failed("the server in alpha did not start")
        if during is not None:
            during.set()
        fetched = show.run("xenfs", "exec", "beta", "--", *_POUR, "fetch", "10.40.0.1", _PORT, quiet=True).split()
        served = server.stdout.read().split()
        server.wait(10)
    finally:
        server.kill()
        server.communicate()
    if len(fetched) != 3 or len(served) != 3:
        raise Failed("the transfer did not come to its end")
    poured = Poured(int(fetched[0]), float(fetched[1]), (fetched[0], fetched[2]) == (served[0], served[2]))
    show.printed(str(poured))
    if not poured.same:
        raise Failed("the bytes that came are not those that were sent")
    return poured


_ROWS: tuple[tuple[str, Callable[[Stats], int]], ...] = (
    ("packets to the TAP", lambda said: said.units_in),
    ("packets from the TAP", lambda said: said.units_out),
    ("MiB to the TAP", lambda said: said.bytes_in >> 20),
    ("MiB from the TAP", lambda said: said.bytes_out >> 20),
    ("ring entries asked", lambda said: said.requests),
    ("ring entries answered", lambda said: said.responses),
    ("events sent", lambda said: said.events_sent),
    ("events heard", lambda said: said.events_received),
    ("packets dropped", lambda said: sum(getattr(said, name) for name in Stats.__slots__ if name[:5] == "drop_")),
    ("connections", lambda said: said.reconnects),
)


def summary(show: Show) -> None:
    """What each driver has counted."""
    table = Table(title="what each driver has counted since it was started", title_justify="left")
    table.add_column("")
    pages = []
    for name, domid in GUESTS.items():
        for role, where, page in (("netfront", domid, "vif-0-stats"), ("netback", 0, f"vif-{domid}-0-stats")):
            table.add_column(f"{role}\nof {name}", justify="right")
            pages.append(show.stats(where, page))
    for what, of in _ROWS:
        table.add_row(what, *(f"{of(said):,}" for said in pages))
    show.console.print(table)


def _flipping(show: Show, mebibytes: int) -> None:
    """The same transfer with pages that change hands, and whose they are."""
    show.title("receive by page flipping: the page with the packet becomes the guest's")
    before = show.owned()
    show.run("xenfs", "network-detach", "beta", "0")
    show.run("xenfs", "network-attach", "beta", "mac=00:16:3e:00:00:02,bridge=xenbr0,rx=flip")
    setup = "ip address add 10.40.0.2/24 dev eth0; ip link set eth0 up"
    show.run("xenfs", "exec", "beta", "--", "sh", "-c", setup)
    show.say("netfront has given pages back to the hypervisor, and offers to take others (in flight):")
    show.typed("cat $XEN/hypervisor/frames")
    show.printed(Path(show.point, "hypervisor/frames").read_text())
    _while_it_goes_on(show, mebibytes)
    show.say("\neach page that came, as the hypervisor saw it:")
    show.typed("grep -E 'transfer' $XEN/hypervisor/trace | tail -3")
    lines = Path(show.point, "hypervisor/trace").read_text().splitlines()
    show.printed("\n".join([line for line in lines if "transfer" in line][-3:]))
    flipped = show.stats(GUESTS["beta"], "vif-0-stats").pages_flipped
    show.say(
        f"{flipped:,} pages have changed hands; now the card is taken away again, and the counts are where they were"
    )
    show.run("xenfs", "network-detach", "beta", "0")
    after = show.owned()
    show.printed("\n".join(f"domain {domid} owns {frames} frames, as before" for domid, frames in after.items()))
    if after != before:
        raise Failed(f"the domains owned {before} and own {after}")
    if not flipped:
        raise Failed("no page was flipped")


def _while_it_goes_on(show: Show, mebibytes: int) -> None:
    """A transfer, the frames in the middle of it, and a netback killed."""
    begun, over = threading.Event(), threading.Event()
    shown: list[str] = []

    def moved() -> int:
        return show.stats(GUESTS["beta"], "vif-0-stats").bytes_in

    def look() -> None:
        before = moved()
        if begun.wait(30):
            deadline = time.monotonic() + 30
            while moved() - before < mebibytes << 18 and time.monotonic() < deadline and not over.is_set():
                over.wait(0.02)
            shown.append(Path(show.point, "hypervisor/frames").read_text())

    looker = threading.Thread(target=look)
    looker.start()
    try:
        pour(show, mebibytes, during=begun)
    finally:
        over.set()
        begun.set()
        looker.join()
    show.say("\nmeanwhile, in the middle of it:")
    show.typed("cat $XEN/hypervisor/frames")
    show.printed(shown[0] if shown else "")


def _killed(show: Show, mebibytes: int) -> None:
    show.title("kill -9 of alpha's netback in the middle of a transfer")
    before = show.stats(0, "vif-1-0-stats").pid
    begun = threading.Event()

    def kill() -> None:
        if begun.wait(30):
            os.kill(before, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    pour(show, mebibytes, during=begun)
    killer.join()
    after = show.stats(0, "vif-1-0-stats").pid
    show.say(f"netback was process {before} and is process {after}; the guests saw no more than a pause")
    if after == before:
        raise Failed("netback was not killed")


def perform(show: Show, mebibytes: int) -> None:
    """Everything until the guests are ended. Raises Failed."""
    show.title("two guests, each with a network card")
    show.printed((Path(__file__).parents[1] / "examples" / "alpha.cfg").read_text())
    for name in GUESTS:
        show.create(name)
    show.run("xenfs", "list")
    show.run("xenfs", "network-list", *GUESTS)
    show.title("netfront's card in the guest, netback's end on the host's bridge")
    show.run("xenfs", "exec", "alpha", "--", "ip", "-br", "address", "show", "eth0")
    show.run("ip", "-br", "link", "show", "master", "xenbr0")
    show.title("ping, through two rings, a bridge and two more rings")
    show.run("xenfs", "exec", "alpha", "--", "ping", "-q", "-c", "200", "-i", "0.01", "-W", "5", "10.40.0.2")
    show.title("TCP")
    _while_it_goes_on(show, mebibytes)
    show.title("the rings and grants are files")
    show.typed("cd $XEN/domains/1; ls -l rings; ls grants | wc -l; cat grants/8/info")
    home = str(Path(show.point, "domains", "1"))
    listed = subprocess.run(
        ["bash", "-c", "ls -l rings; ls grants | wc -l; cat grants/8/info"],
        cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    show.printed(listed.stdout)
    show.run("xenfs", "ring", "1", "vif-0-tx")
    _killed(show, mebibytes)
    show.title("what it was")
    summary(show)
    _flipping(show, max(1, mebibytes // 8))


def afterwards(show: Show) -> None:
    """The guests have been ended: every count is back. Raises Failed."""
    show.title("the guests destroyed")
    after = show.frames("after")
    if after != show.before:
        raise Failed("frames, grants or mappings are left over")
    show.say("every count is back where it was: nothing is left")
