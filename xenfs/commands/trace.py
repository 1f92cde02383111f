"""xenfs trace: the hypercalls of a machine, and what is done with its store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from xenfs.commands.capture import capture
from xenfs.commands.child import stream
from xenfs.commands.escapes import plain
from xenfs.commands.failure import Unable, command
from xenfs.commands.machine import frames, within
from xenfs.commands.place import GONE, served
from xenfs.hypervisor import text
from xenfs.hypervisor.trace import Failure, Record
from xenfs.xenstore.operation import PREFIX


def _of_store(said: dict[str, Any]) -> str:
    """A line for people, which no terminal obeys: time, domain, the operation with its arguments, the result."""
    moment = datetime.fromtimestamp(said["time"] / 1e9)
    words = "".join(f" {name}={value if name == 'path' else repr(value)}" for name, value in said["in"].items())
    gave = "".join(f" {name}={value}" for name, value in said.get("out", {}).items())
    result = f"{said['error']} {said['text']}" if "error" in said else f"ok{gave}"
    line = f"{moment:%H:%M:%S.%f}  {said['domid']:>5}  {said['op']}{words} → {result}"
    return plain(line)


def readable(said: dict[str, Any]) -> str:
    """A line for people: time, domain, the call with its arguments, the result."""
    if "lost" in said:
        return f"({said['lost']} calls lost)"
    if said["op"].startswith(PREFIX):
        return _of_store(said)
    record = Record.parse(json.dumps(said))
    moment = datetime.fromtimestamp(record.time / 1e9)
    answer = record.answer
    result = text.refusal(answer).removeprefix("error ") if isinstance(answer, Failure) else text.answer(answer)
    return f"{moment:%H:%M:%S.%f}  {record.domid:>5}  {text.emit(record.request)} → {result}"


def shown(line: str, domid: int | None, as_json: bool) -> str | None:
    """What is printed for a line of the trace, None when it is about another domain."""
    said = json.loads(line)
    if domid is not None and said.get("domid", domid) != domid:
        return None
    return line if as_json else readable(said)


class DeviceFilter:
    """Which calls belong to a device: those through the handle that named its rings, and through a handle of its peer
    that mapped what the first granted, or bound to a port that it allocated."""

    def __init__(self, name: str) -> None:
        """Of a device such as `vif-0`, or of a kind such as `vif`."""
        self._prefix = name if name.count("-") else f"{name}-"
        self._handles: set[int] = set()
        self._given: dict[tuple[str, Any, Any], int] = {}

    @property
    def known(self) -> bool:
        """Whether the device has named a ring, as far as has been learnt."""
        return bool(self._handles)

    def _names(self, name: str) -> bool:
        return name.startswith(self._prefix) and (self._prefix.endswith("-") or name[len(self._prefix) :][:1] == "-")

    def learn(self, said: dict[str, Any]) -> None:
        """Take note of a call."""
        taken, got, handle = said.get("in", {}), said.get("out", {}), said.get("handle", 0)
        match said.get("op"):
            case "grant_access" | "accept_transfer":
                self._given["ref", said["domid"], got.get("ref", -1)] = handle
            case "alloc_unbound":
                self._given["port", said["domid"], got.get("port", -1)] = handle
            case "name_ring" if self._names(taken.get("name", "")):
                self._handles.add(handle)
            case _ if handle and self._shared(taken) in self._handles:
                self._handles.add(handle)

    def _shared(self, taken: dict[str, Any]) -> int | None:
        """The handle that gave what a call of the peer names."""
        port = self._given.get(("port", taken.get("remote_dom"), taken.get("remote_port")))
        return self._given.get(("ref", taken.get("dom"), taken.get("ref")), port)

    def wants(self, said: dict[str, Any]) -> bool:
        """Whether a call is to be shown."""
        of_device = said.get("handle") in self._handles or self._shared(said.get("in", {})) in self._handles
        return "lost" in said or of_device


def lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Whole lines out of pieces."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole if line)


def records(point: str, follow: bool) -> Iterator[str]:
    """The trace as it is; then, when following, what comes: the pipe is open before the first part is read."""
    path = f"{point}/hypervisor/trace"
    live = stream(f"{path}_pipe") if follow else iter(())
    next(live, None)
    last = 0
    for line in within(point, lambda: Path(path).read_text()).splitlines():
        last = json.loads(line)["seq"]
        yield line
    try:
        for line in lines(live):
            if json.loads(line).get("seq", last + 1) > last:
                yield line
    except OSError as error:
        if error.errno not in GONE:
            raise


def operations(point: str) -> Iterator[str]:
    """What is done with the store from now on."""
    try:
        yield from lines(stream(f"{point}/hypervisor/store_pipe"))
    except OSError as error:
        if error.errno not in GONE:
            raise


def _check_domain(point: str, domid: int, *, store: bool) -> None:
    """Raise Unable for a domain that is not there, nor was as far back as the hypercalls are remembered."""
    if any(there.domid == domid for there in within(point, lambda: frames(point)).domains):
        return
    if store or not any(json.loads(line).get("domid") == domid for line in records(point, follow=False)):
        raise Unable(f"there is no domain {domid}")


def _filter(point: str, device: str, follow: bool) -> DeviceFilter:
    """The filter for a device: what is remembered tells whose handle is whose, also of calls before it named its rings.

    Raises Unable for a device of which nothing is known, unless it is one that may come while we follow.
    """
    wanted = DeviceFilter(device)
    for line in records(point, follow=False):
        wanted.learn(json.loads(line))
    if wanted.known:
        return wanted
    kinds = sorted({entry.name for entry in entry_points(group="xenfs.frontends")})
    if device.partition("-")[0] not in kinds:
        raise Unable(f"{device}: a device is called KIND or KIND-N, as vif-0, and KIND is one of {', '.join(kinds)}")
    if not follow:
        raise Unable(f"{device}: no call for such a device is remembered; -f waits for one")
    return wanted


def _others(store: bool, domain: int | None, device: str, as_json: bool) -> Iterator[tuple[str, bool]]:
    """The options that say nothing of packets, and whether they are given."""
    yield from (("--store", store), ("--domain", domain is not None), ("--device", bool(device)), ("--json", as_json))


@command("trace")
def trace(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    domain: Annotated[int | None, typer.Option(metavar="DOMID", help="Only calls of this domain.")] = None,
    device: Annotated[str, typer.Option(metavar="KIND[-N]", help="Only calls for this device, as vif-0.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The lines as the hypervisor has them.")] = False,
    store: Annotated[bool, typer.Option("--store", help="What is done with the store instead, until Ctrl-C.")] = False,
    pcap: Annotated[str, typer.Option(metavar="FILE", help="Its packets instead, as pcapng, until Ctrl-C.")] = "",
    of: Annotated[str, typer.Argument(metavar="[DEVICE]", help="With --pcap: DOMID/N or KIND/DOMID/N.")] = "",
) -> None:
    """Show the hypercalls that the machine at $XEN remembers: time, domain, call → result.

    With --store, what changes the store, or is refused, by whom, as it comes.

    With --pcap, write the packets of a network device to a file (- is stdout): xenfs trace --pcap - 1/0 | tcpdump -r -

    Exit status: 0 shown, or the machine ended while following; 1 no machine, not one's own, or not that
    domain or device; 2 wrong usage; 130 after Ctrl-C.
    """
    point = served().point
    if pcap or of:
        if not (pcap and of):
            raise Unable("packets need both a file and a device, such as: xenfs trace --pcap packets.pcapng alpha/0", 2)
        if others := [name for name, given in _others(store, domain, device, as_json) if given]:
            raise Unable(f"--pcap and {others[0]} do not go together", 2)
        capture(point, of, pcap)
        return
    if store and device:
        raise Unable("--store and --device do not go together: grep for the device's nodes", 2)
    if domain is not None:
        _check_domain(point, domain, store=store)
    wanted = _filter(point, device, follow) if device else None
    for line in operations(point) if store else records(point, follow):
        if wanted is not None:
            wanted.learn(json.loads(line))
            if not wanted.wants(json.loads(line)):
                continue
        if (said := shown(line, domain, as_json)) is not None:
            typer.echo(said)
