"""The text form of a hypercall, as `ctl` takes it: a line `op key=value …`, answered by a line.

    alloc_unbound remote_dom=2         ok port=1
    end_access ref=8                   error EBUSY grant 8 of domain 1: domain 2 maps it 1 times

Numbers are decimal, or hexadecimal after 0x; fields that have words for their values take and give those, joined by
`|` where they are bits. A value with spaces stands in double quotes.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable

from xenfs.abi.wire import Chars, Field, FieldError, Wire
from xenfs.hypervisor.errors import Invalid, UnknownOperation
from xenfs.hypervisor.table import BY_NAME, BY_REQUEST
from xenfs.hypervisor.trace import Failure

MAX_LINE = 4096
"""Characters in a line."""
_NUMBER = re.compile("-?(0[xX][0-9a-fA-F]+|[0-9]{1,40})")


def _choose(wrong: str, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    close = difflib.get_close_matches(wrong, names, 1)
    hint = f", did you mean {close[0]}?" if close else ";"
    return f"{hint} allowed: {' '.join(names) or 'none'}"


def _number(text: str, what: str) -> int:
    if _NUMBER.fullmatch(text):
        return int(text, 16 if "x" in text.lower() else 10)
    raise Invalid(f"{what}={text!r}", "must be a number, decimal or after 0x hexadecimal")


def _value(field: Field, text: str, what: str) -> int | str:
    if isinstance(field.kind, Chars):
        return text
    words = field.words
    if words is None or not text or text[0].isdigit() or text[0] == "-":
        return _number(text, what)
    value = 0
    for word in text.split("|") if words.bits else [text]:
        if word[:1].isdigit() and words.bits:
            value |= _number(word, what)
        elif word in words.names:
            value |= words.names[word]
        else:
            raise Invalid(f"{what}={text!r}", f"unknown word {word!r}{_choose(word, words.names)}, or a number")
    return value


def show(field: Field, value: int | str) -> str:
    """A value as the text form writes it: by its word where it has one."""
    if isinstance(value, str):
        return value if value and all(c.isalnum() or c in "-_./:@" for c in value) else json.dumps(value)
    words = field.words
    if words is None:
        return str(value)
    if not words.bits:
        return next((name for name, number in words.names.items() if number == value), str(value))
    said = [name for name, bit in words.names.items() if bit and value & bit == bit]
    rest = value & ~sum(words.names[name] for name in said)
    return "|".join(said + ([f"{rest:#x}"] if rest else [])) or "0"


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Invalid(f"line {line[:40]!r}", str(error).lower()) from error


def parse(line: str) -> Wire:
    """Read a call. Raises UnknownOperation or Invalid, which name the wrong word and the allowed ones."""
    if len(line) > MAX_LINE:
        raise Invalid("line", "too many characters", len(line), MAX_LINE)
    words = _split(line)
    if not words:
        raise Invalid("line", "it is empty; it must be: op key=value …")
    row = BY_NAME.get(words[0])
    if row is None:
        raise UnknownOperation(
            f"operation {words[0][:40]!r}", f"there is no such operation{_choose(words[0], BY_NAME)}"
        )
    fields = {f.name: f for f in row.request.layout if f.name in row.takes}
    values: dict[str, int | str] = {}
    for word in words[1:]:
        key, equals, text = word.partition("=")
        if not equals or key not in fields:
            raise Invalid(f"{row.name}: word {word[:40]!r}", f"must be key=value{_choose(key, fields)}")
        if key in values:
            raise Invalid(f"{row.name}: {key}", "given twice")
        values[key] = _value(fields[key], text, f"{row.name}: {key}")
    return _build(row.request, fields, values, row.name)


def _build(request: type[Wire], fields: dict[str, Field], values: dict[str, int | str], name: str) -> Wire:
    missing = [f.name for f in fields.values() if f.default is None and f.name not in values]
    if missing:
        raise Invalid(name, f"missing {' '.join(missing)}; it takes: {' '.join(fields)}")
    try:
        for key, value in values.items():
            fields[key].check(name, value)
    except FieldError as error:
        raise Invalid(name, error.problem) from error
    return request(**values)


def emit(request: Wire) -> str:
    """The line that makes a call."""
    row = BY_REQUEST[type(request)]
    fields = {f.name: f for f in request.layout}
    return " ".join([row.name, *(f"{name}={show(fields[name], getattr(request, name))}" for name in row.takes)])


def answer(request: Wire) -> str:
    """The line that answers a call which succeeded, from the request with its results."""
    row = BY_REQUEST[type(request)]
    fields = {f.name: f for f in request.layout}
    names = [n for n in row.gives if not (row.has_status and n in ("status", "dev_bus_addr"))]
    return " ".join(["ok", *(f"{n}={show(fields[n], getattr(request, n))}" for n in names)])


def refusal(failure: Failure) -> str:
    """The line that answers a call which was refused."""
    return " ".join(word for word in ("error", failure.errno, failure.status, failure.text) if word)


def parse_answer(request: Wire, line: str) -> Wire | Failure:
    """Read the answer to `request` back. Raises Invalid when it is not one."""
    kind, _, rest = line.strip().partition(" ")
    if kind == "error":
        errno, _, text = rest.partition(" ")
        first, _, other = text.partition(" ")
        return Failure(errno, first, other) if first.startswith("GNTST_") else Failure(errno, "", text)
    if kind != "ok":
        raise Invalid(f"answer {line[:40]!r}", "must begin with ok or error")
    fields = {f.name: f for f in request.layout}
    given: dict[str, int | str] = {name: getattr(request, name) for name in BY_REQUEST[type(request)].takes}
    for word in _split(rest):
        key, _, text = word.partition("=")
        if key not in fields:
            raise Invalid(f"answer word {word[:40]!r}", f"unknown{_choose(key, fields)}")
        given[key] = _value(fields[key], text, key)
    return _build(type(request), {name: fields[name] for name in given}, given, "answer")
