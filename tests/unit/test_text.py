"""Calls and answers as text: what people write is read, and all else is refused with the wrong word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.forms import one_line
from tests.unit.test_wire import sample
from xenfs.abi.event_channel import AllocUnbound, Close
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CreateDomain, EndAccess, GrantAccess, RenameDomain
from xenfs.hypervisor import text
from xenfs.hypervisor.errors import HypercallError, Invalid, UnknownOperation
from xenfs.hypervisor.table import BY_NAME, ROWS, Hypercall
from xenfs.hypervisor.trace import Failure


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
