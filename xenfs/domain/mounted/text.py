"""The caller's half of a domain's `ctl`: a request as a line, and its answer read back.

    end_access ref=8        ok
    end_access ref=9        error EBUSY grant 9 of domain 1: domain 2 maps it 1 times

The name of an operation is that of its request, and the words are its fields. All numbers are written as such.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from typing import Any, TypeVar

from xenfs.abi.grant_table import GntStatus
from xenfs.abi.wire import Chars, Field, FieldError, Wire
from xenfs.domain.errors import Refused

W = TypeVar("W", bound=Wire)
_INNER_CAPITAL = re.compile("(?<!^)(?=[A-Z])")


def operation(request: type[Wire]) -> str:
    """The name of the operation that a request is for: `AllocUnbound` is alloc_unbound."""
    return _INNER_CAPITAL.sub("_", request.__name__).lower()


def emit(request: Wire) -> str:
    """The line that makes a call, without its newline. Raises Refused EINVAL when a value does not fit its field."""
    name = operation(type(request))
    words = [name]
    try:
        for field in request.layout:
            value = getattr(request, field.name)
            field.check(name, value)
            if not field.out and value != field.default:
                shown = json.dumps(value) if isinstance(field.kind, Chars) else f"{value:d}"
                words.append(f"{field.name}={shown}")
    except FieldError as error:
        raise Refused(errno.EINVAL, str(error)) from None
    return " ".join(words)


def _value(field: Field, text: str) -> int:
    names = field.words.names if field.words else {}
    return sum(names[word] if word in names else int(word, 0) for word in text.split("|"))


def _refusal(line: str) -> Refused:
    _, code, text = line.split(" ", 2)
    first, _, rest = text.partition(" ")
    status = GntStatus[first[6:]] if first.startswith("GNTST_") else None
    return Refused(getattr(errno, code), text if status is None else rest, status)


def parse_answer(request: W, line: str) -> W | Refused:
    """The request with its results, or the refusal. Raises Refused EPROTO for a line that is neither."""
    try:
        if line.startswith("error "):
            return _refusal(line)
        kind, *words = line.split()
        fields = {field.name: field for field in request.layout if field.out}
        results: dict[str, Any] = {}
        for name, _, text in (word.partition("=") for word in words):
            results[name] = _value(fields[name], text)
        if kind == "ok":
            return replace(request, **results)  # type: ignore[type-var]
    except (ValueError, KeyError, AttributeError):
        pass
    raise Refused(errno.EPROTO, f"{operation(type(request))}: the answer {line[:80]!r} cannot be understood")
