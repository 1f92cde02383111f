"""The device rings of xenfs.abi against libxen-dev's headers: one generated program prints what C says.

Our offsets, sizes and signs are not listed: they are read out of the codecs, by having them decode bytes that hold
their own position.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from tests.clients.test_abi_c import PRELUDE
from tests.need import need_header, need_tool
from xenfs.abi import blkif, netif, usbif
from xenfs.abi.ring import RingFormat

Facts = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """A codec of ours and the C struct that it reads, from byte `start` on; `whole` when it is all of the struct."""

    c_type: str
    codec: struct.Struct
    paths: str
    start: int = 0
    whole: bool = True

    def facts(self) -> Facts:
        """Offset, size and sign of each field, by the C path; and the size of the struct, by its name."""
        size = self.codec.size
        positions = self.codec.unpack(bytes(range(size)))
        signs = self.codec.unpack(b"\xff" * size)
        said: Facts = {self.c_type: (size,)} if self.whole else {}
        for path, at, sign in zip(self.paths.split(), positions, signs, strict=self.whole):
            data = at if isinstance(at, bytes) else at.to_bytes(max(1, -(-at.bit_length() // 8)), "little")
            negative = not isinstance(sign, bytes) and sign < 0
            said[f"{self.c_type}.{path}"] = (self.start + data[0], len(data), int(negative))
        return said


GREFS = " ".join(f"indirect_grefs[{n}]" for n in range(blkif.MAX_INDIRECT_PAGES))


def blk(name: str, ring: RingFormat) -> Iterator[Row]:
    """The structs of the block ring in one ABI; the discards and indirects lie over the request's own fields."""
    rest = ring.request.size - blkif.REST
    yield Row(f"struct {name}_request", ring.request, "operation nr_segments handle id sector_number seg")
    yield Row(f"struct {name}_response", ring.response, "id operation status")
    yield Row(f"struct {name}_request_segment", blkif.SEGMENT, "gref first_sect last_sect")
    kind = f"struct {name}_request_discard"
    yield Row(kind, ring.request, "operation flag handle id sector_number", whole=False)
    yield Row(kind, blkif.NR_SECTORS, "nr_sectors", start=rest, whole=False)
    kind = f"struct {name}_request_indirect"
    yield Row(kind, ring.request, "operation indirect_op nr_segments id sector_number", whole=False)
    yield Row(kind, blkif.INDIRECT, f"handle {GREFS}", start=rest, whole=False)


ROWS = [
    Row("struct netif_tx_request", netif.TX.request, "gref offset flags id size"),
    Row("struct netif_tx_response", netif.TX.response, "id status"),
    Row("struct netif_rx_request", netif.RX.request, "id gref"),
    Row("struct netif_rx_response", netif.RX.response, "id offset flags status"),
    Row("struct xen_netif_ctrl_request", netif.CTRL.request, "id type data[0] data[1] data[2]"),
    Row("struct xen_netif_ctrl_response", netif.CTRL.response, "id type status data"),
    Row("struct netif_extra_info", netif.EXTRA, "type flags u.pad"),
    Row("struct netif_extra_info", netif.GSO, "type flags u.gso.size u.gso.type u.gso.features"),
    Row("struct netif_extra_info", netif.MCAST, "type flags u.mcast.addr"),
    Row("struct netif_extra_info", netif.HASH, "type flags u.hash.type u.hash.algorithm u.hash.value"),
    Row("struct xen_netif_gref", netif.MAPPING, "ref flags status"),
    *blk("blkif", blkif.X86_64),
    *blk("blkif32", blkif.X86_32),
    Row(
        "struct usbif_urb_request",
        usbif.URB.request,
        "id nr_buffer_segs pipe transfer_flags buffer_length u.ctrl seg",
    ),
    Row("struct usbif_urb_response", usbif.URB.response, "id start_frame status actual_length error_count"),
    Row("struct usbif_request_segment", usbif.SEGMENT, "gref offset length"),
    Row(
        "struct usbif_urb_request",
        usbif.ISOC,
        "u.isoc.interval u.isoc.start_frame u.isoc.number_of_packets u.isoc.nr_frame_desc_segs",
        start=12,
        whole=False,
    ),
    Row("struct usbif_urb_request", usbif.INTERVAL, "u.intr.interval", start=12, whole=False),
    Row("struct usbif_urb_request", usbif.UNLINK, "u.unlink.unlink_id", start=12, whole=False),
    Row("struct usbif_conn_request", usbif.CONN.request, "id"),
    Row("struct usbif_conn_response", usbif.CONN.response, "id portnum speed"),
]
WRONG = [
    Row("struct netif_rx_request", struct.Struct("<HIxx"), "id gref"),
    Row("struct netif_rx_response", struct.Struct("<HHHH"), "id offset flags status"),
    Row("struct blkif_request", blkif.X86_32.request, "operation nr_segments handle id sector_number seg"),
    Row("struct usbif_conn_response", struct.Struct("<HBB4x"), "id portnum speed"),
]
"""Fields at wrong places, of the wrong sign, in the other layout, of the wrong size as a whole."""

