"""The bytes and numbers of xenfs.abi against the installed C headers: one generated program prints what C says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import pytest

from tests.need import need_header, need_tool
from tests.unit.test_wire import IOCTLS, name_of, wires
from xenfs.abi import evtchn, gntalloc, grant_table, hypercall, ring, xen
from xenfs.abi.event_channel import EvtchnOp, PortState
from xenfs.abi.grant_table import GntCopy, GntMap, GntStatus, GntTabOp, Gtf
from xenfs.abi.memory import MemOp
from xenfs.abi.wire import S16, U16, U32, U64, CName, Scalar, Wire, wire
from xenfs.abi.xenfs_op import ShutdownReason

STRUCTS = [cls for cls in wires() if cls.layout.header]
KERNELS = ("xen/evtchn.h", "xen/gntalloc.h", "xen/gntdev.h")
"""The headers that the kernel's package has, the others are of libxen-dev; these need those before them."""
HEADERS = sorted(
    {cls.layout.header for cls in STRUCTS} | {"xen/xen.h", "xen/sched.h", "xen/io/ring.h"},
    key=lambda header: (header in KERNELS, header),
)

ENUMS: dict[str, type[IntEnum] | type[Gtf] | type[GntMap] | type[GntCopy]] = {
    "EVTCHNSTAT_": PortState,
    "EVTCHNOP_": EvtchnOp,
    "GNTTABOP_": GntTabOp,
    "GNTST_": GntStatus,
    "GTF_": Gtf,
    "GNTMAP_": GntMap,
    "GNTCOPY_": GntCopy,
    "XENMEM_": MemOp,
    "VIRQ_": xen.Virq,
    "SHUTDOWN_": ShutdownReason,
}
CONSTANTS = {
    **{i.c_name: i.native for i in IOCTLS if i not in evtchn.NEWER},
    **{f"{prefix}{member.name}": int(member) for prefix, kind in ENUMS.items() for member in kind},
    **{name: value for name, value in vars(xen).items() if name.startswith("DOMID_") and name != "DOMID_ANY"},
    "NR_VIRQS": xen.NR_VIRQS,
    "XEN_PAGE_SHIFT": xen.PAGE_SHIFT,
    "GNTTAB_NR_RESERVED_ENTRIES": grant_table.NR_RESERVED_ENTRIES,
    "GNTTAB_RESERVED_CONSOLE": grant_table.RESERVED_CONSOLE,
    "GNTTAB_RESERVED_XENSTORE": grant_table.RESERVED_XENSTORE,
    "GTF_transfer_committed": grant_table.GTF_TRANSFER_COMMITTED,
    "GTF_transfer_completed": grant_table.GTF_TRANSFER_COMPLETED,
    "GNTALLOC_FLAG_WRITABLE": gntalloc.FLAG_WRITABLE,
    "UNMAP_NOTIFY_CLEAR_BYTE": gntalloc.UNMAP_NOTIFY_CLEAR_BYTE,
    "UNMAP_NOTIFY_SEND_EVENT": gntalloc.UNMAP_NOTIFY_SEND_EVENT,
    "__HYPERVISOR_memory_op": hypercall.MEMORY_OP,
    "__HYPERVISOR_grant_table_op": hypercall.GRANT_TABLE_OP,
    "__HYPERVISOR_event_channel_op": hypercall.EVENT_CHANNEL_OP,
}
"""Left out: DOMID_ANY, which is newer than the headers of Xen 4.17."""

RING_OFFSETS = {
    "req_prod": ring.REQ_PROD,
    "req_event": ring.REQ_EVENT,
    "rsp_prod": ring.RSP_PROD,
    "rsp_event": ring.RSP_EVENT,
    "pvt": ring.PRIVATE,
    "ring": ring.ENTRIES,
}
RING_SIZES = [(entry, 4096 * pages) for entry in (1, 4, 8, 12, 16, 108, 112, 148, 2016, 4032) for pages in (1, 2, 16)]

PRELUDE = """
#define __XEN_TOOLS__ 1
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#define M(t, m) (((t *)0)->m)
#define SIGNED(m) _Generic((m), int8_t: 1, int16_t: 1, int32_t: 1, int64_t: 1, default: 0)
#define FIELD(key, t, m) printf(key " %zu %zu %d\\n", offsetof(t, m), sizeof(M(t, m)), SIGNED(M(t, m)));
#define SIZE(key, t) printf(key " %zu\\n", sizeof(t));
#define NUMBER(key, n) printf(key " %lld\\n", (long long)(n));
"""


@wire("struct evtchn_send", 8, header="xen/event_channel.h")
@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge(Wire):
    """Not what the header says: the port has 4 bytes."""

    port: U64


