"""Every row of the table of hypercalls in each of its forms: text, binary, trace line; and its declared errors."""

from __future__ import annotations

import ast
import errno
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xenfs.hypervisor
from tests.unit.test_wire import field_values, padding, sample, values
from xenfs.abi.event_channel import AllocUnbound, Close
from xenfs.abi.grant_table import GntStatus, QuerySize
from xenfs.abi.hypercall import BatchHeader, ElementHeader, element_size
from xenfs.abi.wire import Chars, FieldError, Wire
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    CloseHandle,
    CreateDomain,
    DecreaseReservation,
    EndAccess,
    GrantAccess,
    OpenHandle,
    RenameDomain,
    SetMaxMemory,
    SetMemory,
)
from xenfs.hypervisor import Config, Limits, Machine, binary, text
from xenfs.hypervisor.errors import HypercallError, Invalid, NoSuchDomain, NoSuchHandle, NotPermitted, UnknownOperation
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.table import BY_NAME, BY_REQUEST, ROWS, Hypercall
from xenfs.hypervisor.trace import Failure, Record

GENERAL: tuple[type[HypercallError], ...] = (NoSuchDomain, NoSuchHandle, NotPermitted)
"""What the machine itself may answer to any call."""

each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
few = settings(max_examples=15, deadline=None)


def machine() -> Machine:
    """A machine so small that every limit is near."""
    limits = Limits(grants=3, maps=3, ports=3, handles=3)
    return Machine(Config(frames=24, dom0_frames=8, limits=limits, dom0_limits=limits, slice=4))


def requests(row: Hypercall) -> st.SearchStrategy[Any]:
    """Calls as a caller makes them: what comes back is still at its default."""
    return values(row.request, row.takes)


def answers(row: Hypercall) -> st.SearchStrategy[Any]:
    hidden = ("status", "dev_bus_addr") if row.has_status else ()
    shown = {f.name: field_values(f) for f in row.request.layout if f.out and f.name not in hidden}
    return st.builds(lambda asked, out: replace(asked, **out), requests(row), st.fixed_dictionaries(shown))


def failures(row: Hypercall) -> st.SearchStrategy[Failure]:
    kinds = st.sampled_from(row.errors or GENERAL)
    words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).map(str.strip)
    return st.builds(
        lambda kind, word: Failure.of(kind(f"grant 8 {word}".strip(), "no"), sample(row.request)), kinds, words
    )


# The table.


def test_rows_differ_in_name_number_and_request() -> None:
    assert len(ROWS) >= 40
    for distinct in ({r.name for r in ROWS}, {r.number for r in ROWS}, {r.request for r in ROWS}):
        assert len(distinct) == len(ROWS)


@each
def test_row_says_what_it_does_and_how_it_fails(row: Hypercall) -> None:
    assert row.doc.endswith(".")
    assert set(row.takes).isdisjoint(row.gives)
    assert len(set(row.errors)) == len(row.errors)
    kinds: tuple[type, ...] = row.errors
    assert all(issubclass(kind, HypercallError) for kind in kinds)
    assert all(error.errno in errno.errorcode for error in row.errors)


# The three forms, round.


@each
@few
@given(data=st.data())
def test_text_of_a_call_reads_back(row: Hypercall, data: st.DataObject) -> None:
    request = data.draw(requests(row))
    line = text.emit(request)
    assert line.isascii()
    assert line.isprintable()
    assert text.parse(line) == request


@each
@few
@given(data=st.data())
def test_text_of_an_answer_reads_back(row: Hypercall, data: st.DataObject) -> None:
    answer = data.draw(answers(row))
    assert text.parse_answer(replace(answer, **dict.fromkeys(row.gives, 0)), text.answer(answer)) == answer


@each
@few
@given(data=st.data())
def test_text_of_a_refusal_reads_back(row: Hypercall, data: st.DataObject) -> None:
    failure = data.draw(failures(row))
    assert text.parse_answer(sample(row.request), text.refusal(failure)) == failure


@each
@few
@given(data=st.data())
def test_binary_reads_back(row: Hypercall, data: st.DataObject) -> None:
    batch = data.draw(st.lists(values(row.request), min_size=1, max_size=4))
    assert binary.parse(binary.emit(batch)) == [(0, request) for request in batch]


