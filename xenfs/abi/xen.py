"""Numbers that every interface shares (xen/xen.h): domain identifiers, the page, virtual interrupts."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from xenfs.abi.wire import Scalar, Words

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
DOMID_COW = 0x7FF3
DOMID_INVALID = 0x7FF4
DOMID_ANY = 0x7FF5
DOMID_IDLE = 0x7FFF

NO_DOMID = 0xFFFF
"""In create_domain: the lowest number that is free."""


class Virq(IntEnum):
    """Virtual interrupt lines (VIRQ_*)."""

    TIMER = 0
    DEBUG = 1
    CONSOLE = 2
    DOM_EXC = 3
    TBUF = 4
    DEBUGGER = 6
    XENOPROF = 7
    CON_RING = 8
    PCPU_STATE = 9
    MEM_EVENT = 10
    ARGO = 11
    ENOMEM = 12
    XENPMU = 13


NR_VIRQS = 24
PER_VCPU_VIRQS = frozenset({Virq.TIMER, Virq.DEBUG, Virq.XENOPROF, Virq.XENPMU})
PER_DOMAIN_VIRQS = frozenset({Virq.ARGO})

DomId = Annotated[int, Scalar("H"), Words({"self": DOMID_SELF})]
VirqNumber = Annotated[int, Scalar("I"), Words({v.name.lower(): int(v) for v in Virq})]
