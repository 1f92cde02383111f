"""The codec of abi/wire on every struct that there is, and the ioctl numbers."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xenfs.abi
from xenfs.abi import evtchn, gntalloc, gntdev
from xenfs.abi.ioctl import MAX_SIZE, NONE, READ, WRITE, Decoded, Ioctl, decode, number
from xenfs.abi.wire import OUT, S8, S16, S32, S64, U8, U16, U32, U64, Chars, CName, Field, FieldError, Wire, Words, wire

ASCII = st.characters(min_codepoint=0x20, max_codepoint=0x7E)


def wires() -> list[type[Wire]]:
    """Every wire struct that a module of xenfs.abi declares."""
    names = (info.name for info in pkgutil.walk_packages(xenfs.abi.__path__, "xenfs.abi."))
    members = ((name, cls) for name in names for cls in vars(importlib.import_module(name)).values())
    return [c for name, c in members if isinstance(c, type) and c.__module__ == name and "layout" in vars(c)]


def name_of(cls: type[Wire]) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def field_values(field: Field) -> st.SearchStrategy[Any]:
    """What a field can hold; words, small numbers and the ends of the range come often."""
    if isinstance(field.kind, Chars):
        return st.text(ASCII, max_size=field.kind.size)
    low, high = field.kind.bounds
    known = sorted(field.words.names.values()) if field.words else [low, high]
    return st.sampled_from(known) | st.integers(max(low, -4), 16) | st.integers(low, high)


def values(cls: type[Wire], names: tuple[str, ...] | None = None) -> st.SearchStrategy[Any]:
    """Arbitrary legal values of a struct; with `names`, only of those fields, the others at their defaults."""
    fields = [f for f in cls.layout if names is None or f.name in names]
    return st.fixed_dictionaries({f.name: field_values(f) for f in fields}).map(lambda given: cls(**given))


def sample(cls: type[Wire]) -> Wire:
    """One legal value, every field different from 0."""
    return cls(**{f.name: "ab" if isinstance(f.kind, Chars) else n + 1 for n, f in enumerate(cls.layout)})


def padding(cls: type[Wire]) -> list[int]:
    """Offsets of the bytes that belong to no field."""
    taken = {at for f in cls.layout for at in range(f.offset, f.offset + f.kind.size)}
    return [at for at in range(cls.layout.size) if at not in taken]


@wire("struct mixed", 32)
@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed(Wire):
    a: U8 = 0
    b: U32 = 0
    c: U8 = 0
    d: Annotated[S16, OUT, Words({"bad": -1})] = 0
    name: Annotated[str, Chars(3), CName("u.name")] = ""
    e: U64 = 0
    f: S8 = 0


@wire("struct wide", 30)
@dataclass(frozen=True, slots=True, kw_only=True)
class Odd(Wire):
    name: Annotated[str, Chars(28)]
    end: U16


@wire("struct all", 32)
@dataclass(frozen=True, slots=True, kw_only=True)
class All(Wire):
    s64: S64 = 0
    u64: U64 = 0
    s32: S32 = 0
    u32: U32 = 0
    s16: S16 = 0
    u16: U16 = 0
    s8: S8 = 0
    u8: U8 = 0


EVERY = [*wires(), Mixed, Odd, All]
each = pytest.mark.parametrize("cls", EVERY, ids=name_of)


def test_every_module_of_abi_is_seen() -> None:
    assert {name_of(cls).partition(".")[0] for cls in wires()} >= {
        "event_channel", "evtchn", "gntalloc", "gntdev", "grant_table", "hypercall", "memory", "stats", "xenfs_op",
    }  # fmt: skip


# Layout.


def test_fields_are_aligned_as_a_c_compiler_aligns_them() -> None:
    assert [(f.name, f.offset) for f in Mixed.layout] == [
        ("a", 0), ("b", 4), ("c", 8), ("d", 10), ("name", 12), ("e", 16), ("f", 24),
    ]  # fmt: skip
    assert Mixed.layout.size == 32
    assert [f.offset for f in Odd.layout] == [0, 28]


def test_annotations_end_up_in_the_fields() -> None:
    fields = {f.name: f for f in Mixed.layout}
    assert [f.name for f in fields.values() if f.out] == ["d"]
    assert fields["d"].words == Words({"bad": -1})
    assert (fields["name"].c_path, fields["e"].c_path) == ("u.name", "e")
    assert (fields["a"].default, fields["name"].default) == (0, "")
    assert [f.default for f in Odd.layout] == [None, None]
    assert (Mixed.layout.c_name, Mixed.layout.header) == ("struct mixed", "")


@each
def test_fields_follow_each_other_without_overlap(cls: type[Wire]) -> None:
    end = 0
    for field in cls.layout:
        assert field.offset >= end
        assert isinstance(field.kind, Chars) or field.offset % field.kind.size == 0
        end = field.offset + field.kind.size
    assert end <= cls.layout.size == cls.layout.codec.size


def test_a_wrong_size_is_refused_at_declaration() -> None:
    class Close(Wire):
        port: U32

    with pytest.raises(TypeError, match="Close: 4 bytes, struct evtchn_close has 8"):
        wire("struct evtchn_close", 8)(dataclass(frozen=True, slots=True, kw_only=True)(Close))


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Mixed().a = 1  # type: ignore[misc]


# Bytes.


def test_bytes_are_little_endian_at_their_offsets() -> None:
    value = Mixed(a=1, b=0x01020304, c=2, d=-2, name="xy", e=0x0102030405060708, f=-1)
    assert value.emit().hex(" ", 4) == "01000000 04030201 0200feff 78790000 08070605 04030201 ff000000 00000000"
    assert Mixed.parse(value.emit()) == value


@each
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_emitted_parses_to_the_same(cls: type[Wire], data: st.DataObject) -> None:
    value = data.draw(values(cls))
    value.check()
    assert cls.parse(value.emit()) == value


@each
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_bytes_of_the_right_size_parse_or_are_refused(cls: type[Wire], data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=cls.layout.size, max_size=cls.layout.size))
    try:
        value = cls.parse(raw)
    except FieldError as error:
        refused = {f.name: f for f in cls.layout}[error.field]
        assert isinstance(refused.kind, Chars)
        return
    value.check()
    assert cls.parse(value.emit()) == value
    assert cls.parse(value.emit()).emit() == value.emit()


@each
def test_whole_at_an_offset_and_with_more_behind(cls: type[Wire]) -> None:
    value = sample(cls)
    data = value.emit()
    assert len(data) == cls.layout.size
    assert cls.parse(data) == cls.parse(bytearray(data)) == cls.parse(memoryview(data)) == value
    assert cls.parse(data + b"\xff" * 9) == value
    assert cls.parse(b"\xff" * 5 + data, 5) == value


@each
def test_truncated_at_every_byte(cls: type[Wire]) -> None:
    data = sample(cls).emit()
    for size in range(len(data)):
        with pytest.raises(FieldError, match=f"{cls.__name__}: data={size} is not at least 0"):
            cls.parse(data[:size])
    for offset in (-1, 1, len(data), 1 << 70):
        with pytest.raises(FieldError, match=f"at least {offset}"):
            cls.parse(data, offset)


@each
def test_padding_is_ignored_and_comes_back_zero(cls: type[Wire]) -> None:
    dirty = bytearray(sample(cls).emit())
    for at in padding(cls):
        assert dirty[at] == 0
        dirty[at] = 0xFF
    assert cls.parse(dirty) == sample(cls)
    assert cls.parse(dirty).emit() == sample(cls).emit()


# Limits of fields.


@pytest.mark.parametrize("name", [f.name for f in All.layout])
def test_bounds_of_integers(name: str) -> None:
    bits = int(name[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if name[0] == "s" else (0, 2**bits - 1)
    for value in (low, high):
        assert All.parse(replace(All(), **{name: value}).emit()) == replace(All(), **{name: value})
    for value in (low - 1, high + 1):
        with pytest.raises(FieldError) as caught:
            replace(All(), **{name: value}).emit()
        error = caught.value
        assert (error.where, error.field, error.value) == ("All", name, value)
        assert error.allowed == f"an integer from {low} to {high}"
        assert str(error) == f"All: {name}={value} is not an integer from {low} to {high}"


@pytest.mark.parametrize("value", [None, "1", 1.0, b"1"])
def test_what_is_not_an_integer_is_refused(value: Any) -> None:
    with pytest.raises(FieldError, match="All: u16="):
        All(u16=value).emit()


def test_text_is_padded_with_nuls_and_ends_at_the_first() -> None:
    assert Mixed(name="a").emit()[12:15] == b"a\0\0"
    assert Mixed(name="abc").emit()[12:15] == b"abc"
    data = bytearray(Mixed(name="a").emit())
    data[14] = 0xFF
    assert Mixed.parse(data).name == "a"


@pytest.mark.parametrize("text", ["\n", "é", "\x7f", "a\x80", "\ud800", "a\0b", 5, None, b"a"])
def test_what_is_not_printable_ascii_is_refused(text: Any) -> None:
    with pytest.raises(FieldError) as caught:
        Mixed(name=text).check()
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("name", text, "printable ASCII")
    with pytest.raises(FieldError):
        Mixed(name=text).emit()


def test_text_that_is_too_long_is_refused_not_cut() -> None:
    with pytest.raises(FieldError, match="name='abcd' is not at most 3 characters"):
        Mixed(name="abcd").check()
    with pytest.raises(FieldError, match="name='abcd' is not at most 3 characters"):
        Mixed(name="abcd").emit()


@pytest.mark.parametrize("raw", [b"\n\0\0", b"\xe9\0\0", b"a\x7f\0"])
def test_bytes_that_are_not_text_are_refused(raw: bytes) -> None:
    data = bytearray(Mixed().emit())
    data[12:15] = raw
    with pytest.raises(FieldError, match="Mixed: name="):
        Mixed.parse(data)


def test_an_error_about_a_huge_number_can_still_be_said() -> None:
    with pytest.raises(FieldError, match="All: u32="):
        All(u32=1 << 20000).check()


def test_words_can_be_keys() -> None:
    assert len({Words({"a": 1}), Words({"a": 1}), Words({"a": 1}, bits=True)}) == 2


# Numbers of ioctls.

LITERALS = {  # as printed by a C program, xen-interfaces.md 1.1
    "IOCTL_EVTCHN_BIND_VIRQ": 0x00044500,
    "IOCTL_EVTCHN_BIND_INTERDOMAIN": 0x00084501,
    "IOCTL_EVTCHN_BIND_UNBOUND_PORT": 0x00044502,
    "IOCTL_EVTCHN_UNBIND": 0x00044503,
    "IOCTL_EVTCHN_NOTIFY": 0x00044504,
    "IOCTL_EVTCHN_RESET": 0x00004505,
    "IOCTL_EVTCHN_RESTRICT_DOMID": 0x00024506,
    "IOCTL_EVTCHN_BIND_STATIC": 0x00044507,
    "IOCTL_GNTDEV_MAP_GRANT_REF": 0x00184700,
    "IOCTL_GNTDEV_UNMAP_GRANT_REF": 0x00104701,
    "IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR": 0x00184702,
    "IOCTL_GNTDEV_SET_MAX_GRANTS": 0x00044703,
    "IOCTL_GNTDEV_SET_UNMAP_NOTIFY": 0x00104707,
    "IOCTL_GNTDEV_GRANT_COPY": 0x00104708,
    "IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS": 0x00144709,
    "IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED": 0x0008470A,
    "IOCTL_GNTDEV_DMABUF_IMP_TO_REFS": 0x0014470B,
    "IOCTL_GNTDEV_DMABUF_IMP_RELEASE": 0x0008470C,
    "IOCTL_GNTALLOC_ALLOC_GREF": 0x00184705,
    "IOCTL_GNTALLOC_DEALLOC_GREF": 0x00104706,
    "IOCTL_GNTALLOC_SET_UNMAP_NOTIFY": 0x00104707,
}
IOCTLS = (*evtchn.IOCTLS, *gntdev.IOCTLS, *gntalloc.IOCTLS)


def test_native_numbers_are_xens() -> None:
    assert {i.c_name: f"{i.native:#010x}" for i in IOCTLS} == {k: f"{v:#010x}" for k, v in LITERALS.items()}


@pytest.mark.parametrize("ioctl", IOCTLS, ids=lambda i: i.c_name)
def test_twins_differ_by_the_direction_bits_only(ioctl: Ioctl) -> None:
    assert ioctl.twin() == ioctl.native | (0xC0000000 if ioctl.size else 0)
    assert decode(ioctl.native) == Decoded(NONE, ioctl.letter, ioctl.nr, ioctl.size)
    longer = decode(ioctl.twin(ioctl.size + 8))
    assert longer == Decoded(READ | WRITE, ioctl.letter, ioctl.nr, ioctl.size + 8)


@given(st.integers(0, 3), st.integers(0, 255), st.integers(0, 255), st.integers(0, MAX_SIZE))
def test_decode_undoes_number(direction: int, letter: int, nr: int, size: int) -> None:
    cmd = number(direction, chr(letter), nr, size)
    assert 0 <= cmd < 1 << 32
    for same in (cmd, cmd - (1 << 32), cmd | 0xF << 32):
        assert decode(same) == Decoded(direction, chr(letter), nr, size)


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_sizes_that_no_number_can_say(size: int) -> None:
    with pytest.raises(ValueError, match=f"size {size} is not from 0 to 16383"):
        number(NONE, "G", 0, size)
    with pytest.raises(ValueError, match="size"):
        gntalloc.ALLOC_GREF.twin(size)
