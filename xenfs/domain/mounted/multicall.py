"""Hypercalls of a data path: many of several kinds in one system call, through dev/hypercall.

`ctl` says why a call was refused, and is what everything else goes through; this says only with which errno, and is
many times as fast. What is made through it belongs to its own open file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

from xenfs.abi.grant_table import GntTabOp, Transfer
from xenfs.abi.hypercall import (
    BATCH,
    GRANT_TABLE_OP,
    MEMORY_OP,
    XENFS_OP,
    BatchHeader,
    element_codec,
    op_number,
)
from xenfs.abi.ioctl import MAX_SIZE
from xenfs.abi.memory import MemOp
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import AcceptTransfer, DecreaseReservation, EndTransfer, IncreaseReservation, XenfsOp
from xenfs.domain.errors import Refused
from xenfs.domain.mounted.errors import refusal

if TYPE_CHECKING:
    from xenfs.domain.mounted.xen import MountedDomain

_NUMBERS = MappingProxyType(
    {
        Transfer: op_number(GRANT_TABLE_OP, GntTabOp.transfer),
        IncreaseReservation: op_number(MEMORY_OP, MemOp.increase_reservation),
        DecreaseReservation: op_number(MEMORY_OP, MemOp.decrease_reservation),
        AcceptTransfer: op_number(XENFS_OP, XenfsOp.accept_transfer),
        EndTransfer: op_number(XENFS_OP, XenfsOp.end_transfer),
    }
)
Row = tuple[int, ...]
Group = tuple[type[Wire], Sequence[Row]]
"""A kind of request, and the fields of each, in order."""


class Multicall:
    """An open dev/hypercall, opened when first needed."""

    def __init__(self, domain: MountedDomain) -> None:
        """Nothing is open yet."""
        self._domain = domain
        self._fd = -1
        self._lock = threading.Lock()

    def __call__(self, *groups: Group) -> list[list[Row]]:
        """Make the calls of each group; for each its result (0 or a negative errno) and its fields.

        Raises Refused when the conversation itself fails.
        """
        data = bytearray()
        places = []
        for kind, rows in groups:
            places.append(len(data))
            if rows:
                pack = element_codec(kind).pack
                data += BatchHeader(op=_NUMBERS[kind], count=len(rows)).emit()
                data += b"".join([pack(0, 0, *row) for row in rows])
        if data:
            self._ask(data)
        return [list(_answers(kind, rows, data, at)) for (kind, rows), at in zip(groups, places, strict=True)]

    def _ask(self, data: bytearray) -> None:
        if len(data) > MAX_SIZE:
            raise Refused(errno.E2BIG, f"{self._domain}: calls of {len(data)} bytes at once: at most {MAX_SIZE}")
        with self._lock:
            try:
                if self._fd < 0:
                    self._fd = self._domain.open("dev/hypercall", os.O_RDWR)
                fcntl.ioctl(self._fd, BATCH.twin(len(data)), data)
            except OSError as error:
                raise refusal(error, f"{self._domain}: dev/hypercall") from error

    def close(self) -> None:
        """Release what was made; twice is fine."""
        with self._lock, suppress(OSError):  # the kernel tells a daemon that may have gone; it is closed in any case
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)


def _answers(kind: type[Wire], rows: Sequence[Row], data: bytearray, at: int) -> Iterator[Row]:
    codec = element_codec(kind)
    start = at + BatchHeader.layout.size
    for result, _, *fields in codec.iter_unpack(memoryview(data)[start : start + len(rows) * codec.size]):
        yield result, *fields
