"""What the tests of every form of a hypercall share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from xenfs.hypervisor import Config, Limits, Machine, text
from xenfs.hypervisor.errors import HypercallError, NoSuchDomain, NoSuchHandle, NotPermitted
from xenfs.hypervisor.table import ROWS
from xenfs.hypervisor.trace import Failure

GENERAL: tuple[type[HypercallError], ...] = (NoSuchDomain, NoSuchHandle, NotPermitted)
"""What the machine itself may answer to any call."""

each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
few = settings(max_examples=15, deadline=None)


def machine() -> Machine:
    """A machine so small that every limit is near."""
    limits = Limits(grants=3, maps=3, ports=3, handles=3)
    return Machine(Config(frames=24, dom0_frames=8, limits=limits, dom0_limits=limits, slice=4))


def one_line(error: HypercallError) -> None:
    """A refusal is one line, that can be written."""
    line = text.refusal(Failure.of(error))
    assert line.isprintable(), line
    line.encode()