@wire("struct evtchn_bind_vcpu", 8, header="xen/event_channel.h")
@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped(Wire):
    """The right size, the fields in the wrong order."""

    vcpu: U32
    port: U32


@wire("struct gnttab_get_version", 8, header="xen/grant_table.h")
@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Wire):
    """The right places, the wrong sign."""

    dom: S16
    pad: U16
    version: U32


@wire("struct gnttab_set_version", 4, header="xen/grant_table.h")
@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow(Wire):
    """The right size, made up by padding."""

    version: U16
    spare: Annotated[U16, CName("version")] = 0


WRONG = [TooLarge, Swapped, Signed, Narrow]
Facts = dict[str, tuple[int, ...]]


def facts(cls: type[Wire]) -> Facts:
    """What our layout says: the size, then offset, size and sign of each field."""
    said: Facts = {name_of(cls): (cls.layout.size,)}
    for field in cls.layout:
        signed = isinstance(field.kind, Scalar) and field.kind.code.islower()
        said[f"{name_of(cls)}.{field.name}"] = (field.offset, field.kind.size, int(signed))
    return said


def _lines() -> Iterator[str]:
    for cls in STRUCTS + WRONG:
        yield f'SIZE("{name_of(cls)}", {cls.layout.c_name})'
        for field in cls.layout:
            yield f'FIELD("{name_of(cls)}.{field.name}", {cls.layout.c_name}, {field.c_path})'
    for name in CONSTANTS:
        yield f'\n#ifdef {name}\nNUMBER("{name}", {name})\n#endif'
    for name in RING_OFFSETS:
        yield f'FIELD("sring.{name}", struct r1_sring, {name})'
    for entry, size in RING_SIZES:
        yield f'NUMBER("ring.{entry}.{size}", __CONST_RING_SIZE(r{entry}, {size}))'


def program() -> str:
    """The C source."""
    includes = [f"#include <{header}>" for header in HEADERS]
    entries = sorted({entry for entry, _ in RING_SIZES})
    rings = [f"typedef struct {{ char b[{n}]; }} e{n}; DEFINE_RING_TYPES(r{n}, e{n}, e{n});" for n in entries]
    return "\n".join([PRELUDE, *includes, *rings, "int main(void) {", *_lines(), "return 0; }"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What C says, by the same names as `facts`."""
    gcc = need_tool("gcc", "gcc libc6-dev")
    for header in HEADERS:
        need_header(header, "linux-libc-dev" if header in KERNELS else "libxen-dev")
    room = tmp_path_factory.mktemp("abi")
    Path(room, "abi.c").write_text(program())
    built = subprocess.run(
        [gcc, "-std=gnu11", "-o", "abi", "abi.c"], cwd=room, capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([room / "abi"], capture_output=True, text=True, timeout=10, check=True)
    lines = (line.split() for line in ran.stdout.splitlines())
    return {key: tuple(map(int, numbers)) for key, *numbers in lines}


def same(measured: Facts, cls: type[Wire]) -> None:
    said = facts(cls)
    assert said == {key: measured[key] for key in said}


def test_the_table_is_not_empty() -> None:
    assert len(STRUCTS) >= 38
    assert {cls.layout.header for cls in STRUCTS} >= {*KERNELS, "xen/event_channel.h", "xen/grant_table.h"}
    assert len(CONSTANTS) >= 100


@pytest.mark.parametrize("cls", STRUCTS, ids=name_of)
def test_struct_lies_as_in_c(measured: Facts, cls: type[Wire]) -> None:
    same(measured, cls)


@pytest.mark.parametrize("cls", WRONG, ids=name_of)
def test_a_wrong_layout_is_caught(measured: Facts, cls: type[Wire]) -> None:
    with pytest.raises(AssertionError):
        same(measured, cls)


@pytest.mark.parametrize(("name", "value"), CONSTANTS.items(), ids=list(CONSTANTS))
def test_constant_is_as_in_c(measured: Facts, name: str, value: int) -> None:
    assert name in measured, f"the headers have no {name}"
    assert measured[name] == (value,)


def test_a_constant_that_the_headers_lack_is_seen(measured: Facts) -> None:
    assert "EVTCHNOP_close" in measured
    assert "EVTCHNOP_no_such" not in measured


def test_ring_header_is_as_in_c(measured: Facts) -> None:
    assert {name: measured[f"sring.{name}"][0] for name in RING_OFFSETS} == RING_OFFSETS
    assert measured["sring.pvt"][1] == ring.PRIVATE_SIZE
    assert ring.HEADER.size == ring.ENTRIES


@pytest.mark.parametrize(("entry", "nbytes"), RING_SIZES)
def test_ring_size_is_as_in_c(measured: Facts, entry: int, nbytes: int) -> None:
    assert (ring.ring_size(nbytes, entry),) == measured[f"ring.{entry}.{nbytes}"]
