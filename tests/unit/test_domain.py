"""What only the in-process domain does; what it shares with the others is in tests/conformance."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.conformance.refusals import refusal
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Domain
from xenfs.domain.inprocess import InProcessXen
from xenfs.hypervisor import Config, Limits
from xenfs.testing import in_memory


@pytest.fixture
def xen() -> Iterator[InProcessXen]:
    with in_memory(domains=2, config=Config(frames=4096, dom0_frames=256)) as machine:
        yield machine


@pytest.fixture
def granter(xen: InProcessXen) -> Iterator[Domain]:
    with xen.domain(1) as domain:
        yield domain


@pytest.fixture
def grantee(xen: InProcessXen) -> Iterator[Domain]:
    with xen.domain(2) as domain:
        yield domain


def test_a_view_of_a_frame_that_was_flipped_away_reads_zeros(granter: Domain, grantee: Domain) -> None:
    grantee.memory.decrease_reservation(grantee.memory.alloc())
    refs = grantee.memory.accept_transfer(granter.domid)
    frames = granter.memory.alloc()
    before = granter.memory.view(frames)
    before.view[:] = b"x" * PAGE_SIZE
    assert granter.memory.transfer(frames, grantee.domid, refs) == [GntStatus.okay]
    assert grantee.memory.end_transfer(refs) == frames
    with grantee.memory.view(frames) as after:
        after[0] = 1
        before.view[1] = 2
        assert bytes(before.view[:1]) == b"\0"
        assert bytes(after[:2]) == b"\x01x"
    before.close()


def test_e6_a_peer_that_never_reads_cannot_block_a_notifier(granter: Domain, grantee: Domain) -> None:
    with (
        granter.events.alloc_unbound(grantee.domid) as here,
        grantee.events.bind_interdomain(granter.domid, here.port) as there,
    ):
        os.eventfd_write(there.fileno(), 2**64 - 3)
        here.notify()
        assert there.wait(0)


def test_closing_a_domain_gives_back_its_watches(xen: InProcessXen) -> None:
    with xen.domain(1) as one:
        one.store.watch("device")
        assert len(xen.leaks()) == 2, "the watch and the handle"
    assert xen.leaks() == []


def test_limits_are_options_with_their_errno() -> None:
    limits = Limits(grants=2, maps=1, ports=2, handles=2)
    with in_memory(config=Config(frames=64, dom0_frames=8, limits=limits)) as xen:
        domid = xen.create_domain(frames=4)
        with xen.domain(domid) as one, xen.domain(domid) as two:
            with refusal(errno.EMFILE):
                xen.domain(domid)
            with refusal(errno.ENOSPC):
                one.memory.grant(one.memory.alloc(3), domid)
            refs = one.memory.grant(one.memory.alloc(1), domid)
            with refusal(errno.ENOSPC):
                two.memory.map(domid, refs * 2)
            one.events.bind_ipi(), one.events.bind_ipi()
            with refusal(errno.ENOSPC):
                two.events.alloc_unbound(0)
            with refusal(errno.ENOMEM):
                two.memory.alloc(1)