@each
@few
@given(data=st.data())
def test_trace_line_reads_back(row: Hypercall, data: st.DataObject) -> None:
    answer: Wire = data.draw(answers(row))
    asked = replace(answer, **dict.fromkeys(row.gives, 0))  # type: ignore[type-var]
    big = st.integers(0, 1 << 64)
    record = Record(data.draw(big), data.draw(big), 1, data.draw(big), data.draw(st.booleans()), asked, answer)
    refused = replace(record, answer=data.draw(failures(row)))
    for one in (record, refused):
        assert "\n" not in one.line()
        assert Record.parse(one.line()) == one


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("close port=0x10", Close(port=16)),
        ("close port=0XfF", Close(port=255)),
        ("  close\t port=007 ", Close(port=7)),
        ("alloc_unbound remote_dom=self", AllocUnbound(remote_dom=0x7FF0)),
        ("end_access ref=8 flags=defer", EndAccess(ref=8, flags=1)),
        ("end_access ref=8 flags=defer|0x10|2", EndAccess(ref=8, flags=0x13)),
        ("grant_access frame=1 dom=2 flags=readonly", GrantAccess(frame=1, dom=2, flags=4)),
        ('rename_domain name="a b=\\"c\\""', RenameDomain(name='a b="c"')),
        ("rename_domain name=", RenameDomain(name="")),
        ("create_domain dom=any", CreateDomain()),
        ("close 'port=1'", Close(port=1)),
    ],
)
def test_text_that_people_write(line: str, request_: Wire) -> None:
    assert text.parse(line) == request_


# Malformed text.

MALFORMED = [
    ("alloc_unbond remote_dom=1", "alloc_unbond", "did you mean alloc_unbound?", *BY_NAME),
    ("qqqqqqqq", "qqqqqqqq", "allowed: ", *BY_NAME),
    ("CLOSE port=1", "CLOSE", "close"),
    ("close prt=1", "prt=1", "did you mean port?", "allowed: port"),
    ("close port", "'port'", "key=value"),
    ("close =1", "'=1'", "key=value", "allowed: port"),
    ("close", "missing port", "it takes: port"),
    ("grant_access flags=readonly", "missing frame dom", "it takes: frame dom flags"),
    ("close port=1 port=1", "port", "given twice"),
    ("close port=", "port=''", "decimal", "hexadecimal"),
    ("close port=x1", "port='x1'", "decimal", "hexadecimal"),
    ("close port=1x", "port='1x'", "decimal", "hexadecimal"),
    ("close port=1_0", "port='1_0'"),
    ("close port=1.0", "port='1.0'"),
    ("close port=+1", "port='+1'"),
    ("close port=--1", "port='--1'"),
    ("close port=0x", "port='0x'"),
    ("close port=0xfg", "port='0xfg'"),
    ("close port=0x1_0", "port='0x1_0'"),
    ("close port='0x1 '", "port='0x1 '"),
    ("close port=' 1'", "port=' 1'"),
    ("close port=\u0661", "port='\u0661'"),
    ("close port=\u00b2", "port='\u00b2'"),
    ("close port=0x\u0661", "port='0x\u0661'"),
    ("close port=-1", "port=-1", "from 0 to 4294967295"),
    ("close port=-0x1", "port=-1", "from 0 to 4294967295"),
    ("close port=4294967296", "port=4294967296", "from 0 to 4294967295"),
    ("alloc_unbound remote_dom=65536", "remote_dom=65536", "from 0 to 65535"),
    ("grant_access frame=1 dom=2 flags=readnly", "'readnly'", "did you mean readonly?", "allowed: readonly"),
    ("grant_access frame=1 dom=2 flags=readonly|x", "'x'", "allowed: readonly"),
    ("grant_access frame=1 dom=2 flags=readonly|", "''", "allowed: readonly"),
    ("grant_access frame=1 dom=2 flags=65536", "flags=65536", "from 0 to 65535"),
    (
        "shutdown_domain reason=crsh",
        "'crsh'",
        "did you mean crash?",
        "crash poweroff reboot soft_reset suspend watchdog",
    ),
    ("grant_access frame=1 dom=slef", "'slef'", "did you mean self?", "allowed: self"),
    ("alloc_unbound remote_dom=1 port=3", "port=3", "allowed: dom remote_dom"),
    ("get_version pad=1", "pad=1", "allowed: dom"),
    ("rename_domain name=é", "name=", "printable ASCII"),
    (f"rename_domain name={'n' * 65}", "n" * 65, "at most 64 characters"),
    ("close port='1", "close port='1", "quot"),
    ("close port=1\\", "close port=1", "escape"),
    ("", "empty", "op key=value"),
    (" \t\r\n", "empty", "op key=value"),
    ("close port=" + "1" * 4096, "too many characters", "4107", "4096"),
    ("reap budget=1 reap", "'reap'", "key=value", "allowed: budget"),
]


