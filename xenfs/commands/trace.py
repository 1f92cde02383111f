"""xenfs trace: the hypercalls of a machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from xenfs.commands.child import stream
from xenfs.commands.failure import command
from xenfs.commands.machine import within
from xenfs.commands.place import GONE, served
from xenfs.hypervisor import text
from xenfs.hypervisor.trace import Failure, Record


def readable(said: dict[str, Any]) -> str:
    """A line for people: time, domain, the call with its arguments, the result."""
    if "lost" in said:
        return f"({said['lost']} calls lost)"
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


@command("trace")
def trace(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    domain: Annotated[int | None, typer.Option(metavar="DOMID", help="Only calls of this domain.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as the hypervisor has them.")] = False,
) -> None:
    """Show the hypercalls that the machine at $XEN remembers: time, domain, call → result.

    Exit status: 0 shown, or the machine ended while following; 1 no machine, or not one's own; 130 after Ctrl-C.
    """
    for line in records(served().point, follow):
        if (said := shown(line, domain, as_json)) is not None:
            typer.echo(said)