Names = type[IntEnum] | type[IntFlag]
ENUMS: list[tuple[str, Names, bool]] = [
    ("NETTXF_", netif.TxFlag, False),
    ("NETRXF_", netif.RxFlag, False),
    ("NETIF_RSP_", netif.Status, True),
    ("XEN_NETIF_EXTRA_TYPE_", netif.ExtraType, True),
    ("XEN_NETIF_GSO_TYPE_", netif.GsoType, True),
    ("XEN_NETIF_CTRL_TYPE_", netif.CtrlType, True),
    ("XEN_NETIF_CTRL_STATUS_", netif.CtrlStatus, True),
    ("XEN_NETIF_CTRL_HASH_TYPE_", netif.HashFlag, True),
    ("XEN_NETIF_CTRL_HASH_ALGORITHM_", netif.HashAlgorithm, True),
    ("BLKIF_OP_", blkif.Op, True),
    ("BLKIF_RSP_", blkif.Status, True),
    ("VDISK_", blkif.Info, True),
    ("USBIF_", usbif.Flag, True),
    ("USBIF_STATUS_", usbif.Status, True),
    ("USBIF_SPEED_", usbif.Speed, True),
    ("USB_VER_", usbif.Version, True),
]
"""Prefix in C, ours, whether C has the names in capitals."""
CONSTANTS = {
    **{f"{p}{(m.name or '').upper() if up else m.name}": int(m) for p, kind, up in ENUMS for m in kind},
    "XEN_NETIF_NR_SLOTS_MIN": netif.NR_SLOTS_MIN,
    "XEN_NETIF_MAX_TX_SIZE": netif.MAX_TX_SIZE,
    "XEN_NETIF_EXTRA_FLAG_MORE": netif.EXTRA_FLAG_MORE,
    "XEN_NETIF_EXTRA_TYPE_MAX": netif.EXTRA_XDP,
    "XEN_NETIF_CTRLF_GREF_readonly": netif.MAPPING_READONLY,
    "BLKIF_MAX_SEGMENTS_PER_REQUEST": blkif.MAX_SEGMENTS,
    "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST": blkif.MAX_INDIRECT_PAGES,
    "BLKIF_DISCARD_SECURE": blkif.DISCARD_SECURE,
    "USBIF_MAX_SEGMENTS_PER_REQUEST": usbif.MAX_SEGMENTS,
    "USBIF_MAX_PORTNR": usbif.MAX_PORT,
    "USBIF_PIPE_TYPE_ISOC": usbif.PipeType.isoc,
    "USBIF_PIPE_TYPE_INT": usbif.PipeType.interrupt,
    "USBIF_PIPE_TYPE_CTRL": usbif.PipeType.control,
    "USBIF_PIPE_TYPE_BULK": usbif.PipeType.bulk,
    **{f"USBIF_{n}": v for n, v in vars(usbif).items() if n.startswith("PIPE_")},
}
RINGS = {"netif_tx": netif.TX, "netif_rx": netif.RX, "xen_netif_ctrl": netif.CTRL, "blkif": blkif.X86_64,
         "usbif_urb": usbif.URB, "usbif_conn": usbif.CONN}  # fmt: skip
PROTOCOLS = ("XEN_IO_PROTO_ABI_X86_32", "XEN_IO_PROTO_ABI_X86_64", "XEN_IO_PROTO_ABI_ARM")