@pytest.mark.parametrize(("line", "said"), [(m[0], m[1:]) for m in MALFORMED], ids=[m[0][:50] for m in MALFORMED])
def test_malformed_text_is_refused_with_the_wrong_word_and_the_allowed(line: str, said: tuple[str, ...]) -> None:
    with pytest.raises((Invalid, UnknownOperation)) as caught:
        text.parse(line)
    message = str(caught.value)
    assert [words for words in said if words not in message] == []
    assert isinstance(caught.value, UnknownOperation) == ("no such operation" in message)


def one_line(error: HypercallError) -> None:
    """A refusal is one line, that can be written."""
    line = text.refusal(Failure.of(error))
    assert line.isprintable(), line
    line.encode()


@pytest.mark.parametrize("word", ["a\nb", "a\x85b", "a\0b", "\x1b[31m", "\u2028", "\ud800"])
@pytest.mark.parametrize("line", ["'{}'", "close '{}'", "close '{}=1'", "close 'port={}'", "rename_domain 'name={}'"])
def test_what_is_quoted_back_cannot_break_the_answer(line: str, word: str) -> None:
    with pytest.raises(HypercallError) as caught:
        text.parse(line.format(word))
    one_line(caught.value)


@pytest.mark.parametrize("digits", [4000, 4050])
def test_huge_numbers_are_out_of_range_like_others(digits: int) -> None:
    for number in ("9" * digits, "0x" + "f" * digits, "-0x" + "f" * digits):
        with pytest.raises(Invalid, match="port"):
            text.parse(f"close port={number}")


def parse_or_refuse(line: str) -> None:
    try:
        request = text.parse(line)
    except HypercallError as error:
        one_line(error)
    else:
        request.check()


@settings(deadline=None)
@given(st.text(st.characters()))
def test_no_text_does_anything_but_parse_or_be_refused(line: str) -> None:
    parse_or_refuse(line)


WORDS = st.sampled_from(["0x", "-", "|", "self", "any", "readonly", '"', "'", "\\", "=", " ", "\n", "1", "\0"])


@settings(max_examples=300, deadline=None)
@given(row=st.sampled_from(ROWS), data=st.data())
def test_no_arguments_do_anything_but_parse_or_be_refused(row: Hypercall, data: st.DataObject) -> None:
    value = st.lists(WORDS | st.text(st.characters(), max_size=4), max_size=4).map("".join)
    given = data.draw(st.dictionaries(st.sampled_from((*row.takes, "port", "")), value))
    parse_or_refuse(" ".join([row.name, *(f"{key}={value}" for key, value in given.items())]))


# Malformed answers.


@pytest.mark.parametrize(
    "line",
    [
        "",
        "okay",
        "port=1",
        "ok prt=1",
        "ok port",
        "ok port=x",
        "ok port=-1",
        "ok port=4294967296",
        'ok port="1',
        "ok \\",
    ],
)
def test_what_is_no_answer_is_refused(line: str) -> None:
    with pytest.raises(Invalid):
        text.parse_answer(AllocUnbound(remote_dom=1), line)


@settings(max_examples=300, deadline=None)
@given(row=st.sampled_from(ROWS), data=st.data())
def test_no_answer_does_anything_but_parse_or_be_refused(row: Hypercall, data: st.DataObject) -> None:
    words = st.sampled_from(["ok", "error", "=", *row.gives, "1", '"', " ", "-", "x"]) | st.text(st.characters())
    line = " ".join(data.draw(st.lists(words, max_size=6)))
    try:
        answer = text.parse_answer(sample(row.request), line)
    except HypercallError as error:
        one_line(error)
    else:
        assert isinstance(answer, Failure) or answer.emit()


# Binary.


def echo(request: Wire) -> Wire:
    return request


def no_call(request: Wire) -> Wire:
    pytest.fail(f"{request} was called")


def results(data: bytes) -> list[int]:
    return [result for result, _ in binary.parse(data)]


