"""Declared errors: by reading what the handlers can raise, and by trying."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import xenfs.hypervisor
from tests.unit.forms import GENERAL, each, machine, one_line
from xenfs.abi.wire import Chars, Wire
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    CloseHandle,
    CreateDomain,
    DecreaseReservation,
    GrantAccess,
    OpenHandle,
    SetMaxMemory,
    SetMemory,
)
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.table import BY_REQUEST, ROWS, Hypercall

BOUNDED = {("frames.settle_balance", "frames.grow")}
"""Calls whose arguments are limited beforehand to what cannot fail."""


def sources() -> dict[str, ast.AST]:
    """Functions, methods and module variables of the hypervisor as `module.name`."""
    found: dict[str, ast.AST] = {}
    for path in Path(xenfs.hypervisor.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                found[f"{path.stem}.{node.name}"] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[f"{path.stem}.{node.target.id}"] = node.value
    return found


SOURCES = sources()


def references(key: str) -> Iterator[str]:
    """What a function refers to, as keys of SOURCES."""
    module = key.partition(".")[0]
    for node in ast.walk(SOURCES[key]):
        if isinstance(node, ast.Name):
            name = f"{module}.{node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
        else:
            continue
        if name in SOURCES and (key, name) not in BOUNDED:
            yield name


def raised(start: str) -> set[str]:
    """Names of the exceptions raised in a function and all that it refers to."""
    seen, todo, names = {start}, [start], set()
    while todo:
        key = todo.pop()
        for node in ast.walk(SOURCES[key]):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                names.add(node.exc.func.id)
        fresh = set(references(key)) - seen
        seen |= fresh
        todo += fresh
    return names


def test_reading_the_handlers_finds_what_they_raise() -> None:
    assert raised("frames.set_memory") == {"NotPermitted", "NoSuchDomain", "NoFrame", "FrameInUse"}
    assert raised("events.bind_pirq") == {"Invalid"}
    assert "frames.let_go" in set(references("lives.RELEASE"))


@each
def test_declared_errors_are_those_that_the_handler_raises(row: Hypercall) -> None:
    found = raised(f"{row.handler.__module__.rpartition('.')[2]}.{row.handler.__name__}")
    declared = {e.__name__ for e in row.errors}
    assert declared <= found, "declared, and raised nowhere"
    assert found - {e.__name__ for e in GENERAL} <= declared, "raised, and not declared"


GARBAGE = 0x4D4D
"""In every field that comes back: a number that no answer of such a small machine has."""

LIKELY: dict[str, Sequence[Any]] = {
    "ref": [8, 9, 10], "source": [8, 9, 10], "dom": [1, 2], "domid": [1, 2], "remote_dom": [0, 1, 2], "port": [1, 2, 3],
    "remote_port": [1, 2, 3], "handle": [0, 1, 2, 3], "name": ["", "a", "vif-0-tx", "vif-0-rx"], "uuid": [""],
    "flags": [0, 1, 2, 3, 4], "virq": [0, 0, 3], "vcpu": [0], "len": [0, 8], "ref_a": [8, 9], "ref_b": [9, 10],
    "frames": [3, 4], "max_frames": [0, 6],
}  # fmt: skip
"""Values by the name of the field, so that a call often hits what is there."""


def random_call(chance: random.Random) -> Wire:
    """A call whose fields are mostly likely, sometimes extreme."""
    fields: dict[str, Any] = {}
    row = chance.choice(ROWS)
    if row.name in ("destroy_domain", "reset", "set_max_memory", "close_handle"):
        row = chance.choice(ROWS)
    for field in row.request.layout:
        words = [*field.words.names.values()] if field.words else []
        rare = [""] if isinstance(field.kind, Chars) else [0, field.kind.bounds[1], *words]
        likely = LIKELY.get(field.name, range(24))
        fields[field.name] = GARBAGE if field.out else chance.choice(rare if chance.random() < 0.1 else likely)
    return row.request(**fields)


def life(seed: int, calls: int = 400) -> Iterator[tuple[Hypercall, Wire | HypercallError]]:
    """Random calls on one machine, two guests that grant to each other: the row, and the answer or the refusal."""
    chance, m = random.Random(seed), machine()
    for domid in (1, 2):
        m.call(CreateDomain(dom=domid, frames=4, max_frames=6))
        m.call(GrantAccess(frame=4 + 4 * domid, dom=3 - domid), domid)
        m.call(AcceptTransfer(dom=3 - domid), domid)
    for _ in range(calls):
        request, domid = random_call(chance), chance.choice([0, 0, 1, 1, 2])
        handle = chance.choice([0, 0, 0, *(number for number, h in m.state.handles.items() if h.domain.domid == domid)])
        answer: Wire | HypercallError
        before = snapshot(m)
        try:
            answer = m.call(request, domid, handle, world=chance.random() < 0.7)
        except HypercallError as error:
            assert snapshot(m) == before, request
            answer = error
        yield BY_REQUEST[type(request)], answer
    m.settle()
    assert not m.state.closing


@pytest.mark.parametrize("seed", range(20))
def test_random_calls_fail_as_declared_and_change_nothing_then(seed: int) -> None:
    for row, answer in life(seed):
        if isinstance(answer, HypercallError):
            assert type(answer) in (*row.errors, *GENERAL), row.name
            one_line(answer)
        else:
            answer.emit()


def test_what_a_caller_leaves_in_answer_fields_does_not_come_back() -> None:
    """A status or a number that a successful call answers is the machine's own."""
    done, leaked = set(), set()
    for seed in range(40, 120):
        for row, answer in life(seed):
            if not isinstance(answer, HypercallError):
                done.add(row.name)
                leaked |= {f"{row.name}.{name}" for name in row.gives if getattr(answer, name) == GARBAGE}
    assert leaked == set()
    assert done >= {row.name for row in ROWS if row.gives} - {"bind_pirq"}, "no call of these has succeeded"


def test_closing_a_handle_is_never_refused_to_a_domain_above_its_maximum() -> None:
    """What BOUNDED says of settle_balance: it asks for no frame more when there may be none."""
    m = machine()
    m.call(CreateDomain(dom=1, frames=4, max_frames=8))
    handle = m.call(OpenHandle(), 1, world=True).handle
    m.call(DecreaseReservation(frame=8), 1, handle)
    m.call(SetMaxMemory(dom=1, frames=2))
    m.call(CloseHandle(handle=handle), 1, world=True)
    m.call(SetMemory(dom=1, frames=3))
    assert len(m.state.domains[1].frames) == 3