BLK_TAGS = ("", "_segment", "_discard", "_indirect")
I386 = "\n".join([
    "#undef __XEN_PUBLIC_IO_BLKIF_H__",
    "#undef DEFINE_RING_TYPES",
    "#define DEFINE_RING_TYPES(...) struct unused",
    *(f"#define blkif_request{tag}{end} blkif32_request{tag}{end}" for tag in BLK_TAGS for end in ("", "_t")),
    "#define blkif_response blkif32_response",
    "#define blkif_response_t blkif32_response_t",
    "#define __i386__ 1",
    "#pragma pack(push, 4)",
    "#include <xen/io/blkif.h>",
    "#pragma pack(pop)",
    "#undef __i386__",
    *(f"#undef blkif_request{tag}" for tag in BLK_TAGS),
    "#undef blkif_response",
])  # fmt: skip
"""The same header once more, under other names and as i386 lays it out: a u64 there is aligned to 4 bytes."""


def _lines() -> Iterator[str]:
    paths = {(row.c_type, path) for row in ROWS + WRONG for path in row.paths.split()}
    for c_type in sorted({c_type for c_type, _ in paths}):
        yield f'SIZE("{c_type}", {c_type})'
    for c_type, path in sorted(paths):
        yield f'FIELD("{c_type}.{path}", {c_type}, {path})'
    for name in CONSTANTS:
        at = f'NUMBER("{name}", {name})'
        yield at if name.startswith("USB_VER_") else f"\n#ifdef {name}\n{at}\n#endif"
    for name in RINGS:
        yield f'NUMBER("ring.{name}", __CONST_RING_SIZE({name}, 4096))'
    for name in PROTOCOLS:
        yield f'printf("{name}=%s 0\\n", {name});'


def program() -> str:
    """The C source."""
    includes = [f"#include <xen/{name}.h>" for name in ("xen", "io/netif", "io/blkif", "io/usbif", "io/protocols")]
    return "\n".join([PRELUDE, *includes, I386, "int main(void) {", *_lines(), "return 0; }"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What C says, by the same names as `Row.facts`."""
    gcc = need_tool("gcc", "gcc libc6-dev")
    for name in ("netif", "blkif", "usbif", "protocols"):
        need_header(f"xen/io/{name}.h", "libxen-dev")
    room = tmp_path_factory.mktemp("io")
    Path(room, "io.c").write_text(program())
    command = [gcc, "-std=gnu11", "-o", "io", "io.c"]
    built = subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([room / "io"], capture_output=True, text=True, timeout=10, check=True)
    found: Facts = {}
    for line in ran.stdout.splitlines():
        name, *numbers = line.removeprefix("struct ").split()
        found[("struct " if line.startswith("struct ") else "") + name] = tuple(map(int, numbers))
    return found


def same(measured: Facts, row: Row) -> None:
    said = row.facts()
    assert said == {key: measured[key] for key in said}


def name_of(row: Row) -> str:
    return f"{row.c_type.removeprefix('struct ')}-{row.codec.format}-{row.start}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_codec_reads_the_struct_of_c(measured: Facts, row: Row) -> None:
    same(measured, row)


@pytest.mark.parametrize("row", WRONG, ids=name_of)
def test_a_wrong_codec_is_caught(measured: Facts, row: Row) -> None:
    with pytest.raises(AssertionError):
        same(measured, row)


def test_sizes_that_padding_ends(measured: Facts) -> None:
    kinds = ("discard", "indirect")
    assert [measured[f"struct blkif_request_{kind}"] for kind in kinds] == [(32,), (64,)]
    assert [measured[f"struct blkif32_request_{kind}"] for kind in kinds] == [(28,), (64,)]


@pytest.mark.parametrize(("name", "value"), CONSTANTS.items(), ids=list(CONSTANTS))
def test_constant_is_as_in_c(measured: Facts, name: str, value: int) -> None:
    assert name in measured, f"the headers have no {name}"
    assert measured[name] == (value,)


@pytest.mark.parametrize("name", RINGS)
def test_ring_has_as_many_entries_as_in_c(measured: Facts, name: str) -> None:
    assert measured[f"ring.{name}"] == (RINGS[name].slots(4096),)
    assert RINGS[name].name == name


def test_protocols_are_those_of_c(measured: Facts) -> None:
    assert {key.partition("=")[2] for key in measured if key.startswith("XEN_IO_PROTO")} == set(blkif.FORMATS)
