"""Every row of the table of hypercalls in each of its forms: text, binary, trace line."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.forms import GENERAL, each, few
from tests.unit.test_wire import field_values, sample, values
from xenfs.abi.wire import Wire
from xenfs.hypervisor import binary, text
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.table import ROWS, Hypercall
from xenfs.hypervisor.trace import Failure, Record


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
    refused = record._replace(answer=data.draw(failures(row)))
    for one in (record, refused):
        assert "\n" not in one.line()
        assert Record.parse(one.line()) == one
