"""The reference of hypercalls, made from the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from xenfs.abi.hypercall import EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP, XENFS_OP
from xenfs.abi.wire import Chars, Field
from xenfs.hypervisor.table import BY_NAME, ROWS, Hypercall
from xenfs.hypervisor.text import show

GROUPS = {
    EVENT_CHANNEL_OP: "event_channel_op",
    GRANT_TABLE_OP: "grant_table_op",
    MEMORY_OP: "memory_op",
    XENFS_OP: "xenfs_op",
}
C_TYPES = {"b": "s8", "B": "u8", "h": "s16", "H": "u16", "i": "s32", "I": "u32", "q": "s64", "Q": "u64"}


def c_type(field: Field) -> str:
    """The field's type as a C programmer would say it."""
    return f"char[{field.kind.size}]" if isinstance(field.kind, Chars) else C_TYPES[field.kind.code]


def _field(field: Field) -> str:
    notes = ["out" if field.out else "in"]
    if not field.out and field.default is not None:
        notes.append(f"default {show(field, field.default)}")
    if field.words is not None:
        notes.append(("bits: " if field.words.bits else "words: ") + " ".join(field.words.names))
    return f"  {field.offset:>4}  {c_type(field):<8} {field.name:<14} {', '.join(notes)}"


def describe(row: Hypercall) -> Iterator[str]:
    """Lines about one hypercall: its text form, what it does, its bytes, how it can fail."""
    group, command = row.number >> 8, row.number & 0xFF
    fields = {f.name: f for f in row.request.layout}
    words = [f"[{n}=…]" if fields[n].default is not None else f"{n}=…" for n in row.takes]
    yield " ".join([row.name, *words])
    yield f"  {row.doc}"
    yield f"  {GROUPS[group]} {command} (op {row.number:#06x}), {row.request.layout.size} bytes, for {row.access.value}"
    for field in row.request.layout:
        yield _field(field)
    for error in row.errors:
        status = f" GNTST_{error.status.name}" if row.has_status and error.status is not None else ""
        yield f"  error {error.errno_of()}{status}: {(error.__doc__ or '').strip()}"


def as_data(row: Hypercall) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "name": row.name,
        "op": row.number,
        "doc": row.doc,
        "access": row.access.value,
        "size": row.request.layout.size,
        "fields": [
            {"name": f.name, "type": c_type(f), "offset": f.offset, "out": f.out, "default": f.default}
            for f in row.request.layout
        ],
        "errors": sorted({e.errno_of() for e in row.errors}),
    }


def hypercalls(
    names: Annotated[list[str] | None, typer.Argument(help="Only these; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Describe the hypercalls: text form, fields with their bytes, errors."""
    unknown = [name for name in names or [] if name not in BY_NAME]
    if unknown:
        raise typer.BadParameter(f"no such hypercall: {' '.join(unknown)}; there are: {' '.join(sorted(BY_NAME))}")
    for row in ROWS:
        if names and row.name not in names:
            continue
        typer.echo(json.dumps(as_data(row)) if as_json else "\n".join(describe(row)) + "\n")
