"""Fixed-size little-endian structs, each written once as a frozen dataclass.

The annotations of the dataclass are the table: from them come the codec (with the padding that a C compiler for
x86-64 would insert), the text form of a hypercall, its trace line, the generated documentation, and the C program that
compares every size and offset with the installed headers.

    @wire("struct evtchn_close", 4, header="xen/event_channel.h")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Close(Wire):
        port: U32
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_type_hints

Buffer = bytes | bytearray | memoryview


class FieldError(ValueError):
    """A value that its field cannot hold: names the struct, the field, the value and what is allowed."""

    def __init__(self, where: str, field: str, value: object, allowed: str) -> None:
        """Keep the four parts; `problem` is the message without `where`."""
        huge = isinstance(value, int) and value.bit_length() > 128
        self.problem = f"{field}={'a number of over 128 bits' if huge else repr(value)} is not {allowed}"
        super().__init__(f"{where}: {self.problem}")
        self.where, self.field, self.value, self.allowed = where, field, value, allowed


@dataclass(frozen=True, slots=True)
class Scalar:
    """An integer of one C type; `code` is its struct module letter."""

    code: str

    @property
    def size(self) -> int:
        """Bytes, which on x86-64 is also the alignment."""
        return struct.calcsize("<" + self.code)

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value."""
        bits = 8 * self.size
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.code.islower() else (0, (1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Chars:
    """Text in a fixed array of bytes: printable ASCII, padded with NULs, aligned to 1."""

    size: int


@dataclass(frozen=True, slots=True)
class Words:
    """Names for the values of an integer field, for text and people; `bits` means they may be joined by `|`."""

    names: Mapping[str, int]
    bits: bool = False

    def __hash__(self) -> int:
        return hash((tuple(self.names.items()), self.bits))


@dataclass(frozen=True, slots=True)
class CName:
    """Where the field is in the C struct, when not under its own name: a path such as `source.u.ref`."""

    path: str


@dataclass(frozen=True, slots=True)
class After:
    """The field follows a nested struct, whose size C rounds up: it begins at a multiple of `align`."""

    align: int


class _Out:
    """Marker: the hypervisor fills this field in; a caller leaves it 0."""


OUT = _Out()
S8 = Annotated[int, Scalar("b")]
U8 = Annotated[int, Scalar("B")]
S16 = Annotated[int, Scalar("h")]
U16 = Annotated[int, Scalar("H")]
S32 = Annotated[int, Scalar("i")]
U32 = Annotated[int, Scalar("I")]
S64 = Annotated[int, Scalar("q")]
U64 = Annotated[int, Scalar("Q")]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct, as read from its annotation."""

    name: str
    kind: Scalar | Chars
    offset: int
    out: bool
    default: int | str | None
    words: Words | None
    c_path: str

    def check(self, where: str, value: int | str) -> None:
        """Raise FieldError unless the field can hold `value`."""
        if isinstance(self.kind, Chars):
            if not isinstance(value, str) or not (value.isascii() and (value.isprintable() or not value)):
                raise FieldError(where, self.name, value, "printable ASCII")
            if len(value) > self.kind.size:
                raise FieldError(where, self.name, value, f"at most {self.kind.size} characters")
            return
        low, high = self.kind.bounds
        if not isinstance(value, int) or not low <= value <= high:
            raise FieldError(where, self.name, value, f"an integer from {low} to {high}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The bytes of one struct: its C name and header (empty when ours), its fields, its size in bytes."""

    c_name: str
    header: str
    fields: tuple[Field, ...]
    size: int
    codec: struct.Struct
    has_text: bool
    names: tuple[str, ...]
    row: Callable[[Iterable[Any]], Any]
    """A plain tuple of fields, with their names: as a value of the struct, made faster, and of nothing checked."""
    values: Callable[[Any], tuple[Any, ...]]
    """Every field of a value of the struct, in order."""

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)


class Wire:
    """Base of every wire struct; see the head of this module."""

    __slots__ = ()
    layout: ClassVar[Layout]

    @classmethod
    def parse(cls: type[W], data: Buffer, offset: int = 0) -> W:
        """Read one struct at `offset`. Raises FieldError when `data` is too short or text is not text."""
        layout = cls.layout
        if not 0 <= offset <= len(data) - layout.size:
            raise FieldError(cls.__name__, "data", len(data), f"at least {offset}+{layout.size} bytes")
        return cls.of(layout.codec.unpack_from(data, offset))

    @classmethod
    def of(cls: type[W], found: Sequence[Any]) -> W:
        """Of what `layout.codec` unpacked. Raises FieldError when text is not text."""
        layout = cls.layout
        values = dict(zip(layout.names, found, strict=True))
        if layout.has_text:
            for field in layout.fields:
                if isinstance(field.kind, Chars):
                    values[field.name] = text = values[field.name].split(b"\0", 1)[0].decode("latin-1")
                    field.check(cls.__name__, text)
        return cls(**values)

    def with_results(self: W, results: Mapping[str, Any]) -> W:
        """The same with other values in some fields, which are not checked."""
        layout = self.layout
        values = dict(zip(layout.names, layout.values(self), strict=True))
        values.update(results)
        return type(self)(**values)

    def emit(self) -> bytes:
        """The bytes, padding zeroed. Raises FieldError when a value does not fit its field."""
        layout = self.layout
        if layout.has_text:
            self.check()  # struct would cut text that is too long
        values = layout.values(self)
        if layout.has_text:
            values = tuple(v.encode("ascii") if isinstance(v, str) else v for v in values)
        try:
            return layout.codec.pack(*values)
        except struct.error:
            self.check()
            raise

    def check(self) -> None:
        """Raise FieldError when a value does not fit its field."""
        for field in self.layout:
            field.check(type(self).__name__, getattr(self, field.name))


W = TypeVar("W", bound=Wire)


def _field(name: str, hint: object, default: object, cursor: int) -> Field:
    notes = get_args(hint)[1:]
    kind = next(n for n in notes if isinstance(n, (Scalar, Chars)))
    align = next((n.align for n in notes if isinstance(n, After)), kind.size if isinstance(kind, Scalar) else 1)
    return Field(
        name=name,
        kind=kind,
        offset=-(-cursor // align) * align,
        out=OUT in notes,
        default=default if isinstance(default, (int, str)) else None,
        words=next((n for n in notes if isinstance(n, Words)), None),
        c_path=next((n.path for n in notes if isinstance(n, CName)), name),
    )


def _row(name: str, names: Sequence[str]) -> Callable[[Iterable[Any]], Any]:
    return partial(tuple.__new__, namedtuple(name, names))


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def wire(c_name: str, size: int, *, header: str = "") -> Callable[[type[W]], type[W]]:
    """Work out the layout of a dataclass from its annotations and hold it to `size` bytes.

    `c_name` and `header` say what a C program calls it; an empty header marks a struct that only xenfs has.
    """

    def decorate(cls: type[W]) -> type[W]:
        hints = get_type_hints(cls, include_extras=True)
        found: list[Field] = []
        code, cursor, align = "<", 0, 1
        for f in fields(cls):  # type: ignore[arg-type]
            field = _field(f.name, hints[f.name], None if f.default is MISSING else f.default, cursor)
            code += f"{field.offset - cursor}x" if field.offset > cursor else ""
            code += field.kind.code if isinstance(field.kind, Scalar) else f"{field.kind.size}s"
            cursor = field.offset + field.kind.size
            align = max(align, field.kind.size if isinstance(field.kind, Scalar) else 1)
            found.append(field)
        total = -(-cursor // align) * align
        codec = struct.Struct(code + (f"{total - cursor}x" if total > cursor else ""))
        if codec.size != size:
            message = f"{cls.__name__}: {codec.size} bytes, {c_name} has {size}"
            raise TypeError(message)
        has_text = any(isinstance(f.kind, Chars) for f in found)
        names = tuple(f.name for f in found)
        cls.layout = Layout(
            c_name, header, tuple(found), size, codec, has_text, names, _row(cls.__name__, names), _getter(names)
        )
        return cls

    return decorate