BATCH = binary.emit([Close(port=1), Close(port=2)])


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", Invalid, "0 of 8"),
        (BATCH[:7], Invalid, "7 of 8"),
        (BATCH[:8], Invalid, "close times 2"),
        (BATCH[:-1], Invalid, "39 of 40"),
        (BATCH + b"\0", Invalid, "41 of 40"),
        (BatchHeader(op=0xFFFF, count=1).emit(), UnknownOperation, "0xffff"),
        (BatchHeader(op=32 << 8 | 3, count=0).emit(), Invalid, "0 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=1025).emit() + bytes(1025 * 16), Invalid, "1025 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=0xFFFFFFFF).emit(), Invalid, "4294967295 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=3).emit() + BATCH[8:], Invalid, "40 of 56"),
    ],
)
def test_a_malformed_batch_makes_no_call(data: bytes, kind: type[HypercallError], said: str) -> None:
    with pytest.raises(kind, match=said):
        binary.run(data, no_call)
    with pytest.raises(kind, match=said):
        binary.parse(data)


def test_the_largest_batch_is_taken() -> None:
    assert results(binary.run(binary.emit([Close(port=1)] * 1024), echo)) == [0] * 1024


def test_a_batch_is_of_one_operation() -> None:
    with pytest.raises(Invalid, match="one operation"):
        binary.emit([Close(port=1), AllocUnbound(remote_dom=1)])


def test_a_failure_in_the_middle_leaves_the_others_done() -> None:
    m = machine()
    ports = [m.call(AllocUnbound(remote_dom=1)).port for _ in range(3)]
    done = binary.run(binary.emit([Close(port=p) for p in (ports[0], 99, ports[1], ports[0], ports[2])]), m.call)
    assert results(done) == [0, -errno.EINVAL, 0, -errno.EINVAL, 0]
    assert not m.state.domains[0].ports


def test_a_grant_table_failure_fills_the_status_in() -> None:
    m = machine()
    done = binary.parse(binary.run(binary.emit([QuerySize(), QuerySize(dom=5)]), m.call))
    assert [r for r, _ in done] == [0, -errno.ESRCH]
    assert [q.status for _, q in done if isinstance(q, QuerySize)] == [GntStatus.okay, GntStatus.bad_domain]


def test_garbage_text_fails_its_element_only() -> None:
    good = binary.emit([RenameDomain(name="a"), RenameDomain(name="b"), RenameDomain(name="c")])
    size, at = element_size(RenameDomain), good.index(b"b\0")
    for garbage in (b"\n", b"\xff"):
        m = machine()
        done = binary.run(good[:at] + garbage + good[at + 1 :], m.call)
        found = [ElementHeader.parse(done, 8 + n * size).result for n in range(3)]
        assert found == [0, -errno.EINVAL, 0]
        assert m.state.domains[0].name == "c"


@each
def test_padding_of_elements_comes_back_zero(row: Hypercall) -> None:
    clean = binary.emit([sample(row.request)] * 2)
    size, head = element_size(row.request), ElementHeader.layout.size
    gaps = [*range(4, head), *(head + at for at in padding(row.request)), *range(head + row.request.layout.size, size)]
    dirty = bytearray(clean)
    for start in (8, 8 + size):
        for at in gaps:
            dirty[start + at] = 0xFF
    assert binary.run(dirty, echo) == clean


@each
@few
@given(data=st.data())
def test_elements_of_random_bytes_each_get_a_result(row: Hypercall, data: st.DataObject) -> None:
    m, size, count = machine(), element_size(row.request), data.draw(st.integers(1, 3))
    body = data.draw(st.binary(min_size=count * size, max_size=count * size))
    head = BatchHeader(op=row.number, count=count).emit()
    done = binary.run(head + body, lambda request: m.call(request, world=True))
    allowed = {0, -errno.EINVAL, *(-e.errno for e in (*row.errors, *GENERAL))}
    assert done[:8] == head
    assert len(done) == len(head) + len(body)
    for at in range(8, len(done), size):
        assert ElementHeader.parse(done, at).result in allowed


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: BATCH[:8] + tail))
def test_random_bytes_are_run_or_refused(data: bytes) -> None:
    try:
        assert len(binary.run(data, machine().call)) == len(data)
    except HypercallError:
        with pytest.raises((HypercallError, FieldError)):
            binary.parse(data)


# Declared errors: by reading what the handlers can raise, and by trying.

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
